//! Resolves customers: turns `external_userid`s into pending ids.
//!
//! Work waits in lanes, one for each corp whose token converts it. A lane with no call in flight sends what
//! it has at once; what arrives while a call is in flight waits for the next one, of up to 100 ids. So a
//! single customer does not wait for others, and a burst of n costs about n/100 calls. The outcomes of one
//! call are stored while the next call is in flight. Answers are matched by id, never by position. A batch
//! rejected because of one id is bisected until that id stands alone.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::breaker::{Breaker, Scope};
use super::{Activation, Context, ConversionToken, until};
use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::batch::bisect;
use crate::domain::dealer::TokenOwner;
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::time::{HOUR_MS, MINUTE_MS, Timestamp};
use crate::store::{FailureReason, Outcome, StoreError, Work};

mod conversion;
mod lane;

use conversion::{Failure, Fault, convert};
use lane::{Lane, LaneKey};

/// Work items in memory at the same time.
const HELD_MAX: usize = 16_000;
/// While there is a backlog, work is leased only when there is room for this many items, so that each lane
/// fills its batches.
const BACKLOG_PORTION: usize = HELD_MAX / 4;
/// With this many failures of single ids, and no success, a bisection is given up: it is an outage.
const SINGLE_FAILURES_MAX: u32 = 3;
/// Attempts of an event that fails with the same undocumented or persisting code.
const UNKNOWN_TRIES_MAX: u32 = 5;

struct Resolver {
    context: Context,
    /// Whether the store may have more work than was leased last.
    backlog: AtomicBool,
    lanes: Mutex<BTreeMap<LaneKey, Lane>>,
    /// One permit for each batch, from its call until its outcomes are stored.
    slots: Arc<Semaphore>,
    /// Whether a lane that is ready for a call waits for a slot.
    slots_exhausted: AtomicBool,
    stop: CancellationToken,
}

/// Runs until `stop`; calls in flight go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(context.calls_max));
    let (wake, lanes) = (context.wake.clone(), Mutex::default());
    let (backlog, slots_exhausted) = (AtomicBool::new(false), AtomicBool::new(false));
    let resolver = Resolver { context, backlog, lanes, slots, slots_exhausted, stop: stop.clone() };
    let resolver = Arc::new(resolver);
    super::run(&wake.inbox, stop, resolver).await;
}

impl Activation for Arc<Resolver> {
    async fn activate(&mut self) -> Duration {
        let (store, now) = (&self.context.store, self.context.now());
        let decided_in = self.context.breakers.generation();
        let held: usize = self.lanes().values().map(|lane| lane.waiting.len()).sum();
        let room = HELD_MAX.saturating_sub(held);
        let room_min = if self.backlog.load(Ordering::Relaxed) { BACKLOG_PORTION } else { 1 };
        let (mut more, mut outcomes) = (false, Vec::new());
        if room >= room_min {
            match store.lease(now, room).await {
                Ok(work) => {
                    more = work.len() == room;
                    self.backlog.store(more, Ordering::Relaxed);
                    outcomes = self.route(work, now).await;
                }
                Err(error) => {
                    self.context.store_failures.warn("work could not be leased from the inbox", &error);
                    return super::LOOK_EVERY;
                }
            }
        }
        outcomes.extend(self.drain_blocked_lanes(now));
        // Calls first: storing these outcomes is not urgent.
        self.start_calls();
        self.store_outcomes(outcomes, decided_in).await;
        if more {
            return Duration::ZERO;
        }
        match store.next_due().await {
            // Work that is due already waits for room or for a slot: the end of a call wakes this worker.
            Ok(Some(due_at)) if due_at > now => until(now, due_at),
            Ok(_) => super::LOOK_EVERY,
            Err(error) => {
                self.context.store_failures.warn("the inbox could not be read", &error);
                super::LOOK_EVERY
            }
        }
    }
}

