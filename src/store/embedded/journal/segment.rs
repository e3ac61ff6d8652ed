//! Segments: batches in the order they were committed, appended by the one [`Appender`].
//!
//! A crash may leave half a batch at the end of a segment. Nobody cuts it off: every start begins a new segment, and
//! reading one ends at the first block that is not whole. What tells such an end from damage is what follows: a whole
//! batch behind it (only one is ever on its way), or the next segment, which begins with the number that then has to
//! follow.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::block::{self, Entry, Header, Kind, Lineage};
use super::files::{self, at};
use super::sorted::damaged;

/// A segment that has become longer is followed by another. One is sorted in memory. Small in tests, to have many.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 2 << 10 } else { 16 << 20 };

/// Appends batches from a thread of its own, so that the journal's sync and the database's run side by side.
pub(super) struct Appender {
    batches: Option<SyncSender<(u64, Vec<u8>)>>,
    synced: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Appender {
    /// Begins a segment for the batch `next`. `closed` is told the last batch of each that is
    /// finished.
    pub(super) fn begin(
        folder: &Path,
        lineage: Lineage,
        next: u64,
        closed: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (batches, to_write) = sync_channel::<(u64, Vec<u8>)>(1);
        let (done, synced) = sync_channel(1);
        let mut segment = Segment::create(folder, lineage, next)?;
        let folder = folder.to_owned();
        let thread = std::thread::Builder::new().name("store-journal".to_owned()).spawn(move || {
            let mut is_logged = false;
            while let Ok((seq, batch)) = to_write.recv() {
                let appended = segment.append(&batch);
                let failed = appended.is_err();
                if done.send(appended).is_err() || failed {
                    // What the disk holds is known only after a restart.
                    return;
                }
                if segment.bytes >= SEGMENT_BYTES_MAX {
                    match Segment::create(&folder, lineage, seq + 1) {
                        Ok(next) => (segment, is_logged) = (next, false),
                        // The present one grows on; the next batch tries again.
                        Err(error) => {
                            // Once, and not for every batch.
                            if !std::mem::replace(&mut is_logged, true) {
                                tracing::warn!(%error, "the journal's next segment cannot be begun");
                            }
                            continue;
                        }
                    }
                    closed(seq);
                }
            }
        })?;
        Ok(Self { batches: Some(batches), synced, thread: Some(thread) })
    }

    /// Hands over a batch; [`wait`](Self::wait) says when it is durable.
    pub(super) fn append(&self, seq: u64, batch: Vec<u8>) -> io::Result<()> {
        let sender = self.batches.as_ref().ok_or_else(gone)?;
        sender.send((seq, batch)).map_err(|_| gone())
    }

    /// Waits until the batch handed over last is durable.
    pub(super) fn wait(&self) -> io::Result<()> {
        self.synced.recv().map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the journal's thread has ended")
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Segment {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Segment {
    fn create(folder: &Path, lineage: Lineage, from: u64) -> io::Result<Self> {
        let path = folder.join(files::segment_name(from));
        let mut file = files::create(&path)?;
        let header = Header { kind: Kind::Segment, lineage, from, to: 0 }.encode();
        let begun = file.write_all(&header).and_then(|()| file.sync_all()).map_err(at(&path));
        begun.and_then(|()| files::sync(folder)).inspect_err(|_| {
            // The one before it grows on past this one's number.
            let _ = std::fs::remove_file(&path);
        })?;
        Ok(Self { file, path, bytes: header.len() as u64 })
    }

    /// Durable when it returns. An error is final: what the disk holds is known only after a restart.
    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        self.file.write_all(batch).and_then(|()| self.file.sync_data()).map_err(at(&self.path))?;
        self.bytes += batch.len() as u64;
        Ok(())
    }
}

/// A segment read whole.
pub(super) struct Content {
    bytes: Vec<u8>,
    pub(super) header: Header,
    /// The number of its last whole batch before any damage; one less than its first if it has none.
    pub(super) to: u64,
    /// The number of the last batch that is known to have been in it.
    pub(super) end: u64,
}

impl Content {
    /// Reads a segment up to its first block that is not whole. `None` if it has not even a header: a crash came
    /// while it was begun.
    ///
    /// # Errors
    /// [`damaged`] where there is something behind a header that cannot be read: nothing is written there before the
    /// header is durable.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = std::fs::read(path).map_err(at(path))?;
        let Some(header) = Header::decode(&bytes).filter(|header| header.kind == Kind::Segment) else {
            return if bytes.len() <= Header::BYTES { Ok(None) } else { Err(damaged(path)) };
        };
        let before = header.from.saturating_sub(1);
        let mut content = Self { bytes, header, to: before, end: before };
        (content.to, content.end) = content.ends();
        Ok(Some(content))
    }

    /// Whether it was damaged: not all that was in it can be read.
    pub(super) const fn is_damaged(&self) -> bool {
        self.end > self.to
    }

    /// The last batch before any damage, and the last of all: looks behind each block that is not whole, as far as their
    /// lengths can be believed.
    fn ends(&self) -> (u64, u64) {
        let (mut rest, mut expected) = (&self.bytes[Header::BYTES..], self.header.from);
        let (mut to, mut end) = (self.to, self.end);
        loop {
            match block::take_batch(&mut rest) {
                Some((seq, _)) if seq == expected => {
                    end = seq;
                    if to + 1 == seq {
                        to = seq;
                    }
                }
                None if block::pass(&mut rest).is_some() => {}
                _ => return (to, end),
            }
            expected += 1;
        }
    }

    /// Its batches, in order.
    pub(super) fn batches(&self) -> impl Iterator<Item = (u64, Vec<Entry<'_>>)> {
        let mut rest = &self.bytes[Header::BYTES..];
        let mut expected = self.header.from;
        std::iter::from_fn(move || {
            let (seq, entries) = block::take_batch(&mut rest)?;
            let follows = seq == expected;
            expected += 1;
            follows.then_some((seq, entries))
        })
        .fuse()
    }

    /// The last value of every key that was written after a batch, in the order of the keys.
    pub(super) fn sorted(&self, after: u64) -> Vec<Entry<'_>> {
        let later = self.batches().filter(|(seq, _)| *seq > after);
        let mut entries: Vec<Entry<'_>> = later.flat_map(|(_, entries)| entries).collect();
        // Stable: of several with one key, the latest stays last.
        entries.sort_by_key(|(key, _)| *key);
        entries.reverse();
        entries.dedup_by_key(|(key, _)| *key);
        entries.reverse();
        entries
    }
}
