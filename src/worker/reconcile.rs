//! Compares the dealers' customers with WeCom's lists, because callbacks may be lost: those who are not known
//! are looked up, followers who are no longer listed leave.
//!
//! A run is over some dealers, each a durable task. It is begun by an operator, or by itself over the dealers
//! that are due. The dealers of an app are compared one after the other, with one call in flight, the apps at
//! the same time. A run takes little from live work: the next page is read once the lookups that the last ones
//! led to are nearly done, and while callbacks arrive there is a pause between two pages. A call that fails or
//! gets no permit puts its dealer off, and the others go on; a dealer that keeps failing is given up until the
//! next run.
//!
//! Deliberately absent: the order of the lists and who is removed ([`reconcile`](crate::domain::reconcile)),
//! the lookups ([`resolve`](super::resolve)).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::corp::{BUSY_WAIT_MS, CorpLists, Obstacle};
use super::failure::{failure_reason, limit_ends_at};
use super::{Activation, Context};
use crate::domain::backoff::Backoff;
use crate::domain::dealer_activity::DealerTrouble;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::reconcile::{ReconcileRun, ReconcileTask, is_due};
use crate::domain::time::{MINUTE_MS, SECOND_MS, Timestamp};
use crate::store::{FailureReason, StoreError};
use crate::wecom::{Class, NO_LICENCE, is_concurrency, remedy_for};

mod traversal;

use traversal::{Step, Traversal};

/// How often it is checked whether the lookups of a dealer's customers are done.
const CHECK_LOOKUPS_EVERY: Duration = Duration::from_millis(200);
/// How long a comparison pauses after a step, as a multiple of the time that the step took, while callbacks
/// arrive: it shares the store's writer and the processor with the links that these lead to.
const PAUSE_PER_STEP: u32 = 2;
/// The shortest and the longest such pause.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often the dealers are checked for those that are due.
const LOOK_FOR_DUE_EVERY: Duration = Duration::from_mins(1);
/// How long after a comparison, complete or not, the next one may begin by itself.
const REPEAT_AFTER: Duration = Duration::from_hours(4);
/// The wait after the store has failed.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// The shortest wait before a call is made again.
const AGAIN_MIN: Duration = Duration::from_millis(100);
/// Consecutive failures of a dealer's calls after which it is given up.
const FAILURES_MAX: u32 = 5;
/// How long a dealer may be without a permit before it is given up.
const NO_PERMIT_MAX: Duration = Duration::from_hours(1);
/// How often a dealer's traversal begins anew before it is given up.
const ANEW_MAX: u32 = 3;
/// The longest wait for the probe of an open circuit breaker, in milliseconds.
const BREAKER_WAIT_MAX_MS: i64 = MINUTE_MS;
/// For a corp with too many calls at once.
const CONCURRENCY: Backoff = Backoff { first_ms: 4 * SECOND_MS, max_ms: 2 * MINUTE_MS };

/// Runs until `stop`; calls in flight go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let (wake, log) = (context.wake.clone(), Arc::<RunLog>::default());
    let of_app = |app: &AppName| {
        let (context, app, log) = (context.clone(), app.clone(), log.clone());
        Arc::new(Comparison { context, app, log, state: Arc::default() })
    };
    let names = context.apps.names();
    let apps: Vec<_> = names.iter().map(of_app).collect();
    if let Err(error) = context.store.end_tasks_of_others(&names, context.now()).await {
        let message = "comparisons of apps that are not in the configuration any more could not be ended";
        context.store_failures.warn(message, &error);
    }
    super::run(&wake.reconcile, stop, apps).await;
}

/// The comparisons of one app's dealers.
struct Comparison {
    context: Context,
    app: AppName,
    log: Arc<RunLog>,
    /// Locked while a step is under way.
    state: Arc<AsyncMutex<State>>,
}

#[derive(Default)]
struct State {
    /// The dealer that is being compared.
    current: Option<Traversal>,
    /// The dealers whose calls have failed or had no permit.
    failing: HashMap<CorpId, Failing>,
    /// Whether there was no permit for the call of the last step.
    had_no_permit: bool,
    /// Before this instant there is no next step.
    next_step_at: Option<Instant>,
    /// When dealers were last compared by this process, completely or not.
    compared_at: HashMap<CorpId, Instant>,
    /// When to look for dealers that are due.
    look_at: Option<Instant>,
    /// How many dealers there were at the last look.
    dealers: usize,
    /// The number of events received until the last step.
    events: u64,
}

