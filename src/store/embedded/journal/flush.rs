//! The database made durable behind the journal's back, at intervals.
//!
//! Nobody waits for it: what is acknowledged is durable in the journal. It bounds what the next start has to redo after
//! a crash, and what of the journal may be folded.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::engine::EngineError;
use super::super::engine::sled::or_abort;
use super::super::writer::ABORT_AFTER;

const FLUSH_EVERY: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 100 });

/// Flushes from a thread of its own.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to flush.
    wanted: Condvar,
    /// It is over.
    over: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of the last batch that the database was given.
    applied: u64,
    flushed: u64,
    /// When the flush under way began.
    began_at: Option<Instant>,
    failure: Option<EngineError>,
    stop: bool,
}

impl Flusher {
    /// `flush` makes the database durable up to a batch, and says so in it; it has everything up to `last` now.
    pub(super) fn start(
        last: u64,
        flush: impl Fn(u64) -> Result<(), EngineError> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        *shared.lock() = State { applied: last, flushed: last, ..State::default() };
        let flushing = shared.clone();
        let thread = std::thread::Builder::new().name("store-flush".to_owned()).spawn(move || {
            while let Some(last) = flushing.next() {
                if !flushing.ended(last, flush(last)) {
                    return;
                }
            }
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// The database was given this batch.
    pub(super) fn applied(&self, seq: u64) {
        self.shared.lock().applied = seq;
        self.shared.wanted.notify_one();
    }

    /// The database lacks something that it was given: nothing may say that it has more than before.
    pub(super) fn fail(&self, error: &EngineError) {
        self.shared.lock().failure.get_or_insert_with(|| error.clone());
    }

    /// Flushes what is left, and ends.
    pub(super) fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wanted.notify_one();
        self.shared.over.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = or_abort(|| thread.join());
        }
    }

    /// Why the database cannot be made durable. Final, as every error of it; sled is known to leave who waits for a
    /// flush waiting for ever.
    pub(super) fn failure(&self) -> Result<(), EngineError> {
        let state = self.shared.lock();
        if state.began_at.is_some_and(|began_at| began_at.elapsed() > ABORT_AFTER) {
            return Err(EngineError("the database's flush makes no progress".to_owned()));
        }
        state.failure.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something was applied, and a moment longer for more. The last batch to be flushed; `None` when it is
    /// over and nothing is left.
    fn next(&self) -> Option<u64> {
        let wanted = |state: &mut State| state.applied == state.flushed && !state.stop;
        let state = self.wanted.wait_while(self.lock(), wanted).unwrap_or_else(PoisonError::into_inner);
        let more = self.over.wait_timeout_while(state, FLUSH_EVERY, |state| !state.stop);
        let (mut state, _) = more.unwrap_or_else(PoisonError::into_inner);
        if state.applied == state.flushed || state.failure.is_some() {
            return None;
        }
        state.began_at = Some(Instant::now());
        Some(state.applied)
    }

    /// Whether it goes on.
    fn ended(&self, last: u64, flushed: Result<(), EngineError>) -> bool {
        let mut state = self.lock();
        state.began_at = None;
        match flushed {
            Ok(()) => state.flushed = last,
            Err(error) => drop(state.failure.get_or_insert(error)),
        }
        state.failure.is_none()
    }
}
