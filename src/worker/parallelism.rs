//! Permits for concurrent calls to WeCom with one corp's token, for all workers that make such calls.
//!
//! WeCom limits how many calls of a corp it serves at once (45033, 45035, 45036) and does not document the
//! limit, so ours adapts to its refusals:
//!
//! - One limit is for all calls, a second one for those that read lists. A refused conversion halves both, a
//!   refused list call only the second, so that it slows no conversion down. Each is raised slowly by calls
//!   of its own that succeed.
//! - Live work may use all permits and goes first. Other work leaves one permit to it if there are several,
//!   gets none while live work waits for one, and yields to it between two calls.
//! - All other work (retries, lookups, lists) gets permits in the order in which it asked.
//! - A task waits for a permit for ten seconds at most, so that it does not keep a slot of its worker from
//!   another corp's work. A lane does not wait: it asks again when a permit is returned.
//!
//! Deliberately absent: quotas, which the client's limiter keeps, the limit over all corps, which is the
//! workers', and circuit breakers, which one who has waited is to look at again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::ids::{AppName, CorpId};

mod calls;

pub use calls::Purpose;
use calls::{Asker, Calls};

type Owner = (AppName, CorpId);

/// How long a task waits for a permit.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a task that waits for a permit looks for one without a signal: live work, or a lane that is
/// before it, may have given up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The calls in flight with each corp's token.
#[derive(Debug)]
pub struct Parallelism {
    owners: Mutex<HashMap<Owner, Calls>>,
    started: Instant,
    /// The number of tasks so far that asked for a permit.
    tasks: AtomicU64,
    /// Notifies the tasks that wait in [`acquire`](Self::acquire) that there may be a permit.
    returned: Notify,
    /// Notifies that there may be a permit which a lane had asked for in vain.
    returned_to_lanes: Notify,
}

impl Default for Parallelism {
    fn default() -> Self {
        Self {
            owners: Mutex::default(),
            started: Instant::now(),
            tasks: AtomicU64::new(0),
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
        purpose: Purpose,
    ) -> Option<ParallelismPermit> {
        let permit = self.take(&(app.clone(), owner.clone()), Asker { purpose, task: None });
        if permit.is_some() && purpose == Purpose::Live {
            // Other work may go on.
            self.returned.notify_waiters();
        }
        permit
    }

    /// Waits for a permit, for a task whose work is not live; `None` if there was none for ten seconds: the
    /// work is to be tried again later.
    #[must_use]
    pub async fn acquire(
        self: &Arc<Self>,
        app: &AppName,
        owner: &CorpId,
        purpose: Purpose,
    ) -> Option<ParallelismPermit> {
        let task = Some(self.tasks.fetch_add(1, Ordering::Relaxed));
        let (owner, asker) = ((app.clone(), owner.clone()), Asker { purpose, task });
        let waiting = Waiting { parallelism: self, owner, asker };
        tokio::time::timeout(WAIT_MAX, waiting.permit()).await.ok()
    }

    /// Waits until there may be a permit that a lane had asked for in vain.
    pub(super) async fn returned_to_lanes(&self) {
        self.returned_to_lanes.notified().await;
    }

    /// A permit, if there is one for this asker, who is queued if not.
    fn take(self: &Arc<Self>, owner: &Owner, asker: Asker) -> Option<ParallelismPermit> {
        let (owner, begun_ms) = (owner.clone(), self.now_ms());
        let has_permit = self.lock().entry(owner.clone()).or_insert_with(Calls::new).take(asker, begun_ms);
        has_permit.then(|| ParallelismPermit {
            parallelism: self.clone(),
            owner,
            purpose: asker.purpose,
            begun_ms,
            is_returned: false,
        })
    }

    /// Changes what is known of the calls with one corp's token, and wakes up those who wait for a permit if
    /// there may be one now.
    fn free(&self, owner: &Owner, change: impl FnOnce(&mut Calls) -> bool) {
        let mut owners = self.lock();
        let Some(calls) = owners.get_mut(owner) else { return };
        let may_be_free = change(calls);
        let wakes_lanes = may_be_free && calls.take_lane_waits();
        if calls.is_idle() {
            owners.remove(owner);
        }
        drop(owners);
        if wakes_lanes {
            self.returned_to_lanes.notify_one();
        }
        if may_be_free {
            self.returned.notify_waiters();
        }
    }
}

/// A task that waits in [`Parallelism::acquire`].
struct Waiting<'a> {
    parallelism: &'a Arc<Parallelism>,
    owner: Owner,
    asker: Asker,
}

impl Waiting<'_> {
    async fn permit(&self) -> ParallelismPermit {
        loop {
            // Registered before looking, so that a permit returned in between is not missed.
            let returned = self.parallelism.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            if let Some(permit) = self.parallelism.take(&self.owner, self.asker) {
                return permit;
            }
            let _is_signal = tokio::time::timeout(LOOK_EVERY, returned).await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // In vain: the permit is for those behind it.
        self.parallelism.free(&self.owner, |calls| calls.leave(self.asker));
    }
}

/// A permit for one call after another with one corp's token, returned when it is dropped.
#[derive(Debug)]
pub struct ParallelismPermit {
    parallelism: Arc<Parallelism>,
    owner: Owner,
    purpose: Purpose,
    begun_ms: u64,
    is_returned: bool,
}

impl ParallelismPermit {
    /// Between two calls of work that is not live: lets live work that waits for a permit go first. Returns
    /// false if there was no permit for the next call for ten seconds: it is to be made later, with another
    /// permit.
    #[must_use]
    pub async fn yield_to_live(&mut self) -> bool {
        let (parallelism, (app, owner)) = (self.parallelism.clone(), self.owner.clone());
        let now_ms = parallelism.now_ms();
        if !parallelism.lock().get(&self.owner).is_some_and(|calls| calls.live_goes_first(now_ms)) {
            return true;
        }
        self.give_back();
        let Some(permit) = parallelism.acquire(&app, &owner, self.purpose).await else { return false };
        *self = permit;
        true
    }

    /// Records that WeCom refused a call because too many were in flight, which lowers the limit. Returns
    /// false if it is the lowest already.
    #[must_use]
    pub fn refused(&self) -> bool {
        let (purpose, begun_ms, now_ms) = (self.purpose, self.begun_ms, self.parallelism.now_ms());
        let mut owners = self.parallelism.lock();
        owners.get_mut(&self.owner).is_none_or(|calls| calls.refused(purpose, begun_ms, now_ms))
    }

    /// Records that a call succeeded, which raises a lowered limit in time.
    pub fn succeeded(&self) {
        let now_ms = self.parallelism.now_ms();
        if let Some(calls) = self.parallelism.lock().get_mut(&self.owner) {
            calls.succeeded(self.purpose, now_ms);
        }
    }

    fn give_back(&mut self) {
        if !std::mem::replace(&mut self.is_returned, true) {
            self.parallelism.free(&self.owner, |calls| {
                calls.give_back(self.purpose);
                true
            });
        }
    }
}

impl Drop for ParallelismPermit {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests;
