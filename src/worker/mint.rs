//! Mints fans (obtains their pending ids) and asks which dealers have them already, paced by the quota.
//!
//! Each (app, step) is a queue with its own budget, so one that is exhausted or refused holds up no other.
//! Within a queue each [`QuotaClass`] has concurrent calls and a share of the quota of its own: a fan who
//! registers in the middle of an import of millions is minted at once, and an import leaves to renewals what
//! they will need within a month. How many calls run at once follows from the round trip; whether the quota
//! has room for one is decided by the limiter.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apps::AppRules;
use super::breaker::Scope;
use super::failure::{concerns_whole_app, failure_reason};
use super::{Activation, Context, until};
use crate::domain::backoff::Backoff;
use crate::domain::fan::{FanStep, Minted, QuotaClass, Renew};
use crate::domain::ids::AppName;
use crate::domain::pace;
use crate::domain::quota::Share;
use crate::domain::time::{HOUR_MS, MINUTE_MS, Moment, Timestamp};
use crate::store::{FanOutcome, FanWork};
use crate::telemetry::throttle::LogThrottle;
use crate::wecom::{Api, CallError, Class};

/// The queue of one app and step.
struct Queue {
    context: Context,
    app: AppName,
    step: FanStep,
    classes: [ClassState; 3],
    /// The smoothed round trip of recent calls, in milliseconds; 0 before the first.
    round_trip_ms: AtomicU64,
    /// When WeCom last accepted a fan. On the boot clock: on one that is moved back by hours it would stay
    /// recent for as long, and fans would be given up for what is not their fault.
    succeeded_at: Mutex<Option<Moment>>,
    /// Calls that renewals will need within a month, and when that was looked up.
    renewals_needed: Mutex<(u32, Option<Timestamp>)>,
    /// Limits the log of rejected fans, by WeCom's code.
    rejection_log: LogThrottle<i64>,
}

/// The state of one quota class in a queue.
struct ClassState {
    class: QuotaClass,
    /// The scope of the breaker that opens when the class's share is used up, or its fans are refused.
    scope: Scope,
    in_flight: AtomicUsize,
    /// Consecutive refusals of fans' pairs of ids, see [`concerns_pair`].
    refused_in_a_row: AtomicU32,
}

/// Runs all queues until `stop`; calls in flight go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let queues: Vec<_> = context
        .apps
        .names()
        .into_iter()
        .flat_map(|app| FanStep::ALL.map(|step| Arc::new(Queue::new(&context, &app, step))))
        .collect();
    super::run(&context.wake.fans, stop, queues).await;
}

impl Activation for Vec<Arc<Queue>> {
    async fn activate(&mut self) -> Duration {
        let mut idle = super::LOOK_EVERY;
        for queue in self {
            idle = idle.min(queue.clone().activate().await);
        }
        idle
    }
}

impl Queue {
    fn new(context: &Context, app: &AppName, step: FanStep) -> Self {
        let classes = QuotaClass::ALL.map(|class| ClassState {
            class,
            scope: match class {
                // The most urgent class: whatever holds it back holds back the others too.
                QuotaClass::Live => Scope::Fans(app.clone(), step),
                QuotaClass::Renewals | QuotaClass::Bulk => Scope::FanClass(app.clone(), step, class),
            },
            in_flight: AtomicUsize::new(0),
            refused_in_a_row: AtomicU32::new(0),
        });
        Self {
            context: context.clone(),
            app: app.clone(),
            step,
            classes,
            round_trip_ms: AtomicU64::new(0),
            succeeded_at: Mutex::default(),
            renewals_needed: Mutex::default(),
            rejection_log: LogThrottle::default(),
        }
    }

    /// The scopes of the breakers that hold back the whole queue.
    fn queue_scopes(&self) -> [Scope; 2] {
        [Scope::App(self.app.clone()), Scope::Fans(self.app.clone(), self.step)]
    }

