//! The dealer directory of each app, kept in the store: how it is read from WeCom, all of it or one dealer.
//! To the dealers that WeCom lists, an agency-developed app adds those that have authorised its suite
//! themselves.
//!
//! Deliberately absent: when all of it is read, and what follows from a change ([`dealers`](super::dealers)).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::apps::Apps;
use super::dealer_names::DealerNames;
use super::failure::concerns_whole_app;
use crate::clock::Clock;
use crate::domain::authorization::{Authorization, AuthorizationState};
use crate::domain::dealer::{Dealer, Diff, diff};
use crate::domain::ids::{AppName, CorpId};
use crate::store::{Store, StoreError};
use crate::wecom::{Api, CallError, Class, DealerList, Platform};

/// How long a corp that WeCom does not list is not asked about again.
const UNLISTED_FOR: Duration = Duration::from_mins(1);
/// How long the brand's token is not tried again for a dealer's customers of whom it converted none.
const MISSED_FOR: Duration = Duration::from_hours(1);

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

/// The result of reading the whole list.
#[derive(Debug)]
pub(super) struct Refreshed {
    /// How many dealers there are.
    pub(super) dealers: usize,
    /// Why WeCom's list could not be read, if the dealers are only those that have authorised the suite.
    pub(super) unread: Option<CallError>,
    /// Dealers that have left.
    pub(super) left: Vec<CorpId>,
    /// Dealers that may have left: the list is to be read a second time.
    pub(super) doubtful: Vec<CorpId>,
}

/// Dealers, and when something was last tried with each. On the monotonic clock, so that setting the wall
/// clock has no effect.
type Tried = HashMap<(AppName, CorpId), Instant>;

/// The dealer directory.
pub struct Directory {
    store: Arc<dyn Store>,
    platform: Arc<dyn Platform>,
    clock: Arc<dyn Clock>,
    names: Arc<DealerNames>,
    apps: Arc<Apps>,
    /// Locked while WeCom is asked: one call at a time for each app.
    refreshing: Mutex<HashMap<AppName, Arc<AsyncMutex<()>>>>,
    /// Corps that WeCom did not list when it was asked about them.
    unlisted: Mutex<Tried>,
    /// Dealers for whose customers the brand's token was tried in vain.
    upstream_misses: Mutex<Tried>,
    /// Dealers that were not listed before, or had left.
    arrived: Mutex<BTreeMap<AppName, BTreeSet<CorpId>>>,
}