impl Resolver {
    fn lanes(&self) -> std::sync::MutexGuard<'_, BTreeMap<LaneKey, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts work into lanes. Returns the outcomes of work that needs no call, or for which none is made now.
    async fn route(&self, work: Vec<Work>, now: Timestamp) -> Vec<(Work, Outcome)> {
        let (mut outcomes, mut deferred) = (Vec::new(), BTreeMap::<LaneKey, usize>::new());
        for work in work {
            match self.destination(&work, now).await {
                Ok(key) => {
                    let mut lanes = self.lanes();
                    let mut lane = match lanes.entry(key) {
                        Entry::Occupied(lane) => lane,
                        Entry::Vacant(place) => place.insert_entry(Lane::default()),
                    };
                    if let Some(work) = lane.get_mut().push(work) {
                        let text = "this dealer has a backlog".to_owned();
                        let reason = FailureReason { errcode: None, text };
                        let deferred_before = deferred.entry(lane.key().clone()).or_default();
                        let due_at = now.plus_ms(lane.get().drain_time_ms(*deferred_before));
                        *deferred_before += 1;
                        outcomes.push((work, defer(due_at, reason)));
                    }
                }
                Err(outcome) => outcomes.push((work, outcome)),
            }
        }
        outcomes
    }

    /// The lane of a work item, or its outcome if it needs no call, or none can be made now.
    async fn destination(&self, work: &Work, now: Timestamp) -> Result<LaneKey, Outcome> {
        let is_removal = work.event.as_ref().is_some_and(|event| !event.event.contact.change.is_add());
        let known = work.known.as_ref().is_some_and(|c| c.pending_id.is_some() || c.link.is_some());
        if is_removal || known {
            return Err(Outcome::Applied);
        }
        let ContactKey { app, corp_id, .. } = &work.contact;
        let Some(rules) = self.context.apps.get(app) else {
            let text = format!("app {app} is not in the configuration; add it again");
            return Err(defer(now.plus_ms(5 * MINUTE_MS), FailureReason { errcode: None, text }));
        };
        let with_brand_token = match rules.conversion_token {
            ConversionToken::Upstream => true,
            ConversionToken::Downstream => false,
            // If the store cannot be read now, the call of the lane reads it again.
            ConversionToken::Auto => matches!(
                self.context.store.dealer(app, corp_id).await,
                Ok(Some(dealer)) if dealer.token == Some(TokenOwner::Upstream)
            ),
        };
        let owner = if with_brand_token { rules.corp_id.clone() } else { corp_id.clone() };
        match self.breaker(app, [corp_id, &owner], now) {
            Some(breaker) => Err(defer(breaker.probe_at, breaker.reason)),
            None => Ok(LaneKey { app: app.clone(), owner }),
        }
    }

    /// Empties the lanes whose breaker has opened: returns their work with outcomes that defer it.
    fn drain_blocked_lanes(&self, now: Timestamp) -> Vec<(Work, Outcome)> {
        let mut deferred = Vec::new();
        for (LaneKey { app, owner }, lane) in self.lanes().iter_mut() {
            if let Some(breaker) = self.breaker(app, [owner, owner], now) {
                let outcome = defer(breaker.probe_at, breaker.reason);
                deferred.extend(lane.waiting.drain(..).map(|work| (work, outcome.clone())));
            }
        }
        deferred
    }

