//! Permits for concurrent calls to WeCom with one corp's token, for all workers that make such calls.
//!
//! WeCom limits how many calls of a corp it serves at once (45033, 45035, 45036) and does not document the
//! limit, so ours adapts to its refusals. Live work may use all of it; other work leaves one permit to live
//! work.
//!
//! Deliberately absent: quotas, which the client's limiter keeps, and the limit over all corps, which is the
//! workers'.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::ids::{AppName, CorpId};
use crate::domain::lookup::Haste;
use crate::domain::pace::CallLimit;

type Owner = (AppName, CorpId);

/// The calls in flight with each corp's token.
#[derive(Debug)]
pub struct Parallelism {
    owners: Mutex<HashMap<Owner, Calls>>,
    started: Instant,
    /// Notifies those who wait in [`acquire`](Self::acquire) that a permit was returned.
    returned: Notify,
    /// Notifies that a permit was returned which live work had asked for in vain.
    returned_for_live: Notify,
}

/// The calls with one corp's token.
#[derive(Debug)]
struct Calls {
    limit: CallLimit,
    in_flight: u32,
    /// Whether live work asked for a permit in vain since the last one was returned.
    live_waits: bool,
}

impl Default for Parallelism {
    fn default() -> Self {
        Self {
            owners: Mutex::default(),
            started: Instant::now(),
            returned: Notify::new(),
            returned_for_live: Notify::new(),
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

    /// A permit for one call after another with the token of `owner`, unless as many calls as allowed are in
    /// flight.
    #[must_use]
    pub fn try_acquire(
        self: &Arc<Self>,
        app: &AppName,
        owner: &CorpId,
        haste: Haste,
    ) -> Option<ParallelismPermit> {
        let owner = (app.clone(), owner.clone());
        let begun_ms = self.now_ms();
        let mut owners = self.lock();
        let calls = owners.entry(owner.clone()).or_insert_with(|| Calls {
            limit: CallLimit::highest(),
            in_flight: 0,
            live_waits: false,
        });
        let calls_max = match haste {
            Haste::Live => calls.limit.calls(),
            Haste::Background => (calls.limit.calls() - 1).max(1),
        };
        if calls.in_flight >= calls_max {
            calls.live_waits |= haste == Haste::Live;
            return None;
        }
        calls.in_flight += 1;
        Some(ParallelismPermit { parallelism: self.clone(), owner, begun_ms })
    }

    /// Waits for a permit for a call that is not live work.
    pub async fn acquire(self: &Arc<Self>, app: &AppName, owner: &CorpId) -> ParallelismPermit {
        loop {
            // Registered before looking, so that a permit returned in between is not missed.
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            if let Some(permit) = self.try_acquire(app, owner, Haste::Background) {
                return permit;
            }
            returned.await;
        }
    }

    /// Waits until a permit is returned that live work had asked for in vain.
    pub(super) async fn returned_for_live(&self) {
        self.returned_for_live.notified().await;
    }

    fn give_back(&self, owner: &Owner) {
        let mut owners = self.lock();
        let Some(calls) = owners.get_mut(owner) else { return };
        calls.in_flight = calls.in_flight.saturating_sub(1);
        let live_waits = std::mem::take(&mut calls.live_waits);
        if calls.in_flight == 0 && calls.limit.is_highest() {
            owners.remove(owner);
        }
        drop(owners);
        if live_waits {
            self.returned_for_live.notify_one();
        }
        self.returned.notify_waiters();
    }
}

/// A permit for one call after another with one corp's token, returned when it is dropped.
#[derive(Debug)]
pub struct ParallelismPermit {
    parallelism: Arc<Parallelism>,
    owner: Owner,
    begun_ms: u64,
}

impl ParallelismPermit {
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
}

impl Drop for ParallelismPermit {
    fn drop(&mut self) {
        self.parallelism.give_back(&self.owner);
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
        parallelism.returned_for_live().await;
        waits.await;
    }
}
