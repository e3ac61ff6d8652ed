//! When a checkpoint is written, and how; and which segments are deleted then.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::compare::{Compared, compare};
use super::file::{Checkpoint, CheckpointWriter, clear_unfinished};
use super::inventory::Inventory;
use crate::store::LogStatus;
use crate::store::embedded::engine::{Engine, EngineError, records};
use crate::store::embedded::folder::Folder;
use crate::store::embedded::folder::files::remove_folder;
use crate::store::embedded::wal::{self, Lineage, SegmentFile};
use crate::store::embedded::watchdog::caught;

/// A checkpoint is written when the log is longer than this, and than half of the last checkpoint. Small in tests,
/// to have many.
const LOG_BYTES_MIN: u64 = if cfg!(test) { 8 << 10 } else { 64 << 20 };
/// While checkpoints fail, the store accepts nothing more once the log is longer than this and than twice the last
/// checkpoint.
const LOG_BYTES_MAX: u64 = if cfg!(test) { 64 << 10 } else { 1 << 30 };
/// After a failure, a full disk for one.
const AGAIN_AFTER: Duration = Duration::from_mins(1);
/// The least time between two checkpoints that are written only because a person was forgotten.
const FORGOTTEN_EVERY: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_hours(6) };

/// A checkpoint, and how many records it has.
pub(crate) type WrittenAt = (Checkpoint, u64);

/// How far log and index are, for whoever writes checkpoints.
#[derive(Default)]
pub(crate) struct Progress {
    /// The last record of the last segment that was closed.
    closed: AtomicU64,
    /// The last record that the index has for good.
    applied: AtomicU64,
    /// The last record of which the index may have a part.
    touched: AtomicU64,
    /// The last record that contains a person who is forgotten.
    forgotten: AtomicU64,
    stop: AtomicBool,
    woken: Mutex<bool>,
    wake: Condvar,
    status: Mutex<LogStatus>,
}

impl Progress {
    /// Of an index that has everything up to this record.
    pub(crate) fn starting_at(applied: u64, closed: u64) -> Self {
        Self { closed: closed.into(), applied: applied.into(), touched: applied.into(), ..Self::default() }
    }

    /// A segment was closed with this record.
    pub(crate) fn closed(&self, last: u64) {
        self.closed.store(last, SeqCst);
        self.wake();
    }

