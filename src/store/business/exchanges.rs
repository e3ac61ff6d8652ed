//! The exchanges of auth codes: transactions on them, and reading them. The pure rules are in
//! [`crate::domain::suite`].

use crate::domain::ids::AppName;
use crate::domain::suite::{CodeId, Exchange, ExchangeEnd, ExchangeFailure, ExchangeNext};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, readable};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{EXCHANGES_MAX, StoreError};

impl Record for Exchange {}

/// Deletes the exchange of a suite that ended first if there are [`EXCHANGES_MAX`], so that ended ones never
/// cost a code that can still be exchanged. A damaged one goes before all.
pub(crate) fn make_room(txn: &mut Txn<'_>, suite: &AppName) -> Result<(), StoreError> {
    let exchanges = txn.keys(&keys::exchanges(suite), EXCHANGES_MAX)?;
    if exchanges.len() < EXCHANGES_MAX {
        return Ok(());
    }
    let mut first: Option<(Option<Timestamp>, Vec<u8>)> = None;
    for key in exchanges {
        let ended_at = match readable(txn.get::<Exchange>(&key))? {
            Some(Exchange { end: None, .. }) => continue,
            Some(Exchange { end: Some(end), .. }) => Some(end.at()),
            None => None,
        };
        if first.as_ref().is_none_or(|(at, _)| ended_at < *at) {
            first = Some((ended_at, key));
        }
    }
    let Some((_, key)) = first else {
        return Err(StoreError::AuthCodesFull { limit: EXCHANGES_MAX as u64 });
    };
    txn.delete(key);
    Ok(())
}

/// Begins an attempt, unless the exchange has ended. Returns the exchange and what to do.
pub(crate) fn begin(
    txn: &mut Txn<'_>,
    key: Vec<u8>,
    can_ask: bool,
    now: Timestamp,
) -> Result<Option<(Exchange, ExchangeNext)>, StoreError> {
    let exchange = txn.get::<Exchange>(&key)?;
    let Some(mut exchange) = exchange.filter(|exchange| exchange.end.is_none()) else { return Ok(None) };
    let next = exchange.begin(can_ask, now);
    if !matches!(next, ExchangeNext::Wait(_)) {
        txn.put(key, &exchange)?;
    }
    Ok(Some((exchange, next)))
}

/// Records a failed attempt. Returns what to do next; `None` if the exchange is not known.
pub(crate) fn fail(
    txn: &mut Txn<'_>,
    key: Vec<u8>,
    failure: ExchangeFailure,
    jitter: f64,
    now: Timestamp,
) -> Result<Option<ExchangeNext>, StoreError> {
    txn.change(key, |exchange: &mut Exchange| exchange.failed(failure, jitter, now))
}

/// Ends an exchange, unless it has ended.
pub(crate) fn end(txn: &mut Txn<'_>, key: Vec<u8>, end: ExchangeEnd) -> Result<(), StoreError> {
    txn.change(key, |exchange: &mut Exchange| exchange.end = exchange.end.or(Some(end))).map(drop)
}

/// Moves the waits of an exchange when the wall clock was set.
pub(crate) fn shift(txn: &mut Txn<'_>, key: &[u8], by_ms: i64) -> Result<(), StoreError> {
    txn.change(key.to_vec(), |exchange: &mut Exchange| exchange.shift(by_ms)).map(drop)
}

/// The exchanges of a suite.
pub(crate) fn of_suite(view: &View<'_>, suite: &AppName) -> Result<Vec<(CodeId, Exchange)>, StoreError> {
    let exchange = |key: &[u8], value: &[u8]| Ok((keys::code_id(key)?, decode(key, value)?));
    view.undamaged_under(&keys::exchanges(suite), usize::MAX, exchange)
}

/// The keys of the exchanges of a suite that ended before an instant.
pub(crate) fn ended_before(
    view: &View<'_>,
    suite: &AppName,
    before: Timestamp,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let has_ended = |exchange: &Exchange| exchange.end.is_some_and(|end| end.at() < before);
    let exchanges = view.records_under::<Exchange>(&keys::exchanges(suite))?.into_iter();
    Ok(exchanges.filter(|(_, exchange)| has_ended(exchange)).map(|(key, _)| key).collect())
}

/// The keys of the exchanges whose waits are to be moved ([`Exchange::is_to_be_moved`]).
pub(crate) fn to_shift(view: &View<'_>, by_ms: i64, after: Timestamp) -> Result<Vec<Vec<u8>>, StoreError> {
    let exchanges = view.records_under::<Exchange>(b"E")?.into_iter();
    let to_move = exchanges.filter(|(_, exchange)| exchange.is_to_be_moved(by_ms, after));
    Ok(to_move.map(|(key, _)| key).collect())
}