/// The failures of one dealer's calls, and the last one without a permit.
#[derive(Default)]
struct Failing {
    /// Consecutive failures.
    failures: u32,
    /// How often its traversal began anew.
    anew: u32,
    /// Until when it is put off.
    until: Option<Instant>,
    /// Since when it has had no permit, if it is put off because of that.
    no_permit_since: Option<Instant>,
    /// Its traversal, with the lists that were read before there was no permit.
    traversal: Option<Traversal>,
}

/// What follows from a failed call.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The call is made again.
    Again {
        /// After this many milliseconds.
        wait_ms: i64,
        /// Whether it counts as a failure.
        is_failure: bool,
    },
    /// The dealer cannot be compared now.
    GiveUp(FailureReason),
}

impl Activation for Vec<Arc<Comparison>> {
    async fn activate(&mut self) -> Duration {
        self.iter().map(Comparison::start_step).min().unwrap_or(super::LOOK_EVERY)
    }
}

impl Comparison {
    /// Starts the next step, unless one is under way. Returns after what time to look again.
    fn start_step(self: &Arc<Self>) -> Duration {
        let Ok(mut state) = self.state.clone().try_lock_owned() else { return super::LOOK_EVERY };
        let wait = state.next_step_at.map_or(Duration::ZERO, |at| at.duration_since(Instant::now()));
        if !wait.is_zero() {
            return wait;
        }
        let comparison = self.clone();
        self.context.spawn_call(async move {
            let wait = comparison.step(&mut state).await;
            state.next_step_at = wait.map(|wait| Instant::now() + wait);
            drop(state);
            if wait.is_some() {
                comparison.context.wake.reconcile.notify_one();
            }
        });
        super::LOOK_EVERY
    }

    /// Makes a step. Returns after what time the next one is to be made; `None` if there is nothing to do.
    async fn step(&self, state: &mut State) -> Option<Duration> {
        // While an inbox is full, live work goes first.
        if self.context.store.ready().is_err() {
            return Some(super::LOOK_EVERY);
        }
        let (began, events) = (Instant::now(), self.context.store.counts().event_head);
        let is_busy = std::mem::replace(&mut state.events, events) != events;
        match self.try_step(state).await {
            Ok(Some(wait)) if is_busy => {
                let pause = began.elapsed() * PAUSE_PER_STEP;
                Some(wait.max(pause.clamp(PAUSE_MIN, PAUSE_MAX)))
            }
            Ok(wait) => wait,
            Err(error) => {
                let message = "the comparison of a dealer's customers could not be stored; it is repeated";
                self.context.store_failures.warn(message, &error);
                state.current = None;
                Some(STORE_WAIT)
            }
        }
    }

    async fn try_step(&self, state: &mut State) -> Result<Option<Duration>, StoreError> {
        let Some(traversal) = &mut state.current else { return self.next_dealer(state).await };
        let corp_id = traversal.corp().corp_id.clone();
        let step = traversal.step().await;
        state.had_no_permit = matches!(step, Err(Obstacle::Busy));
        match step {
            Ok(Step::Read) => {}
            Ok(Step::Stored) => {
                if let Some(failing) = state.failing.get_mut(&corp_id) {
                    (failing.failures, failing.no_permit_since) = (0, None);
                }
            }
            Ok(Step::WaitsForLookups) => return Ok(Some(CHECK_LOOKUPS_EVERY)),
            Ok(Step::Done) => self.end(state, None).await?,
            Ok(Step::BeginsAnew(reason)) => {
                let failing = state.failing.entry(corp_id).or_default();
                failing.anew += 1;
                if failing.anew > ANEW_MAX {
                    self.end(state, Some(reason)).await?;
                }
            }
            Err(Obstacle::Store(error)) => return Err(error),
            Err(obstacle) => {
                let failing = state.failing.entry(corp_id.clone()).or_default();
                failing.no_permit_since =
                    state.had_no_permit.then(|| failing.no_permit_since.unwrap_or_else(Instant::now));
                if failing.no_permit_since.is_some_and(|since| since.elapsed() >= NO_PERMIT_MAX) {
                    let text = "the concurrent calls of this corp are in use by live work".to_owned();
                    self.end(state, Some(FailureReason { errcode: None, text })).await?;
                    return Ok(Some(Duration::ZERO));
                }
                match self.verdict(&corp_id, &obstacle, failing.failures + 1) {
                    Verdict::GiveUp(reason) => self.end(state, Some(reason)).await?,
                    Verdict::Again { wait_ms, is_failure } => {
                        failing.failures += u32::from(is_failure);
                        // The end of a limit may have passed meanwhile, or the clock may just have been set.
                        let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
                        failing.until = Some(Instant::now() + wait.max(AGAIN_MIN));
                        failing.traversal = state.current.take().filter(|_| state.had_no_permit);
                    }
                }
            }
        }
        Ok(Some(Duration::ZERO))
    }

