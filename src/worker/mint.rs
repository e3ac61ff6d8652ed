//! Turns fans into pending ids, and asks which dealers have them already; paced by the quota.
//!
//! Each (app, step) is a queue of its own with its own budget: one that is used up or refused holds nobody
//! else. In it those who cannot wait have calls and a part of the quota to themselves ([`Lane`]), so somebody who
//! registers in the middle of an import of millions is minted at once, and an import leaves to renewals what they
//! will need within a month. Calls are made side by side, as many as the
//! round trip asks for; the limiter says when.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pause::Scope;
use super::resolve::{hits_the_whole_app, problem_of};
use super::{Activation, Context, MintRules, until};
use crate::domain::backoff::Backoff;
use crate::domain::fan::{FanStep, Lane, Minted, Renew};
use crate::domain::ids::AppName;
use crate::domain::pace;
use crate::domain::quota::Share;
use crate::domain::time::{HOUR_MS, MINUTE_MS, Timestamp};
use crate::store::{FanVerdict, FanWork};
use crate::wecom::{Api, CallError, Class};

/// One queue.
struct Queue {
    context: Context,
    app: AppName,
    step: FanStep,
    rules: MintRules,
    lanes: [LaneState; 3],
    /// The round trip of late, in milliseconds.
    round_trip_ms: AtomicU64,
    /// When WeCom last accepted a fan, in milliseconds; 0 for never.
    worked_at: AtomicI64,
    /// What renewals will need within a month, and when that was looked up.
    renewals: Mutex<(u32, Option<Timestamp>)>,
    /// The last rejection in the log: its code, when, and how many of its like were left out since.
    rejection_said: Mutex<(i64, Timestamp, u64)>,
}

/// A part of a queue with calls and a share of the quota of its own.
struct LaneState {
    lane: Lane,
    /// What is paused when its share is used up, or those in it are refused.
    scope: Scope,
    in_flight: AtomicUsize,
    /// Refusals about the pair of ids since one of its fans was accepted.
    refused_in_a_row: AtomicU32,
}