    /// Starts a call in each lane that is ready, as far as there are slots; the lane with the oldest work
    /// comes first.
    fn start_calls(self: &Arc<Self>) {
        let now = self.context.now();
        let mut lanes = self.lanes();
        lanes.retain(|_, lane| !lane.is_idle());
        let mut ready: Vec<_> = lanes
            .iter_mut()
            .filter(|(LaneKey { app, owner }, lane)| {
                lane.can_call() && self.breaker(app, [owner, owner], now).is_none()
            })
            .collect();
        ready.sort_by_key(|(_, lane)| lane.waiting.front().map(Work::due_at));
        let mut slots_exhausted = false;
        for (key, lane) in ready {
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                slots_exhausted = true;
                break;
            };
            self.start_call(key, lane, slot, now);
        }
        self.slots_exhausted.store(slots_exhausted, Ordering::Relaxed);
    }

    fn start_call(
        self: &Arc<Self>,
        key: &LaneKey,
        lane: &mut Lane,
        slot: OwnedSemaphorePermit,
        now: Timestamp,
    ) {
        let (resolver, key, batch) = (self.clone(), key.clone(), lane.begin(now));
        self.context.spawn_call(async move {
            let decided_in = resolver.context.breakers.generation();
            let outcomes = resolver.resolve_batch(&key, batch, decided_in).await;
            let now = resolver.context.now();
            resolver.continue_lane(&key, now, |lane| lane.call_ended(now));
            resolver.store_outcomes(outcomes, decided_in).await;
            drop(slot);
            resolver.continue_lane(&key, resolver.context.now(), Lane::batch_stored);
        });
    }

    /// Updates a lane after a call. If it has a full batch again, the next call starts right here, not in the
    /// next activation, unless another lane waits for a slot.
    fn continue_lane(self: &Arc<Self>, key: &LaneKey, now: Timestamp, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes().get_mut(key) {
            change(lane);
            let starts_now = lane.can_call()
                && lane.has_full_batch()
                && !self.slots_exhausted.load(Ordering::Relaxed)
                && !self.stop.is_cancelled()
                // While the inbox is full, calls go on, to drain it.
                && matches!(self.context.store.ready(), Ok(()) | Err(StoreError::InboxFull { .. }))
                && self.breaker(&key.app, [&key.owner, &key.owner], now).is_none();
            if starts_now && let Ok(slot) = self.slots.clone().try_acquire_owned() {
                self.start_call(key, lane, slot, now);
            }
        }
        self.context.wake.inbox.notify_one();
    }

    /// Makes the call for a batch, or several if it has to be bisected. Returns the outcomes that are not
    /// stored yet.
    async fn resolve_batch(&self, key: &LaneKey, batch: Vec<Work>, decided_in: u64) -> Vec<(Work, Outcome)> {
        let mut todo = vec![batch];
        // The bisection is given up if every id seems to fail.
        let (mut bisecting, mut single_failures, mut any_ok) = (false, 0, false);
        while let Some(batch) = todo.pop() {
            let outcomes = match convert(&self.context, &key.app, &key.owner, &batch, bisecting).await {
                Ok(found) => {
                    any_ok = true;
                    batch
                        .into_iter()
                        .map(|work| {
                            let pending_id = found.get(&work.contact.external_userid).cloned();
                            let outcome = pending_id.map_or(Outcome::Missed, Outcome::Resolved);
                            (work, outcome)
                        })
                        .collect()
                }
                Err(Failure::OneOf(fault)) => match halves(batch) {
                    Ok((head, tail)) => {
                        bisecting = true;
                        todo.extend([tail, head]);
                        continue;
                    }
                    Err(one_customer) => {
                        let now = self.context.now();
                        single_failures += u32::from(fault.may_be_outage());
                        one_customer
                            .into_iter()
                            .map(|work| {
                                let outcome = refused_alone(&work, &fault, self.context.jitter, now);
                                (work, outcome)
                            })
                            .collect()
                    }
                },
                Err(Failure::HeldBack(reason, probe_at)) => {
                    // Defer everything behind the same breaker; the rest is still called.
                    let now = self.context.now();
                    let is_blocked = |work: &mut Work| {
                        self.breaker(&key.app, [&work.contact.corp_id, &key.owner], now).is_some()
                    };
                    let mut deferred = batch;
                    for other in &mut todo {
                        deferred.extend(other.extract_if(.., is_blocked));
                    }
                    todo.retain(|other| !other.is_empty());
                    single_failures += 1;
                    deferred.into_iter().map(|work| (work, defer(probe_at, reason.clone()))).collect()
                }
            };
            if todo.is_empty() {
                return outcomes;
            }
            self.store_outcomes(outcomes, decided_in).await;
            if single_failures >= SINGLE_FAILURES_MAX && !any_ok {
                let text = "WeCom refuses one customer after another; retried later".to_owned();
                let (reason, now) = (FailureReason { errcode: None, text }, self.context.now());
                let scope = Scope::Corp(key.app.clone(), key.owner.clone());
                let probe_at =
                    self.context.breakers.failed(&scope, reason.clone(), Backoff::UNKNOWN_CODE, now);
                return todo
                    .drain(..)
                    .flatten()
                    .map(|work| (work, defer(probe_at, reason.clone())))
                    .collect();
            }
        }
        Vec::new()
    }

    /// The open circuit breaker, if any, that holds back conversions of the customers of one corp with the
    /// token of another.
    fn breaker(&self, app: &AppName, [customers, owner]: [&CorpId; 2], now: Timestamp) -> Option<Breaker> {
        let corp = |corp_id: &CorpId| Scope::Corp(app.clone(), corp_id.clone());
        let scopes = [Scope::App(app.clone()), corp(customers), corp(owner)];
        self.context.breakers.open(&scopes.each_ref(), now)
    }

    /// Stores outcomes, which were decided in this generation of the circuit breakers or later. Work that was
    /// deferred while an operator resumed calls is brought forward.
    async fn store_outcomes(&self, outcomes: Vec<(Work, Outcome)>, decided_in: u64) {
        if outcomes.is_empty() {
            return;
        }
        for (work, outcome) in &outcomes {
            if let Outcome::Dead(reason) = outcome {
                let ContactKey { app, corp_id, external_userid } = &work.contact;
                let corp = self.context.dealer_names.shown(app, corp_id);
                tracing::warn!(contact = ?external_userid, corp,
                    errcode = reason.errcode, reason = reason.text, "event became a dead letter");
            }
        }
        let deferred_until: BTreeSet<_> =
            outcomes.iter().filter_map(|(_, outcome)| retry_at(outcome)).collect();
        match self.context.store.settle(outcomes, self.context.now()).await {
            Ok(linked) => {
                let now = self.context.now();
                for received_at in linked {
                    self.context.metrics.linked(until(received_at, now));
                }
            }
            // The leases end and the work is repeated; WeCom gives the same answers.
            Err(error) => {
                let message = "results could not be stored; the work will be repeated";
                self.context.store_failures.warn(message, &error);
            }
        }
        if self.context.breakers.generation() == decided_in {
            return;
        }
        for due_at in deferred_until {
            if let Err(error) = self.context.store.bring_forward(due_at, self.context.now()).await {
                self.context.store_failures.warn("resumed work could not be brought forward", &error);
            }
        }
        self.context.wake.inbox.notify_one();
    }
}

