//! Sorted files: entries in the order of their keys, in checksummed blocks. A checkpoint is one; so is a run, the
//! sorted content of some segments while a checkpoint is made.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::store::embedded::engine::Write;
use crate::store::embedded::folder::files::{
    at, entries, is_unfinished, parent, remove_file, sync, unfinished,
};
use crate::store::embedded::folder::private::create_file;
use crate::store::embedded::wal::record::{self, BLOCK_HEAD_BYTES, Entry, Header, Kind};
use crate::store::embedded::wal::{Lineage, damaged};

const BLOCK_BYTES: usize = 64 << 10;
/// Written in small portions, so that the commits of the moment do not wait behind gigabytes.
const SYNC_EVERY_BYTES: usize = 4 << 20;
const SUFFIX: &str = ".checkpoint";
/// A folder is looked through again if a file of it goes while it is.
const LOOKS_MAX: u32 = 20;

/// Entries in the order of their keys, or why they cannot be read on.
pub(crate) type Entries = Box<dyn Iterator<Item = io::Result<Write>>>;

/// A checkpoint, as its header tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) path: PathBuf,
    pub(crate) lineage: Lineage,
    /// The number of the last record that it contains.
    pub(crate) seq: u64,
    /// The record that the log has to reach for checkpoint and log to be consistent: a checkpoint of an index that
    /// was being written contains some of what came after `seq`.
    pub(crate) needs: u64,
}

impl Checkpoint {
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        std::fs::metadata(&self.path).map(|meta| meta.len()).map_err(at(&self.path))
    }

    pub(crate) fn entries(&self) -> io::Result<SortedReader> {
        SortedReader::open(&self.path)
    }
}

/// The newest checkpoint in a folder whose header can be read, and the file of one whose header cannot.
///
/// # Errors
/// Those of reading the folder.
pub(crate) fn find(folder: &Path) -> io::Result<(Option<Checkpoint>, Option<PathBuf>)> {
    let mut looks = 1..=LOOKS_MAX;
    loop {
        looks.next();
        match look(folder) {
            // Another process has replaced it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !looks.is_empty() => {}
            found => return found,
        }
    }
}

fn look(folder: &Path) -> io::Result<(Option<Checkpoint>, Option<PathBuf>)> {
    let (mut newest, mut unreadable) = (None::<Checkpoint>, None);
    for path in entries(folder)? {
        if !path.to_string_lossy().ends_with(SUFFIX) {
            continue;
        }
        match SortedReader::open(&path) {
            Ok(SortedReader { header: Header { kind: Kind::Checkpoint, lineage, from, to }, .. }) => {
                if newest.as_ref().is_none_or(|newest| newest.seq < to) {
                    newest = Some(Checkpoint { path, lineage, seq: to, needs: from });
                }
            }
            Ok(_) => unreadable = Some(path),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => unreadable = Some(path),
            Err(error) => return Err(error),
        }
    }
    Ok((newest, unreadable))
}

/// Reads a checkpoint from front to back. The last record that it contains.
///
/// # Errors
/// [`damaged`] if it is none, or not whole.
pub(crate) fn verify(path: &Path) -> io::Result<u64> {
    let reader = SortedReader::open(path)?;
    let Header { kind: Kind::Checkpoint, to, .. } = reader.header else { return Err(damaged(path)) };
    for entry in reader {
        entry?;
    }
    Ok(to)
}