    async fn activate(self: Arc<Self>) -> Duration {
        /// Concurrent calls of the queue after a failure, until one succeeds.
        const PROBES: usize = 1;
        /// The same for a class.
        const CLASS_PROBES: usize = 4;
        let (now, breakers) = (self.context.now(), &self.context.breakers);
        let [app, fans] = self.queue_scopes();
        if let Some(breaker) = breakers.open(&[&app, &fans], now) {
            return until(now, breaker.probe_at);
        }
        let Some(rules) = self.context.apps.get(&self.app) else { return super::LOOK_EVERY };
        self.look_up_renewals(&rules, now).await;
        let round_trip_ms = self.round_trip_ms.load(Ordering::Relaxed);
        let calls_max = pace::calls_at_once(rules.quota.per_hour, round_trip_ms, self.context.calls_max);
        let probing = breakers.failures(&fans) > 0 || breakers.failures(&app) > 0;
        let mut idle = super::LOOK_EVERY;
        for n in 0..self.classes.len() {
            let class = &self.classes[n];
            if let Some(breaker) = breakers.open(&[&class.scope], now) {
                idle = idle.min(until(now, breaker.probe_at));
                continue;
            }
            let in_flight = |class: &ClassState| class.in_flight.load(Ordering::Relaxed);
            let slots = if probing {
                PROBES.saturating_sub(self.classes.iter().map(in_flight).sum())
            } else if breakers.failures(&class.scope) > 0 {
                CLASS_PROBES.saturating_sub(in_flight(class))
            } else {
                calls_max.saturating_sub(in_flight(class))
            };
            match self.clone().start_calls(n, slots, &rules, now).await {
                Ok(next) => idle = idle.min(next),
                Err(error) => {
                    self.context.store_failures.warn("the queue of fans could not be read", &error);
                }
            }
        }
        idle
    }

    /// The part of the quota that a class may use.
    fn share(&self, rules: &AppRules, class: QuotaClass) -> Share {
        let reserve_percent = rules.reserve_percent;
        match class {
            QuotaClass::Live => Share::Whole,
            QuotaClass::Renewals => Share::Without { reserve_percent, month_kept: 0 },
            QuotaClass::Bulk => {
                let (month_kept, _) = *self.renewals_needed.lock().unwrap_or_else(PoisonError::into_inner);
                Share::Without { reserve_percent, month_kept }
            }
        }
    }

    /// Looks up, once a minute, how many calls renewals will need within a month: those of all apps of the
    /// corp, which share its quota. Of the other step's quota nothing is kept for renewals.
    async fn look_up_renewals(&self, rules: &AppRules, now: Timestamp) {
        let (_, looked_at) = *self.renewals_needed.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = looked_at.is_some_and(|at| (0..MINUTE_MS).contains(&now.millis_since(at)));
        if fresh || self.step != FanStep::Mint || rules.renew == Renew::Never {
            return;
        }
        let Ok(tallies) = self.context.store.fan_tallies().await else { return };
        let apps = self.context.apps.all();
        let corp_of = |app: &AppName| apps.get(app).and_then(|rules| rules.corp_id.as_ref());
        let of_corp =
            |app: &AppName| *app == self.app || corp_of(app).is_some() && corp_of(app) == corp_of(&self.app);
        let same_corp = tallies.iter().filter(|(app, _)| of_corp(app));
        let needed: u64 = same_corp.map(|(_, tally)| tally.renewals_within(now, 30)).sum();
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        *self.renewals_needed.lock().unwrap_or_else(PoisonError::into_inner) = (needed, Some(now));
    }

    /// Starts up to `slots` calls of class `n`. Returns after what time to look for more.
    async fn start_calls(
        self: Arc<Self>,
        n: usize,
        slots: usize,
        rules: &Arc<AppRules>,
        now: Timestamp,
    ) -> Result<Duration, crate::store::StoreError> {
        let (store, ClassState { class, in_flight, .. }) = (&self.context.store, &self.classes[n]);
        if slots == 0 {
            return Ok(super::LOOK_EVERY);
        }
        let work = store.lease_fans(&self.app, self.step, class.priorities(), now, slots).await?;
        let all_due_started = work.len() < slots;
        in_flight.fetch_add(work.len(), Ordering::Relaxed);
        for work in work {
            let (queue, rules) = (self.clone(), rules.clone());
            self.context.spawn_call(async move {
                queue.call(work, &queue.classes[n], &rules).await;
                queue.classes[n].in_flight.fetch_sub(1, Ordering::Relaxed);
                queue.context.wake.fans.notify_one();
            });
        }
        if !all_due_started {
            // A finished call frees a slot and wakes this queue.
            return Ok(super::LOOK_EVERY);
        }
        let next = store.next_fan_due(&self.app, self.step, class.priorities()).await?;
        Ok(next.filter(|due_at| *due_at > now).map_or(super::LOOK_EVERY, |due_at| until(now, due_at)))
    }

