//! Resolves customers: turns `external_userid`s into pending ids.
//!
//! Work waits in lanes: one for each corp whose token converts it, each customer group, and each class of
//! work. A lane with no call in flight sends what it has at once; what arrives while a call is in flight
//! waits for the next one, of up to 100 ids. So a single customer does not wait for others, and a burst of n
//! costs about n/100 calls. The outcomes of one call are stored while the next call is in flight.
//!
//! Work that can only wait, for a circuit breaker or for room in its lane, is put off without a write.
//!
//! Lookups that delay no event have a small budget of their own, in memory and in calls: live work never
//! waits for them.
//!
//! Deliberately absent: what one batch leads to (`batch`), and which lane takes what (`routing`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::parallelism::{ParallelismPermit, Purpose};
use super::{Activation, Context, until};
use crate::domain::batch::IDS_PER_CALL_MAX;
use crate::domain::lookup::Haste;
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::{FailureReason, Outcome, StoreError, Work, WorkId};

mod batch;
mod conversion;
mod lane;
mod outcome;
mod put_off;
mod routing;
mod settling;

use lane::{Held, Lane, LaneClass, LaneKey, Lanes};
use outcome::defer;
use put_off::PutOff;
use routing::{Destination, HeldBack, Router, open_breaker};
use settling::store_outcomes;

/// Work items that wait in memory at the same time, and lookups that delay no event.
const HELD_MAX: usize = 16_000;
const BACKGROUND_HELD_MAX: usize = 1_000;
/// While there is a backlog, work is leased only when there is room for one of this many parts of the
/// maximum, so that each lane fills its batches.
const BACKLOG_PORTIONS: usize = 4;
/// How long new events gather before they are leased, while there is work for a full batch in memory, or some that
/// can only wait: calls go on without them.
const GATHERING: Duration = Duration::from_millis(2);
/// The wait of work for which its lane has no room, if it cannot be put off.
const BACKLOG_WAIT_MS: i64 = 5 * SECOND_MS;
/// Concurrent calls for lookups that delay no event, and for retries of single customers.
const BACKGROUND_CALLS_MAX: usize = 2;
const RETRY_CALLS_MAX: usize = 4;

struct Resolver {
    context: Context,
    lanes: Mutex<Lanes>,
    put_off: Mutex<PutOff>,
    live: Pool,
    retries: Pool,
    background: Pool,
    stop: CancellationToken,
}

/// The permits for calls of some classes of lanes.
struct Pool {
    /// One permit for each batch, from its call until its outcomes are stored.
    slots: Arc<Semaphore>,
    /// Whether a lane that is ready for a call waits for a permit.
    exhausted: AtomicBool,
    /// Whether the store may have more work than was leased last.
    backlog: AtomicBool,
}

impl Pool {
    fn new(calls_max: usize) -> Self {
        let slots = Arc::new(Semaphore::new(calls_max));
        Self { slots, exhausted: AtomicBool::new(false), backlog: AtomicBool::new(false) }
    }

    /// How much may be leased while `held` items are in memory; 0 if it is not worth it yet.
    fn room(&self, held: usize, held_max: usize) -> usize {
        let room = held_max.saturating_sub(held);
        let is_backlog = self.backlog.load(Ordering::Relaxed);
        if is_backlog && room < held_max / BACKLOG_PORTIONS { 0 } else { room }
    }

    /// Records how much was leased with this much room. Returns whether there may be more.
    fn leased(&self, count: usize, room: usize) -> bool {
        let more = count >= room;
        // Without room the store was not asked.
        if room > 0 {
            self.backlog.store(more, Ordering::Relaxed);
        }
        more && room > 0
    }
}

/// Until when work waits for room in its lane, if it cannot be put off.
fn backlog(now: Timestamp) -> HeldBack {
    let text = "this dealer has a backlog".to_owned();
    (now.plus_ms(BACKLOG_WAIT_MS), FailureReason { errcode: None, text })
}

/// What a call needs.
struct Permits {
    slot: OwnedSemaphorePermit,
    parallelism: ParallelismPermit,
}

/// Runs until `stop`; calls in flight go on, tracked by the context.
pub async fn run(context: Context, stop: CancellationToken) {
    let (wake, parallelism) = (context.wake.clone(), context.parallelism.clone());
    let resolver = Arc::new(Resolver::new(context, stop.clone()));
    // Other workers return permits too.
    let forward_permits = async {
        while !stop.is_cancelled() {
            parallelism.returned_to_lanes().await;
            wake.inbox.notify_one();
        }
    };
    tokio::select! {
        biased;
        () = super::run(&wake.inbox, stop.clone(), resolver) => {}
        () = forward_permits => {}
    }
}

