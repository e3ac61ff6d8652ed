//! Resumes the work of agency-developed apps that can call WeCom again, and that of dealers that have authorised
//! (again). A task of its own: however much waits, auth codes and cancellations are attended to meanwhile.
//!
//! Deliberately absent: what resuming is (see [`resume`](super::super::resume)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::breaker::Scope;
use super::super::resume::{AGAIN_AFTER, Lookups, Paused, Resumer};
use super::super::{Context, overdue};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Moment;
use crate::store::StoreError;

/// Resumes what has been marked, again and again until that succeeds.
pub(super) struct Resumption {
    context: Context,
    marked: Mutex<Marked>,
}

#[derive(Default)]
struct Marked {
    /// Apps, each with its brand.
    apps: BTreeMap<AppName, CorpId>,
    dealers: BTreeSet<(AppName, CorpId)>,
    is_running: bool,
    /// When it was last tried, if it failed.
    failed_at: Option<Moment>,
}

impl Resumption {
    pub(super) fn new(context: Context) -> Self {
        Self { context, marked: Mutex::default() }
    }

    /// Marks an app that can call WeCom, and may not have been able to before.
    pub(super) fn mark(&self, app: AppName, brand: CorpId) {
        self.marked().apps.insert(app, brand);
    }

    /// Marks a dealer of an app that has authorised the suite itself.
    pub(super) fn mark_dealer(&self, app: AppName, corp_id: CorpId) {
        self.marked().dealers.insert((app, corp_id));
    }

    /// Removes the mark of an app that cannot call WeCom any more.
    pub(super) fn unmark(&self, app: &AppName) {
        let mut marked = self.marked();
        marked.apps.remove(app);
        marked.dealers.retain(|(of, _)| of != app);
    }

    fn marked(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to resume what is marked, unless that is under way.
    pub(super) fn start(self: &Arc<Self>) {
        let (now, mut marked) = (self.context.clock.moment(), self.marked());
        let is_empty = marked.apps.is_empty() && marked.dealers.is_empty();
        if is_empty || marked.is_running || !overdue(marked.failed_at, AGAIN_AFTER, now) {
            return;
        }
        marked.is_running = true;
        marked.failed_at = None;
        let (apps, dealers) = (std::mem::take(&mut marked.apps), std::mem::take(&mut marked.dealers));
        drop(marked);
        let this = self.clone();
        self.context.spawn_call(async move {
            for (app, brand) in apps {
                let resumed = this.resume_app(&app, &brand).await;
                this.note(&app, resumed, |marked| {
                    marked.apps.entry(app.clone()).or_insert(brand);
                });
            }
            for (app, corp_id) in dealers {
                let resumed = this.resume_dealer(&app, &corp_id).await;
                this.note(&app, resumed, |marked| {
                    marked.dealers.insert((app.clone(), corp_id));
                });
            }
            this.marked().is_running = false;
            // More may have been marked meanwhile.
            this.context.wake.suites.notify_one();
        });
    }

    fn note(&self, app: &AppName, resumed: Result<(), StoreError>, mark_again: impl FnOnce(&mut Marked)) {
        if let Err(error) = resumed {
            self.context.store_failures.warn("what was paused of an app could not be resumed yet", &error);
            let mut marked = self.marked();
            marked.failed_at = Some(self.context.clock.moment());
            if self.context.apps.can_call(app) {
                mark_again(&mut marked);
            }
        }
    }

    /// Resumes what is paused of an app. Lookups are repeated at the brand only: at dealers, WeCom's answers do
    /// not depend on the brand's authorisation.
    async fn resume_app(&self, app: &AppName, brand: &CorpId) -> Result<(), StoreError> {
        self.context.optional_calls.forget(Some(app), None);
        let resumer = Resumer::of(&self.context);
        let corps = [(app.clone(), brand.clone())];
        let paused = Paused { app: Some(app), corps: &corps, lookups: Lookups::Refused };
        resumer.run(paused, |scope| scope.app() == app).await?;
        let dealers = self.context.store.dealers(app).await?.into_iter();
        let dealers = dealers.filter(|dealer| dealer.left_at.is_none());
        let corps: Vec<_> = dealers.map(|dealer| (app.clone(), dealer.corp_id)).collect();
        let paused = Paused { app: Some(app), corps: &corps, lookups: Lookups::None };
        resumer.run(paused, |_| false).await.map(drop)
    }

    /// Resumes what is paused at a dealer.
    async fn resume_dealer(&self, app: &AppName, corp_id: &CorpId) -> Result<(), StoreError> {
        self.context.optional_calls.forget(Some(app), Some(corp_id));
        let corps = [(app.clone(), corp_id.clone())];
        let paused = Paused { app: Some(app), corps: &corps, lookups: Lookups::Refused };
        let concerns = |scope: &Scope| scope.app() == app && scope.corp_id() == Some(corp_id);
        Resumer::of(&self.context).run(paused, concerns).await.map(drop)
    }
}