/// Runs all queues until `stop`; calls under way go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let apps = context.apps.clone();
    let queues = apps.iter().flat_map(|(app, rules)| {
        FanStep::ALL.map(|step| Arc::new(Queue::new(&context, app, step, rules.mint)))
    });
    let queues: Vec<_> = queues.collect();
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
    fn new(context: &Context, app: &AppName, step: FanStep, rules: MintRules) -> Self {
        let lanes = Lane::ALL.map(|lane| LaneState {
            lane,
            scope: match lane {
                // Nobody is more urgent: what stops them stops all.
                Lane::Live => Scope::Fans(app.clone(), step),
                Lane::Renewals | Lane::Bulk => Scope::FanLane(app.clone(), step, lane),
            },
            in_flight: AtomicUsize::new(0),
            refused_in_a_row: AtomicU32::new(0),
        });
        Self {
            context: context.clone(),
            app: app.clone(),
            step,
            rules,
            lanes,
            round_trip_ms: AtomicU64::new(0),
            worked_at: AtomicI64::new(0),
            renewals: Mutex::default(),
            rejection_said: Mutex::default(),
        }
    }

    fn scopes(&self) -> [Scope; 2] {
        [Scope::App(self.app.clone()), Scope::Fans(self.app.clone(), self.step)]
    }

    async fn activate(self: Arc<Self>) -> Duration {
        /// After a failure few calls find out whether it is over, not all at once.
        const PROBES: usize = 1;
        const LANE_PROBES: usize = 4;
        let (now, pauses) = (self.context.now(), &self.context.pauses);
        let [app, fans] = self.scopes();
        if let Some(pause) = pauses.of(&[&app, &fans], now) {
            return until(now, pause.until);
        }
        self.look_up_renewals(now).await;
        let round_trip_ms = self.round_trip_ms.load(Ordering::Relaxed);
        let calls_max = pace::calls_at_once(self.rules.per_hour, round_trip_ms, self.context.calls_max);
        let probing = pauses.failures(&fans) > 0 || pauses.failures(&app) > 0;
        let mut idle = super::LOOK_EVERY;
        for n in 0..self.lanes.len() {
            let lane = &self.lanes[n];
            if let Some(pause) = pauses.of(&[&lane.scope], now) {
                idle = idle.min(until(now, pause.until));
                continue;
            }
            let in_flight = |lane: &LaneState| lane.in_flight.load(Ordering::Relaxed);
            let room = if probing {
                PROBES.saturating_sub(self.lanes.iter().map(in_flight).sum())
            } else if pauses.failures(&lane.scope) > 0 {
                LANE_PROBES.saturating_sub(in_flight(lane))
            } else {
                calls_max.saturating_sub(in_flight(lane))
            };
            match self.clone().begin(n, room, now).await {
                Ok(next) => idle = idle.min(next),
                Err(error) => tracing::warn!(%error, "the queue of fans cannot be read"),
            }
        }
        idle
    }

    /// The part of the quota that a lane may use.
    fn share(&self, lane: Lane) -> Share {
        let reserve_percent = self.rules.reserve_percent;
        match lane {
            Lane::Live => Share::Whole,
            Lane::Renewals => Share::Without { reserve_percent, month_kept: 0 },
            Lane::Bulk => {
                let (month_kept, _) = *self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
                Share::Without { reserve_percent, month_kept }
            }
        }
    }

    /// Looks up, once a minute, what renewals of the corp's fans will need within a month.
    async fn look_up_renewals(&self, now: Timestamp) {
        let (_, looked_at) = *self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = looked_at.is_some_and(|at| (0..MINUTE_MS).contains(&now.millis_since(at)));
        if fresh || self.step != FanStep::Mint || self.rules.renew == Renew::Never {
            return;
        }
        let Ok(tallies) = self.context.store.fan_tallies().await else { return };
        let corp_of = |app: &AppName| self.context.apps.get(app).map(|rules| &rules.corp_id);
        let same_corp = tallies.iter().filter(|(app, _)| corp_of(app) == corp_of(&self.app));
        let needed: u64 = same_corp.map(|(_, tally)| tally.renewals_within(now, 30)).sum();
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        *self.renewals.lock().unwrap_or_else(PoisonError::into_inner) = (needed, Some(now));
    }

    /// Begins up to `room` calls for a lane. Returns how long it has nothing else to do.
    async fn begin(
        self: Arc<Self>,
        lane: usize,
        room: usize,
        now: Timestamp,
    ) -> Result<Duration, crate::store::StoreError> {
        let (store, LaneState { lane: which, in_flight, .. }) = (&self.context.store, &self.lanes[lane]);
        if room == 0 {
            return Ok(super::LOOK_EVERY);
        }
        let work = store.lease_fans(&self.app, self.step, which.priorities(), now, room).await?;
        let all_begun = work.len() < room;
        in_flight.fetch_add(work.len(), Ordering::Relaxed);
        for work in work {
            let queue = self.clone();
            self.context.spawn_call(async move {
                queue.work_off(work, &queue.lanes[lane]).await;
                queue.lanes[lane].in_flight.fetch_sub(1, Ordering::Relaxed);
                queue.context.wake.fans.notify_one();
            });
        }
        if !all_begun {
            // The end of a call makes room, and wakes.
            return Ok(super::LOOK_EVERY);
        }
        let next = store.next_fan_due(&self.app, self.step, which.priorities()).await?;
        Ok(next.filter(|due_at| *due_at > now).map_or(super::LOOK_EVERY, |due_at| until(now, due_at)))
    }

    async fn work_off(&self, work: FanWork, lane: &LaneState) {
        let share = self.share(lane.lane);
        let (platform, app, unionid, openid) =
            (&self.context.platform, &work.key.app, &work.key.unionid, &work.fan.openid);
        let began = Instant::now();
        let answer = match self.step {
            FanStep::Mint => {
                // Taken before the call: a pending id is never older than we think.
                let minted_at = self.context.now();
                let pending_id = platform.unionid_to_pending_id(app, unionid, openid, share).await;
                pending_id.map(|pending_id| FanVerdict::Minted {
                    minted: Minted::new(pending_id, minted_at),
                    same_id_extends: self.rules.same_id_extends,
                })
            }
            FanStep::AskExisting => {
                let customers = platform.unionid_to_external_userid(app, unionid, openid, share).await;
                customers.map(FanVerdict::Existing)
            }
        };
        let now = self.context.now();
        let verdict = match answer {
            Ok(verdict) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let before_ms = self.round_trip_ms.load(Ordering::Relaxed);
                self.round_trip_ms.store(pace::smoothed(before_ms, took_ms), Ordering::Relaxed);
                self.worked_at.store(now.as_millis(), Ordering::Relaxed);
                lane.refused_in_a_row.store(0, Ordering::Relaxed);
                let scopes = self.scopes();
                let ended = scopes.iter().chain([&lane.scope]);
                ended.for_each(|scope| self.context.pauses.worked(scope));
                verdict
            }
            Err(error) => self.failed(&work, lane, &error, now),
        };
        // On an error the lease ends and the call is repeated: a pending id too many costs one call.
        if let Err(error) = self.context.store.settle_fans(vec![(work, verdict)], now).await {
            tracing::warn!(%error, "the outcome for a fan was not written; the call will be repeated");
        }
    }

    fn failed(&self, work: &FanWork, lane: &LaneState, error: &CallError, now: Timestamp) -> FanVerdict {
        let problem = problem_of(error);
        let [app, fans] = self.scopes();
        let pauses = &self.context.pauses;
        let same_place = FanVerdict::Retry { due_at: work.place.due_at, spent: false };
        match (class_for(self.step, error), error) {
            (Class::Rate, CallError::NoPermit { retry_at, .. }) => {
                pauses.hold(lane.scope.clone(), problem, now, *retry_at);
                same_place
            }
            (Class::Rate, _) => {
                // The ledger knows for how long; the next call will be told.
                pauses.hold(fans, problem, now, now.plus_ms(1));
                same_place
            }
            (Class::Transient | Class::Token, _) => {
                // Behind the others: should it be this fan after all, the next probe is made with another.
                let until = pauses.failed(&fans, problem, Backoff::CALL, now);
                FanVerdict::Retry { due_at: until.plus_ms(1), spent: false }
            }
            (Class::Item, CallError::Refused { errcode, .. }) => {
                // An answer about this one fan: the call itself works.
                for scope in [&app, &fans, &lane.scope] {
                    pauses.worked(scope);
                }
                self.rejected(*errcode, error, now)
            }
            (Class::Configuration, CallError::Refused { errcode, .. }) if about_the_pair(*errcode) => {
                // A wrong mini program is wrong for everybody, and is not to cost a call for each of millions. It is
                // one fan's own fault if others were accepted between two refusals of this one.
                const STRAYS_MAX: u32 = 3;
                const TRIES_MAX: u32 = 5;
                const AGAIN_AFTER_MS: i64 = MINUTE_MS;
                let (lately, tries) = (self.worked_within(HOUR_MS, now), work.fan.attempts + 1);
                let others_since = tries > 1 && self.worked_within(AGAIN_AFTER_MS, now);
                if others_since || lately && tries >= TRIES_MAX {
                    return self.rejected(*errcode, error, now);
                }
                let in_a_row = lane.refused_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                let mut due_at = now.plus_ms(AGAIN_AFTER_MS + 1);
                if !lately || in_a_row > STRAYS_MAX {
                    // Behind the others: the next probe is made with another fan.
                    due_at = due_at.max(pauses.failed(&lane.scope, problem, Backoff::PAIR, now).plus_ms(1));
                }
                FanVerdict::Retry { due_at, spent: lately }
            }
            (Class::Configuration, CallError::Refused { errcode, api, .. }) => {
                let scope = if hits_the_whole_app(*api, *errcode) { &app } else { &fans };
                pauses.failed(scope, problem, Backoff::PARKED, now);
                same_place
            }
            (Class::Unknown | Class::Invisible | Class::Item | Class::Configuration, _) => {
                const TRIES_MAX: u32 = 5;
                const NO_CODE: i64 = 0;
                if self.worked_within(HOUR_MS, now) {
                    if work.fan.attempts + 1 >= TRIES_MAX {
                        return self.rejected(error.errcode().unwrap_or(NO_CODE), error, now);
                    }
                } else {
                    // Nobody's call works: not the fault of this fan.
                    pauses.failed(&fans, problem, Backoff::UNKNOWN_CODE, now);
                }
                let attempt = work.fan.attempts + 1;
                let wait_ms =
                    Backoff::UNKNOWN_CODE.wait_ms(attempt, self.context.jitter.of(work.number, attempt));
                FanVerdict::Retry { due_at: now.plus_ms(wait_ms), spent: true }
            }
        }
    }

    /// Whether WeCom has accepted a fan so lately, so that a refusal is about the one refused.
    fn worked_within(&self, ms: i64, now: Timestamp) -> bool {
        let worked_at = Timestamp::from_millis(self.worked_at.load(Ordering::Relaxed));
        now.millis_since(worked_at) < ms
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
