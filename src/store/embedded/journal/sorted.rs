//! Sorted files: the last value of every key that a run of batches wrote, in the order of the keys.
//!
//! They are what remains of segments. Read back and found whole before what they replace is deleted, they are the
//! journal's checkpoint: the oldest begins with the first batch of all, and the segments follow on the newest.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use super::super::engine::Write;
use super::block::{self, BLOCK_HEAD_BYTES, Entry, Header, Kind, Lineage};
use super::files::{self, at};

const BLOCK_BYTES: usize = 64 << 10;
/// Written in small portions, so that the commits of the moment do not wait behind gigabytes.
const SYNC_EVERY_BYTES: usize = 4 << 20;

/// Entries in the order of their keys, or why they cannot be read on.
pub(super) type Entries = Box<dyn Iterator<Item = io::Result<Write>>>;

/// Writes a sorted file. Dropped before it is [finished](Self::finish), it leaves nothing: on a full disk that would keep
/// everybody else from writing.
pub(super) struct SortedWriter {
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
            let _ = std::fs::remove_file(files::unfinished(&self.path));
        }
    }
}

impl SortedWriter {
    pub(super) fn create(folder: &Path, lineage: Lineage, from: u64, to: u64) -> io::Result<Self> {
        let path = folder.join(files::sorted_name(from, to));
        let file = files::create(&files::unfinished(&path))?;
        let mut writer = Self { file, path, block: block::begin(), unsynced: 0, entries: 0, finished: false };
        let header = Header { kind: Kind::Sorted, lineage, from, to }.encode();
        writer.file.write_all(&header).map_err(at(&writer.path))?;
        Ok(writer)
    }

    pub(super) fn push(&mut self, entry: Entry<'_>) -> io::Result<()> {
        block::put_entry(&mut self.block, entry)?;
        self.entries += 1;
        if self.block.len() >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> io::Result<()> {
        let mut block = std::mem::replace(&mut self.block, block::begin());
        if block.len() == BLOCK_HEAD_BYTES {
            return Ok(());
        }
        block::seal(&mut block)?;
        self.file.write_all(&block).map_err(at(&self.path))?;
        self.unsynced += block.len();
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.file.sync_data().map_err(at(&self.path))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Ends the file, reads it back, and gives it its name.
    pub(super) fn finish(mut self) -> io::Result<PathBuf> {
        self.write_block()?;
        // A payload shorter than any entry: the end, with the number of entries.
        self.block.extend(self.entries.to_le_bytes());
        self.write_block()?;
        self.file.sync_all().map_err(at(&self.path))?;
        if read_through(&files::unfinished(&self.path))? != self.entries {
            return Err(damaged(&self.path));
        }
        files::finish(&self.path)?;
        self.finished = true;
        Ok(self.path.clone())
    }
}

/// Reads a sorted file from front to back. How many entries it has.
pub(super) fn read_through(path: &Path) -> io::Result<u64> {
    SortedReader::open(path)?.try_fold(0, |entries, entry| entry.map(|_| entries + 1))
}

/// The entries of a sorted file, one after the other.
pub(super) struct SortedReader {
    file: BufReader<File>,
    path: PathBuf,
    pub(super) header: Header,
    block: Vec<Write>,
    entries: u64,
    ended: bool,
}

impl SortedReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(at(path))?);
        let mut head = [0; Header::BYTES];
        file.read_exact(&mut head).map_err(at(path))?;
        let header = Header::decode(&head).filter(|header| header.kind == Kind::Sorted);
        let header = header.ok_or_else(|| damaged(path))?;
        Ok(Self { file, path: path.to_owned(), header, block: Vec::new(), entries: 0, ended: false })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.file.read_exact(&mut head).map_err(at(&self.path))?;
        let length = block::payload_length(&head).ok_or_else(|| damaged(&self.path))?;
        let mut payload = Vec::new();
        (&mut self.file).take(length as u64).read_to_end(&mut payload).map_err(at(&self.path))?;
        if payload.len() != length || !block::intact(&head, &payload) {
            return Err(damaged(&self.path));
        }
        if let Ok(entries) = payload.as_slice().try_into().map(u64::from_le_bytes) {
            self.ended = true;
            return if entries == self.entries { Ok(()) } else { Err(damaged(&self.path)) };
        }
        let mut rest = payload.as_slice();
        while let Some((key, value)) = block::take_entry(&mut rest) {
            self.block.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        }
        self.entries += self.block.len() as u64;
        self.block.reverse();
        if rest.is_empty() { Ok(()) } else { Err(damaged(&self.path)) }
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

pub(super) fn damaged(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()))
}

/// Several sources as one, in the order of the keys; of one key the latest source has the last word.
pub(super) struct Merged {
    /// Oldest first.
    sources: Vec<Peekable<Entries>>,
}

impl Merged {
    pub(super) fn of(sources: Vec<Entries>) -> Self {
        Self { sources: sources.into_iter().map(Iterator::peekable).collect() }
    }
}

impl Iterator for Merged {
    type Item = io::Result<Write>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut first: Option<Vec<u8>> = None;
        for source in &mut self.sources {
            match source.peek() {
                Some(Ok((key, _))) if first.as_ref().is_none_or(|least| key < least) => {
                    first = Some(key.clone());
                }
                Some(Err(_)) => return source.next(),
                _ => {}
            }
        }
        let least = first?;
        let mut latest = None;
        for source in &mut self.sources {
            if source.peek().is_some_and(|entry| entry.as_ref().is_ok_and(|(key, _)| *key == least)) {
                latest = source.next();
            }
        }
        latest
    }
}