    /// A commit took so long to become durable.
    pub(crate) fn synced(&self, took: Duration) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).syncs.add(took);
    }

    /// The index is about to be given records up to this one.
    pub(crate) fn touching(&self, last: u64) {
        self.touched.store(last, SeqCst);
    }

    /// The index has everything up to this record for good.
    pub(crate) fn applied(&self, last: u64) {
        let before = self.applied.swap(last, SeqCst);
        // Only then there may be a segment to delete.
        if before < self.closed.load(SeqCst) {
            self.wake();
        }
    }

    /// Has a checkpoint made, within hours, that contains this record; its segment has to be closed.
    pub(crate) fn forgot(&self, seq: u64) {
        self.forgotten.fetch_max(seq, SeqCst);
        self.wake();
    }

    /// How log and checkpoints are; whether the index was built anew is not known here.
    pub(crate) fn status(&self) -> LogStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nothing more should be accepted: checkpoints fail, and the log has become long.
    pub(crate) fn log_is_too_long(&self) -> Option<String> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let max = LOG_BYTES_MAX.max(status.checkpoint_bytes.saturating_mul(2));
        status.checkpoint_failure.clone().filter(|_| status.log_bytes > max)
    }

    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }

    fn stopped(&self) -> bool {
        self.stop.load(SeqCst)
    }

    /// Waits until there may be something to do; false once it is over.
    fn wait(&self, within: Option<Duration>) -> bool {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut woken = match within {
            Some(within) => {
                let waited = self.wake.wait_timeout_while(woken, within, |woken| !*woken);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.wake.wait_while(woken, |woken| !*woken).unwrap_or_else(PoisonError::into_inner),
        };
        *woken = false;
        !self.stopped()
    }

    fn change(&self, change: impl FnOnce(&mut LogStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Writes checkpoints from a thread of its own, whenever one is due.
pub(crate) struct Checkpointer {
    progress: Arc<Progress>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The index, as whoever writes checkpoints sees it.
pub(crate) struct Suspect {
    pub(crate) engine: Arc<dyn Engine>,
    /// It is to be compared with checkpoint and log, once, as of this record: the last when the store was opened.
    pub(crate) compare_to: Option<u64>,
    /// Called with the reason if it differs or cannot be read.
    pub(crate) is_damaged: Box<dyn Fn(&str) + Send>,
}

struct Work {
    index: Suspect,
    folder: Folder,
    lineage: Lineage,
    /// What must stay free on the disk: a checkpoint must not be what stops the service.
    spare_bytes: u64,
    progress: Arc<Progress>,
    written_at: Option<Instant>,
}

impl Checkpointer {
    pub(crate) fn start(
        folder: &Folder,
        lineage: Lineage,
        spare_bytes: u64,
        index: Suspect,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        let shared = progress.clone();
        let mut work =
            Work { index, folder: folder.clone(), lineage, spare_bytes, progress, written_at: None };
        // What an earlier process left is done now.
        shared.wake();
        let waiting = shared.clone();
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || {
            let mut again = None;
            while waiting.wait(again) {
                again = work.turn();
            }
        })?;
        Ok(Self { progress: shared, thread: Mutex::new(Some(thread)) })
    }

    /// Gives up what is being written, and waits for the end of it.
    pub(crate) fn stop(&self) {
        self.progress.stop.store(true, SeqCst);
        self.progress.wake();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Work {
    /// Does what is due. When to look again without being woken.
    fn turn(&mut self) -> Option<Duration> {
        let done = caught(|| self.write_if_due());
        let done = done.unwrap_or_else(|panic| Err(io::Error::other(format!("panicked: {panic}"))));
        let failure = match done {
            Ok(again) => {
                self.progress.change(|status| status.checkpoint_failure = None);
                return again;
            }
            Err(_) if self.progress.stopped() => return None,
            Err(error) => error.to_string(),
        };
        tracing::error!(error = failure, "no checkpoint could be written; the log grows meanwhile");
        self.progress.change(|status| {
            status.checkpoints_failed += 1;
            status.checkpoint_failure = Some(failure);
        });
        Some(AGAIN_AFTER)
    }

    fn write_if_due(&mut self) -> io::Result<Option<Duration>> {
        if !self.has_compared() {
            return Ok(None);
        }
        let (folder, progress) = (self.folder.checkpoint(), self.progress.clone());
        let found = Inventory::read(&self.folder)?;
        let (seq, needs) = (found.checkpointed(), found.needs());
        let Inventory { mut checkpoint, unreadable, segments, .. } = found;
        let closed = progress.closed.load(SeqCst);
        let checkpoint_bytes = checkpoint.as_ref().map_or(Ok(0), Checkpoint::bytes)?;
        let log_bytes = bytes_after(&segments, seq)?;
        progress.change(|status| (status.log_bytes, status.checkpoint_bytes) = (log_bytes, checkpoint_bytes));
        let is_long = log_bytes > LOG_BYTES_MIN.max(checkpoint_bytes / 2);
        let forgotten = progress.forgotten.load(SeqCst);
        let wait = self.written_at.and_then(|at| FORGOTTEN_EVERY.checked_sub(at.elapsed()));
        let holds_forgotten = seq < forgotten && forgotten <= closed;
        // One that cannot be read is written again from the index, which is now the only one to have its rows.
        let is_lost = checkpoint.is_none() && unreadable.is_some();
        let mut again = None;
        if seq < closed && needs <= closed && (is_long || is_lost || holds_forgotten && wait.is_none()) {
            // The new one, and the runs that it is merged from.
            self.check_room(checkpoint_bytes + 2 * log_bytes)?;
            let (written, records) = self.write(closed)?;
            self.written_at = Some(Instant::now());
            let (log_bytes, bytes) = (bytes_after(&segments, written.seq)?, written.bytes()?);
            tracing::info!(seq = written.seq, records, bytes, "a checkpoint was written");
            progress.change(|status| (status.log_bytes, status.checkpoint_bytes) = (log_bytes, bytes));
            checkpoint = Some(written);
        } else if holds_forgotten {
            again = wait;
        }
        if let Some(checkpoint) = checkpoint {
            clear_unfinished(&folder)?;
            let applied = progress.applied.load(SeqCst);
            wal::delete_up_to(&self.folder.wal(), checkpoint.seq.min(applied))?;
            if forgotten > 0 && checkpoint.seq >= forgotten {
                // An index that was replaced may hold the person too.
                remove_folder(&self.folder.set_aside())?;
            }
        }
        Ok(again)
    }

    fn check_room(&self, bytes: u64) -> io::Result<()> {
        let wanted = bytes.saturating_add(self.spare_bytes);
        if self.folder.free_bytes().is_none_or(|free| free >= wanted) {
            return Ok(());
        }
        let text = format!("a checkpoint needs {} MiB of free disk space", wanted >> 20);
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    /// Makes the comparison, if there is one to be made. Before anything else: no segment may be deleted meanwhile.
    /// False if the index does not have everything yet that it is to be compared with.
    fn has_compared(&mut self) -> bool {
        let Some(to) = self.index.compare_to else { return true };
        if self.progress.applied.load(SeqCst) < to {
            return false;
        }
        let stopped = || self.progress.stopped();
        self.index.compare_to = None;
        match compare(&self.folder, &*self.index.engine, to, &stopped) {
            Ok(Compared::Differs(reason)) => (self.index.is_damaged)(&reason),
            Ok(Compared::Equal(rows)) => tracing::info!(rows, "the index is as checkpoint and log say"),
            Ok(Compared::Stopped) => {}
            // A damaged file of theirs is found, and healed, when a checkpoint is written.
            Err(error) => tracing::error!(%error, "the index could not be compared with checkpoint and log"),
        }
        true
    }

    /// Writes one that contains the records up to `closed`; or, where log or checkpoint are damaged, whatever the index
    /// has.
    fn write(&self, closed: u64) -> io::Result<WrittenAt> {
        let made = make(&self.folder, self.lineage, closed, &|| self.progress.stopped());
        match made {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let applied = self.progress.applied.load(SeqCst);
                if applied < closed {
                    // Woken again once the index has what the damaged file may have held.
                    return Err(error);
                }
                tracing::error!(%error, "a file of log or checkpoint is damaged; a checkpoint is written from the index");
                let touched = || self.progress.touched.load(SeqCst);
                let stop = || self.progress.stopped();
                let folder = self.folder.checkpoint();
                from_index(&*self.index.engine, &folder, self.lineage, applied, &touched, &stop).inspect_err(
                    |error| {
                        let error = error.get_ref().and_then(|error| error.downcast_ref::<EngineError>());
                        if let Some(error) = error {
                            (self.index.is_damaged)(&error.0);
                        }
                    },
                )
            }
            made => made,
        }
    }
}

/// Bytes of the segments with records after `seq`.
fn bytes_after(segments: &[SegmentFile], seq: u64) -> io::Result<u64> {
    let nexts = segments.iter().skip(1).map(|next| Some(next.from)).chain([None]);
    let behind = segments.iter().zip(nexts).filter(|(_, next)| next.is_none_or(|next| next > seq + 1));
    behind.map(|(segment, _)| segment.bytes()).sum()
}

/// Writes a checkpoint that contains the records up to `to`, from the last one and the segments.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where one of them is damaged; [`io::ErrorKind::Interrupted`] when it was stopped.
pub(crate) fn make(
    folder: &Folder,
    lineage: Lineage,
    to: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<WrittenAt> {
    let found = Inventory::read(folder)?;
    if let (None, Some(unreadable)) = (&found.checkpoint, &found.unreadable) {
        return Err(wal::damaged(unreadable));
    }
    if found.needs() > to {
        // Consistent only together with more of the log.
        return Err(io::Error::other("the log does not reach what the checkpoint needs"));
    }
    let rows = found.rows(to)?;
    let mut writer = CheckpointWriter::create(&folder.checkpoint(), lineage, to)?;
    for row in rows {
        let (key, value) = row?;
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        writer.push(&key, &value)?;
    }
    writer.finish()
}

/// Writes a checkpoint of an index that has the records up to `seq` for good. `touched` is the last record of which it
/// may have a part, asked for after it was read.
pub(crate) fn from_index(
    engine: &dyn Engine,
    folder: &Path,
    lineage: Lineage,
    seq: u64,
    touched: &dyn Fn() -> u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<WrittenAt> {
    let mut writer = CheckpointWriter::create(folder, lineage, seq)?;
    for row in records(engine) {
        let (key, value) = row.map_err(io::Error::other)?;
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        writer.push(&key, &value)?;
    }
    writer.set_needs(touched().max(seq))?;
    writer.finish()
}

#[cfg(test)]
mod tests;
