use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::super::file::find;
use super::super::merge::{live, merged};
use super::*;
use crate::store::embedded::engine::{EngineError, Memory, Rows, Write};
use crate::store::embedded::rig::{Model, Rig, apply, files, flip, nth_commit, write_log};
use crate::store::rows::source::Batch;

const LINEAGE: Lineage = [7; 16];
const ANY_ROOM: u64 = 0;

fn any_commits() -> impl Strategy<Value = Vec<Batch>> {
    let value = proptest::option::weighted(0.7, vec(any::<u8>(), 0..400));
    vec(btree_map((0_u8..40).prop_map(|key| vec![b'a', key]), value, 1..6), 1..100)
}

fn model_of(commits: &[Batch]) -> Model {
    let mut model = Model::new();
    for commit in commits {
        apply(&mut model, commit);
    }
    model
}

/// What checkpoint and segments come to; of one key there is one row, and none is a tombstone.
fn content(folder: &Folder, checkpoint: Option<&Checkpoint>, to: u64) -> Model {
    let segments = wal::list(&folder.wal()).unwrap();
    let rows: Vec<_> = live(merged(&folder.checkpoint(), checkpoint, &segments, to).unwrap())
        .collect::<io::Result<_>>()
        .unwrap();
    assert!(rows.is_sorted_by(|(a, _), (b, _)| a < b));
    rows.into_iter().collect()
}

fn entries(checkpoint: &Checkpoint) -> Model {
    checkpoint.entries().unwrap().map(Result::unwrap).map(|(key, value)| (key, value.unwrap())).collect()
}

fn folder_with(path: &Path, commits: &[Batch]) -> Folder {
    let folder = Folder::new(path);
    std::fs::create_dir_all(folder.checkpoint()).unwrap();
    write_log(&folder.wal(), LINEAGE, commits, 2 << 10);
    folder
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn checkpoint_and_log_hold_what_was_committed_whatever_segments_a_crash_has_left(
        commits in any_commits(), first: prop::sample::Index, second: prop::sample::Index, left: u64,
    ) {
        let place = tempfile::tempdir().unwrap();
        let folder = folder_with(place.path(), &commits);
        let last = commits.len() as u64;
        let first = first.index(commits.len()) as u64 + 1;
        let (checkpoint, records) = make(&folder, LINEAGE, first, &|| false).unwrap();
        let expected = model_of(&commits[..usize::try_from(first).unwrap()]);
        prop_assert_eq!((checkpoint.seq, checkpoint.needs, records), (first, first, expected.len() as u64));
        prop_assert_eq!(&entries(&checkpoint), &expected);
        // Of the segments that it covers, any may still be there.
        for (n, [segment, next]) in wal::list(&folder.wal()).unwrap().array_windows().enumerate() {
            if next.from <= first + 1 && left >> (n % 64) & 1 == 0 {
                std::fs::remove_file(&segment.path).unwrap();
            }
        }
        let to = first + second.index(usize::try_from(last - first).unwrap() + 1) as u64;
        let expected = model_of(&commits[..usize::try_from(to).unwrap()]);
        prop_assert_eq!(&content(&folder, Some(&checkpoint), to), &expected);
        let (second, _) = make(&folder, LINEAGE, to, &|| false).unwrap();
        prop_assert_eq!(&entries(&second), &expected);
        clear_unfinished(&folder.checkpoint()).unwrap();
        prop_assert_eq!(files(&folder.checkpoint()), [second.path]);
    }
}

#[test]
fn a_checkpoint_that_is_stopped_or_fails_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let commits: Vec<_> = (0..400).map(nth_commit).collect();
    let folder = folder_with(place.path(), &commits);
    let stopped = make(&folder, LINEAGE, 400, &|| true).unwrap_err();
    assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    let memory = Memory::default();
    memory.apply(&[(vec![b'a'], Some(vec![1]))]).unwrap();
    let stopped = from_index(&memory, &folder.checkpoint(), LINEAGE, 400, &|| 400, &|| true).unwrap_err();
    assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    let segment = files(&folder.wal()).remove(9);
    flip(&segment, 200);
    let damaged = make(&folder, LINEAGE, 400, &|| false).unwrap_err();
    assert_eq!(damaged.kind(), io::ErrorKind::InvalidData);
    assert!(damaged.to_string().contains(segment.to_str().unwrap()), "{damaged}");
    assert_eq!(files(&folder.checkpoint()), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_damaged_checkpoint_is_named_wherever_the_damage_is() {
    let place = tempfile::tempdir().unwrap();
    let folder = folder_with(place.path(), &(0..60).map(nth_commit).collect::<Vec<_>>());
    let (checkpoint, _) = make(&folder, LINEAGE, 30, &|| false).unwrap();
    let length = usize::try_from(checkpoint.bytes().unwrap()).unwrap();
    for at in 0..length {
        flip(&checkpoint.path, at);
        let refused = make(&folder, LINEAGE, 60, &|| false).unwrap_err().to_string();
        assert!(refused.contains(checkpoint.path.to_str().unwrap()), "byte {at}: {refused}");
        flip(&checkpoint.path, at);
    }
    let whole = std::fs::read(&checkpoint.path).unwrap();
    for length in 0..length {
        std::fs::write(&checkpoint.path, &whole[..length]).unwrap();
        let refused = make(&folder, LINEAGE, 60, &|| false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{length} bytes: {refused}");
    }
}

/// An index in memory that can be made to panic, or to fail.
struct Fragile(Memory, AtomicBool, AtomicBool);

impl Engine for Fragile {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.0.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        assert!(!self.1.load(SeqCst), "the index panics");
        if self.2.load(SeqCst) {
            return Box::new(std::iter::once(Err(EngineError("input/output error".to_owned()))));
        }
        self.0.range(from, to)
    }

    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        self.0.apply(writes)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.0.flush()
    }
}

