//! No call without a permit.
//!
//! The two conversions with budgets of their own draw on a durable [`Ledger`]: permits are reserved, written
//! down, and only then used, so a crash wastes a few and never overruns. As many are reserved at once as there
//! are callers waiting, so none lie idle. Everything has the base limits too, kept in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Api, CallError};
use crate::clock::Clock;
use crate::domain::ids::CorpId;
use crate::domain::quota::{BaseLedger, Grant, Limits};
use crate::domain::time::{HOUR_MS, Timestamp};

/// Where reserved calls are written down.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Reserves up to `want` calls; durable when it returns.
    async fn reserve(
        &self,
        corp: &CorpId,
        api: Api,
        limits: Limits,
        want: u32,
        now: Timestamp,
    ) -> Result<Grant, String>;

    /// Notes that WeCom blocks an API.
    async fn block(&self, corp: &CorpId, api: Api, until: Timestamp) -> Result<(), String>;
}

/// Hands out permits.
pub struct Limiter {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    limits: HashMap<CorpId, Limits>,
    reserved: Mutex<HashMap<(CorpId, Api), Arc<Reserve>>>,
    base: Mutex<HashMap<(CorpId, Api), BaseLedger>>,
}

#[derive(Default)]
struct Reserve {
    waiting: AtomicU32,
    permits: tokio::sync::Mutex<Permits>,
}

#[derive(Default)]
struct Permits {
    count: u32,
    valid_until: Timestamp,
}

impl Limiter {
    /// A limiter with each corp's own limits; a corp not named has the documented ones.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, clock: Arc<dyn Clock>, limits: HashMap<CorpId, Limits>) -> Self {
        Self { ledger, clock, limits, reserved: Mutex::default(), base: Mutex::default() }
    }

    /// Takes one permit for `api`, charged to `corp`.
    ///
    /// # Errors
    /// [`CallError::NoPermit`] with the instant at which there will be one.
    pub async fn permit(&self, corp: &CorpId, api: Api) -> Result<(), CallError> {
        self.base_permit(corp, api)?;
        if !api.has_own_quota() {
            return Ok(());
        }
        let reserve = self.reserve_of(corp, api);
        reserve.waiting.fetch_add(1, Ordering::Relaxed);
        let mut permits = reserve.permits.lock().await;
        let waiting = reserve.waiting.fetch_sub(1, Ordering::Relaxed);
        let now = self.clock.now();
        if permits.count == 0 || now >= permits.valid_until {
            let limits = self.limits.get(corp).copied().unwrap_or(Limits::DOCUMENTED);
            let grant = self
                .ledger
                .reserve(corp, api, limits, waiting.max(1), now)
                .await
                .map_err(|reason| CallError::Ledger { api, reason })?;
            match grant {
                Grant::Permits { count, valid_until } => *permits = Permits { count, valid_until },
                Grant::Exhausted { retry_at } => return Err(CallError::NoPermit { api, retry_at }),
            }
        }
        permits.count -= 1;
        Ok(())
    }

    fn reserve_of(&self, corp: &CorpId, api: Api) -> Arc<Reserve> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.entry((corp.clone(), api)).or_default().clone()
    }

    fn base_permit(&self, corp: &CorpId, api: Api) -> Result<(), CallError> {
        let now = self.clock.now();
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        base.entry((corp.clone(), api))
            .or_default()
            .take(now)
            .map_err(|retry_at| CallError::NoPermit { api, retry_at })
    }

    /// WeCom answered 45009: stops `api` for as long as the window that it most likely meant (document 90313).
    pub async fn blocked(&self, corp: &CorpId, api: Api) {
        let now = self.clock.now();
        if api.has_own_quota() {
            let until = now.plus_ms(HOUR_MS);
            tracing::warn!(%corp, api = api.as_str(), %until, "call limit reached; calls stop for an hour");
            if let Err(reason) = self.ledger.block(corp, api, until).await {
                tracing::warn!(reason, "the block could not be written down");
            }
            // What was reserved before is not to be used any more.
            self.reserve_of(corp, api).permits.lock().await.count = 0;
        } else {
            let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
            let until = base.entry((corp.clone(), api)).or_default().blocked(now);
            tracing::warn!(%corp, api = api.as_str(), %until, "call limit reached; calls stop");
        }
    }
}
