//! Steps of the store that must end. sled is known to leave whoever waits for it waiting after some I/O errors
//! (`pagecache/logger.rs:438-446`), and a process that neither serves nor ends helps nobody: one thread looks
//! at every step that has begun, and aborts the process when one makes no progress in its time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// A step without progress for this long is beyond help.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(10);
const LOOKS_EVERY: Duration = Duration::from_secs(1);

struct Begun {
    number: u64,
    name: &'static str,
    /// Without progress for this long, it is beyond help.
    limit: Duration,
    progressed_at: Instant,
}

#[derive(Default)]
struct Steps {
    begun: Vec<Begun>,
    last: u64,
}

static STEPS: Mutex<Steps> = Mutex::new(Steps { begun: Vec::new(), last: 0 });
static WATCHING: Once = Once::new();

fn steps() -> MutexGuard<'static, Steps> {
    STEPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A step under way. It ends when this is dropped.
pub(crate) struct Step(u64);

impl Step {
    /// Begins a step; `name` is what the log calls it when it is stuck.
    pub(crate) fn begin(name: &'static str) -> Self {
        Self::begin_within(name, STUCK_AFTER)
    }

    /// The same with another time in which there has to be progress.
    pub(crate) fn begin_within(name: &'static str, limit: Duration) -> Self {
        WATCHING.call_once(|| {
            let watching = std::thread::Builder::new().name("store-watchdog".to_owned()).spawn(watch);
            if let Err(error) = watching {
                tracing::error!(%error, "the store's watchdog cannot be started");
            }
        });
        let mut steps = steps();
        steps.last += 1;
        let number = steps.last;
        steps.begun.push(Begun { number, name, limit, progressed_at: Instant::now() });
        Self(number)
    }

    /// Records that the step is not stuck.
    pub(crate) fn progressed(&self) {
        if let Some(begun) = steps().begun.iter_mut().find(|begun| begun.number == self.0) {
            begun.progressed_at = Instant::now();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        steps().begun.retain(|begun| begun.number != self.0);
    }
}

/// Runs a step.
pub(crate) fn step<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    let _step = Step::begin(name);
    work()
}

fn watch() {
    loop {
        std::thread::park_timeout(LOOKS_EVERY);
        let stuck =
            steps().begun.iter().find(|begun| begun.progressed_at.elapsed() > begun.limit).map(|b| b.name);
        if let Some(step) = stuck {
            tracing::error!(step, "the store is stuck; aborting the process");
            std::process::abort();
        }
    }
}

/// Does what may panic. The error is the message of the panic.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => (*panic.downcast_ref::<&str>().unwrap_or(&"no message")).to_owned(),
    })
}
