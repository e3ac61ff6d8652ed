//! Permits for concurrent calls to WeCom with one corp's token, for all workers that make such calls.
//!
//! WeCom limits how many calls of a corp it serves at once (45033, 45035, 45036) and does not document the
//! limit, so ours adapts to its refusals. Live work may use all of it. Other work leaves one permit to live
//! work if there are several, and gets none while live work waits for one: it yields between two calls.
//!
//! Deliberately absent: quotas, which the client's limiter keeps, and the limit over all corps, which is the
//! workers'.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::ids::{AppName, CorpId};
use crate::domain::lookup::Haste;
use crate::domain::pace::CallLimit;

type Owner = (AppName, CorpId);

/// How long live work that asked for a permit in vain goes before other work without asking again. Longer
/// than the time between two activations of its worker.
const LIVE_FIRST_MS: u64 = 2_000;
/// How often a task that waits for a permit looks for one without a signal: live work may have given up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The calls in flight with each corp's token.
#[derive(Debug)]
pub struct Parallelism {
    owners: Mutex<HashMap<Owner, Calls>>,
    started: Instant,
    /// Notifies the tasks that wait in [`acquire`](Self::acquire) that there may be a permit.
    returned: Notify,
    /// Notifies that a permit was returned which a lane had asked for in vain.
    returned_to_lanes: Notify,
}

/// The calls with one corp's token.
#[derive(Debug)]
struct Calls {
    limit: CallLimit,
    in_flight: u32,
    /// Until when live work goes first, because it asked for a permit in vain; 0 if it did not.
    live_first_until_ms: u64,
    /// Whether a lane asked for a permit in vain since the last one was returned.
    lane_waits: bool,
    /// The tasks that wait in [`Parallelism::acquire`]. They go before lanes of background work, which ask
    /// again as soon as they have returned a permit.
    waiting: u32,
}

impl Calls {
    const fn new() -> Self {
        Self {
            limit: CallLimit::highest(),
            in_flight: 0,
            live_first_until_ms: 0,
            lane_waits: false,
            waiting: 0,
        }
    }

    const fn live_goes_first(&self, now_ms: u64) -> bool {
        now_ms < self.live_first_until_ms
    }

    /// Whether there is a permit for work that is not live.
    fn has_room(&self, now_ms: u64) -> bool {
        let calls_max = (self.limit.calls() - 1).max(1);
        self.in_flight < calls_max && !self.live_goes_first(now_ms)
    }
}

impl Default for Parallelism {
    fn default() -> Self {
        Self {
            owners: Mutex::default(),
            started: Instant::now(),
            returned: Notify::new(),
            returned_to_lanes: Notify::new(),
        }
    }
}

impl Parallelism {
    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, Calls>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A permit for one call after another with the token of `owner`, for a lane; `None` if as many calls as
    /// allowed are in flight, or others go first.
    #[must_use]
    pub fn try_acquire(
        self: &Arc<Self>,
        app: &AppName,
        owner: &CorpId,
        haste: Haste,
    ) -> Option<ParallelismPermit> {
        let (owner, now_ms) = ((app.clone(), owner.clone()), self.now_ms());
        let mut owners = self.lock();
        let calls = owners.entry(owner.clone()).or_insert_with(Calls::new);
        let has_permit = match haste {
            Haste::Live => calls.in_flight < calls.limit.calls(),
            Haste::Background => calls.waiting == 0 && calls.has_room(now_ms),
        };
        if !has_permit {
            calls.lane_waits = true;
            if haste == Haste::Live {
                calls.live_first_until_ms = now_ms + LIVE_FIRST_MS;
            }
            return None;
        }
        calls.in_flight += 1;
        if haste == Haste::Live && std::mem::take(&mut calls.live_first_until_ms) > 0 {
            self.returned.notify_waiters();
        }
        drop(owners);
        Some(self.permit(owner, now_ms))
    }