impl Activation for Arc<Resolver> {
    async fn activate(&mut self) -> Duration {
        let (store, now) = (&self.context.store, self.context.now());
        let decided_in = self.context.breakers.generation();
        self.take_up(now).await;
        let Held { live, background } = self.room();
        let (mut more, mut outcomes) = (false, Vec::new());
        if live + background > 0 {
            match store.lease(now, live, background).await {
                Ok(work) => {
                    let is_background =
                        |work: &&Work| matches!(work.id, WorkId::Lookup(Haste::Background, ..));
                    let leased = work.iter().filter(is_background).count();
                    more = self.live.leased(work.len() - leased, live);
                    self.background.leased(leased, background);
                    outcomes = self.route(work, now).await;
                }
                Err(error) => {
                    self.context.store_failures.warn("work could not be leased from the inbox", &error);
                    return super::LOOK_EVERY;
                }
            }
        }
        outcomes.extend(self.drain_blocked_lanes(now).await);
        // Calls first: storing these outcomes is not urgent.
        self.start_calls();
        store_outcomes(&self.context, outcomes, decided_in).await;
        if more {
            return Duration::ZERO;
        }
        if !self.put_off().is_empty() || self.lanes().held().live >= IDS_PER_CALL_MAX {
            tokio::time::sleep(GATHERING).await;
        }
        let idle = match store.next_due().await {
            // Work that is due already waits for room or for a permit: the end of a call wakes this worker.
            Ok(Some(due_at)) if due_at > now => until(now, due_at),
            Ok(_) => super::LOOK_EVERY,
            Err(error) => {
                self.context.store_failures.warn("the inbox could not be read", &error);
                super::LOOK_EVERY
            }
        };
        if self.put_off().is_empty() { idle } else { idle.min(put_off::LOOK_EVERY) }
    }
}

