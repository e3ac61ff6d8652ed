//! No call without a permit.
//!
//! Every call counts against ledgers that are kept in the store: the corp's, with a budget of its own for the two
//! conversions that have one, and that of our address. Permits are reserved, written down, and only then used, so a
//! crash wastes a few and never overruns. Of a conversion's budget as many are reserved at once as there are callers
//! waiting, so none lie idle; of the base limits, which are wide, a small block, so few calls wait for the disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Api, CallError};
use crate::clock::Clock;
use crate::domain::ids::CorpId;
use crate::domain::quota::{Budget, Grant, HOLD_MS, Limits, Share};
use crate::domain::time::Moment;

/// The account of our own address, shared by all corps.
const ADDRESS: &str = "address";
/// Reservations that may grow stale, one after the other, before a caller is told to come back.
const ROUNDS_MAX: u32 = 3;
/// Permits of the base limits reserved at once.
const BASE_BLOCK: u32 = 16;

/// Where reserved calls are written down.
#[async_trait]
pub trait Ledgers: Send + Sync + 'static {
    /// Reserves up to `want` calls on all these accounts; durable when it returns.
    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: Api,
        share: Share,
        want: u32,
        now: Moment,
    ) -> Result<Grant, String>;

    /// Notes that WeCom answered 45009. Returns for how long the API is left alone, in milliseconds.
    async fn refused(&self, account: &str, budget: Budget, api: Api, now: Moment) -> Result<i64, String>;
}

/// Hands out permits.
pub struct Limiter {
    ledgers: Arc<dyn Ledgers>,
    clock: Arc<dyn Clock>,
    limits: HashMap<CorpId, Limits>,
    /// Permits of the whole budget, and of a share of it, are kept apart.
    reserved: Mutex<BTreeMap<(CorpId, Api, bool), Arc<Reserve>>>,
}

#[derive(Default)]
struct Reserve {
    waiting: AtomicU32,
    permits: tokio::sync::Mutex<Option<Permits>>,
}

struct Permits {
    count: u32,
    reserved_at: Moment,
}

impl Limiter {
    /// A limiter with each corp's own limits; a corp not named has the documented ones.
    #[must_use]
    pub fn new(ledgers: Arc<dyn Ledgers>, clock: Arc<dyn Clock>, limits: HashMap<CorpId, Limits>) -> Self {
        Self { ledgers, clock, limits, reserved: Mutex::default() }
    }

    /// Lets the ledgers take note of the time while the wall clock is most likely right: after a start of the machine
    /// it is all they have to go by.
    pub async fn begin(&self) {
        for corp in self.limits.keys() {
            for api in Api::ALL.into_iter().filter(|api| api.has_own_quota()) {
                let accounts = self.accounts(corp, api);
                if let Err(reason) =
                    self.ledgers.reserve(&accounts, api, Share::Whole, 0, self.clock.moment()).await
                {
                    tracing::warn!(reason, "the ledgers of calls cannot be written");
                }
            }
        }
    }

    fn accounts(&self, corp: &CorpId, api: Api) -> [(String, Budget); 2] {
        [(corp.as_str().to_owned(), self.budget(corp, api)), (ADDRESS.to_owned(), Budget::Address)]
    }

    fn budget(&self, corp: &CorpId, api: Api) -> Budget {
        if api.has_own_quota() {
            Budget::Conversion(self.limits.get(corp).copied().unwrap_or(Limits::DOCUMENTED))
        } else {
            Budget::Corp
        }
    }

    /// Takes one permit for `api`, charged to `corp`.
    ///
    /// # Errors
    /// [`CallError::NoPermit`] with the instant at which there will be one.
    pub async fn permit(&self, corp: &CorpId, api: Api, share: Share) -> Result<(), CallError> {
        let reserve = {
            let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
            reserved.entry((corp.clone(), api, share == Share::Whole)).or_default().clone()
        };
        reserve.waiting.fetch_add(1, Ordering::Relaxed);
        let mut permits = reserve.permits.lock().await;
        let waiting = reserve.waiting.fetch_sub(1, Ordering::Relaxed);
        let usable = |permits: &Permits| {
            permits.count > 0 && self.clock.moment().millis_since(permits.reserved_at) < HOLD_MS
        };
        let mut rounds = 0..ROUNDS_MAX;
        // Looked at again after the reservation: should the machine have slept meanwhile, its permits are stale.
        while !permits.as_ref().is_some_and(usable) {
            *permits = None;
            if rounds.next().is_none() {
                let reason = "permits grow stale before they can be used".to_owned();
                return Err(CallError::Ledger { api, reason });
            }
            let now = self.clock.moment();
            let budget = self.budget(corp, api);
            let want = if budget == Budget::Corp { waiting.max(BASE_BLOCK) } else { waiting.max(1) };
            let grant = self.ledgers.reserve(&self.accounts(corp, api), api, share, want, now).await;
            match grant.map_err(|reason| CallError::Ledger { api, reason })? {
                Grant::Permits(count) => *permits = Some(Permits { count, reserved_at: now }),
                Grant::Exhausted { wait_ms } => {
                    return Err(CallError::NoPermit { api, retry_at: now.wall.plus_ms(wait_ms) });
                }
            }
        }
        if let Some(permits) = permits.as_mut() {
            permits.count -= 1;
        }
        Ok(())
    }

    /// WeCom answered 45009: stops `api` for `corp` for as long as the window that it most likely meant.
    pub async fn refused(&self, corp: &CorpId, api: Api) {
        let now = self.clock.moment();
        match self.ledgers.refused(corp.as_str(), self.budget(corp, api), api, now).await {
            Ok(blocked_ms) => {
                let until = now.wall.plus_ms(blocked_ms);
                tracing::warn!(%corp, api = api.as_str(), %until, "call limit reached; calls stop");
            }
            Err(reason) => tracing::warn!(reason, "the block could not be written down"),
        }
        // What was reserved before is not to be used any more.
        let reserves: Vec<_> = {
            let reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
            let of_this = reserved.iter().filter(|((c, a, _), _)| c == corp && *a == api);
            of_this.map(|(_, reserve)| reserve.clone()).collect()
        };
        for reserve in reserves {
            *reserve.permits.lock().await = None;
        }
    }
}

#[cfg(test)]
mod tests;
