//! Draining the memtable into the index, so that the log can be cut and a start has little to replay.
//!
//! Each key is written once, with its newest value. A key that was put and deleted between two drains costs the index a
//! look-up and no write; one that an earlier drain has included, finished or not, is deleted there.

use std::io;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::mark::Mark;
use super::memtable::Memtable;
use super::tables::{DRAIN_BYTES, Database, Epoch, State};
use crate::store::embedded::checkpoint::Progress;
use crate::store::embedded::engine::EngineError;
use crate::store::embedded::wal::Lineage;
use crate::store::embedded::watchdog::{Step, caught, step};

/// How long a group stays in the memtable if little else comes.
const DRAIN_AFTER: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 5_000 });
/// A snapshot is for a few reads; but from a cold cache on a slow disk those may take long.
const READERS_WITHIN: Duration = Duration::from_mins(2);
/// Rows written at a time.
const ROWS_AT_A_TIME: usize = 64;

impl Database {
    /// Drains what has been published. The last record that the index then has for good; `None` if there was nothing
    /// to drain.
    pub(crate) fn drain(&self, lineage: Lineage, progress: &Progress) -> Result<Option<u64>, EngineError> {
        let Some((table, readers)) = self.freeze() else { return Ok(None) };
        let waiting = Step::begin_within("the drain's wait for readers", READERS_WITHIN);
        // Ends with an error once every snapshot of the epoch is dropped.
        let _ = readers.recv();
        drop(waiting);
        let last = table.last();
        progress.touching(last);
        self.write(&table)?;
        let mark = Mark { lineage, seq: last }.to_write()?;
        self.engine.apply(&[mark])?;
        step("the flush of the index", || self.engine.flush())?;
        self.state().frozen = None;
        self.changed.notify_all();
        progress.applied(last);
        Ok(Some(last))
    }

    /// Begins a new memtable. The one before it, and what ends when no snapshot is left that was taken before.
    fn freeze(&self) -> Option<(Arc<Memtable>, Receiver<std::convert::Infallible>)> {
        let mut state = self.state();
        if state.active.len() == 0 {
            return None;
        }
        let table = std::mem::take(&mut state.active);
        state.frozen = Some(table.clone());
        // That of the next memtable is ended by the next freeze.
        let (epoch, ended) = Epoch::begin();
        state.epoch = epoch;
        let before = std::mem::replace(&mut state.epoch_ended, ended);
        Some((table, before))
    }

    fn write(&self, table: &Memtable) -> Result<(), EngineError> {
        let step = Step::begin("a write to the index");
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = table.newest_after(after.as_deref(), ROWS_AT_A_TIME);
            let Some((last, _)) = rows.last() else { return Ok(()) };
            self.engine.apply(&rows)?;
            step.progressed();
            after = Some(last.clone());
        }
    }

    /// Waits until there is something to drain, and longer for more. False once there will be nothing more.
    fn wait_for_work(&self) -> bool {
        let mut state = self.state();
        while state.active.len() == 0 {
            if state.closing {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let little = |state: &mut State| !state.closing && state.active.bytes() <= DRAIN_BYTES;
        drop(self.changed.wait_timeout_while(state, DRAIN_AFTER, little));
        true
    }
}

/// Drains from a thread of its own.
pub(crate) struct Drainer {
    database: Arc<Database>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drainer {
    pub(crate) fn start(
        database: &Arc<Database>,
        lineage: Lineage,
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        let drained = database.clone();
        let thread = std::thread::Builder::new().name("store-drain".to_owned()).spawn(move || {
            while !drained.failure.is_final() && drained.wait_for_work() {
                let failure = match caught(|| drained.drain(lineage, &progress)) {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.0,
                    Err(panic) => format!("panicked: {panic}"),
                };
                drained.failure.fail(&format!("the index cannot be written: {failure}"));
                drained.changed.notify_all();
            }
        })?;
        Ok(Self { database: database.clone(), thread: Mutex::new(Some(thread)) })
    }

    /// Drains what is left, and ends.
    pub(crate) fn stop(&self) {
        self.database.state().closing = true;
        self.database.changed.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        self.stop();
    }
}
