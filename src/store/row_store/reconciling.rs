//! [`Reconciling`] over rows: what takes several transactions or pages.
//!
//! Deliberately absent: the transactions and the reads (see `reconcile`, `tasks` and `dealers`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use async_trait::async_trait;

use super::{Backend, ROWS_PER_TRANSACTION, RowStore};
use crate::domain::contact::Contact;
use crate::domain::dealer_activity::{DealerActivity, DealerTrouble, NewActivity};
use crate::domain::event::AppAlarm;
use crate::domain::ids::{AppName, ContactKey, CorpId, ExternalUserid, UserId};
use crate::domain::reconcile::{ReconcileRun, ReconcileTask};
use crate::domain::sighting::Sighting;
use crate::domain::time::{Moment, Timestamp};
use crate::store::business::{clock, dealers, reconcile, tasks};
use crate::store::rows::keys;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{DealerRow, EventId, PageFound, Reconciling, StoreError};

impl<B: Backend> RowStore<B> {
    /// Calls `look` for every customer of a dealer.
    async fn each_customer(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        mut look: impl FnMut(ContactKey, Contact) + Send,
    ) -> Result<(), StoreError> {
        let prefix = keys::of_corp(b'o', app, corp_id);
        let read = |view: &View<'_>, row: &[u8], _: &[u8]| reconcile::customer(view, row);
        let each = |customer: Option<_>| {
            if let Some((key, contact)) = customer {
                look(key, contact);
            }
            ControlFlow::Continue(())
        };
        self.in_slices(&prefix, &keys::after(&prefix), read, each).await
    }

    async fn change_activity(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        change: impl FnOnce(&mut DealerActivity) + Clone + Send + 'static,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.backend.run(move |txn| dealers::change_activity(txn, &app, &corp_id, change)).await
    }
}

#[async_trait]
impl<B: Backend> Reconciling for RowStore<B> {
    async fn begin_reconcile(
        &self,
        corps: Vec<(AppName, CorpId)>,
        now: Timestamp,
    ) -> Result<ReconcileRun, StoreError> {
        self.in_parts(corps, move |txn, part| tasks::begin(txn, part, now)).await?;
        let end = move |txn: &mut Txn<'_>| {
            // Without any dealer the run begins too, and ends at once.
            tasks::begin(txn, Vec::new(), now)?;
            tasks::end_if_done(txn, now)
        };
        self.backend.run(end).await?;
        Ok(self.reconcile_run().await?.unwrap_or_else(|| ReconcileRun::new(now)))
    }

    async fn reconcile_run(&self) -> Result<Option<ReconcileRun>, StoreError> {
        self.backend.read(reconcile::run).await
    }

    async fn reconcile_tasks(&self, app: &AppName) -> Result<Vec<(CorpId, ReconcileTask)>, StoreError> {
        self.backend.read(|view| reconcile::tasks_of(view, app)).await
    }

    async fn page_read(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        page: Vec<Sighting>,
        next: ReconcileTask,
        read_at: Timestamp,
    ) -> Result<PageFound, StoreError> {
        let rows = page.len() as u64;
        let (of_app, of_corp) = (app.clone(), corp_id.clone());
        let found =
            self.in_parts(page, move |txn, part| reconcile::see_all(txn, (&of_app, &of_corp), part, read_at));
        let found: PageFound = found.await?.into_iter().sum();
        let (app, corp_id, counts) = (app.clone(), corp_id.clone(), (rows, found.new));
        self.backend.run(move |txn| reconcile::page_applied(txn, (&app, &corp_id), counts, next)).await?;
        Ok(found)
    }

    async fn missing_followers(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        begun_at: Timestamp,
    ) -> Result<(u64, Vec<(ExternalUserid, UserId)>), StoreError> {
        let (mut present, mut missing) = (0, Vec::new());
        self.each_customer(app, corp_id, |key, contact| {
            present += contact.followers_now().len() as u64;
            let ids = contact.missing_since(begun_at);
            missing.extend(ids.map(|user_id| (key.external_userid.clone(), user_id.clone())));
        })
        .await?;
        Ok((present, missing))
    }

    async fn remove_followers(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        missing: Vec<(ExternalUserid, UserId)>,
        begun_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        let remove = move |txn: &mut Txn<'_>, part| {
            reconcile::remove_followers(txn, (&app, &corp_id), part, begun_at, now)
        };
        self.in_parts(missing, remove).await.map(drop)
    }

    async fn end_task(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        is_complete: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.backend.run(move |txn| reconcile::end_task(txn, (&app, &corp_id), is_complete, now)).await
    }

    async fn end_tasks_of_others(&self, apps: &[AppName], now: Timestamp) -> Result<(), StoreError> {
        let all = self.backend.read(reconcile::corps_with_tasks).await?;
        for (app, corp_id) in all.into_iter().filter(|(app, _)| !apps.contains(app)) {
            self.end_task(&app, &corp_id, false, now).await?;
        }
        Ok(())
    }

    async fn look_up_again(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        all: bool,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut waiting = Vec::new();
        self.each_customer(app, corp_id, |key, contact| {
            if !contact.is_identified() {
                waiting.push(key);
            }
        })
        .await?;
        let moved = self.in_parts(waiting, move |txn, part| reconcile::look_up_again(txn, part, all, now));
        Ok(moved.await?.into_iter().sum())
    }

    async fn visibility_changes(&self) -> Result<BTreeMap<(AppName, CorpId), EventId>, StoreError> {
        self.backend.read(dealers::visibility_changes).await
    }

    async fn visibility_seen(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        report: EventId,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.backend.run(move |txn| dealers::visibility_seen(txn, &app, &corp_id, report)).await
    }

    async fn record_activity(
        &self,
        mut new: Vec<(AppName, CorpId, NewActivity)>,
        moment: Option<Moment>,
    ) -> Result<Vec<CorpId>, StoreError> {
        let last = new.split_off(new.len().saturating_sub(ROWS_PER_TRANSACTION));
        let mut all = self.in_parts(new, dealers::add_activity).await?.concat();
        let record = move |txn: &mut Txn<'_>| {
            let back = dealers::add_activity(txn, last)?;
            if let Some(moment) = moment {
                clock::put(txn, &moment)?;
            }
            Ok(back)
        };
        all.extend(self.backend.run(record).await?);
        Ok(all)
    }

    async fn set_silent(&self, app: &AppName, corp_id: &CorpId, since: Timestamp) -> Result<(), StoreError> {
        self.change_activity(app, corp_id, move |activity| activity.silent_since = Some(since)).await
    }

    async fn set_trouble(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        trouble: DealerTrouble,
    ) -> Result<(), StoreError> {
        self.change_activity(app, corp_id, move |activity| activity.trouble = Some(trouble)).await
    }

    async fn dealer_rows(&self, app: &AppName) -> Result<Vec<DealerRow>, StoreError> {
        self.backend.read(|view| dealers::rows(view, app)).await
    }

    async fn alarms(&self) -> Result<Vec<(AppName, AppAlarm)>, StoreError> {
        self.backend.read(dealers::alarms).await
    }
}
