//! From the first signal to the exit code.
//!
//! Two stages. *Soft*: nothing new is begun, what is under way is finished. *Hard*: the grace time is over, or
//! a second signal came; what is still under way is left to its fate, which is safe at any instruction. A task
//! that ends before it was told to stops the whole process with a failing exit code: half a service is worse than
//! one that a supervisor restarts.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a service ended on its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A task ended that should not have.
    #[error("the task {0} ended unexpectedly")]
    Task(&'static str),
    /// The store failed for good.
    #[error("the store failed: {0}")]
    Store(String),
}

/// A task that lasts as long as the service, as `/v1/status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Task {
    /// What it is called.
    pub name: &'static str,
    /// How it is.
    pub state: TaskState,
}

/// How a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It does its work.
    Running,
    /// It was told to stop, or it failed, and the service stops.
    Ended,
}

/// Holds a service's tasks together.
#[derive(Clone)]
pub struct Lifecycle {
    soft: CancellationToken,
    tasks: TaskTracker,
    known: Arc<Mutex<Vec<Task>>>,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Lifecycle {
    /// A service that stops softly when `soft` is cancelled.
    #[must_use]
    pub fn new(soft: CancellationToken) -> Self {
        Self { soft, tasks: TaskTracker::new(), known: Arc::default(), failure: Arc::default() }
    }

    /// Cancelled when nothing new is to be begun.
    #[must_use]
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Runs a task that lasts as long as the service.
    pub fn supervise(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let lifecycle = self.clone();
        let place = {
            let mut known = self.known();
            known.push(Task { name, state: TaskState::Running });
            known.len() - 1
        };
        let task = tokio::spawn(task);
        self.tasks.spawn(async move {
            let ended = task.await;
            lifecycle.known()[place].state = TaskState::Ended;
            if ended.is_err() || !lifecycle.soft.is_cancelled() {
                lifecycle.fail(Failure::Task(name));
            }
        });
    }

    fn known(&self) -> MutexGuard<'_, Vec<Task>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tasks, in the order in which they were begun.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        self.known().clone()
    }

    /// Stops the service with a failing exit code.
    pub fn fail(&self, failure: Failure) {
        tracing::error!(%failure, "stopping");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.soft.cancel();
    }

    /// Waits for the soft stop, then up to `grace`, or until `hard`, for the tasks and for `under_way`.
    ///
    /// # Errors
    /// The [`Failure`] that stopped the service, if it was one.
    pub async fn finish(
        &self,
        under_way: &[&TaskTracker],
        grace: Duration,
        hard: &CancellationToken,
    ) -> Result<(), Failure> {
        self.soft.cancelled().await;
        tracing::info!(grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX), "stopping");
        let all_done = async {
            for tracker in [&[&self.tasks], under_way].concat() {
                tracker.close();
                tracker.wait().await;
            }
        };
        let cut_short = tokio::select! {
            () = all_done => None,
            () = tokio::time::sleep(grace) => Some("the grace time is over"),
            () = hard.cancelled() => Some("told to stop twice"),
        };
        if let Some(why) = cut_short {
            tracing::warn!(why, "what is still under way will be repeated after the next start");
        }
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// Cancels `soft` on the first SIGTERM or SIGINT, `hard` on the second.
///
/// # Errors
/// When the system lets nobody listen for signals.
pub fn listen_for_signals(soft: CancellationToken, hard: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for stop in [soft, hard] {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
            stop.cancel();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_task_that_ends_by_itself_stops_the_service_and_fails_it() {
        let lifecycle = Lifecycle::new(CancellationToken::new());
        lifecycle.supervise("steady", {
            let stop = lifecycle.soft();
            async move { stop.cancelled().await }
        });
        let running = |name| Task { name, state: TaskState::Running };
        assert_eq!(lifecycle.tasks(), [running("steady")]);
        lifecycle.supervise("short-lived", async {});
        let verdict = lifecycle.finish(&[], GRACE, &CancellationToken::new()).await;
        assert_eq!(lifecycle.tasks()[1], Task { name: "short-lived", state: TaskState::Ended });
        assert_eq!(verdict, Err(Failure::Task("short-lived")));
    }

    #[tokio::test]
    async fn a_task_that_panics_fails_the_service_even_while_it_stops() {
        let lifecycle = Lifecycle::new(CancellationToken::new());
        let stop = lifecycle.soft();
        lifecycle.supervise("fragile", async move {
            stop.cancelled().await;
            panic!("on purpose");
        });
        lifecycle.soft().cancel();
        let verdict = lifecycle.finish(&[], GRACE, &CancellationToken::new()).await;
        assert_eq!(verdict, Err(Failure::Task("fragile")));
    }

    #[tokio::test]
    async fn what_takes_longer_than_the_grace_time_is_left_to_its_fate() {
        let lifecycle = Lifecycle::new(CancellationToken::new());
        let calls = TaskTracker::new();
        calls.spawn(std::future::pending::<()>());
        lifecycle.soft().cancel();
        assert_eq!(lifecycle.finish(&[&calls], GRACE, &CancellationToken::new()).await, Ok(()));
        let hard = CancellationToken::new();
        hard.cancel();
        let for_ever = Duration::from_hours(1);
        assert_eq!(lifecycle.finish(&[&calls], for_ever, &hard).await, Ok(()));
    }
}