    /// Waits for a permit for a call that is not live work.
    pub async fn acquire(self: &Arc<Self>, app: &AppName, owner: &CorpId) -> ParallelismPermit {
        let (owner, mut waiting) = ((app.clone(), owner.clone()), None);
        loop {
            // Registered before looking, so that a permit returned in between is not missed.
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            if let Some(permit) = self.take(&owner) {
                return permit;
            }
            waiting.get_or_insert_with(|| Waiting::begin(self, owner.clone()));
            let _is_signal = tokio::time::timeout(LOOK_EVERY, returned).await;
        }
    }

    /// Waits until a permit is returned that a lane had asked for in vain.
    pub(super) async fn returned_to_lanes(&self) {
        self.returned_to_lanes.notified().await;
    }

    /// A permit for a call that is not live work, if there is one.
    fn take(self: &Arc<Self>, owner: &Owner) -> Option<ParallelismPermit> {
        let now_ms = self.now_ms();
        let mut owners = self.lock();
        let calls = owners.entry(owner.clone()).or_insert_with(Calls::new);
        if !calls.has_room(now_ms) {
            return None;
        }
        calls.in_flight += 1;
        drop(owners);
        Some(self.permit(owner.clone(), now_ms))
    }

    fn permit(self: &Arc<Self>, owner: Owner, begun_ms: u64) -> ParallelismPermit {
        ParallelismPermit { parallelism: self.clone(), owner, begun_ms, is_returned: false }
    }

    /// Changes what is known of the calls with one corp's token, and forgets it if it says nothing.
    fn change<T>(&self, owner: &Owner, change: impl FnOnce(&mut Calls) -> T) -> Option<T> {
        let mut owners = self.lock();
        let calls = owners.get_mut(owner)?;
        let result = change(calls);
        if calls.in_flight == 0 && calls.waiting == 0 && calls.limit.is_highest() {
            owners.remove(owner);
        }
        Some(result)
    }

    fn give_back(&self, owner: &Owner) {
        let lane_waits = self.change(owner, |calls| {
            calls.in_flight = calls.in_flight.saturating_sub(1);
            std::mem::take(&mut calls.lane_waits)
        });
        if lane_waits == Some(true) {
            self.returned_to_lanes.notify_one();
        }
        self.returned.notify_waiters();
    }
}

/// A task that waits in [`Parallelism::acquire`].
struct Waiting<'a> {
    parallelism: &'a Arc<Parallelism>,
    owner: Owner,
}

impl<'a> Waiting<'a> {
    fn begin(parallelism: &'a Arc<Parallelism>, owner: Owner) -> Self {
        parallelism.lock().entry(owner.clone()).or_insert_with(Calls::new).waiting += 1;
        Self { parallelism, owner }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.parallelism.change(&self.owner, |calls| calls.waiting = calls.waiting.saturating_sub(1));
    }
}

/// A permit for one call after another with one corp's token, returned when it is dropped.
#[derive(Debug)]
pub struct ParallelismPermit {
    parallelism: Arc<Parallelism>,
    owner: Owner,
    begun_ms: u64,
    is_returned: bool,
}

impl ParallelismPermit {
    /// Between two calls of work that is not live: lets live work that waits for a permit go first.
    pub async fn yield_to_live(&mut self) {
        let (parallelism, (app, owner)) = (self.parallelism.clone(), self.owner.clone());
        let now_ms = parallelism.now_ms();
        let live_goes_first = parallelism.change(&self.owner, |calls| calls.live_goes_first(now_ms));
        if live_goes_first == Some(true) {
            self.give_back();
            *self = parallelism.acquire(&app, &owner).await;
        }
    }

    /// Records that WeCom refused a call because too many were in flight, which lowers the limit. Returns
    /// false if it is the lowest already.
    #[must_use]
    pub fn refused(&self) -> bool {
        let now_ms = self.parallelism.now_ms();
        let mut owners = self.parallelism.lock();
        owners.get_mut(&self.owner).is_none_or(|calls| calls.limit.refused(self.begun_ms, now_ms))
    }

