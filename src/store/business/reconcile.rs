//! The comparison of a dealer's customers with WeCom's lists: its transactions, and reading the customers.
//!
//! Deliberately absent: the records of the run and of each dealer's task (see `tasks`).

use super::contacts::{self, FoundBy};
use super::{chats, dealers, tasks};
use crate::domain::contact::Contact;
use crate::domain::ids::{AppName, ContactKey, CorpId, ExternalUserid, UserId};
use crate::domain::link::Source;
use crate::domain::lookup::Haste;
use crate::domain::reconcile::{ReconcileRun, ReconcileTask};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{decode, readable};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{PageFound, StoreError};

/// The run that is under way, or was last.
pub(crate) fn run(view: &View<'_>) -> Result<Option<ReconcileRun>, StoreError> {
    view.read_undamaged(&tasks::run_key())
}

/// The dealers of an app that are still to be compared.
pub(crate) fn tasks_of(view: &View<'_>, app: &AppName) -> Result<Vec<(CorpId, ReconcileTask)>, StoreError> {
    view.undamaged_under(&keys::of_app(b'T', app), usize::MAX, |key, value| {
        let (_, corp_id) = keys::Parts::of(key).corp()?;
        // A task whose record is damaged begins again.
        let task = readable(decode::<ReconcileTask>(key, value).map(Some))?.unwrap_or_default();
        Ok((corp_id, task))
    })
}

/// The dealers of all apps that are still to be compared.
pub(crate) fn corps_with_tasks(view: &View<'_>) -> Result<Vec<(AppName, CorpId)>, StoreError> {
    view.undamaged_under(b"T", usize::MAX, |key, _| keys::Parts::of(key).corp())
}

/// The customer in a row of the index of contacts by corp; `None` if the row or the record is damaged.
pub(crate) fn customer(view: &View<'_>, row: &[u8]) -> Result<Option<(ContactKey, Contact)>, StoreError> {
    let mut parts = keys::Parts::of(row);
    let parsed = parts.corp().and_then(|(app, corp_id)| {
        Ok(ContactKey { app, corp_id, external_userid: parts.external_userid()? })
    });
    let Some(key) = view.undamaged(row, parsed)? else { return Ok(None) };
    Ok(view.read_undamaged(&keys::contact(&key))?.map(|contact| (key, contact)))
}

/// Applies rows of a list of a dealer's customers that was requested at `read_at`.
pub(crate) fn see_all(
    txn: &mut Txn<'_>,
    (app, corp_id): (&AppName, &CorpId),
    rows: Vec<Sighting>,
    read_at: Timestamp,
) -> Result<PageFound, StoreError> {
    let task = tasks::number(txn, app, corp_id)?;
    let list = FoundBy { read_at, source: Source::Reconcile, haste: Haste::Background, task };
    let mut found = PageFound::default();
    for sighting in rows {
        let external_userid = sighting.external_userid.clone();
        let key = ContactKey { app: app.clone(), corp_id: corp_id.clone(), external_userid };
        if let SightingPlace::Chat(chat_id) = &sighting.place {
            chats::note_found(txn, &key, chat_id, read_at)?;
        }
        found += contacts::see(txn, &key, &sighting, list)?;
    }
    Ok(found)
}

/// Records that a page of `rows` rows was applied, of which `new` were customers not known before, and where
/// the task goes on.
pub(crate) fn page_applied(
    txn: &mut Txn<'_>,
    (app, corp_id): (&AppName, &CorpId),
    (rows, new): (u64, u64),
    next: ReconcileTask,
) -> Result<(), StoreError> {
    tasks::change_task(txn, app, corp_id, |task| {
        let (number, rows_seen) = (task.number, task.rows_seen + rows);
        *task = ReconcileTask { number, rows_seen, unresolved: task.unresolved, ..next };
    })?;
    tasks::change_run(txn, |run| {
        run.customers_seen += rows;
        run.customers_new += new;
    })
}

/// Removes followers that a complete list, begun at `begun_at`, did not show. A customer whose record is
/// damaged is left alone.
pub(crate) fn remove_followers(
    txn: &mut Txn<'_>,
    (app, corp_id): (&AppName, &CorpId),
    missing: Vec<(ExternalUserid, UserId)>,
    begun_at: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    for (external_userid, user_id) in missing {
        let key = ContactKey { app: app.clone(), corp_id: corp_id.clone(), external_userid };
        let changed = contacts::change_followers(txn, &key, now, |contact| contact.miss(&user_id, begun_at));
        unless_damaged(changed)?;
    }
    Ok(())
}

/// Ends the task of a dealer, and the run if it was the last one.
pub(crate) fn end_task(
    txn: &mut Txn<'_>,
    (app, corp_id): (&AppName, &CorpId),
    is_complete: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = keys::of_corp(b'T', app, corp_id);
    if !txn.has(&key)? {
        return Ok(());
    }
    txn.delete(key);
    if is_complete {
        dealers::change_activity(txn, app, corp_id, |activity| activity.reconciled_at = Some(now))?;
    }
    tasks::change_run(txn, |run| run.dealers_done += 1)?;
    tasks::end_if_done(txn, now)
}

/// Makes the lookups of these customers due: see [`contacts::look_up_again`]. Returns how many. A customer
/// whose record is damaged is left alone.
pub(crate) fn look_up_again(
    txn: &mut Txn<'_>,
    customers: Vec<ContactKey>,
    all: bool,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let mut moved = 0;
    for key in customers {
        moved += u64::from(unless_damaged(contacts::look_up_again(txn, &key, all, now))?);
    }
    Ok(moved)
}

/// The result of a change of one customer of many; of a customer whose record is damaged, that of no change.
fn unless_damaged<T: Default>(changed: Result<T, StoreError>) -> Result<T, StoreError> {
    match changed {
        Err(StoreError::Damaged(reason)) => {
            tracing::error!(reason, "a customer whose record is damaged is left alone");
            Ok(T::default())
        }
        changed => changed,
    }
}
