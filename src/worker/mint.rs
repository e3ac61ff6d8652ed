//! Turns fans into pending ids, and asks which dealers have them already; paced by the quota.
//!
//! Each (app, step) is a queue of its own with its own budget: one that is used up or refused holds nobody
//! else. Calls are made side by side, as many as configured; the limiter says when.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pause::Scope;
use super::resolve::{hits_the_whole_app, problem_of};
use super::{Activation, Context, until};
use crate::domain::backoff::Backoff;
use crate::domain::fan::{FanStep, Minted};
use crate::domain::ids::AppName;
use crate::domain::time::{HOUR_MS, MINUTE_MS, Timestamp};
use crate::store::{FanVerdict, FanWork};
use crate::wecom::{Api, CallError, Class};

/// One queue.
struct Queue {
    context: Context,
    app: AppName,
    step: FanStep,
    in_flight: AtomicUsize,
    /// When WeCom last accepted a fan, in milliseconds; 0 for never.
    worked_at: AtomicI64,
    /// The last rejection in the log: its code, when, and how many of its like were left out since.
    rejection_said: Mutex<(i64, Timestamp, u64)>,
}

/// Runs all queues until `stop`; calls under way go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let queues: Vec<_> = context
        .apps
        .keys()
        .flat_map(|app| FanStep::ALL.map(|step| (app.clone(), step)))
        .map(|(app, step)| {
            let context = context.clone();
            Arc::new(Queue {
                context,
                app,
                step,
                in_flight: AtomicUsize::new(0),
                worked_at: AtomicI64::new(0),
                rejection_said: Mutex::default(),
            })
        })
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
    fn scopes(&self) -> [Scope; 2] {
        [Scope::App(self.app.clone()), Scope::Fans(self.app.clone(), self.step)]
    }

    async fn activate(self: Arc<Self>) -> Duration {
        let (store, now) = (&self.context.store, self.context.now());
        let [app, fans] = self.scopes();
        if let Some(pause) = self.context.pauses.of(&[&app, &fans], now) {
            return until(now, pause.until);
        }
        // After a failure one call finds out whether it is over, not all at once.
        let calls_max = if self.context.pauses.failures(&fans) > 0 { 1 } else { self.context.calls_max };
        let room = calls_max.saturating_sub(self.in_flight.load(Ordering::Relaxed));
        let leased =
            if room == 0 { Ok(Vec::new()) } else { store.lease_fans(&self.app, self.step, now, room).await };
        let work = match leased {
            Ok(work) => work,
            Err(error) => {
                tracing::warn!(%error, "no fans taken");
                return super::LOOK_EVERY;
            }
        };
        self.in_flight.fetch_add(work.len(), Ordering::Relaxed);
        for work in work {
            let queue = self.clone();
            self.context.spawn_call(async move {
                queue.work_off(work).await;
                queue.in_flight.fetch_sub(1, Ordering::Relaxed);
                queue.context.wake.fans.notify_one();
            });
        }
        match store.next_fan_due(&self.app, self.step).await {
            Ok(Some(due_at)) if due_at > now => until(now, due_at),
            Ok(_) => super::LOOK_EVERY,
            Err(error) => {
                tracing::warn!(%error, "the queue of fans cannot be read");
                super::LOOK_EVERY
            }
        }
    }

    async fn work_off(&self, work: FanWork) {
        let (platform, app, unionid, openid) =
            (&self.context.platform, &work.key.app, &work.key.unionid, &work.fan.openid);
        let answer = match self.step {
            FanStep::Mint => {
                // Taken before the call: a pending id is never older than we think.
                let minted_at = self.context.now();
                let pending_id = platform.unionid_to_pending_id(app, unionid, openid).await;
                pending_id.map(|pending_id| FanVerdict::Minted(Minted::new(pending_id, minted_at)))
            }
            FanStep::AskExisting => {
                platform.unionid_to_external_userid(app, unionid, openid).await.map(FanVerdict::Existing)
            }
        };
        let now = self.context.now();
        let verdict = match answer {
            Ok(verdict) => {
                self.worked_at.store(now.as_millis(), Ordering::Relaxed);
                self.scopes().iter().for_each(|scope| self.context.pauses.worked(scope));
                verdict
            }
            Err(error) => self.failed(&work, &error, now),
        };
        // On an error the lease ends and the call is repeated: a pending id too many costs one call.
        if let Err(error) = self.context.store.settle_fans(vec![(work, verdict)], now).await {
            tracing::warn!(%error, "the outcome for a fan was not written; the call will be repeated");
        }
    }

    fn failed(&self, work: &FanWork, error: &CallError, now: Timestamp) -> FanVerdict {
        let problem = problem_of(error);
        let [app, fans] = self.scopes();
        let pauses = &self.context.pauses;
        match (class_for(self.step, error), error) {
            (Class::Rate, CallError::NoPermit { retry_at, .. }) => {
                pauses.hold(fans, problem, now, *retry_at);
                // Same place in the queue.
                FanVerdict::Retry { due_at: work.due_at, spent: false }
            }
            (Class::Rate, _) => {
                pauses.hold(fans, problem, now, now.plus_ms(MINUTE_MS));
                FanVerdict::Retry { due_at: work.due_at, spent: false }
            }
            (Class::Transient | Class::Token, _) => {
                // Behind the others: should it be this fan after all, the next probe is made with another.
                let until = pauses.failed(&fans, problem, Backoff::CALL, now);
                FanVerdict::Retry { due_at: until.plus_ms(1), spent: false }
            }
            (Class::Item, CallError::Refused { errcode, .. }) => self.rejected(*errcode, error, now),
            (Class::Configuration, CallError::Refused { errcode, api, .. }) => {
                // Should it concern this pair of ids only, others have lately been accepted.
                if about_the_pair(*errcode) && self.worked_lately(now) {
                    return self.rejected(*errcode, error, now);
                }
                let whole_app = hits_the_whole_app(*api, *errcode);
                let until =
                    pauses.failed(if whole_app { &app } else { &fans }, problem, Backoff::PARKED, now);
                // Behind the others: the next probe is made with another fan.
                let due_at = if about_the_pair(*errcode) { until.plus_ms(1) } else { work.due_at };
                FanVerdict::Retry { due_at, spent: false }
            }
            (Class::Unknown | Class::Invisible | Class::Item | Class::Configuration, _) => {
                const TRIES_MAX: u32 = 5;
                const NO_CODE: i64 = 0;
                if self.worked_lately(now) {
                    if work.fan.attempts + 1 >= TRIES_MAX {
                        return self.rejected(error.errcode().unwrap_or(NO_CODE), error, now);
                    }
                } else {
                    // Nobody's call works: not the fault of this fan.
                    pauses.failed(&fans, problem, Backoff::UNKNOWN_CODE, now);
                }
                let wait_ms = Backoff::UNKNOWN_CODE.wait_ms(work.fan.attempts + 1, rand::random());
                FanVerdict::Retry { due_at: now.plus_ms(wait_ms), spent: true }
            }
        }
    }

    /// Whether WeCom has accepted a fan within the hour, so that a refusal is about the one refused.
    fn worked_lately(&self, now: Timestamp) -> bool {
        let worked_at = Timestamp::from_millis(self.worked_at.load(Ordering::Relaxed));
        now.millis_since(worked_at) < HOUR_MS
    }

    fn rejected(&self, errcode: i64, error: &CallError, now: Timestamp) -> FanVerdict {
        // A bad import rejects thousands for one reason: say it once a minute.
        let mut said = self.rejection_said.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, at, unsaid) = *said;
        if errcode == last && now.millis_since(at) < MINUTE_MS {
            said.2 += 1;
        } else {
            tracing::warn!(app = %self.app, errcode, %error, unsaid, "fan rejected");
            *said = (errcode, now, 0);
        }
        FanVerdict::Rejected { errcode }
    }
}

/// What a failed call means for the fan: an answer to another call, for a token say, is never about the fan.
fn class_for(step: FanStep, error: &CallError) -> Class {
    let own = match step {
        FanStep::Mint => Api::UnionidToPendingId,
        FanStep::AskExisting => Api::UnionidToExternalUserid,
    };
    match (error.class(), error) {
        (Class::Item | Class::Invisible, CallError::Refused { api, .. }) if *api != own => {
            Class::Configuration
        }
        (class, _) => class,
    }
}

/// Codes about the pair of ids: wrong for one fan, or, with a wrong mini program, for all.
const fn about_the_pair(errcode: i64) -> bool {
    matches!(errcode, 610_015..=610_018 | 845_001..=845_003)
}