/// Deletes what a crash left unfinished, and checkpoints that a newer one replaces.
pub(crate) fn clear_unfinished(folder: &Path) -> io::Result<()> {
    let (newest, _) = find(folder)?;
    for path in entries(folder)? {
        let is_checkpoint = path.to_string_lossy().ends_with(SUFFIX);
        let is_replaced = is_checkpoint && newest.as_ref().is_some_and(|newest| newest.path != path);
        if is_unfinished(&path) || is_replaced {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes a sorted file. Dropped before it is finished, it leaves nothing: on a full disk that would keep everybody
/// else from writing.
pub(crate) struct SortedWriter {
    file: File,
    path: PathBuf,
    block: Vec<u8>,
    unsynced: usize,
    entries: u64,
    finished: bool,
}

impl Drop for SortedWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl SortedWriter {
    /// Begins a run that covers some records. Nobody asks which store a run is of: it does not outlive the merge.
    pub(crate) fn run(folder: &Path, from: u64, to: u64) -> io::Result<Self> {
        let path = folder.join(format!("{from:020}-{to:020}.run"));
        Self::create(unfinished(&path), Header { kind: Kind::Run, lineage: Lineage::default(), from, to })
    }

    fn create(path: PathBuf, header: Header) -> io::Result<Self> {
        let file = create_file(&path).map_err(at(&path))?;
        let mut writer =
            Self { file, path, block: record::begin(), unsynced: 0, entries: 0, finished: false };
        writer.file.write_all(&header.encode()).map_err(at(&writer.path))?;
        Ok(writer)
    }

    pub(crate) fn push(&mut self, entry: Entry<'_>) -> io::Result<()> {
        record::put_entry(&mut self.block, entry)?;
        self.entries += 1;
        if self.block.len() >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> io::Result<()> {
        let mut block = std::mem::replace(&mut self.block, record::begin());
        if block.len() == BLOCK_HEAD_BYTES {
            return Ok(());
        }
        record::seal(&mut block)?;
        self.file.write_all(&block).map_err(at(&self.path))?;
        self.unsynced += block.len();
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.file.sync_data().map_err(at(&self.path))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Ends the file. It still has the name of an unfinished one, and is deleted with this writer.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.write_block()?;
        // A payload shorter than any entry: the end, with the number of entries.
        self.block.extend(self.entries.to_le_bytes());
        self.write_block()?;
        self.file.sync_all().map_err(at(&self.path))
    }

    /// Reads what was written, once it was [ended](Self::end).
    pub(crate) fn reader(&self) -> io::Result<SortedReader> {
        SortedReader::open(&self.path)
    }
}

/// Writes a checkpoint.
pub(crate) struct CheckpointWriter {
    sorted: SortedWriter,
    checkpoint: Checkpoint,
}

impl CheckpointWriter {
    /// Begins a checkpoint that contains the records up to `seq`.
    pub(crate) fn create(folder: &Path, lineage: Lineage, seq: u64) -> io::Result<Self> {
        let path = folder.join(format!("{seq:020}{SUFFIX}"));
        let header = Header { kind: Kind::Checkpoint, lineage, from: seq, to: seq };
        let sorted = SortedWriter::create(unfinished(&path), header)?;
        Ok(Self { sorted, checkpoint: Checkpoint { path, lineage, seq, needs: seq } })
    }

    /// Records in its header that the log has to reach `needs` for it to be consistent.
    pub(crate) fn set_needs(&mut self, needs: u64) -> io::Result<()> {
        let Checkpoint { lineage, seq, .. } = self.checkpoint;
        self.checkpoint.needs = needs;
        let header = Header { kind: Kind::Checkpoint, lineage, from: needs, to: seq };
        self.sorted.file.write_all_at(&header.encode(), 0).map_err(at(&self.sorted.path))
    }

    /// Adds a record; the keys come in order.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.sorted.push((key, Some(value)))
    }

    /// Ends the file, reads it back, and gives it its name. How many records it has.
    pub(crate) fn finish(mut self) -> io::Result<(Checkpoint, u64)> {
        self.sorted.end()?;
        if read_through(&self.sorted.path)? != self.sorted.entries {
            return Err(damaged(&self.sorted.path));
        }
        let path = &self.checkpoint.path;
        std::fs::rename(&self.sorted.path, path).map_err(at(path))?;
        self.sorted.finished = true;
        sync(parent(path))?;
        Ok((self.checkpoint.clone(), self.sorted.entries))
    }
}

fn read_through(path: &Path) -> io::Result<u64> {
    SortedReader::open(path)?.try_fold(0, |entries, entry| entry.map(|_| entries + 1))
}

/// The entries of a sorted file, one after the other.
pub(crate) struct SortedReader {
    file: BufReader<File>,
    path: PathBuf,
    pub(crate) header: Header,
    block: Vec<Write>,
    entries: u64,
    ended: bool,
}

impl SortedReader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(at(path))?);
        let mut head = [0; Header::BYTES];
        file.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(path),
            _ => at(path)(error),
        })?;
        let header = Header::decode(&head).filter(|header| header.kind != Kind::Segment);
        let header = header.ok_or_else(|| damaged(path))?;
        Ok(Self { file, path: path.to_owned(), header, block: Vec::new(), entries: 0, ended: false })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.read_exact(&mut head)?;
        let length = record::payload_length(&head).ok_or_else(|| damaged(&self.path))?;
        let mut payload = Vec::new();
        (&mut self.file).take(length as u64).read_to_end(&mut payload).map_err(at(&self.path))?;
        if payload.len() != length || !record::intact(&head, &payload) {
            return Err(damaged(&self.path));
        }
        if let Ok(entries) = payload.as_slice().try_into().map(u64::from_le_bytes) {
            self.ended = true;
            return if entries == self.entries { Ok(()) } else { Err(damaged(&self.path)) };
        }
        let mut rest = payload.as_slice();
        self.block.extend(std::iter::from_fn(|| record::take_entry(&mut rest)).map(record::owned));
        self.entries += self.block.len() as u64;
        self.block.reverse();
        if rest.is_empty() { Ok(()) } else { Err(damaged(&self.path)) }
    }

    /// A file that ends too early is damaged.
    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged(&self.path),
            _ => at(&self.path)(error),
        })
    }
}

impl Iterator for SortedReader {
    type Item = io::Result<Write>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.block.is_empty() && !self.ended {
            if let Err(error) = self.next_block() {
                self.ended = true;
                self.block.clear();
                return Some(Err(error));
            }
        }
        self.block.pop().map(Ok)
    }
}
