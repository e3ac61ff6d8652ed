//! [`Suites`] as the embedded store implements it, and the transaction on an event of a suite.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Deserialize;

use crate::domain::authorization::{Agent, Authorization, Granted};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::sealed::Sealed;
use crate::domain::suite::{
    CodeId, Exchange, ExchangeEnd, ExchangeFailure, ExchangeNext, SuiteChange, SuiteEvent, Ticket,
};
use crate::domain::time::Timestamp;
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::records::{Record, decode, readable};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::{EXCHANGES_MAX, Resealed, SealedPlace, StoreError, SuiteRecords, Suites};

/// Records that are changed in one transaction: a group of transactions has at most 99 keys.
const ROWS_PER_TRANSACTION: usize = 32;

impl Record for Ticket {}

impl Record for Exchange {}

impl Record for Authorization {
    const VERSION: u8 = 2;

    fn of_version(version: u8, body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| postcard::from_bytes::<AuthorizationVersion1>(body).map(Self::from))
    }
}

impl Record for CorpId {}

/// An authorisation of version 1, which does not record the brand of a dealer.
#[derive(Deserialize)]
struct AuthorizationVersion1 {
    corp_id: CorpId,
    name: String,
    code: Sealed,
    granted_at: Timestamp,
    codes: u32,
    agent: Option<Agent>,
    cancelled_at: Option<Timestamp>,
    changed_at: Timestamp,
    changes: u32,
    check_due: bool,
}

impl From<AuthorizationVersion1> for Authorization {
    fn from(old: AuthorizationVersion1) -> Self {
        let mut new = Self {
            corp_id: old.corp_id,
            name: old.name,
            code: old.code,
            granted_at: old.granted_at,
            codes: old.codes,
            agent: None,
            cancelled_at: old.cancelled_at,
            changed_at: old.changed_at,
            changes: old.changes,
            check_due: old.check_due,
            dealer_of: None,
        };
        if let Some(agent) = old.agent {
            new.set_agent(agent);
        }
        new
    }
}

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
            make_room(txn, suite)?;
            txn.put(key, &Exchange::new(kind, code, sent_at, received_at))?;
            Ok(true)
        }
        SuiteChange::Changed(corp_id) => {
            let changed = |known: &mut Authorization| {
                known.changed(received_at);
                true
            };
            change_authorization(txn, suite, &corp_id, changed)
        }
        SuiteChange::Cancelled(corp_id) => {
            change_authorization(txn, suite, &corp_id, |known| known.cancelled(sent_at, received_at))
        }
    }
}

