//! [`Reconciling`] as the embedded store implements it: runs and tasks, and the activity of dealers.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::contacts::{self, FoundBy};
use super::{chats, dealers, tasks};
use crate::domain::contact::Contact;
use crate::domain::dealer::Dealer;
use crate::domain::dealer_activity::{DealerActivity, DealerCounts, DealerTrouble, NewActivity};
use crate::domain::event::AppAlarm;
use crate::domain::ids::{AppName, ContactKey, CorpId, ExternalUserid, UserId};
use crate::domain::link::Source;
use crate::domain::lookup::Haste;
use crate::domain::reconcile::{ReconcileRun, ReconcileTask};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::{Moment, Timestamp};
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::records::{Record, decode, readable};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::embedded::small_commits::CUSTOMERS_PER_TRANSACTION;
use crate::store::embedded::writer::Patience;
use crate::store::{DealerRow, EventId, PageFound, Reconciling, StoreError};

/// Rows of an index that are read before other work has its turn.
const ROWS_AT_ONCE: usize = 1_000;

impl EmbeddedStore {
    /// Calls `look` for every customer of a dealer, and yields to other tasks in between.
    async fn each_customer(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        mut look: impl FnMut(ContactKey, Contact) + Send,
    ) -> Result<(), StoreError> {
        let prefix = keys::of_corp(b'o', app, corp_id);
        let (mut from, to) = (prefix.clone(), keys::after(&prefix));
        loop {
            let page = self.rows(&from, &to, ROWS_AT_ONCE, |key, _| Ok(Some(key.to_vec())))?;
            let Some(last) = page.last() else { return Ok(()) };
            from = [last.as_slice(), &[0]].concat();
            for row in &page {
                let external_userid = keys::Parts(&row[prefix.len()..]).external_userid()?;
                let key = ContactKey { app: app.clone(), corp_id: corp_id.clone(), external_userid };
                let record = keys::contact(&key);
                if let Some(contact) = self.undamaged(&record, self.read::<Contact>(&record))?.flatten() {
                    look(key, contact);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn record_of_corp<R: Record + Default>(
        &self,
        kind: u8,
        app: &AppName,
        corp_id: &CorpId,
    ) -> Result<R, StoreError> {
        let key = keys::of_corp(kind, app, corp_id);
        Ok(self.undamaged(&key, self.read::<R>(&key))?.flatten().unwrap_or_default())
    }
}

#[async_trait]
impl Reconciling for EmbeddedStore {
    async fn begin_reconcile(
        &self,
        corps: Vec<(AppName, CorpId)>,
        now: Timestamp,
    ) -> Result<ReconcileRun, StoreError> {
        const CORPS_PER_TRANSACTION: usize = 80;
        // Without any dealer the run begins too, and ends at once.
        let parts = if corps.is_empty() {
            vec![Vec::new()]
        } else {
            corps.chunks(CORPS_PER_TRANSACTION).map(<[_]>::to_vec).collect()
        };
        for part in parts {
            self.writer.run(move |txn| tasks::begin(txn, part, now)).await?;
        }
        self.writer.run(move |txn| tasks::end_if_done(txn, now)).await?;
        Ok(self.reconcile_run().await?.unwrap_or_else(|| ReconcileRun::new(now)))
    }

    async fn reconcile_run(&self) -> Result<Option<ReconcileRun>, StoreError> {
        let key = tasks::run_key();
        Ok(self.undamaged(&key, self.read(&key))?.flatten())
    }

    async fn reconcile_tasks(&self, app: &AppName) -> Result<Vec<(CorpId, ReconcileTask)>, StoreError> {
        let prefix = keys::of_app(b'T', app);
        self.rows(&prefix, &keys::after(&prefix), usize::MAX, |key, value| {
            let (_, corp_id) = keys::Parts::of(key).corp()?;
            // A task whose record is damaged begins again.
            let task = readable(decode::<ReconcileTask>(key, value).map(Some))?.unwrap_or_default();
            Ok(Some((corp_id, task)))
        })
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
        let found = self.in_parts(page, move |txn, part| {
            let task = tasks::number(txn, &of_app, &of_corp)?;
            let list = FoundBy { read_at, source: Source::Reconcile, haste: Haste::Background, task };
            let mut found = PageFound::default();
            for sighting in part {
                let external_userid = sighting.external_userid.clone();
                let key = ContactKey { app: of_app.clone(), corp_id: of_corp.clone(), external_userid };
                if let SightingPlace::Chat(chat_id) = &sighting.place {
                    chats::note_found(txn, &key, chat_id, read_at)?;
                }
                found += contacts::see(txn, &key, &sighting, list, read_at)?;
            }
            Ok(found)
        });
        let found: PageFound = found.await?.into_iter().sum();
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.writer
            .run(move |txn| {
                tasks::change_task(txn, &app, &corp_id, |task| {
                    let (number, rows_seen) = (task.number, task.rows_seen + rows);
                    *task = ReconcileTask { number, rows_seen, unresolved: task.unresolved, ..next };
                })?;
                tasks::change_run(txn, |run| {
                    run.customers_seen += rows;
                    run.customers_new += found.new;
                })
            })
            .await?;
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
        self.in_parts(missing, move |txn, part| {
            for (external_userid, user_id) in part {
                let key = ContactKey { app: app.clone(), corp_id: corp_id.clone(), external_userid };
                contacts::change_followers(txn, &key, now, |contact| contact.miss(&user_id, begun_at))?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn end_task(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        is_complete: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.writer
            .run(move |txn| {
                let key = keys::of_corp(b'T', &app, &corp_id);
                if !txn.has(&key)? {
                    return Ok(());
                }
                txn.delete(key);
                if is_complete {
                    dealers::change_activity(txn, &app, &corp_id, |activity| {
                        activity.reconciled_at = Some(now);
                    })?;
                }
                tasks::change_run(txn, |run| run.dealers_done += 1)?;
                tasks::end_if_done(txn, now)
            })
            .await
    }

    async fn end_tasks_of_others(&self, apps: &[AppName], now: Timestamp) -> Result<(), StoreError> {
        let all =
            self.rows(b"T", &keys::after(b"T"), usize::MAX, |key, _| keys::Parts::of(key).corp().map(Some))?;
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
        let moved = self.in_parts(waiting, move |txn, part| {
            let mut moved = 0;
            for key in part {
                moved += u64::from(contacts::look_up_again(txn, &key, all, now)?);
            }
            Ok(moved)
        });
        Ok(moved.await?.into_iter().sum())
    }

    async fn visibility_changes(&self) -> Result<BTreeMap<(AppName, CorpId), EventId>, StoreError> {
        let reports = self.rows(b"v", &keys::after(b"v"), ROWS_AT_ONCE, |key, value| {
            Ok(Some((keys::Parts::of(key).corp()?, dealers::visibility_report(key, value)?)))
        })?;
        Ok(reports.into_iter().collect())
    }

    async fn visibility_seen(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        report: EventId,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.writer.run(move |txn| dealers::visibility_seen(txn, &app, &corp_id, report)).await
    }

    async fn record_activity(
        &self,
        new: Vec<(AppName, CorpId, NewActivity)>,
        moment: Option<Moment>,
    ) -> Result<Vec<CorpId>, StoreError> {
        let parts = new.chunks(CUSTOMERS_PER_TRANSACTION).map(|part| (part.to_vec(), None));
        let mut parts: Vec<_> = parts.collect();
        match parts.last_mut() {
            Some((_, with)) => *with = moment,
            None => parts.push((Vec::new(), moment)),
        }
        let transactions = parts.into_iter().map(|(part, moment)| {
            move |txn: &mut Txn<'_>| {
                let mut back = Vec::new();
                for (app, corp_id, new) in part {
                    if dealers::change_activity(txn, &app, &corp_id, |activity| activity.add(new))? {
                        back.push(corp_id);
                    }
                }
                if let Some(moment) = moment {
                    txn.put(keys::only("moment"), &moment)?;
                }
                Ok(back)
            }
        });
        let back: Result<Vec<_>, _> =
            self.run_all(transactions, Patience::InTime).await.into_iter().collect();
        Ok(back?.concat())
    }

    async fn set_silent(&self, app: &AppName, corp_id: &CorpId, since: Timestamp) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        let change = |activity: &mut DealerActivity, since| activity.silent_since = Some(since);
        self.writer
            .run(move |txn| dealers::change_activity(txn, &app, &corp_id, |activity| change(activity, since)))
            .await
    }

    async fn set_trouble(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        trouble: DealerTrouble,
    ) -> Result<(), StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.writer
            .run(move |txn| {
                dealers::change_activity(txn, &app, &corp_id, |activity| activity.trouble = Some(trouble))
            })
            .await
    }

    async fn dealer_rows(&self, app: &AppName) -> Result<Vec<DealerRow>, StoreError> {
        let prefix = keys::dealers(app);
        self.rows(&prefix, &keys::after(&prefix), usize::MAX, |key, value| {
            let Some(dealer) = self.undamaged(key, decode::<Dealer>(key, value))? else { return Ok(None) };
            let activity = self.record_of_corp::<DealerActivity>(b'a', app, &dealer.corp_id)?;
            let counts = self.record_of_corp::<DealerCounts>(b'b', app, &dealer.corp_id)?;
            Ok(Some(DealerRow { dealer, activity, counts }))
        })
    }

    async fn alarms(&self) -> Result<Vec<(AppName, AppAlarm)>, StoreError> {
        let all = self.rows(b"A", &keys::after(b"A"), ROWS_AT_ONCE, |key, value| {
            let (app, _) = keys::Parts::of(key).corp()?;
            let alarms = self.undamaged(key, decode::<dealers::Alarms>(key, value))?;
            Ok(alarms.map(|dealers::Alarms(alarms)| (app, alarms)))
        })?;
        let mut alarms: Vec<_> = all
            .into_iter()
            .flat_map(|(app, alarms)| alarms.into_iter().map(move |alarm| (app.clone(), alarm)))
            .filter(|(_, alarm)| alarm.kind.ends().is_empty())
            .collect();
        alarms.sort_by_key(|(_, alarm)| alarm.created_at);
        Ok(alarms)
    }
}