/// A log that is long enough for a checkpoint, and an index that has all of it.
struct Store {
    _place: tempfile::TempDir,
    folder: Folder,
    engine: Arc<Fragile>,
    expected: Model,
    last: u64,
    /// What is said of the index.
    damaged: Arc<Mutex<Vec<String>>>,
}

impl Store {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let commits: Vec<_> = (0..400).map(nth_commit).collect();
        let folder = folder_with(place.path(), &commits);
        let (expected, last) = (model_of(&commits), commits.len() as u64);
        let engine = Arc::new(Fragile(Memory::default(), false.into(), false.into()));
        let rows = expected.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
        engine.apply(&rows.collect::<Vec<_>>()).unwrap();
        // The segment that is being written.
        let header =
            wal::record::Header { kind: wal::record::Kind::Segment, lineage: LINEAGE, from: last + 1, to: 0 };
        std::fs::write(folder.wal().join(wal::segment_name(last + 1)), header.encode()).unwrap();
        Self { _place: place, folder, engine, expected, last, damaged: Arc::default() }
    }

    fn start(&self, spare_bytes: u64, applied: u64) -> (Checkpointer, Arc<Progress>) {
        let progress = Arc::new(Progress::starting_at(applied, self.last));
        let damaged = self.damaged.clone();
        let is_damaged = Box::new(move |reason: &str| damaged.lock().unwrap().push(reason.to_owned()));
        let index = Suspect { engine: self.engine.clone(), compare_to: None, is_damaged };
        (Checkpointer::start(&self.folder, LINEAGE, spare_bytes, index, progress.clone()).unwrap(), progress)
    }

    /// The checkpoint; none for the moment in which one is replaced.
    fn checkpoint(&self) -> Option<Checkpoint> {
        find(&self.folder.checkpoint()).ok()?.0
    }

    /// There is a checkpoint of everything, and nothing else but the segment that is being written.
    fn assert_written(&self) {
        assert_eq!(entries(&self.checkpoint().unwrap()), self.expected);
        assert_eq!(self.checkpoint().unwrap().seq, self.last);
        assert_eq!((files(&self.folder.checkpoint()).len(), files(&self.folder.wal()).len()), (1, 1));
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "it does not come");
        std::thread::yield_now();
    }
}

#[test]
fn a_long_log_is_replaced_by_a_checkpoint_once_the_index_has_it_too() {
    let store = Store::new();
    let (checkpointer, progress) = store.start(ANY_ROOM, 100);
    wait_until(|| store.checkpoint().is_some());
    wait_until(|| files(&store.folder.wal()).len() < 100);
    let first = wal::list(&store.folder.wal()).unwrap().remove(0);
    assert!(first.from <= 101, "the index lacks what was deleted: {first:?}");
    progress.applied(store.last);
    wait_until(|| files(&store.folder.wal()).len() == 1);
    checkpointer.stop();
    store.assert_written();
    assert_eq!(progress.status().checkpoint_failure, None);
}

#[test]
fn without_room_there_is_no_checkpoint_and_one_is_written_once_there_is() {
    let store = Store::new();
    let (checkpointer, progress) = store.start(u64::MAX / 2, store.last);
    wait_until(|| progress.status().checkpoints_failed == 1);
    let failure = progress.status().checkpoint_failure.unwrap();
    assert!(
        failure.contains("a checkpoint needs") && failure.contains("MiB of free disk space"),
        "{failure}"
    );
    assert_eq!(files(&store.folder.checkpoint()).len(), 0);
    assert_eq!(progress.log_is_too_long(), None);
    // Nothing more is accepted once the log has become too long meanwhile.
    let filler = store.folder.wal().join(wal::segment_name(store.last + 1));
    let header = std::fs::read(&filler).unwrap();
    std::fs::write(&filler, vec![0; 65 << 10]).unwrap();
    progress.closed(store.last);
    wait_until(|| progress.status().checkpoints_failed == 2);
    assert!(progress.log_is_too_long().unwrap().contains("MiB of free disk space"));
    std::fs::write(&filler, header).unwrap();
    checkpointer.stop();
    let (checkpointer, progress) = store.start(ANY_ROOM, store.last);
    wait_until(|| files(&store.folder.wal()).len() == 1);
    checkpointer.stop();
    assert_eq!(progress.log_is_too_long(), None);
    store.assert_written();
}

