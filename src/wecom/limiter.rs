//! The rate limiter: no call to WeCom without a permit (documents 90312, 97357 and 95818).
//!
//! Every call counts against two quota ledgers in the store: the corp's, which for the two fan conversions
//! has their own limits per hour, day and month, and that of our IP address. Permits are reserved in the
//! ledgers and persisted before the first of them is used, so a crash wastes a few but no limit is ever
//! exceeded. Of a conversion's quota as many permits are reserved at once as there are waiting callers, so
//! that none stay unused; of the base limits, which are wide, a block of [`BASE_BLOCK`], so that few calls
//! wait for the disk.
//!
//! The arithmetic of windows is in [`crate::domain::quota`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use strum::VariantArray as _;

use super::api::Api;
use super::credentials::QuotaLimits;
use super::error::CallError;
use crate::clock::Clock;
use crate::domain::ids::CorpId;
use crate::domain::quota::{Budget, Grant, HOLD_MS, Share};
use crate::domain::time::Moment;
use crate::telemetry::throttle::LogThrottle;

/// The account of our own IP address, shared by all corps.
const ADDRESS: &str = "address";
/// Reservations in a row that may expire before they are used; after them the call fails.
const ROUNDS_MAX: u32 = 3;
/// Permits of the base limits reserved at once.
const BASE_BLOCK: u32 = 16;

/// Durable storage of the quota ledgers, one per account (a corp id, or our IP address) and API.
#[async_trait]
pub trait Ledgers: Send + Sync + 'static {
    /// Reserves up to `want` calls on all of these accounts or on none; durable when it returns.
    ///
    /// # Errors
    /// The reason why the reservation could not be persisted.
    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: Api,
        share: Share,
        want: u32,
        now: Moment,
    ) -> Result<Grant, String>;

    /// Records that WeCom answered 45009 (call limit reached) and blocks the API. Returns for how long, in
    /// milliseconds.
    ///
    /// # Errors
    /// The reason why the block could not be persisted.
    async fn rate_limited(&self, account: &str, budget: Budget, api: Api, now: Moment)
    -> Result<i64, String>;
}

/// The rate limiter.
pub struct Limiter {
    ledgers: Arc<dyn Ledgers>,
    clock: Arc<dyn Clock>,
    limits: Arc<dyn QuotaLimits>,
    /// The account of our own IP address.
    address: String,
    /// Reserved permits by corp, API and the share from which they were reserved.
    reserved: Mutex<BTreeMap<(CorpId, Api, ShareKey), Arc<Reserve>>>,
    limit_log: LogThrottle<(CorpId, Api)>,
}

/// What a [`Share`] leaves to more urgent calls: nothing, or a percentage and, for bulk calls, something for
/// renewals. The amount of the latter changes from minute to minute and is not part of the key, so that the
/// number of keys is bounded.
type ShareKey = Option<(u8, bool)>;

