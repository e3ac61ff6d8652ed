//! The dealers of each app: asked of WeCom at start, once a day, and when an event comes from one nobody knows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::domain::dealer::Dealer;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::store::{Store, StoreError};
use crate::wecom::{CallError, ListedDealer, Platform};

/// Why a dealer cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// WeCom was asked in vain.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The dealers.
pub struct Directory {
    store: Arc<dyn Store>,
    platform: Arc<dyn Platform>,
    clock: Arc<dyn Clock>,
    asking: tokio::sync::Mutex<()>,
    /// Dealers for whom the brand's token was tried and gave nothing, and when.
    vain: Mutex<HashMap<(AppName, CorpId), Timestamp>>,
}

impl Directory {
    /// A directory kept in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, platform: Arc<dyn Platform>, clock: Arc<dyn Clock>) -> Self {
        Self { store, platform, clock, asking: tokio::sync::Mutex::default(), vain: Mutex::default() }
    }

    /// The dealer, asked of WeCom if the store does not know it; `None` if WeCom does not list it either.
    ///
    /// # Errors
    /// [`DirectoryError`] when nobody can say.
    pub async fn find(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, DirectoryError> {
        if let Some(dealer) = self.store.dealer(app, corp_id).await? {
            return Ok(Some(dealer));
        }
        // One question at a time: whoever waited may find the answer in the store.
        let _asking = self.asking.lock().await;
        if let Some(dealer) = self.store.dealer(app, corp_id).await? {
            return Ok(Some(dealer));
        }
        self.ask_for(app, corp_id).await
    }

    /// The dealer as WeCom lists it now.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn look_up(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, DirectoryError> {
        let _asking = self.asking.lock().await;
        self.ask_for(app, corp_id).await
    }

    async fn ask_for(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, DirectoryError> {
        let listed = self.platform.dealers(app, Some(corp_id)).await?;
        self.keep(app, listed).await?;
        Ok(self.store.dealer(app, corp_id).await?)
    }

    /// Asks WeCom for all dealers of an app. Returns how many there are.
    ///
    /// # Errors
    /// [`DirectoryError`] when it could not be asked or kept.
    pub async fn refresh(&self, app: &AppName) -> Result<usize, DirectoryError> {
        let _asking = self.asking.lock().await;
        let listed = self.platform.dealers(app, None).await?;
        self.keep(app, listed).await
    }

    /// Whether the brand's token was tried for this dealer within the hour and gave nothing.
    pub(super) fn tried_in_vain(&self, app: &AppName, corp_id: &CorpId) -> bool {
        let vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        let at = vain.get(&(app.clone(), corp_id.clone()));
        at.is_some_and(|at| self.clock.now().millis_since(*at) < HOUR_MS)
    }

    /// Notes that the brand's token was tried for this dealer and gave nothing.
    pub(super) fn note_vain_try(&self, app: &AppName, corp_id: &CorpId) {
        let mut vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        vain.insert((app.clone(), corp_id.clone()), self.clock.now());
    }

    async fn keep(&self, app: &AppName, listed: Vec<ListedDealer>) -> Result<usize, DirectoryError> {
        let listed_at = self.clock.now();
        let dealers: Vec<_> = listed
            .into_iter()
            .map(|ListedDealer { corp_id, agent_id, name }| Dealer {
                corp_id,
                agent_id,
                name,
                listed_at,
                token: None,
            })
            .collect();
        let count = dealers.len();
        self.store.put_dealers(app, dealers).await?;
        Ok(count)
    }
}