/// When the work is tried again, if it is.
const fn retry_at(outcome: &Outcome) -> Option<Timestamp> {
    match outcome {
        Outcome::Retry { due_at, .. } => Some(*due_at),
        Outcome::Resolved(_) | Outcome::Missed | Outcome::Applied | Outcome::Dead(_) => None,
    }
}

/// A retry that does not count as an attempt of the event.
fn defer(due_at: Timestamp, reason: FailureReason) -> Outcome {
    Outcome::Retry { due_at, reason, spent: false }
}

/// Splits a batch in two by customer, keeping those of one dealer together; `Err` with the batch if it has
/// one customer.
fn halves(mut batch: Vec<Work>) -> Result<(Vec<Work>, Vec<Work>), Vec<Work>> {
    let mut customers: Vec<_> = batch.iter().map(|work| work.contact.clone()).collect();
    customers.sort();
    customers.dedup();
    match bisect(customers) {
        Some((head, _)) => {
            let tail = batch.extract_if(.., |work| !head.contains(&work.contact)).collect();
            Ok((batch, tail))
        }
        None => Err(batch),
    }
}

/// The outcome of an item whose conversion WeCom refused although it was alone in the batch.
fn refused_alone(work: &Work, fault: &Fault, jitter: Jitter, now: Timestamp) -> Outcome {
    use crate::domain::event::ContactChange;
    let Some(event) = &work.event else {
        return match fault {
            // No event, but a scheduled lookup of a known customer: the schedule bounds their number.
            Fault::Invisible | Fault::Item(_) => Outcome::Missed,
            // Not an answer, so it does not count as one of them.
            Fault::Unknown(reason) | Fault::Stuck(reason) => defer(now.plus_ms(HOUR_MS), reason.clone()),
        };
    };
    match fault {
        // Visible once the follower is in the app's visible range; looked up again on schedule.
        Fault::Invisible => Outcome::Missed,
        // Not a customer yet: WeCom may know this person once the member confirms.
        Fault::Item(_) if event.event.contact.change == ContactChange::HalfAdded => Outcome::Missed,
        Fault::Item(reason) => Outcome::Dead(reason.clone()),
        // An undocumented code, or a transient one that persists: a few slow attempts, then a dead letter.
        Fault::Unknown(reason) | Fault::Stuck(reason) => {
            let same = event.failure.as_ref().is_some_and(|before| before.errcode == reason.errcode);
            if same && event.attempts + 1 >= UNKNOWN_TRIES_MAX {
                return Outcome::Dead(reason.clone());
            }
            let attempt = event.attempts + 1;
            let wait_ms = Backoff::UNKNOWN_CODE.wait_ms(attempt, jitter.of(event.id, attempt));
            Outcome::Retry { due_at: now.plus_ms(wait_ms), reason: reason.clone(), spent: true }
        }
    }
}

#[cfg(test)]
mod tests;
