//! For tests: log, memtable, index and checkpoint of a store on disk, without the transactions above them. Drains and
//! checkpoints happen when a test says so, and a copy of the folder at any moment is what a killed process leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::checkpoint::{self, Progress};
use super::database::{Database, Recovered, recover, write_sums};
use super::engine::sled::SledEngine;
use super::engine::{Engine, EngineError, PRIVATE, Rows, Write, records};
use super::failure::Failure;
use super::folder::{Folder, Lock, OpenError};
use super::wal::{self, Lineage, Log as _, LogWriter};
use crate::store::rows::source::Batch;

/// What a store holds.
pub(crate) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn apply(model: &mut Model, writes: &Batch) {
    for (key, value) in writes {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

/// sled that copies the store's folder in the middle of a drain, as a power cut would leave it.
pub(crate) struct Cutting {
    sled: SledEngine,
    /// Rows until then.
    rows_left: AtomicUsize,
    copy: Mutex<Option<(PathBuf, PathBuf)>>,
}

impl Engine for Cutting {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.sled.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        self.sled.range(from, to)
    }

    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        for write in writes {
            if self.rows_left.load(SeqCst) == 0
                && let Some((from, to)) = self.copy.lock().unwrap().take()
            {
                self.sled.flush()?;
                copy(&from, &to);
            }
            self.rows_left.store(self.rows_left.load(SeqCst).saturating_sub(1), SeqCst);
            self.sled.apply(std::slice::from_ref(write))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.sled.flush()
    }
}

/// A store that is open.
pub(crate) struct Rig {
    pub(crate) folder: Folder,
    pub(crate) database: Arc<Database>,
    pub(crate) engine: Arc<Cutting>,
    pub(crate) lineage: Lineage,
    pub(crate) progress: Arc<Progress>,
    pub(crate) log: LogWriter,
    /// Whether the index was built anew when it was opened.
    pub(crate) is_rebuilt: bool,
    /// Records that were replayed from the log.
    pub(crate) replayed: usize,
    pub(crate) applied: u64,
    closed: Arc<AtomicU64>,
    _lock: Lock,
}

impl Rig {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let folder = Folder::new(path);
        // A process that another test starts holds what is locked here for the moment before it becomes its own program.
        let until = Instant::now() + Duration::from_secs(2);
        let lock = loop {
            match folder.take() {
                Err(OpenError::InUse(_)) if Instant::now() < until => std::thread::yield_now(),
                taken => break taken?,
            }
        };
        let Recovered { engine, lineage, applied, last, backlog, is_rebuilt, .. } =
            recover(&folder, 8 << 20, &mut |_, _| true)?;
        let engine = Cutting { sled: engine, rows_left: usize::MAX.into(), copy: Mutex::default() };
        let engine = Arc::new(engine);
        let database = Database::new(engine.clone(), applied, Failure::default(), Box::new(|_| {}));
        let replayed = backlog.len();
        for (seq, batch) in backlog {
            database.publish(seq, batch);
        }
        let progress = Arc::new(Progress::starting_at(applied, last));
        let closed = Arc::new(AtomicU64::new(last));
        let (shared, told) = (closed.clone(), progress.clone());
        let rotated = Box::new(move |last| {
            told.closed(last);
            shared.store(last, SeqCst);
        });
        let log = LogWriter::begin(&folder.wal(), lineage, last + 1, rotated).unwrap();
        let database = Arc::new(database);
        Ok(Self {
            folder,
            database,
            engine,
            lineage,
            progress,
            log,
            is_rebuilt,
            replayed,
            applied,
            closed,
            _lock: lock,
        })
    }

    pub(crate) fn commit(&mut self, writes: Batch) {
        let seq = self.database.seq() + 1;
        self.log.append(seq, &writes).unwrap();
        self.database.publish(seq, writes);
    }

    pub(crate) fn drain(&mut self) {
        if let Some(applied) = self.database.drain(self.lineage, &self.progress).unwrap() {
            self.applied = applied;
        }
    }

    /// Drains, and copies the folder once so many rows of it are durable; or else at its end.
    pub(crate) fn drain_and_copy_after(&mut self, rows: usize, to: &Path) {
        *self.engine.copy.lock().unwrap() = Some((self.folder.path().to_owned(), to.to_owned()));
        self.engine.rows_left.store(rows, SeqCst);
        self.drain();
        if self.engine.copy.lock().unwrap().take().is_some() {
            copy(self.folder.path(), to);
        }
    }

    /// Closes the present segment. The last record of those that are closed.
    pub(crate) fn rotate(&mut self) -> u64 {
        self.log.rotate();
        while self.closed.load(SeqCst) < self.database.seq() {
            std::thread::yield_now();
        }
        self.closed.load(SeqCst)
    }

    /// Writes a checkpoint of everything, and deletes what it covers.
    pub(crate) fn checkpoint(&mut self) {
        let closed = self.rotate();
        checkpoint::make(&self.folder, self.lineage, closed, &|| false).unwrap();
        self.delete_covered();
    }

    /// The same, from the index.
    pub(crate) fn checkpoint_from_index(&mut self) {
        let folder = self.folder.checkpoint();
        let seq = self.applied;
        checkpoint::from_index(&*self.engine, &folder, self.lineage, seq, &|| seq, &|| false).unwrap();
        self.delete_covered();
    }

    fn delete_covered(&self) {
        checkpoint::clear_unfinished(&self.folder.checkpoint()).unwrap();
        let covered = checkpoint::find(&self.folder.checkpoint()).unwrap().0.unwrap().seq;
        wal::delete_up_to(&self.folder.wal(), covered.min(self.applied)).unwrap();
    }

    pub(crate) fn content(&self) -> Model {
        let snapshot = self.database.snapshot();
        snapshot.range(&[PRIVATE + 1], &[u8::MAX; 64]).map(Result::unwrap).collect()
    }

    /// What the index alone holds.
    pub(crate) fn indexed(&self) -> Model {
        records(&*self.engine).map(Result::unwrap).collect()
    }

    /// Stops cleanly, as a store does.
    pub(crate) fn close(mut self) {
        self.drain();
        write_sums(&self.folder).unwrap();
    }

    /// Copies what the process leaves if it is killed now, and goes away.
    pub(crate) fn kill(self, to: &Path) {
        copy(self.folder.path(), to);
    }
}