const fn share_key(share: Share) -> ShareKey {
    match share {
        Share::Whole => None,
        Share::Without { reserve_percent, month_kept } => Some((reserve_percent, month_kept > 0)),
    }
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
    /// A limiter with these limits for the conversions of each corp.
    #[must_use]
    pub fn new(ledgers: Arc<dyn Ledgers>, clock: Arc<dyn Clock>, limits: Arc<dyn QuotaLimits>) -> Self {
        Self {
            ledgers,
            clock,
            limits,
            address: ADDRESS.to_owned(),
            reserved: Mutex::default(),
            limit_log: LogThrottle::default(),
        }
    }

    /// A limiter for calls from the address of this name, where several processes have several.
    #[must_use]
    pub fn at_address(self, name: Option<&str>) -> Self {
        let address = name.map_or_else(|| ADDRESS.to_owned(), |name| format!("{ADDRESS}/{name}"));
        Self { address, ..self }
    }

    /// Records the current time in the ledgers. To be called at the start: after a reboot they can only derive
    /// the elapsed time from the wall clock, which is most likely right then.
    pub async fn begin(&self) {
        let mut failure = None;
        for corp in self.limits.corps() {
            for &api in Api::VARIANTS {
                let accounts = self.accounts(&corp, api);
                let seen = self.ledgers.reserve(&accounts, api, Share::Whole, 0, self.clock.moment()).await;
                failure = failure.or(seen.err());
            }
        }
        if let Some(reason) = failure {
            tracing::warn!(reason, "quota ledgers cannot be written");
        }
    }

    fn accounts(&self, corp: &CorpId, api: Api) -> [(String, Budget); 2] {
        [(corp.as_str().to_owned(), self.budget(corp, api)), (self.address.clone(), Budget::Address)]
    }

    fn budget(&self, corp: &CorpId, api: Api) -> Budget {
        if api.has_own_quota() { Budget::Conversion(self.limits.of(corp)) } else { Budget::Corp }
    }

    /// Takes one permit for `api`, charged to `corp`. It has to be used within [`HOLD_MS`].
    ///
    /// # Errors
    /// [`CallError::NoPermit`] when the quota is used up, with the time of the next permit;
    /// [`CallError::Ledger`] when the reservation cannot be persisted, or persisting it took longer than its
    /// permits are valid.
    pub async fn permit(&self, corp: &CorpId, api: Api, share: Share) -> Result<(), CallError> {
        let reserve = {
            let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
            reserved.entry((corp.clone(), api, share_key(share))).or_default().clone()
        };
        reserve.waiting.fetch_add(1, Ordering::Relaxed);
        let mut permits = reserve.permits.lock().await;
        let waiting = reserve.waiting.fetch_sub(1, Ordering::Relaxed);
        let usable = |permits: &Permits| {
            permits.count > 0 && self.clock.moment().millis_since(permits.reserved_at) < HOLD_MS
        };
        let mut rounds = 0..ROUNDS_MAX;
        // Checked again after the reservation: if the machine was suspended meanwhile, its permits have
        // expired.
        while !permits.as_ref().is_some_and(usable) {
            *permits = None;
            if rounds.next().is_none() {
                let reason = "reserved permits expire before they can be used".to_owned();
                return Err(CallError::Ledger { api, reason });
            }
            let now = self.clock.moment();
            let budget = self.budget(corp, api);
            let want = if budget == Budget::Corp { waiting.max(BASE_BLOCK) } else { waiting.max(1) };
            let grant = self.ledgers.reserve(&self.accounts(corp, api), api, share, want, now).await;
            match grant.map_err(|reason| CallError::Ledger { api, reason })? {
                Grant::Permits(count) => *permits = Some(Permits { count, reserved_at: now }),
                Grant::Exhausted { wait_ms } => {
                    // An instant on the service's clock, which the ledgers do not know; read afterwards, because
                    // the clock may have been set meanwhile. A part of the wait may have passed in a suspended
                    // machine.
                    let left_ms = wait_ms.saturating_sub(self.clock.moment().millis_since(now));
                    let retry_at = self.clock.now().plus_ms(left_ms.max(0));
                    return Err(CallError::NoPermit { api, retry_at });
                }
            }
        }
        if let Some(permits) = permits.as_mut() {
            permits.count -= 1;
        }
        Ok(())
    }

    /// WeCom answered 45009 (call limit reached): blocks `api` for `corp` for the length of the exceeded
    /// window (document 90313). WeCom does not say which window it is; [`Ledger::rate_limited`] chooses.
    ///
    /// [`Ledger::rate_limited`]: crate::domain::quota::Ledger::rate_limited
    pub async fn rate_limited(&self, corp: &CorpId, api: Api) {
        let now = self.clock.moment();
        match self.ledgers.rate_limited(corp.as_str(), self.budget(corp, api), api, now).await {
            Ok(blocked_ms) => {
                let until = now.wall.plus_ms(blocked_ms);
                // Calls that were under way get the same answer.
                if let Some(answers) = self.limit_log.count((corp.clone(), api)) {
                    tracing::warn!(
                        %corp, api = api.as_str(), %until, answers,
                        "WeCom answered 45009 (call limit reached); the next call is made after that"
                    );
                }
            }
            Err(reason) => tracing::warn!(
                %corp, api = api.as_str(), reason,
                "WeCom answered 45009 (call limit reached), but the pause of calls cannot be persisted"
            ),
        }
        // Permits reserved before this are void.
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
