//! Shutdown of the service, from the first signal to the exit code.
//!
//! There are two stages. *Soft stop*: no new work is begun, work in progress is finished. *Hard stop*: the
//! grace period is over, or a second signal arrived; work still in progress is abandoned, which is safe at
//! any instruction. A task that ends before the soft stop, or panics, stops the whole process with a failing
//! exit code: a service with a part missing is worse than one that its supervisor restarts. SIGHUP is
//! no stop signal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a service stopped without being asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A task ended before the soft stop, or panicked.
    #[error("the task {0} ended unexpectedly")]
    Task(Cow<'static, str>),
    /// The store failed and cannot recover without a restart.
    #[error("the store failed: {0}")]
    Store(String),
}

/// A supervised task, as `/v1/status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Task {
    /// Its name, for people.
    #[schema(value_type = String, example = "sink crm")]
    pub name: Cow<'static, str>,
    /// Whether it is running.
    pub state: TaskState,
}

/// Whether a task is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It is running.
    Running,
    /// It has ended, on the soft stop or by a failure that stops the service.
    Ended,
}

/// The tasks of the status, by the order in which they were spawned.
#[derive(Default)]
struct Known {
    spawned: u64,
    tasks: BTreeMap<u64, Task>,
}

/// The supervisor of a service's tasks. Clones share the same tasks.
#[derive(Clone)]
pub struct Lifecycle {
    soft: CancellationToken,
    tasks: TaskTracker,
    known: Arc<Mutex<Known>>,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Lifecycle {
    /// A supervisor whose soft stop begins when `soft` is cancelled.
    #[must_use]
    pub fn new(soft: CancellationToken) -> Self {
        Self { soft, tasks: TaskTracker::new(), known: Arc::default(), failure: Arc::default() }
    }

    /// The token that is cancelled at the soft stop: no new work from then on.
    #[must_use]
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Spawns a task that runs until the soft stop. If it ends earlier, or panics at any time, the service
    /// fails.
    pub fn supervise(
        &self,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.supervise_until(name, self.soft(), task);
    }

    /// As [`supervise`](Self::supervise), for a task that runs until `stop`, a child of the soft stop. Once
    /// it has ended because of `stop` alone, it is not in the status any more.
    pub fn supervise_until(
        &self,
        name: impl Into<Cow<'static, str>>,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (lifecycle, name): (_, Cow<'static, str>) = (self.clone(), name.into());
        let number = {
            let mut known = self.known();
            known.spawned += 1;
            let number = known.spawned;
            known.tasks.insert(number, Task { name: name.clone(), state: TaskState::Running });
            number
        };
        let task = tokio::spawn(task);
        self.tasks.spawn(async move {
            let ended = task.await;
            let is_expected = ended.is_ok() && stop.is_cancelled();
            if is_expected && !lifecycle.soft.is_cancelled() {
                lifecycle.known().tasks.remove(&number);
            } else if let Some(task) = lifecycle.known().tasks.get_mut(&number) {
                task.state = TaskState::Ended;
            }
            if !is_expected {
                lifecycle.fail(Failure::Task(name));
            }
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tasks, in the order in which they were spawned.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        self.known().tasks.values().cloned().collect()
    }

    /// Begins the soft stop with a failing exit code. Of several failures the first counts.
    pub fn fail(&self, failure: Failure) {
        tracing::error!(failure = failure.to_string(), "the service failed and stops");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.soft.cancel();
    }

    /// Waits for the soft stop, and then for the tasks and for the work `in_progress`: until all is done,
    /// `grace` has passed, or `hard` is cancelled.
    ///
    /// # Errors
    /// The [`Failure`] that stopped the service, if one did.
    pub async fn finish(
        &self,
        in_progress: &[&TaskTracker],
        grace: Duration,
        hard: &CancellationToken,
    ) -> Result<(), Failure> {
        self.soft.cancelled().await;
        tracing::info!(grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX), "stopping");
        let all_done = async {
            for tracker in [&[&self.tasks], in_progress].concat() {
                tracker.close();
                tracker.wait().await;
            }
        };
        let cut_short = tokio::select! {
            () = all_done => None,
            () = tokio::time::sleep(grace) => Some("the grace period is over"),
            () = hard.cancelled() => Some("a second stop signal arrived"),
        };
        if let Some(reason) = cut_short {
            tracing::warn!(reason, "work in progress is abandoned and will be repeated after the next start");
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}

/// Cancels `soft` on the first SIGTERM or SIGINT, `hard` on the second.
///
/// # Errors
/// When signal handlers cannot be installed.
pub fn listen_for_signals(soft: CancellationToken, hard: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for stop in [soft, hard] {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("received SIGTERM"),
                _ = interrupt.recv() => tracing::info!("received SIGINT"),
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// Calls `report` at each SIGHUP, which would otherwise end the process.
///
/// # Errors
/// When the signal handler cannot be installed.
pub fn survive_hangups(report: impl Fn() + Send + 'static) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            report();
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
        let task = |name: &'static str, state| Task { name: name.into(), state };
        assert_eq!(lifecycle.tasks(), [task("steady", TaskState::Running)]);
        lifecycle.supervise("short-lived", async {});
        let verdict = lifecycle.finish(&[], GRACE, &CancellationToken::new()).await;
        assert_eq!(lifecycle.tasks()[1], task("short-lived", TaskState::Ended));
        assert_eq!(verdict, Err(Failure::Task("short-lived".into())));
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
        assert_eq!(verdict, Err(Failure::Task("fragile".into())));
    }

    #[tokio::test]
    async fn a_task_with_a_stop_of_its_own_may_end_at_it_and_not_before() {
        let lifecycle = Lifecycle::new(CancellationToken::new());
        let stop = lifecycle.soft().child_token();
        let waiting = stop.clone();
        lifecycle.supervise_until("sink crm", stop.clone(), async move { waiting.cancelled().await });
        assert_eq!(lifecycle.tasks().len(), 1);
        stop.cancel();
        while !lifecycle.tasks().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!lifecycle.soft().is_cancelled());
        lifecycle.supervise_until("sink cdp", lifecycle.soft().child_token(), async {});
        let verdict = lifecycle.finish(&[], GRACE, &CancellationToken::new()).await;
        assert_eq!(verdict, Err(Failure::Task("sink cdp".into())));
    }

    #[tokio::test]
    async fn work_that_takes_longer_than_the_grace_period_is_abandoned() {
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