    /// Makes the call for one fan and settles its outcome.
    async fn call(&self, work: FanWork, class: &ClassState, rules: &AppRules) {
        let share = self.share(rules, class.class);
        let (platform, app, unionid, openid) =
            (&self.context.platform, &work.key.app, &work.key.unionid, &work.fan.openid);
        let began = Instant::now();
        let answer = match self.step {
            FanStep::Mint => {
                // Before the call, so that the pending id is never older than recorded.
                let minted_at = self.context.now();
                let pending_id = platform.unionid_to_pending_id(app, unionid, openid, share).await;
                if let (Ok(pending_id), Some(before)) = (&pending_id, work.fan.newest()) {
                    let is_same = before.pending_id == *pending_id;
                    self.context
                        .metrics
                        .observed
                        .note("minted_again", if is_same { "same pending_id" } else { "another pending_id" });
                }
                pending_id.map(|pending_id| FanOutcome::Minted {
                    minted: Minted::new(pending_id, minted_at),
                    same_id_extends: rules.same_id_extends,
                })
            }
            FanStep::AskExisting => {
                let customers = platform.unionid_to_external_userid(app, unionid, openid, share).await;
                customers.map(FanOutcome::Existing)
            }
        };
        let now = self.context.now();
        let outcome = match answer {
            Ok(outcome) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let before_ms = self.round_trip_ms.load(Ordering::Relaxed);
                self.round_trip_ms.store(pace::smoothed(before_ms, took_ms), Ordering::Relaxed);
                *self.succeeded_at() = Some(self.context.clock.moment());
                class.refused_in_a_row.store(0, Ordering::Relaxed);
                for scope in self.queue_scopes().iter().chain([&class.scope]) {
                    self.context.breakers.succeeded(scope);
                }
                outcome
            }
            Err(error) => self.after_failure(&work, class, &error, now),
        };
        // If that fails, the lease ends and the call is made again; the cost is one call.
        if let Err(error) = self.context.store.settle_fans(vec![(work, outcome)], now).await {
            let message = "results of fans could not be stored; their calls will be repeated";
            self.context.store_failures.warn(message, &error);
        }
    }

    /// Opens the breaker of whatever is at fault. Returns what becomes of the fan.
    fn after_failure(
        &self,
        work: &FanWork,
        class: &ClassState,
        error: &CallError,
        now: Timestamp,
    ) -> FanOutcome {
        let reason = failure_reason(error);
        let [app, fans] = self.queue_scopes();
        let breakers = &self.context.breakers;
        let same_position = FanOutcome::Retry { due_at: work.position.due_at, spent: false };
        match (class_for(self.step, error), error) {
            (Class::Rate, CallError::NoPermit { retry_at, .. }) => {
                breakers.hold(class.scope.clone(), reason, now, *retry_at);
                same_position
            }
            (Class::Rate, _) => {
                // The limiter has recorded for how long; the next call gets that as `NoPermit`, see above.
                breakers.hold(fans, reason, now, now.plus_ms(1));
                same_position
            }
            (Class::Transient | Class::Token, _) => {
                breakers.failed(&fans, reason, Backoff::CALL, now);
                // Queued behind the others, so that the next probe uses another fan.
                FanOutcome::Retry { due_at: now, spent: false }
            }
            (Class::Item, CallError::Refused { errcode, .. }) => {
                // An answer about this fan alone: the API works.
                for scope in [&app, &fans, &class.scope] {
                    breakers.succeeded(scope);
                }
                self.reject(*errcode, error)
            }
            (Class::Configuration, CallError::Refused { errcode, .. }) if concerns_pair(*errcode) => {
                // Either this fan's pair is wrong, or the mini program is. That makes every pair wrong, and
                // must not cost a call for each of millions. The fan is at fault if others were accepted
                // between two refusals of it, or in the hour before its fifth.
                const REFUSED_IN_A_ROW_MAX: u32 = 3;
                const TRIES_MAX: u32 = 5;
                const AGAIN_AFTER_MS: i64 = MINUTE_MS;
                let (recently, tries) = (self.succeeded_within(HOUR_MS), work.fan.attempts + 1);
                // The refusal before this one is longer ago than `AGAIN_AFTER_MS`.
                let others_since = tries > 1 && self.succeeded_within(AGAIN_AFTER_MS);
                if others_since || recently && tries >= TRIES_MAX {
                    return self.reject(*errcode, error);
                }
                let in_a_row = class.refused_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                if !recently || in_a_row > REFUSED_IN_A_ROW_MAX {
                    breakers.failed(&class.scope, reason, Backoff::PAIR, now);
                }
                // Queued behind the others, so that the next probe uses another fan.
                FanOutcome::Retry { due_at: now.plus_ms(AGAIN_AFTER_MS + 1), spent: recently }
            }
            (Class::Configuration, _) if concerns_whole_app(error) => {
                breakers.failed(&app, reason, Backoff::CONFIGURATION, now);
                same_position
            }
            (Class::Configuration, CallError::Refused { .. }) => {
                breakers.failed(&fans, reason, Backoff::CONFIGURATION, now);
                same_position
            }
            (Class::Unknown | Class::Invisible | Class::Item | Class::Configuration, _) => {
                const TRIES_MAX: u32 = 5;
                const NO_CODE: i64 = 0;
                if self.succeeded_within(HOUR_MS) {
                    if work.fan.attempts + 1 >= TRIES_MAX {
                        return self.reject(error.errcode().unwrap_or(NO_CODE), error);
                    }
                } else {
                    // No call succeeds: hardly the fault of this fan.
                    breakers.failed(&fans, reason, Backoff::UNKNOWN_CODE, now);
                }
                let attempt = work.fan.attempts + 1;
                let wait_ms =
                    Backoff::UNKNOWN_CODE.wait_ms(attempt, self.context.jitter.of(work.number, attempt));
                FanOutcome::Retry { due_at: now.plus_ms(wait_ms), spent: true }
            }
        }
    }

    /// Whether WeCom accepted a fan within the last `ms`: then a refusal most likely concerns one fan only.
    fn succeeded_within(&self, ms: i64) -> bool {
        let now = self.context.clock.moment();
        self.succeeded_at().is_some_and(|at| now.millis_since(at) < ms)
    }

    fn succeeded_at(&self) -> MutexGuard<'_, Option<Moment>> {
        self.succeeded_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up a fan; logs and counts that.
    fn reject(&self, errcode: i64, error: &CallError) -> FanOutcome {
        self.context.metrics.fan_rejected(&self.app, errcode);
        // A bad import rejects thousands for one reason.
        if let Some(fans) = self.rejection_log.count(errcode) {
            let error = error.to_string();
            tracing::warn!(app = %self.app, errcode, error, fans, "WeCom rejected fans");
        }
        FanOutcome::Rejected { errcode }
    }
}