    /// Takes up the next dealer that is not put off, or begins a run if dealers are due. After one without a
    /// permit, others that had none come last, so that dealers with much live work do not delay all others.
    async fn next_dealer(&self, state: &mut State) -> Result<Option<Duration>, StoreError> {
        // Where a call limit is waited for, the limiter refuses the call again.
        for corp_id in self.context.wake.take_resumed(&self.app) {
            if let Some(failing) = state.failing.get_mut(&corp_id) {
                *failing = Failing { anew: failing.anew, ..Failing::default() };
            }
        }
        // Its tasks wait for the next authorisation.
        if !self.context.apps.can_call(&self.app) {
            return Ok(None);
        }
        let tasks = self.context.store.reconcile_tasks(&self.app).await?;
        if tasks.is_empty() {
            state.failing.clear();
            let has_begun = self.begin_run(state).await?;
            return Ok(has_begun.then_some(Duration::ZERO));
        }
        let (now, mut wait, mut due) = (Instant::now(), super::LOOK_EVERY, Vec::new());
        for (corp_id, task) in tasks {
            let until = state.failing.get(&corp_id).and_then(|failing| failing.until);
            match until.filter(|until| now < *until) {
                Some(until) => wait = wait.min(until.duration_since(now)),
                None => due.push((corp_id, task)),
            }
        }
        let turn = |(corp_id, _): &(CorpId, ReconcileTask)| {
            let failing = state
                .failing
                .get(corp_id)
                .filter(|failing| state.had_no_permit && failing.no_permit_since.is_some());
            failing.and_then(|failing| failing.until)
        };
        let Some((corp_id, task)) = due.into_iter().min_by_key(turn) else { return Ok(Some(wait)) };
        self.log.note(self.context.store.reconcile_run().await?);
        let kept = state.failing.get_mut(&corp_id).and_then(|failing| failing.traversal.take());
        let corp = CorpLists { context: self.context.clone(), app: self.app.clone(), corp_id };
        state.current = Some(kept.unwrap_or_else(|| Traversal::new(corp, task)));
        Ok(Some(Duration::ZERO))
    }

    /// Begins a run over the dealers that are due. Returns whether there are any.
    async fn begin_run(&self, state: &mut State) -> Result<bool, StoreError> {
        let Some(rules) = self.context.apps.get(&self.app).filter(|rules| rules.reconcile_hours > 0) else {
            return Ok(false);
        };
        if state.look_at.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        let now = self.context.now();
        let rows = self.context.store.dealer_rows(&self.app).await?;
        // While their number grows, the directory is still being stored: one run is to be over all.
        let is_stored = !rows.is_empty() && rows.len() == state.dealers;
        state.dealers = rows.len();
        state.look_at = Some(Instant::now() + if is_stored { LOOK_FOR_DUE_EVERY } else { super::LOOK_EVERY });
        if !is_stored {
            return Ok(false);
        }
        let repeat_after = REPEAT_AFTER.min(Duration::from_hours(u64::from(rules.reconcile_hours)));
        let due = rows.into_iter().filter(|row| {
            row.dealer.left_at.is_none()
                && is_due(row.activity.reconciled_at, rules.reconcile_hours, now)
                && state.compared_at.get(&row.dealer.corp_id).is_none_or(|at| at.elapsed() >= repeat_after)
        });
        let due: Vec<_> = due.map(|row| (self.app.clone(), row.dealer.corp_id)).collect();
        if due.is_empty() {
            return Ok(false);
        }
        self.context.store.begin_reconcile(due, now).await?;
        Ok(true)
    }