impl Resolver {
    fn new(context: Context, stop: CancellationToken) -> Self {
        Self {
            lanes: Mutex::default(),
            put_off: Mutex::default(),
            live: Pool::new(context.calls_max),
            retries: Pool::new(RETRY_CALLS_MAX),
            background: Pool::new(BACKGROUND_CALLS_MAX),
            stop,
            context,
        }
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn pool(&self, class: &LaneClass) -> &Pool {
        match class {
            LaneClass::Live => &self.live,
            LaneClass::Alone(_) => &self.retries,
            LaneClass::Background | LaneClass::Suspect => &self.background,
        }
    }

    /// How much may be leased.
    fn room(&self) -> Held {
        let held = self.lanes().held();
        // The retry of a lookup after a group join is leased as live work and takes the other budget.
        let excess = held.background.saturating_sub(BACKGROUND_HELD_MAX);
        Held {
            live: self.live.room(held.live + excess, HELD_MAX),
            background: self.background.room(held.background, BACKGROUND_HELD_MAX),
        }
    }

    fn put_off(&self) -> std::sync::MutexGuard<'_, PutOff> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the work that was put off and can be called for now.
    async fn take_up(&self, now: Timestamp) {
        let ready = {
            let lanes = self.lanes();
            self.put_off().take(Instant::now(), |key, customers| {
                let LaneKey { app, owner, .. } = key;
                let is_held_back = open_breaker(&self.context, app, [customers, owner], now).is_some();
                if is_held_back { 0 } else { lanes.room(key) }
            })
        };
        if !ready.is_empty() {
            self.context.store.take_up(&ready).await;
        }
    }

    /// Puts work into lanes, and off where they take none now. Returns the outcomes of work that needs no call, or
    /// cannot be put off.
    async fn route(&self, work: Vec<Work>, now: Timestamp) -> Vec<(Work, Outcome)> {
        let (mut outcomes, mut put_off) = (Vec::new(), Vec::new());
        let mut router = Router::new(&self.context, now);
        for work in work {
            match router.destination(&work).await {
                Ok(Destination { lane, held_back: None }) => {
                    let refused = self.lanes().push(lane.clone(), work);
                    outcomes
                        .extend(refused.and_then(|work| self.wait(lane, work, &backlog(now), &mut put_off)));
                }
                Ok(Destination { lane, held_back: Some(held_back) }) => {
                    outcomes.extend(self.wait(lane, work, held_back, &mut put_off));
                }
                Err(outcome) => outcomes.push((work, outcome)),
            }
        }
        self.context.store.put_off(&put_off).await;
        outcomes
    }

    /// Adds work to what is put off, here and, by its id, for the store. If there are too many it is returned, with
    /// an outcome that defers it.
    fn wait(
        &self,
        lane: LaneKey,
        work: Work,
        held_back: &HeldBack,
        put_off: &mut Vec<WorkId>,
    ) -> Option<(Work, Outcome)> {
        if self.put_off().add(lane, work.contact.corp_id.clone(), work.id.clone()) {
            put_off.push(work.id);
            return None;
        }
        let (due_at, reason) = held_back.clone();
        Some((work, defer(due_at, reason)))
    }

    /// Empties the lanes whose breaker has opened. Returns work that cannot be put off, with outcomes that defer it.
    async fn drain_blocked_lanes(&self, now: Timestamp) -> Vec<(Work, Outcome)> {
        let (mut outcomes, mut put_off) = (Vec::new(), Vec::new());
        for (key, lane) in &mut self.lanes().0 {
            let LaneKey { app, owner, .. } = key;
            if let Some(breaker) = open_breaker(&self.context, app, [owner, owner], now) {
                let held_back = (breaker.probe_at, breaker.reason);
                let waiting = lane.waiting.drain(..);
                outcomes.extend(
                    waiting.filter_map(|work| self.wait(key.clone(), work, &held_back, &mut put_off)),
                );
            }
        }
        self.context.store.put_off(&put_off).await;
        outcomes
    }

    /// Starts a call in each lane that is ready, as far as there are permits.
    fn start_calls(self: &Arc<Self>) {
        let now = self.context.now();
        let mut lanes = self.lanes();
        for pool in [&self.live, &self.retries, &self.background] {
            pool.exhausted.store(false, Ordering::Relaxed);
        }
        for (key, lane) in lanes.ready() {
            if open_breaker(&self.context, &key.app, [&key.owner, &key.owner], now).is_some() {
                continue;
            }
            match self.permits(key) {
                Some(permits) => self.start_call(key, lane, permits),
                None => self.pool(&key.class).exhausted.store(true, Ordering::Relaxed),
            }
        }
    }

    /// The permits for a call of this lane, unless too many calls are in flight.
    fn permits(&self, key: &LaneKey) -> Option<Permits> {
        let slot = self.pool(&key.class).slots.clone().try_acquire_owned().ok()?;
        let purpose = match key.class {
            LaneClass::Live => Purpose::Live,
            LaneClass::Alone(_) => Purpose::Retry,
            LaneClass::Background | LaneClass::Suspect => Purpose::Lookup,
        };
        let parallelism = self.context.parallelism.try_acquire(&key.app, &key.owner, purpose)?;
        Some(Permits { slot, parallelism })
    }

    fn start_call(self: &Arc<Self>, key: &LaneKey, lane: &mut Lane, permits: Permits) {
        let (resolver, key, work) = (self.clone(), key.clone(), lane.begin());
        self.context.spawn_call(async move {
            let (context, Permits { slot, mut parallelism }, items) =
                (&resolver.context, permits, work.len());
            let decided_in = context.breakers.generation();
            let outcomes = batch::resolve(context, &key, work, &mut parallelism, decided_in).await;
            drop(parallelism);
            resolver.continue_lane(&key, Lane::call_ended);
            store_outcomes(context, outcomes, decided_in).await;
            drop(slot);
            resolver.continue_lane(&key, |lane| lane.batch_stored(items));
        });
    }

    /// Updates a lane after a call. If it has a full batch again, the next call starts right here, not in the
    /// next activation, unless another lane waits for a permit.
    fn continue_lane(self: &Arc<Self>, key: &LaneKey, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes().0.get_mut(key) {
            change(lane);
            let now = self.context.now();
            let starts_now = lane.can_call()
                && lane.has_full_batch()
                && !self.pool(&key.class).exhausted.load(Ordering::Relaxed)
                && !self.stop.is_cancelled()
                // While the inbox is full, calls go on, to drain it.
                && matches!(self.context.store.ready(), Ok(()) | Err(StoreError::InboxFull { .. }))
                && open_breaker(&self.context, &key.app, [&key.owner, &key.owner], now).is_none();
            if starts_now && let Some(permits) = self.permits(key) {
                self.start_call(key, lane, permits);
            }
        }
        self.context.wake.inbox.notify_one();
    }
}

#[cfg(test)]
mod tests;