/// Deletes the exchange of a suite that ended first if there are [`EXCHANGES_MAX`], so that ended ones never
/// cost a code that can still be exchanged. A damaged one goes before all.
fn make_room(txn: &mut Txn<'_>, suite: &AppName) -> Result<(), StoreError> {
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

/// Changes an authorisation, if there is one. `change` returns whether it had an effect, and so does this.
fn change_authorization(
    txn: &mut Txn<'_>,
    suite: &AppName,
    corp_id: &CorpId,
    change: impl FnOnce(&mut Authorization) -> bool,
) -> Result<bool, StoreError> {
    let key = keys::authorization(suite, corp_id);
    let Some(mut known) = readable(txn.get::<Authorization>(&key))? else { return Ok(false) };
    let has_effect = change(&mut known);
    txn.put(key, &known)?;
    Ok(has_effect)
}

fn begin(
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

fn grant(
    txn: &mut Txn<'_>,
    suite: &AppName,
    id: &CodeId,
    granted: Granted,
    now: Timestamp,
) -> Result<Authorization, StoreError> {
    let key = keys::authorization(suite, &granted.corp_id);
    let known = readable(txn.get::<Authorization>(&key))?;
    let authorization = Authorization::granted(known, granted, now);
    txn.delete(keys::exchange(suite, id));
    txn.put(key, &authorization)?;
    Ok(authorization)
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

/// Moves the waits of an exchange when the wall clock was set.
pub(crate) fn move_exchange(txn: &mut Txn<'_>, key: Vec<u8>, by_ms: i64) -> Result<(), StoreError> {
    let Some(mut exchange) = txn.get::<Exchange>(&key)? else { return Ok(()) };
    exchange.shift(by_ms);
    txn.put(key, &exchange)
}

/// Moves the times of a ticket when the wall clock was set, if they are to be moved
/// ([`Ticket::is_to_be_moved`]).
pub(crate) fn move_ticket(
    txn: &mut Txn<'_>,
    key: Vec<u8>,
    by_ms: i64,
    after: Timestamp,
) -> Result<(), StoreError> {
    let Some(mut ticket) = txn.get::<Ticket>(&key)? else { return Ok(()) };
    if !ticket.is_to_be_moved(by_ms, after) {
        return Ok(());
    }
    ticket.received_at = ticket.received_at.plus_ms(by_ms);
    txn.put(key, &ticket)
}

impl EmbeddedStore {
    /// The keys of the tickets of all suites.
    pub(crate) fn tickets(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let tickets = self.records_under::<Ticket>(b"S")?.into_iter();
        Ok(tickets.map(|(key, _)| key).collect())
    }

    /// The undamaged records under a prefix, with their keys.
    fn records_under<R: Record>(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        self.rows(prefix, &keys::after(prefix), usize::MAX, |key, value| {
            Ok(self.undamaged(key, decode::<R>(key, value))?.map(|record| (key.to_vec(), record)))
        })
    }

    /// The exchanges whose waits are to be moved ([`Exchange::is_to_be_moved`]).
    pub(crate) fn exchanges_to_move(&self, by_ms: i64, after: Timestamp) -> Result<Vec<Vec<u8>>, StoreError> {
        let exchanges = self.records_under::<Exchange>(b"E")?.into_iter();
        let to_move = exchanges.filter(|(_, exchange)| exchange.is_to_be_moved(by_ms, after));
        Ok(to_move.map(|(key, _)| key).collect())
    }
}

#[async_trait]
impl Suites for EmbeddedStore {
    async fn suite(&self, suite: &AppName) -> Result<SuiteRecords, StoreError> {
        let key = keys::ticket(suite);
        let ticket = self.undamaged(&key, self.read::<Ticket>(&key))?.flatten();
        let exchanges = self.records_under::<Exchange>(&keys::exchanges(suite))?;
        let exchanges = exchanges.into_iter().map(|(key, exchange)| Ok((keys::code_id(&key)?, exchange)));
        let authorizations = self.records_under(&keys::of_app(b'P', suite))?;
        Ok(SuiteRecords {
            ticket,
            exchanges: exchanges.collect::<Result<_, StoreError>>()?,
            authorizations: authorizations.into_iter().map(|(_, authorization)| authorization).collect(),
        })
    }

    async fn bindings(&self) -> Result<BTreeMap<AppName, CorpId>, StoreError> {
        let bindings = self.records_under::<CorpId>(b"B")?.into_iter();
        bindings.map(|(key, corp_id)| Ok((keys::Parts::of(&key).app()?, corp_id))).collect()
    }

    async fn bind(&self, app: &AppName, corp_id: &CorpId) -> Result<CorpId, StoreError> {
        let (key, corp_id) = (keys::binding(app), corp_id.clone());
        let bind = move |txn: &mut Txn<'_>| match txn.get::<CorpId>(&key)? {
            Some(bound) => Ok(bound),
            None => txn.put(key, &corp_id).map(|()| corp_id),
        };
        self.writer.run(bind).await
    }

    async fn begin_exchange(
        &self,
        suite: &AppName,
        id: &CodeId,
        can_ask: bool,
        now: Timestamp,
    ) -> Result<Option<(Exchange, ExchangeNext)>, StoreError> {
        let key = keys::exchange(suite, id);
        self.writer.run(move |txn| begin(txn, key, can_ask, now)).await
    }

    async fn fail_exchange(
        &self,
        suite: &AppName,
        id: &CodeId,
        failure: ExchangeFailure,
        jitter: f64,
        now: Timestamp,
    ) -> Result<Option<ExchangeNext>, StoreError> {
        let key = keys::exchange(suite, id);
        let fail = move |txn: &mut Txn<'_>| {
            let Some(mut exchange) = txn.get::<Exchange>(&key)? else { return Ok(None) };
            let next = exchange.failed(failure, jitter, now);
            txn.put(key, &exchange)?;
            Ok(Some(next))
        };
        self.writer.run(fail).await
    }

    async fn end_exchange(&self, suite: &AppName, id: &CodeId, end: ExchangeEnd) -> Result<(), StoreError> {
        let key = keys::exchange(suite, id);
        let end = move |txn: &mut Txn<'_>| {
            let Some(mut exchange) = txn.get::<Exchange>(&key)? else { return Ok(()) };
            exchange.end = exchange.end.or(Some(end));
            txn.put(key, &exchange)
        };
        self.writer.run(end).await
    }

    async fn drop_ended_exchanges(&self, suite: &AppName, before: Timestamp) -> Result<u64, StoreError> {
        let has_ended = |exchange: &Exchange| exchange.end.is_some_and(|end| end.at() < before);
        let exchanges = self.records_under::<Exchange>(&keys::exchanges(suite))?.into_iter();
        // An end is final, so none of these can go on meanwhile.
        let ended: Vec<_> =
            exchanges.filter(|(_, exchange)| has_ended(exchange)).map(|(key, _)| key).collect();
        for page in ended.chunks(ROWS_PER_TRANSACTION) {
            let page = page.to_vec();
            let delete = move |txn: &mut Txn<'_>| {
                for key in page {
                    txn.delete(key);
                }
                Ok(())
            };
            self.writer.run(delete).await?;
        }
        Ok(ended.len() as u64)
    }

    async fn grant(
        &self,
        suite: &AppName,
        id: &CodeId,
        granted: Granted,
        now: Timestamp,
    ) -> Result<Authorization, StoreError> {
        let (suite, id) = (suite.clone(), *id);
        self.writer.run(move |txn| grant(txn, &suite, &id, granted, now)).await
    }

    async fn put_agent(
        &self,
        suite: &AppName,
        read: &Authorization,
        name: String,
        agent: Agent,
    ) -> Result<bool, StoreError> {
        let (suite, corp_id) = (suite.clone(), read.corp_id.clone());
        let (codes, changes) = (read.codes, read.changes);
        let change = move |known: &mut Authorization| known.read(codes, changes, name, agent);
        self.writer.run(move |txn| change_authorization(txn, &suite, &corp_id, change)).await
    }

    async fn put_cancelled(
        &self,
        suite: &AppName,
        read: &Authorization,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (suite, corp_id, codes) = (suite.clone(), read.corp_id.clone(), read.codes);
        let change = move |known: &mut Authorization| known.refused(codes, now);
        self.writer.run(move |txn| change_authorization(txn, &suite, &corp_id, change)).await
    }

    async fn reseal(&self, suite: &AppName, fresh: Vec<Resealed>) -> Result<u64, StoreError> {
        let mut replaced = 0;
        for page in fresh.chunks(ROWS_PER_TRANSACTION) {
            let (suite, page) = (suite.clone(), page.to_vec());
            let all = move |txn: &mut Txn<'_>| {
                page.into_iter().try_fold(0, |count, one| Ok(count + u64::from(reseal(txn, &suite, one)?)))
            };
            replaced += self.writer.run(all).await?;
        }
        Ok(replaced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authorization::{Role, SharedFrom};
    use crate::store::embedded::records::checked;

    #[test]
    fn an_authorisation_of_version_1_is_read_and_knows_of_whom_it_is_a_dealer() {
        let corp = |id: &str| CorpId::new(id).unwrap();
        let now = Timestamp::from_secs(1_795_309_323);
        let shared_from = Some(SharedFrom { corp_id: corp("wpA"), share_type: 1 });
        let agent = Agent {
            agent_id: 7,
            shared_from: shared_from.clone(),
            is_verified: None,
            may_read_customers: None,
            read_at: now,
        };
        let code = Sealed { key: [1; 8], nonce: [2; 12], text: vec![3] };
        // The fields in their order then.
        let old =
            (corp("wpD"), "上海一店", code, now, 2_u32, Some(agent), None::<Timestamp>, now, 3_u32, false);
        let key = keys::authorization(&AppName::new("agency").unwrap(), &corp("wpD"));
        let bytes = checked(&key, postcard::to_extend(&old, vec![1]).unwrap());
        let read = decode::<Authorization>(&key, &bytes).unwrap();
        assert_eq!((read.codes, read.changes, read.name.as_str()), (2, 3, "上海一店"));
        assert_eq!((read.role(), read.dealer_of), (Some(Role::Dealer(corp("wpA"))), shared_from));
    }
}
