//! The transaction that records what was counted and noted, and reading it.

use serde::{Deserialize, Serialize};

use crate::domain::history::{HOURS_KEPT, SinkFailure, Tallies, UrlMarks, hour_of, remember};
use crate::domain::ids::{AppName, SinkName};
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, readable};
use crate::store::rows::txn::{Meta, Txn};
use crate::store::rows::view::{Read, View};
use crate::store::{Made, Noted, StoreError};

/// The hours that one transaction deletes at most.
const DELETED_AT_ONCE: usize = 48;

/// What the store had made when that was last recorded.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Recorded(Made);

impl Record for Recorded {}

impl Record for Tallies {}

impl Record for UrlMarks {}

/// The last failures of a sink.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Failures(Vec<SinkFailure>);

impl Record for Failures {}

fn recorded() -> Vec<u8> {
    keys::only("history")
}

fn observations() -> Vec<u8> {
    keys::only("observed")
}

/// How WeCom was seen to behave.
pub(crate) fn observed(view: &View<'_>) -> Result<Tallies, StoreError> {
    Ok(readable(view.record(&observations()))?.unwrap_or_default())
}

/// What was made since it was last recorded.
fn unrecorded(read: &impl Read, made: &Made) -> Result<Tallies, StoreError> {
    let Recorded(before) = readable(read.record(&recorded()))?.unwrap_or_default();
    Ok(made.tallies().since(&before.tallies()))
}

/// Records what was noted. A damaged record begins anew.
pub(crate) fn record(txn: &mut Txn<'_>, noted: &Noted, now: Timestamp) -> Result<(), StoreError> {
    let Noted { counts, observed, urls, failures } = noted;
    let made = txn.meta.counts.made;
    let mut counts = counts.clone();
    counts.add_all(&unrecorded(txn, &made)?);
    if !counts.is_empty() {
        let key = keys::hour(hour_of(now));
        let mut hour = readable(txn.get::<Tallies>(&key))?.unwrap_or_default();
        hour.add_all(&counts);
        txn.put(key, &hour)?;
        txn.put(recorded(), &Recorded(made))?;
    }
    if !observed.is_empty() {
        let mut all = readable(txn.get::<Tallies>(&observations()))?.unwrap_or_default();
        all.add_all(observed);
        txn.put(observations(), &all)?;
    }
    for (name, marks) in urls {
        let key = keys::url_marks(name);
        let mut known = readable(txn.get::<UrlMarks>(&key))?.unwrap_or_default();
        known.merge(marks.clone());
        txn.put(key, &known)?;
    }
    for (sink, new) in failures {
        let key = keys::sink_failures(sink);
        let Failures(mut known) = readable(txn.get(&key))?.unwrap_or_default();
        remember(&mut known, new.iter().cloned());
        txn.put(key, &Failures(known))?;
    }
    let kept_from = keys::hour(hour_of(now).plus_ms(-HOURS_KEPT * HOUR_MS));
    let old = txn.keys(b"H", DELETED_AT_ONCE)?.into_iter().filter(|key| *key < kept_from);
    for key in old.collect::<Vec<_>>() {
        txn.delete(key);
    }
    Ok(())
}

/// The hours from `from` on, with what is not recorded yet of what was made.
pub(crate) fn hours(
    view: &View<'_>,
    from: Timestamp,
    now: Timestamp,
) -> Result<Vec<(Timestamp, Tallies)>, StoreError> {
    let read = |key: &[u8], value: &[u8]| {
        let hour = keys::Parts::of(key).instant().and_then(|at| Ok((at, decode::<Tallies>(key, value)?)));
        view.undamaged(key, hour)
    };
    // One more than there can be, should the clock have been set.
    let limit = usize::try_from(HOURS_KEPT).unwrap_or(usize::MAX) + DELETED_AT_ONCE;
    let mut hours = view.rows(&keys::hour(hour_of(from)), &keys::after(b"H"), limit, read)?;
    let meta: Option<Meta> = readable(view.record(&keys::meta()))?;
    let new = unrecorded(view, &meta.map(|meta| meta.counts.made).unwrap_or_default())?;
    if !new.is_empty() {
        let hour = hour_of(now);
        match hours.binary_search_by_key(&hour, |(at, _)| *at) {
            Ok(place) => hours[place].1.add_all(&new),
            Err(place) => hours.insert(place, (hour, new)),
        }
    }
    Ok(hours)
}

/// What is remembered of each callback URL.
pub(crate) fn url_marks(view: &View<'_>) -> Result<Vec<(AppName, UrlMarks)>, StoreError> {
    let read = |key: &[u8], value: &[u8]| {
        let marks = keys::Parts::of(key).app().and_then(|name| Ok((name, decode::<UrlMarks>(key, value)?)));
        view.undamaged(key, marks)
    };
    view.rows(b"U", &keys::after(b"U"), usize::MAX >> 1, read)
}

/// The last failures of a sink.
pub(crate) fn sink_failures(view: &View<'_>, sink: &SinkName) -> Result<Vec<SinkFailure>, StoreError> {
    let Failures(failures) = readable(view.record(&keys::sink_failures(sink)))?.unwrap_or_default();
    Ok(failures)
}