    /// Records that a call succeeded, which raises a lowered limit in time.
    pub fn succeeded(&self) {
        let now_ms = self.parallelism.now_ms();
        if let Some(calls) = self.parallelism.lock().get_mut(&self.owner) {
            calls.limit.succeeded(now_ms);
        }
    }

    fn give_back(&mut self) {
        if !std::mem::replace(&mut self.is_returned, true) {
            self.parallelism.give_back(&self.owner);
        }
    }
}

impl Drop for ParallelismPermit {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn owner(corp_id: &str) -> Owner {
        (AppName::new("brand").unwrap(), CorpId::new(corp_id).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_corp_has_four_calls_in_flight_and_fewer_after_a_refusal() {
        let (parallelism, (app, dealer)) = (Arc::<Parallelism>::default(), owner("wpDEALER"));
        let live = || parallelism.try_acquire(&app, &dealer, Haste::Live);
        let permits: Vec<_> = std::iter::from_fn(live).collect();
        assert_eq!(permits.len(), 4);
        let (_, other) = owner("wpOTHER");
        assert!(parallelism.try_acquire(&app, &other, Haste::Live).is_some(), "each corp has its own");
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(permits.iter().all(ParallelismPermit::refused), "all of them were in flight together");
        drop(permits);
        let permits: Vec<_> = std::iter::from_fn(live).collect();
        assert_eq!(permits.len(), 2);
        tokio::time::advance(Duration::from_secs(10)).await;
        permits[0].succeeded();
        assert!(live().is_some_and(|_third| live().is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn other_work_leaves_one_call_to_live_work_and_waits_for_its_turn() {
        let (parallelism, (app, dealer)) = (Arc::<Parallelism>::default(), owner("wpDEALER"));
        let try_acquire = |haste| parallelism.try_acquire(&app, &dealer, haste);
        let mut permits: Vec<_> = std::iter::from_fn(|| try_acquire(Haste::Background)).collect();
        assert_eq!(permits.len(), 3);
        permits.extend(try_acquire(Haste::Live));
        assert_eq!(permits.len(), 4);
        assert!(try_acquire(Haste::Live).is_none());
        let waits = parallelism.acquire(&app, &dealer);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_secs(1), waits.as_mut()).await.is_err());
        permits.truncate(2);
        parallelism.returned_to_lanes().await;
        waits.await;
    }

    /// A corp whose limit is one call.
    async fn of_one_call() -> (Arc<Parallelism>, Owner) {
        let (parallelism, (app, dealer)) = (Arc::<Parallelism>::default(), owner("wpDEALER"));
        for _ in 0..2 {
            tokio::time::advance(Duration::from_millis(10)).await;
            assert!(parallelism.acquire(&app, &dealer).await.refused());
        }
        (parallelism, (app, dealer))
    }

    #[tokio::test(start_paused = true)]
    async fn of_one_call_at_a_time_the_next_is_that_of_live_work_that_waits() {
        let (parallelism, (app, dealer)) = of_one_call().await;
        let try_acquire = |haste| parallelism.try_acquire(&app, &dealer, haste);
        let background = try_acquire(Haste::Background).unwrap();
        assert!(try_acquire(Haste::Live).is_none());
        drop(background);
        assert!(try_acquire(Haste::Background).is_none());
        let live = try_acquire(Haste::Live).unwrap();
        assert!(try_acquire(Haste::Live).is_none());
        drop(live);
        // It does not ask again.
        let waits = parallelism.acquire(&app, &dealer);
        assert!(tokio::time::timeout(Duration::from_secs(5), waits).await.is_ok());
        assert!(try_acquire(Haste::Background).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_for_a_permit_goes_before_a_lane_of_background_work() {
        let (parallelism, (app, dealer)) = of_one_call().await;
        let try_acquire = || parallelism.try_acquire(&app, &dealer, Haste::Background);
        let lane = try_acquire().unwrap();
        let waits = parallelism.acquire(&app, &dealer);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_millis(1), waits.as_mut()).await.is_err());
        drop(lane);
        assert!(try_acquire().is_none());
        drop(waits.await);
        assert!(try_acquire().is_some());
    }
}