/// A commit of a few rows, some of which were there before, and some of which it deletes.
pub(crate) fn nth_commit(n: u16) -> Batch {
    let [key, value] = (n * 7).to_le_bytes();
    let put = |key: u8, value: u8| (vec![b'a', key], Some(vec![value; 30]));
    let deleted = (vec![b'a', key % 5], None);
    let puts = [put(key % 20, value), put(key % 17 + 20, key)].into_iter();
    puts.chain((value % 3 == 0).then_some(deleted)).collect()
}

pub(crate) fn some_commits(rig: &mut Rig, numbers: std::ops::Range<u16>) {
    for n in numbers {
        rig.commit(nth_commit(n));
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Flips a bit of a file.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 8;
    std::fs::write(path, bytes).unwrap();
}

/// The files of a folder, in the order of their names.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    super::folder::files::files_in(folder).unwrap()
}

/// The end of each whole record of a segment.
pub(crate) fn record_ends(segment: &Path) -> Vec<usize> {
    let bytes = std::fs::read(segment).unwrap();
    let mut rest = &bytes[wal::record::Header::BYTES..];
    let mut ends = Vec::new();
    while wal::record::take_record(&mut rest).is_some() {
        ends.push(bytes.len() - rest.len());
    }
    ends
}

/// The segment with the last record of a log.
pub(crate) fn last_segment(folder: &Path) -> PathBuf {
    let segments = files(&folder.join("wal"));
    segments.into_iter().rfind(|segment| !record_ends(segment).is_empty()).unwrap()
}

/// Writes a log that holds these commits, without the syncs of a running one. Its segments are about as long as told.
pub(crate) fn write_log(folder: &Path, lineage: Lineage, commits: &[Batch], segment_bytes: usize) {
    use wal::record::{Header, Kind, record};
    std::fs::create_dir_all(folder).unwrap();
    let (mut from, mut seq) = (1, 1);
    let header = |from| Header { kind: Kind::Segment, lineage, from, to: 0 }.encode();
    let mut bytes = header(from);
    let write = |from, bytes: &[u8]| std::fs::write(folder.join(wal::segment_name(from)), bytes).unwrap();
    for commit in commits {
        if bytes.len() >= segment_bytes {
            write(from, &bytes);
            (from, bytes) = (seq, header(seq));
        }
        bytes.extend(record(seq, commit).unwrap());
        seq += 1;
    }
    write(from, &bytes);
}