#[test]
fn a_damaged_segment_is_healed_from_the_index_once_that_has_it_and_a_panic_is_survived() {
    let store = Store::new();
    flip(&files(&store.folder.wal())[3], 300);
    let (checkpointer, progress) = store.start(ANY_ROOM, store.last - 1);
    wait_until(|| progress.status().checkpoints_failed == 1);
    assert!(
        progress.status().checkpoint_failure.unwrap().contains("is damaged"),
        "the index does not have it yet"
    );
    assert_eq!(files(&store.folder.checkpoint()).len(), 0);
    store.engine.1.store(true, SeqCst);
    progress.applied(store.last);
    wait_until(|| progress.status().checkpoints_failed == 2);
    assert!(progress.status().checkpoint_failure.unwrap().contains("panicked: the index panics"));
    assert_eq!(files(&store.folder.checkpoint()).len(), 0);
    store.engine.1.store(false, SeqCst);
    progress.closed(store.last);
    wait_until(|| files(&store.folder.wal()).len() == 1);
    checkpointer.stop();
    store.assert_written();
    assert_eq!(progress.status().checkpoint_failure, None);
}

#[test]
fn an_index_that_cannot_be_read_while_it_heals_the_log_is_reported_as_damaged() {
    let store = Store::new();
    flip(&files(&store.folder.wal())[3], 300);
    store.engine.2.store(true, SeqCst);
    let (checkpointer, progress) = store.start(ANY_ROOM, store.last);
    wait_until(|| progress.status().checkpoints_failed == 1);
    checkpointer.stop();
    assert_eq!(*store.damaged.lock().unwrap(), ["input/output error"]);
    assert_eq!(files(&store.folder.checkpoint()).len(), 0);
}

#[test]
fn a_checkpoint_that_became_unreadable_is_written_again_from_the_index() {
    let mut store = Store::new();
    let (checkpoint, _) = make(&store.folder, LINEAGE, store.last, &|| false).unwrap();
    wal::delete_up_to(&store.folder.wal(), store.last).unwrap();
    flip(&checkpoint.path, 30);
    let commit = nth_commit(500);
    apply(&mut store.expected, &commit);
    store.engine.apply(&commit.clone().into_iter().collect::<Vec<_>>()).unwrap();
    store.last += 1;
    let segment = store.folder.wal().join(wal::segment_name(store.last));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.extend(wal::record::record(store.last, &commit).unwrap());
    std::fs::write(&segment, bytes).unwrap();
    let (checkpointer, _) = store.start(ANY_ROOM, store.last);
    wait_until(|| store.checkpoint().is_some());
    checkpointer.stop();
    assert_eq!(entries(&store.checkpoint().unwrap()), store.expected);
    assert_eq!(files(&store.folder.checkpoint()).len(), 1);
}

#[test]
fn a_checkpoint_of_an_index_that_is_being_written_and_the_log_behind_it_hold_what_was_committed() {
    let place = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(place.path()).unwrap();
    let (engine, progress, folder) = (rig.engine.clone(), rig.progress.clone(), rig.folder.clone());
    let is_over = AtomicBool::new(false);
    let (mut model, mut fuzzy) = (Model::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..800 {
                let commit = nth_commit(n);
                apply(&mut model, &commit);
                rig.commit(commit);
                if n % 3 == 0 {
                    rig.drain();
                }
            }
            rig.drain();
            is_over.store(true, SeqCst);
        });
        let touched = || progress.touched.load(SeqCst);
        while !is_over.load(SeqCst) {
            let applied = progress.applied.load(SeqCst);
            let written = from_index(&*engine, &folder.checkpoint(), LINEAGE, applied, &touched, &|| false);
            fuzzy.push(written.unwrap().0);
        }
    });
    let last = rig.rotate();
    assert!(fuzzy.iter().any(|checkpoint| checkpoint.needs > checkpoint.seq), "{}", fuzzy.len());
    for checkpoint in fuzzy {
        assert!(checkpoint.needs <= last);
        assert_eq!(content(&folder, Some(&checkpoint), last), model, "{checkpoint:?}");
    }
    // It cannot be merged with less of the log than it needs.
    from_index(&*engine, &folder.checkpoint(), LINEAGE, last, &|| last + 9, &|| false).unwrap();
    assert!(make(&folder, LINEAGE, last, &|| false).unwrap_err().to_string().contains("needs"));
}
