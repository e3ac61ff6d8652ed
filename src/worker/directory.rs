//! The dealer directory of each app: read from WeCom at start, once a day, and when an event comes from an
//! unknown corp.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::dealer_names::DealerNames;
use crate::clock::Clock;
use crate::domain::dealer::Dealer;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::store::{Store, StoreError};
use crate::wecom::{CallError, Platform};

/// Why a dealer cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The call to WeCom failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The dealer directory.
pub struct Directory {
    store: Arc<dyn Store>,
    platform: Arc<dyn Platform>,
    clock: Arc<dyn Clock>,
    names: Arc<DealerNames>,
    /// Held while WeCom is asked: one call at a time.
    refreshing: tokio::sync::Mutex<()>,
    /// Dealers for whose customers the brand's token was tried in vain, and when.
    upstream_misses: Mutex<HashMap<(AppName, CorpId), Timestamp>>,
}

impl Directory {
    /// A directory kept in `store`; `names` follow it.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        platform: Arc<dyn Platform>,
        clock: Arc<dyn Clock>,
        names: Arc<DealerNames>,
    ) -> Self {
        Self {
            store,
            platform,
            clock,
            names,
            refreshing: tokio::sync::Mutex::default(),
            upstream_misses: Mutex::default(),
        }
    }

    /// The dealer, from the store or else from WeCom; `None` if WeCom does not list it either.
    ///
    /// # Errors
    /// [`DirectoryError`] when the store or WeCom cannot answer.
    pub async fn find(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, DirectoryError> {
        if let Some(dealer) = self.store.dealer(app, corp_id).await? {
            return Ok(Some(dealer));
        }
        // While this waited, another caller may have stored the answer.
        let _refreshing = self.refreshing.lock().await;
        if let Some(dealer) = self.store.dealer(app, corp_id).await? {
            return Ok(Some(dealer));
        }
        self.read_one(app, corp_id).await
    }

    /// The dealer as WeCom lists it now.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn refresh_one(
        &self,
        app: &AppName,
        corp_id: &CorpId,
    ) -> Result<Option<Dealer>, DirectoryError> {
        let _refreshing = self.refreshing.lock().await;
        self.read_one(app, corp_id).await
    }

    async fn read_one(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, DirectoryError> {
        let listed = self.platform.dealers(app, Some(corp_id)).await?;
        self.names.learn(app, &listed);
        self.store.put_dealers(app, listed).await?;
        Ok(self.store.dealer(app, corp_id).await?)
    }

    /// Reads all dealers of an app from WeCom. Returns how many there are.
    ///
    /// # Errors
    /// [`DirectoryError`] when they cannot be read or stored.
    pub async fn refresh(&self, app: &AppName) -> Result<usize, DirectoryError> {
        let _refreshing = self.refreshing.lock().await;
        let listed = self.platform.dealers(app, None).await?;
        let count = listed.len();
        self.names.learn(app, &listed);
        self.store.put_dealers(app, listed).await?;
        Ok(count)
    }

    /// Forgets recent failures of one app, or of all: an operator may have removed the cause.
    pub fn forget_failures(&self, app: Option<&AppName>) {
        self.platform.forget_failures(app);
        let mut misses = self.upstream_misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.retain(|(of_app, _), _| app.is_some_and(|app| app != of_app));
    }

    /// Whether the brand's token converted none of this dealer's customers when it was tried within the last
    /// hour.
    pub(super) fn upstream_missed_recently(&self, app: &AppName, corp_id: &CorpId) -> bool {
        let misses = self.upstream_misses.lock().unwrap_or_else(PoisonError::into_inner);
        let at = misses.get(&(app.clone(), corp_id.clone()));
        at.is_some_and(|at| self.clock.now().millis_since(*at) < HOUR_MS)
    }

    /// Records that the brand's token converted none of this dealer's customers.
    pub(super) fn record_upstream_miss(&self, app: &AppName, corp_id: &CorpId) {
        let mut misses = self.upstream_misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.insert((app.clone(), corp_id.clone()), self.clock.now());
    }
}
