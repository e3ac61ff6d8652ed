//! Keeping the journal as small as what is live: closed segments become sorted files, and sorted files of like size
//! are merged, so that a journal of any age is a few files of falling size. Nothing of it reads the database: a mistake of
//! sled's cannot get in here.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, io};

use super::super::engine::sled::free_bytes;
use super::FIRST;
use super::block::{Kind, Lineage};
use super::files::{self, Piece, at};
use super::segment::Content;
use super::sorted::{Entries, Merged, SortedReader, SortedWriter, damaged};

/// After a failure, a full disk for one.
const AGAIN_AFTER: Duration = Duration::from_mins(1);

/// What is told to whoever folds.
pub(super) struct Bell {
    stop: AtomicBool,
    rung: Mutex<bool>,
    woken: Condvar,
    /// The last batch of the last segment that was closed.
    closed: AtomicU64,
    /// The last batch that the database has for good.
    durable: AtomicU64,
}

impl Bell {
    /// Of a database that has everything up to this batch.
    pub(super) fn new(last: u64) -> Self {
        Self {
            stop: AtomicBool::default(),
            rung: Mutex::default(),
            woken: Condvar::default(),
            closed: AtomicU64::new(last),
            durable: AtomicU64::new(last),
        }
    }

    /// A segment was closed with this batch.
    pub(super) fn closed(&self, last: u64) {
        self.closed.store(last, Ordering::SeqCst);
        if self.durable.load(Ordering::SeqCst) >= last {
            self.ring();
        }
    }

    /// The database has everything up to this batch for good.
    pub(super) fn durable(&self, last: u64) {
        let before = self.durable.swap(last, Ordering::SeqCst);
        let closed = self.closed.load(Ordering::SeqCst);
        if before < closed && closed <= last {
            self.ring();
        }
    }

    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.woken.notify_one();
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ring();
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until it is rung; false once it is over.
    fn wait(&self, within: Option<Duration>) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rung = match within {
            Some(within) => {
                let waited = self.woken.wait_timeout_while(rung, within, |rung| !*rung);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.woken.wait_while(rung, |rung| !*rung).unwrap_or_else(PoisonError::into_inner),
        };
        *rung = false;
        !self.stopped()
    }
}

/// Folds in the background whenever a segment is closed.
pub(super) struct Folder {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Folder {
    pub(super) fn start(folder: &Path, lineage: Lineage, bell: Arc<Bell>, room: Room) -> io::Result<Self> {
        let (folder, heard) = (folder.to_owned(), bell.clone());
        let thread = std::thread::Builder::new().name("store-fold".to_owned()).spawn(move || {
            let mut again = None;
            while heard.wait(again) {
                let last = Last::Open { durable: heard.durable.load(Ordering::SeqCst) };
                again = match fold(&folder, lineage, last, room, &|| heard.stopped()) {
                    Err(error) if !heard.stopped() => {
                        tracing::warn!(%error, "the journal could not be merged; it grows meanwhile");
                        Some(AGAIN_AFTER)
                    }
                    _ => None,
                };
            }
        })?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.bell.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the last segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// Being written; left alone, as is what the database does not have for good yet: a sorted file cannot be redone from
    /// its middle.
    Open { durable: u64 },
    /// Closed like all others.
    Closed,
}

/// What must stay free on the disk while files are merged: writing both anew must not be what stops the service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) spare_bytes: u64,
}

impl Room {
    /// For a person who waits for it: whether there is enough turns out.
    pub(super) const ANY: Self = Self { spare_bytes: 0 };