/// The class of a failed call. If another call failed on the way, such as that for the access token, the fan
/// is not to blame: a class that says so means a wrong setting.
fn class_for(step: FanStep, error: &CallError) -> Class {
    let fan_api = match step {
        FanStep::Mint => Api::UnionidToPendingId,
        FanStep::AskExisting => Api::UnionidToExternalUserid,
    };
    match (error.class(), error) {
        (Class::Item | Class::Invisible, CallError::Refused { api, .. }) if *api != fan_api => {
            Class::Configuration
        }
        (class, _) => class,
    }
}

/// Whether a code refuses the pair of unionid and openid, because this pair is wrong or the mini program is.
const fn concerns_pair(errcode: i64) -> bool {
    matches!(errcode, 610_015..=610_018 | 845_001..=845_003)
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{Script, app};
    use super::super::world::World;
    use super::*;
    use crate::domain::fan::Priority;
    use crate::domain::ids::{FanKey, Openid, Unionid};
    use crate::store::NewFan;
    use crate::wecom::Unavailable;

    #[tokio::test]
    async fn without_an_authorisation_the_app_is_paused_and_its_fans_keep_their_place_and_their_tries() {
        let world = World::new(Script::new(0, 0)).await;
        let (context, now) = (&world.context, world.context.now());
        let fan = NewFan {
            key: FanKey { app: app(), unionid: Unionid::new("o1").unwrap() },
            openid: Openid::new("p1").unwrap(),
            ask_existing: false,
            priority: Priority::Live,
            minted: None,
            retry_rejected: false,
        };
        context.store.put_fans(vec![fan], now).await.unwrap();
        let queue = Queue::new(context, &app(), FanStep::Mint);
        let class = &queue.classes[0];
        // Also while others are accepted, which would make it the fan's fault.
        *queue.succeeded_at() = Some(context.clock.moment());
        let leased = context.store.lease_fans(&app(), FanStep::Mint, class.class.priorities(), now, 1).await;
        let work = leased.unwrap().pop().unwrap();
        let (api, why) = (Api::UnionidToPendingId, Unavailable::Cancelled);
        let error = CallError::NotAuthorized { api, app: app(), why };
        let outcome = queue.after_failure(&work, class, &error, now);
        let FanOutcome::Retry { due_at, spent: false } = outcome else { panic!("{outcome:?}") };
        assert_eq!(due_at, work.position.due_at);
        let breaker = context.breakers.open(&[&Scope::App(app())], now).unwrap();
        assert!(breaker.reason.text.contains("cancelled"), "{}", breaker.reason.text);
        assert_eq!(context.breakers.failures(&class.scope), 0);
    }
}
