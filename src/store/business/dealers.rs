//! Dealers: their records as WeCom lists them, their activity, counts and alarms, and reports about the
//! visible range.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::dealer::{Dealer, TokenOwner};
use crate::domain::dealer_activity::{DealerActivity, DealerCounts, NewActivity};
use crate::domain::event::AppAlarm;
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, readable};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{DealerRow, EventId, StoreError};

/// Reports, and corps with alarms, that are read at most.
const CORPS_MAX: usize = 1_000;

impl Record for Dealer {
    const VERSION: u8 = 2;

    fn of_version(version: u8, body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| postcard::from_bytes::<DealerVersion1>(body).map(Self::from))
    }
}

impl Record for DealerActivity {}

impl Record for DealerCounts {}

/// The alarms about the app at one corp, oldest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Alarms(Vec<AppAlarm>);

impl Record for Alarms {}

/// The number of the last report that the app may see other customers of a dealer than before.
#[derive(Serialize, Deserialize)]
struct VisibilityReport(EventId);

impl Record for VisibilityReport {}

/// A dealer's record as versions before 0.3.0 stored it.
#[derive(Deserialize)]
struct DealerVersion1 {
    corp_id: CorpId,
    agent_id: i64,
    name: String,
    listed_at: Timestamp,
    token: Option<TokenOwner>,
}

impl From<DealerVersion1> for Dealer {
    fn from(old: DealerVersion1) -> Self {
        let DealerVersion1 { corp_id, agent_id, name, listed_at, token } = old;
        Self { token, ..Self::listed(corp_id, agent_id, name, listed_at) }
    }
}

/// Inserts or updates a dealer as WeCom lists it now. Returns whether it was not listed before, or had left.
/// A damaged record counts as none, and is replaced.
pub(crate) fn put(txn: &mut Txn<'_>, app: &AppName, dealer: Dealer) -> Result<bool, StoreError> {
    let key = keys::dealer(app, &dealer.corp_id);
    let known = readable(txn.get::<Dealer>(&key))?;
    let is_new = known.as_ref().is_none_or(|known| known.left_at.is_some());
    let token = known.as_ref().and_then(|known| known.token).or(dealer.token);
    let qualification = known.and_then(|known| known.qualification).or(dealer.qualification);
    txn.put(key, &Dealer { token, qualification, left_at: None, ..dealer })?;
    Ok(is_new)
}

/// Changes a dealer's record, if there is one. Returns whether it changed.
pub(crate) fn change(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    change: impl FnOnce(&mut Dealer),
) -> Result<bool, StoreError> {
    let key = keys::dealer(app, corp_id);
    let Some(known) = txn.get::<Dealer>(&key)? else { return Ok(false) };
    let mut dealer = known.clone();
    change(&mut dealer);
    if dealer == known {
        return Ok(false);
    }
    txn.put(key, &dealer)?;
    Ok(true)
}

/// Changes the activity of a dealer.
pub(crate) fn change_activity<T>(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    change: impl FnOnce(&mut DealerActivity) -> T,
) -> Result<T, StoreError> {
    let key = keys::of_corp(b'a', app, corp_id);
    let mut activity = readable(txn.get::<DealerActivity>(&key))?.unwrap_or_default();
    let result = change(&mut activity);
    txn.put(key, &activity)?;
    Ok(result)
}

/// Adds to the activity of dealers. Returns those that were silent and are not any more.
pub(crate) fn add_activity(
    txn: &mut Txn<'_>,
    new: Vec<(AppName, CorpId, NewActivity)>,
) -> Result<Vec<CorpId>, StoreError> {
    let mut back = Vec::new();
    for (app, corp_id, new) in new {
        if change_activity(txn, &app, &corp_id, |activity| activity.add(new))? {
            back.push(corp_id);
        }
    }
    Ok(back)
}

/// Changes the numbers of customers and links of a contact's dealer.
pub(crate) fn count(
    txn: &mut Txn<'_>,
    contact: &ContactKey,
    change: impl FnOnce(&mut DealerCounts),
) -> Result<(), StoreError> {
    let key = keys::of_corp(b'b', &contact.app, &contact.corp_id);
    let mut counts = readable(txn.get::<DealerCounts>(&key))?.unwrap_or_default();
    change(&mut counts);
    txn.put(key, &counts)
}

/// Records a report that the app may see other customers of a dealer than before.
pub(crate) fn report_visibility(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    id: EventId,
) -> Result<(), StoreError> {
    txn.put(keys::of_corp(b'v', app, corp_id), &VisibilityReport(id))
}