impl Directory {
    /// A directory of the dealers of these apps, kept in `store`; `names` follow it.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        platform: Arc<dyn Platform>,
        clock: Arc<dyn Clock>,
        names: Arc<DealerNames>,
        apps: Arc<Apps>,
    ) -> Self {
        Self {
            store,
            platform,
            clock,
            names,
            apps,
            refreshing: Mutex::default(),
            unlisted: Mutex::default(),
            upstream_misses: Mutex::default(),
            arrived: Mutex::default(),
        }
    }

    /// The dealer, from the store or else from WeCom; `None` if WeCom does not list it, or no longer. WeCom
    /// is asked about the same corp at most once a minute.
    ///
    /// # Errors
    /// [`DirectoryError`] when the store or WeCom cannot answer.
    pub async fn find(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, DirectoryError> {
        if let Some(dealer) = self.listed(app, corp_id).await? {
            return Ok(Some(dealer));
        }
        // While this waited, another caller may have stored the answer.
        let _refreshing = self.refreshing(app).await;
        if let Some(dealer) = self.listed(app, corp_id).await? {
            return Ok(Some(dealer));
        }
        if tried_within(UNLISTED_FOR, &self.unlisted, app, corp_id) {
            return Ok(None);
        }
        self.read_one(app, corp_id).await
    }

    /// The dealer as WeCom lists it now; `None` if it does not.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn refresh_one(
        &self,
        app: &AppName,
        corp_id: &CorpId,
    ) -> Result<Option<Dealer>, DirectoryError> {
        let _refreshing = self.refreshing(app).await;
        self.read_one(app, corp_id).await
    }

    async fn refreshing(&self, app: &AppName) -> OwnedMutexGuard<()> {
        let of_app = lock(&self.refreshing).entry(app.clone()).or_default().clone();
        of_app.lock_owned().await
    }

    /// The dealer as stored, if it has not left.
    async fn listed(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, StoreError> {
        Ok(self.store.dealer(app, corp_id).await?.filter(|dealer| dealer.left_at.is_none()))
    }

    async fn read_one(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, DirectoryError> {
        let (DealerList { dealers, .. }, _) = self.list(app, Some(corp_id)).await?;
        let is_listed = dealers.iter().any(|dealer| dealer.corp_id == *corp_id);
        self.put(app, dealers).await?;
        if is_listed {
            return Ok(self.listed(app, corp_id).await?);
        }
        let mut unlisted = lock(&self.unlisted);
        unlisted.retain(|_, at| at.elapsed() < UNLISTED_FOR);
        unlisted.insert((app.clone(), corp_id.clone()), Instant::now());
        Ok(None)
    }

    /// Reads all dealers of an app from WeCom. `doubted` are the dealers that were
    /// [`doubtful`](Refreshed::doubtful) after the reading before.
    ///
    /// # Errors
    /// [`DirectoryError`] when they cannot be read or stored.
    pub(super) async fn refresh(
        &self,
        app: &AppName,
        doubted: &[CorpId],
    ) -> Result<Refreshed, DirectoryError> {
        let _refreshing = self.refreshing(app).await;
        let (DealerList { dealers: listed, is_complete }, unread) = self.list(app, None).await?;
        let known = self.store.dealers(app).await?;
        let Diff { left: missing, doubtful } = diff(&known, &listed, is_complete, doubted);
        let dealers = listed.len();
        self.put(app, listed).await?;
        let mut left = Vec::new();
        for corp_id in missing {
            if self.store.dealer_left(app, &corp_id, self.clock.now()).await? {
                left.push(corp_id);
            }
        }
        Ok(Refreshed { dealers, unread, left, doubtful })
    }

    /// The dealers that WeCom lists now, or the one asked for, and those that have authorised the suite of an
    /// agency-developed app. WeCom may not allow such an app to read the list (document 96872), with a code that
    /// is not documented: then only the latter, and the refusal.
    async fn list(
        &self,
        app: &AppName,
        only: Option<&CorpId>,
    ) -> Result<(DealerList, Option<CallError>), DirectoryError> {
        let authorized = self.apps.authorized_dealers(app);
        let is_authorized = |corp_id: &CorpId| authorized.iter().any(|one| one.corp_id == *corp_id);
        let (mut listed, unread) = match self.platform.dealers(app, only).await {
            Err(error) if self.is_agency(app) && refuses_list(&error) => {
                // Dealers known from an earlier list have not left because it cannot be read any more.
                let known = self.store.dealers(app).await?;
                let is_complete =
                    known.iter().all(|dealer| dealer.left_at.is_some() || is_authorized(&dealer.corp_id));
                (DealerList { dealers: Vec::new(), is_complete }, Some(error))
            }
            answer => (answer?, None),
        };
        let is_asked = |dealer: &Dealer| only.is_none_or(|only| *only == dealer.corp_id);
        for dealer in authorized.iter().filter_map(|one| self.installed(one)).filter(is_asked) {
            if listed.dealers.iter().all(|other| other.corp_id != dealer.corp_id) {
                listed.dealers.push(dealer);
            }
        }
        Ok((listed, unread))
    }

    fn is_agency(&self, app: &AppName) -> bool {
        self.apps.get(app).is_some_and(|rules| rules.suite.is_some())
    }

    /// A dealer that has authorised the suite itself, and has not cancelled.
    fn installed(&self, authorization: &Authorization) -> Option<Dealer> {
        let Authorization { corp_id, name, agent, .. } = authorization;
        let agent = agent.as_ref().filter(|_| authorization.state() == AuthorizationState::Active)?;
        Some(Dealer::listed(corp_id.clone(), agent.agent_id, name.clone(), self.clock.now()))
    }

    async fn put(&self, app: &AppName, listed: Vec<Dealer>) -> Result<(), StoreError> {
        self.names.learn(app, &listed);
        let arrived = self.store.put_dealers(app, listed).await?;
        lock(&self.arrived).entry(app.clone()).or_default().extend(arrived);
        Ok(())
    }

    /// Takes an app's dealers that were newly listed, or listed again, since the last call.
    pub(super) fn take_arrived(&self, app: &AppName) -> Vec<CorpId> {
        lock(&self.arrived).remove(app).unwrap_or_default().into_iter().collect()
    }

    /// Forgets recent failures of one app, or of all: an operator may have removed the cause.
    pub fn forget_failures(&self, app: Option<&AppName>) {
        self.platform.forget_failures(app);
        for tried in [&self.unlisted, &self.upstream_misses] {
            lock(tried).retain(|(of_app, _), _| app.is_some_and(|app| app != of_app));
        }
    }

    /// Forgets that WeCom refused the permanent codes of one app, or of all: an operator asks for it.
    pub fn forget_refused_codes(&self, app: Option<&AppName>) {
        self.platform.forget_refused_codes(app);
    }

    /// Whether the brand's token converted none of this dealer's customers when it was tried within the last
    /// hour.
    pub(super) fn upstream_missed_recently(&self, app: &AppName, corp_id: &CorpId) -> bool {
        tried_within(MISSED_FOR, &self.upstream_misses, app, corp_id)
    }

    /// Records that the brand's token converted none of this dealer's customers.
    pub(super) fn record_upstream_miss(&self, app: &AppName, corp_id: &CorpId) {
        lock(&self.upstream_misses).insert((app.clone(), corp_id.clone()), Instant::now());
    }
}

/// Whether WeCom refuses the list itself, and not all calls of the app.
fn refuses_list(error: &CallError) -> bool {
    let CallError::Refused { api: Api::ListAppShareInfo, errcode, .. } = error else { return false };
    let is_of_app = concerns_whole_app(error) || matches!(errcode, 48_003 | 48_004);
    !is_of_app && !matches!(error.class(), Class::Transient | Class::Token | Class::Rate)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tried_within(time: Duration, tried: &Mutex<Tried>, app: &AppName, corp_id: &CorpId) -> bool {
    lock(tried).get(&(app.clone(), corp_id.clone())).is_some_and(|at| at.elapsed() < time)
}