    fn is_there_for(self, folder: &Path, bytes: u64) -> bool {
        self.spare_bytes == 0
            || free_bytes(folder).is_none_or(|free| free >= bytes.saturating_add(self.spare_bytes))
    }
}

/// Sorts every closed segment, and merges what has become of like size.
pub(super) fn fold(
    folder: &Path,
    lineage: Lineage,
    last: Last,
    room: Room,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let pieces = files::list(folder)?;
    let segments: Vec<_> = pieces.iter().filter(|piece| piece.kind == Kind::Segment).collect();
    for (n, segment) in segments.iter().enumerate() {
        let next = segments.get(n + 1).map(|next| next.from);
        let left_alone = match last {
            Last::Open { durable } => next.is_none_or(|next| next > durable + 1),
            Last::Closed => false,
        };
        if stop() || left_alone {
            break;
        }
        sort(folder, lineage, segment, next)?;
        while merge_one(folder, lineage, room, stop)? {}
    }
    // What an earlier time had no room for.
    while !stop() && merge_one(folder, lineage, room, stop)? {}
    Ok(())
}

/// One segment becomes a sorted file. `next` is the number that the following one begins with.
fn sort(folder: &Path, lineage: Lineage, segment: &Piece, next: Option<u64>) -> io::Result<()> {
    let content = Content::read(&segment.path)?;
    let to = content.as_ref().map_or(segment.from.saturating_sub(1), |content| content.to);
    let is_damaged = content.as_ref().is_some_and(Content::is_damaged);
    if is_damaged || next.is_some_and(|next| to + 1 != next) {
        // Kept as it is: what is still to be had of it is for the rebuilding.
        return Err(damaged(&segment.path));
    }
    if let Some(content) = content.filter(|_| to >= segment.from) {
        let mut writer = SortedWriter::create(folder, lineage, segment.from, to)?;
        for entry in content.sorted(0) {
            writer.push(entry)?;
        }
        writer.finish()?;
    }
    fs::remove_file(&segment.path).map_err(at(&segment.path))
}

/// Merges the two newest sorted files if the newer is at least half as large as the older. So each entry is written
/// again a few times in its life, however long the journal gets.
fn merge_one(folder: &Path, lineage: Lineage, room: Room, stop: &dyn Fn() -> bool) -> io::Result<bool> {
    let sorted = sorted_files(folder)?;
    let [.., older, newer] = sorted.as_slice() else { return Ok(false) };
    let size = |piece: &Piece| fs::metadata(&piece.path).map(|meta| meta.len()).map_err(at(&piece.path));
    let (newer_bytes, older_bytes) = (size(newer)?, size(older)?);
    if newer_bytes * 2 < older_bytes {
        return Ok(false);
    }
    if !room.is_there_for(folder, newer_bytes + older_bytes) {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "too little space to merge two of its files"));
    }
    merge(folder, lineage, &[older.clone(), newer.clone()], stop)?;
    Ok(true)
}

/// Makes one sorted file of all: what was deleted or overwritten is in none of the journal's files then.
pub(super) fn merge_all(folder: &Path, lineage: Lineage) -> io::Result<()> {
    let sorted = sorted_files(folder)?;
    if sorted.is_empty() { Ok(()) } else { merge(folder, lineage, &sorted, &|| false) }
}

fn sorted_files(folder: &Path) -> io::Result<Vec<Piece>> {
    let mut pieces = files::list(folder)?;
    pieces.retain(|piece| piece.kind == Kind::Sorted);
    Ok(pieces)
}

fn merge(folder: &Path, lineage: Lineage, pieces: &[Piece], stop: &dyn Fn() -> bool) -> io::Result<()> {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
    let (from, to) = (first.from, last.to.unwrap_or(last.from));
    if let Some([older, newer]) =
        pieces.array_windows().find(|[older, newer]| older.to.is_none_or(|to| to + 1 != newer.from))
    {
        // One file over both would say that nothing is missing.
        let (older, newer) = (older.path.display(), newer.path.display());
        let reason = format!("a file between {older} and {newer} is missing");
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    // Nothing is older than the oldest, so what was deleted need not be remembered there.
    let oldest = from == FIRST;
    let mut sources: Vec<Entries> = Vec::new();
    for piece in pieces {
        sources.push(Box::new(SortedReader::open(&piece.path)?));
    }
    // One file alone is written anew under its own name: renaming replaces it.
    let mut writer = SortedWriter::create(folder, lineage, from, to)?;
    for entry in Merged::of(sources) {
        let (key, value) = entry?;
        if stop() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        if value.is_some() || !oldest {
            writer.push((&key, value.as_deref()))?;
        }
    }
    let merged = writer.finish()?;
    for piece in pieces.iter().filter(|piece| piece.path != merged) {
        fs::remove_file(&piece.path).map_err(at(&piece.path))?;
    }
    Ok(())
}