/// The number of a report; 0, which no message has, if it cannot be read: older versions stored none.
fn report_number(record: Result<Option<VisibilityReport>, StoreError>) -> Result<EventId, StoreError> {
    Ok(readable(record)?.map_or(EventId(0), |VisibilityReport(id)| id))
}

/// Deletes the last report about a dealer if that is `report`.
pub(crate) fn visibility_seen(
    txn: &mut Txn<'_>,
    app: &AppName,
    corp_id: &CorpId,
    report: EventId,
) -> Result<(), StoreError> {
    let key = keys::of_corp(b'v', app, corp_id);
    if report_number(txn.get(&key))? == report {
        txn.delete(key);
    }
    Ok(())
}

/// Adds an alarm about an app, or ends those that it ends. Events arrive in any order: the newest of each
/// pair decides.
pub(crate) fn alarm(txn: &mut Txn<'_>, app: &AppName, alarm: AppAlarm) -> Result<(), StoreError> {
    let key = keys::of_corp(b'A', app, &alarm.corp_id);
    let Alarms(mut alarms) = readable(txn.get::<Alarms>(&key))?.unwrap_or_default();
    let is_older = |known: &AppAlarm| {
        let same_matter = known.kind == alarm.kind
            || known.kind.ends().contains(&alarm.kind)
            || alarm.kind.ends().contains(&known.kind);
        same_matter && known.created_at <= alarm.created_at
    };
    let is_outdated = alarms.iter().any(|known| {
        (known.kind == alarm.kind || known.kind.ends().contains(&alarm.kind))
            && alarm.created_at < known.created_at
    });
    if is_outdated {
        return Ok(());
    }
    alarms.retain(|known| !is_older(known));
    alarms.push(alarm);
    alarms.sort_by_key(|alarm| alarm.created_at);
    txn.put(key, &Alarms(alarms))
}

/// All dealers of an app.
pub(crate) fn of_app(view: &View<'_>, app: &AppName) -> Result<Vec<Dealer>, StoreError> {
    let records = view.records_under(&keys::of_app(b'h', app))?;
    Ok(records.into_iter().map(|(_, dealer)| dealer).collect())
}

/// All dealers of an app, with their activity and counts.
pub(crate) fn rows(view: &View<'_>, app: &AppName) -> Result<Vec<DealerRow>, StoreError> {
    let dealers = of_app(view, app)?.into_iter();
    let row = |dealer: Dealer| {
        let activity = record_of_corp(view, b'a', app, &dealer.corp_id)?;
        let counts = record_of_corp(view, b'b', app, &dealer.corp_id)?;
        Ok(DealerRow { dealer, activity, counts })
    };
    dealers.map(row).collect()
}

/// The record of this kind about a corp; an empty one if there is none, or it is damaged.
fn record_of_corp<R: Record + Default>(
    view: &View<'_>,
    kind: u8,
    app: &AppName,
    corp_id: &CorpId,
) -> Result<R, StoreError> {
    Ok(view.read_undamaged(&keys::of_corp(kind, app, corp_id))?.unwrap_or_default())
}

/// The alarms that are still on, of all apps, oldest first.
pub(crate) fn alarms(view: &View<'_>) -> Result<Vec<(AppName, AppAlarm)>, StoreError> {
    let all = view.undamaged_under(b"A", CORPS_MAX, |key, value| {
        let ((app, _), Alarms(alarms)) = (keys::Parts::of(key).corp()?, decode(key, value)?);
        Ok((app, alarms))
    })?;
    let mut alarms: Vec<_> = all
        .into_iter()
        .flat_map(|(app, alarms)| alarms.into_iter().map(move |alarm| (app.clone(), alarm)))
        .filter(|(_, alarm)| alarm.kind.ends().is_empty())
        .collect();
    alarms.sort_by_key(|(_, alarm)| alarm.created_at);
    Ok(alarms)
}

/// The reports that the app may see other customers of a dealer than before, until they are handled.
pub(crate) fn visibility_changes(
    view: &View<'_>,
) -> Result<BTreeMap<(AppName, CorpId), EventId>, StoreError> {
    let reports = view.undamaged_under(b"v", CORPS_MAX, |key, value| {
        Ok((keys::Parts::of(key).corp()?, report_number(decode(key, value).map(Some))?))
    })?;
    Ok(reports.into_iter().collect())
}
