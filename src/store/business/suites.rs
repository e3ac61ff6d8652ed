//! Suites of agency-developed apps: their tickets, the corps that their apps serve, and the transaction on an
//! event of a suite.
//!
//! Deliberately absent: the records of exchanges and authorisations, which are in files of their own.

use std::collections::BTreeMap;

use super::{authorizations, exchanges};
use crate::domain::authorization::Authorization;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::sealed::Sealed;
use crate::domain::suite::{Exchange, SuiteChange, SuiteEvent, Ticket};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, readable};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{Resealed, SealedPlace, StoreError, SuiteRecords};

impl Record for Ticket {}

impl Record for CorpId {}

/// Applies an event of a suite. Returns whether it had an effect: not so for an older ticket, a code that is
/// known or a replay, a cancellation older than the grant, or news of a corp that has not authorised. Such a
/// corp may be in an exchange; its app is read after that.
pub(crate) fn apply(
    txn: &mut Txn<'_>,
    suite: &AppName,
    event: SuiteEvent,
    received_at: Timestamp,
) -> Result<bool, StoreError> {
    let SuiteEvent { sent_at, change } = event;
    match change {
        SuiteChange::Ticket(sealed) => {
            let key = keys::ticket(suite);
            let known = readable(txn.get::<Ticket>(&key))?;
            let newest = Ticket::newest(known.clone(), Ticket { sealed, sent_at, received_at });
            let is_newer = known.as_ref() != Some(&newest);
            txn.put(key, &newest)?;
            Ok(is_newer)
        }
        SuiteChange::Code { kind, id, code } => {
            let key = keys::exchange(suite, &id);
            let ticket = readable(txn.get::<Ticket>(&keys::ticket(suite)))?;
            if txn.has(&key)? || ticket.is_some_and(|ticket| ticket.outdates_code(sent_at)) {
                return Ok(false);
            }
            exchanges::make_room(txn, suite)?;
            txn.put(key, &Exchange::new(kind, code, sent_at, received_at))?;
            Ok(true)
        }
        SuiteChange::Changed(corp_id) => {
            let changed = |known: &mut Authorization| {
                known.changed(received_at);
                true
            };
            authorizations::change(txn, suite, &corp_id, changed)
        }
        SuiteChange::Cancelled(corp_id) => {
            authorizations::change(txn, suite, &corp_id, |known| known.cancelled(sent_at, received_at))
        }
    }
}

/// Records which corp an app serves, unless that is known. Returns the corp that it serves.
pub(crate) fn bind(txn: &mut Txn<'_>, app: &AppName, corp_id: CorpId) -> Result<CorpId, StoreError> {
    let key = keys::binding(app);
    match txn.get::<CorpId>(&key)? {
        Some(bound) => Ok(bound),
        None => txn.put(key, &corp_id).map(|()| corp_id),
    }
}

/// Replaces secrets that were encrypted again. Returns how many.
pub(crate) fn reseal_all(
    txn: &mut Txn<'_>,
    suite: &AppName,
    fresh: Vec<Resealed>,
) -> Result<u64, StoreError> {
    fresh.into_iter().try_fold(0, |count, one| Ok(count + u64::from(reseal(txn, suite, one)?)))
}

/// Returns whether the secret was replaced.
fn reseal(txn: &mut Txn<'_>, suite: &AppName, fresh: Resealed) -> Result<bool, StoreError> {
    fn replace<R: Record>(
        txn: &mut Txn<'_>,
        key: Vec<u8>,
        sealed: impl FnOnce(&mut R) -> &mut Sealed,
        (old, new): (&Sealed, Sealed),
    ) -> Result<bool, StoreError> {
        let Some(mut record) = readable(txn.get::<R>(&key))? else { return Ok(false) };
        let sealed = sealed(&mut record);
        if sealed != old {
            return Ok(false);
        }
        *sealed = new;
        txn.put(key, &record)?;
        Ok(true)
    }
    let Resealed { place, old, new } = fresh;
    let change = (&old, new);
    match place {
        SealedPlace::Ticket => {
            replace(txn, keys::ticket(suite), |ticket: &mut Ticket| &mut ticket.sealed, change)
        }
        SealedPlace::Exchange(id) => {
            let key = keys::exchange(suite, &id);
            replace(txn, key, |exchange: &mut Exchange| &mut exchange.code, change)
        }
        SealedPlace::Authorization(corp_id) => {
            let key = keys::authorization(suite, &corp_id);
            replace(txn, key, |authorization: &mut Authorization| &mut authorization.code, change)
        }
    }
}

/// Moves the times of a ticket when the wall clock was set, if they are to be moved
/// ([`Ticket::is_to_be_moved`]).
pub(crate) fn shift_ticket(
    txn: &mut Txn<'_>,
    key: &[u8],
    by_ms: i64,
    after: Timestamp,
) -> Result<(), StoreError> {
    let Some(mut ticket) = txn.get::<Ticket>(key)? else { return Ok(()) };
    if !ticket.is_to_be_moved(by_ms, after) {
        return Ok(());
    }
    ticket.received_at = ticket.received_at.plus_ms(by_ms);
    txn.put(key.to_vec(), &ticket)
}

/// The keys of the tickets of all suites.
pub(crate) fn tickets(view: &View<'_>) -> Result<Vec<Vec<u8>>, StoreError> {
    let tickets = view.records_under::<Ticket>(b"S")?.into_iter();
    Ok(tickets.map(|(key, _)| key).collect())
}

/// What is stored about a suite.
pub(crate) fn records(view: &View<'_>, suite: &AppName) -> Result<SuiteRecords, StoreError> {
    let ticket = view.read_undamaged(&keys::ticket(suite))?;
    let exchanges = exchanges::of_suite(view, suite)?;
    let authorizations = authorizations::of_suite(view, suite)?;
    Ok(SuiteRecords { ticket, exchanges, authorizations })
}

/// The corps that agency-developed apps serve.
pub(crate) fn bindings(view: &View<'_>) -> Result<BTreeMap<AppName, CorpId>, StoreError> {
    let binding = |key: &[u8], value: &[u8]| Ok((keys::Parts::of(key).app()?, decode(key, value)?));
    Ok(view.undamaged_under(b"B", usize::MAX, binding)?.into_iter().collect())
}