    /// Ends the comparison of the current dealer; `failed` says why if it is given up.
    async fn end(&self, state: &mut State, failed: Option<FailureReason>) -> Result<(), StoreError> {
        let Some(traversal) = state.current.take() else { return Ok(()) };
        let (store, now, task) = (&self.context.store, self.context.now(), traversal.task());
        let CorpLists { app, corp_id, .. } = traversal.corp();
        // What fails after everything was read is only the removal of followers.
        let is_complete = failed.is_none() || task.is_read();
        let corp = traversal.corp().shown();
        if let Some(FailureReason { errcode, text }) = failed {
            tracing::warn!(%app, corp, errcode, reason = text, is_complete,
                "a dealer's customers could not be compared; the next try is with the next run");
            store.set_trouble(app, corp_id, DealerTrouble { errcode, text, at: now }).await?;
        }
        self.note_licences(app, corp_id, task, now).await?;
        store.end_task(app, corp_id, is_complete, now).await?;
        state.failing.remove(corp_id);
        state.compared_at.insert(corp_id.clone(), Instant::now());
        tracing::debug!(%app, corp, is_complete, "the comparison of a dealer's customers ended");
        self.log.note(store.reconcile_run().await?);
        Ok(())
    }

    /// Notes as the dealer's trouble that members have no licence, so that their customers were not listed.
    async fn note_licences(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        task: &ReconcileTask,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Context { store, activity, apps, .. } = &self.context;
        let members = task.unlicensed.len();
        if members > 0 || task.is_read() {
            activity.licence_is_missing(app, corp_id, members > 0, now);
        }
        if members > 0 {
            let remedy = remedy_for(NO_LICENCE, apps.development(app)).en;
            let text = format!("WeCom lists no customers of {members} members: {remedy}");
            store
                .set_trouble(app, corp_id, DealerTrouble { errcode: Some(NO_LICENCE), text, at: now })
                .await?;
        }
        Ok(())
    }

    /// What follows from a failed call, the `failures`-th in a row.
    fn verdict(&self, corp_id: &CorpId, obstacle: &Obstacle, failures: u32) -> Verdict {
        let now = self.context.now();
        let error = match obstacle {
            Obstacle::Call(error) => error,
            Obstacle::HeldBack(breaker) => {
                let wait_ms = breaker.probe_at.millis_since(now);
                return if wait_ms > BREAKER_WAIT_MAX_MS {
                    Verdict::GiveUp(breaker.reason.clone())
                } else {
                    Verdict::Again { wait_ms, is_failure: false }
                };
            }
            Obstacle::Busy => return Verdict::Again { wait_ms: BUSY_WAIT_MS, is_failure: false },
            Obstacle::NotShared | Obstacle::Left => {
                return give_up("WeCom does not list this corp as sharing the app; share it in 上下游");
            }
            Obstacle::Forbidden => return give_up("WeCom does not allow the app to read the lists"),
            Obstacle::Store(error) => return give_up(error.to_string()),
        };
        let backoff = match error.class() {
            Class::Rate => {
                let wait_ms = limit_ends_at(error, now).millis_since(now);
                return Verdict::Again { wait_ms, is_failure: false };
            }
            Class::Transient if error.errcode().is_some_and(is_concurrency) => CONCURRENCY,
            Class::Transient | Class::Token => Backoff::CALL,
            Class::Unknown => Backoff::UNKNOWN_CODE,
            Class::Item | Class::Invisible | Class::Configuration => {
                return Verdict::GiveUp(failure_reason(error));
            }
        };
        if failures >= FAILURES_MAX {
            return Verdict::GiveUp(failure_reason(error));
        }
        let jitter = self.context.jitter.of((self.app.as_str(), corp_id.as_str()), failures);
        Verdict::Again { wait_ms: backoff.wait_ms(failures, jitter), is_failure: true }
    }
}

fn give_up(text: impl Into<String>) -> Verdict {
    Verdict::GiveUp(FailureReason { errcode: None, text: text.into() })
}

/// Logs the beginning and the end of each run once, whichever app's dealer is the first and the last.
#[derive(Default)]
struct RunLog(Mutex<LoggedRuns>);

/// When the runs were started that were logged last.
#[derive(Default)]
struct LoggedRuns {
    begun: Option<Timestamp>,
    ended: Option<Timestamp>,
}

impl RunLog {
    fn note(&self, run: Option<ReconcileRun>) {
        let Some(run) = run else { return };
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (dealers, started_at) = (run.dealers_total, Some(run.started_at));
        if run.is_running() && logged.begun != started_at {
            logged.begun = started_at;
            tracing::info!(
                dealers,
                done = run.dealers_done,
                "comparing dealers' customers with WeCom's lists"
            );
        }
        if !run.is_running() && logged.ended != started_at {
            logged.ended = started_at;
            let ReconcileRun { customers_seen, customers_new, links_made, .. } = run;
            tracing::info!(
                dealers,
                customers_seen,
                customers_new,
                links_made,
                "dealers' customers are compared with WeCom's lists"
            );
        }
    }
}

#[cfg(test)]
mod tests;
