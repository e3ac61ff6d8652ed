//! Transactions on contacts, the join and links; the pure rules are in [`crate::domain::join`] and
//! [`crate::domain::contact`].

use super::super::{InboxEvent, Outcome, StoreError, Work, WorkId};
use super::feed;
use super::forget;
use super::inbox;
use super::keys;
use super::records::Record;
use super::roll;
use super::txn::Txn;
use crate::domain::backoff::reask_after_ms;
use crate::domain::contact::{Contact, LookupRetry};
use crate::domain::ids::{AppName, ContactKey, FanKey, PendingId};
use crate::domain::join::{self, FanSide, JoinState};
use crate::domain::link::{ChangeType, Claim, Source};
use crate::domain::time::Timestamp;

impl Record for Contact {}

/// The most contacts that meet one fan: a person is a customer of so many dealers at most.
const JOIN_CONTACTS_MAX: usize = 1_000;

/// Writes down what came of one piece of work. Its place in the queue is given up first, whatever the verdict, so
/// that no verdict can leave it there. Returns when the event was received, if it led to a new link.
pub(super) fn settle(
    txn: &mut Txn<'_>,
    work: &Work,
    verdict: Outcome,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    match &work.event {
        Some(event) if inbox::take(txn, event)? => {
            if forget::outlived(txn, event)? {
                return Ok(None);
            }
            let change = settle_event(txn, work, event, verdict, now)?;
            Ok((change == Some(ChangeType::Created)).then_some(event.received_at))
        }
        None if take_reask(txn, &work.id)? => {
            settle_reask(txn, &work.contact, verdict, now)?;
            Ok(None)
        }
        // Settled before, by whoever leased it before a restart.
        Some(_) | None => Ok(None),
    }
}

/// Makes a piece of waiting work due at `now`. `place` is its key in the queue of events, or in that of
/// customers to ask about again. Whether it was still waiting.
pub(super) fn bring_forward(txn: &mut Txn<'_>, place: &[u8], now: Timestamp) -> Result<bool, StoreError> {
    if place.starts_with(b"i") {
        return match txn.get::<InboxEvent>(place)? {
            Some(event) => inbox::bring_forward(txn, &event, now),
            None => Ok(false),
        };
    }
    let mut parts = keys::Parts::of(place);
    let (due_at, key) = (parts.instant()?, parts.contact()?);
    let Some(mut contact) = contact(txn, &key)? else { return Ok(false) };
    let retry = contact.lookup_retry.filter(|retry| retry.due_at == Some(due_at));
    let Some(retry) = retry else { return Ok(false) };
    wait(txn, &key, &mut contact, Some(LookupRetry { due_at: Some(now), ..retry }));
    txn.put(keys::contact(&key), &contact)?;
    Ok(true)
}

fn settle_event(
    txn: &mut Txn<'_>,
    work: &Work,
    event: &InboxEvent,
    verdict: Outcome,
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    let key = &work.contact;
    let answer = match verdict {
        Outcome::Retry { due_at, reason, spent } => {
            return inbox::reschedule(txn, event, due_at, reason, spent).map(|()| None);
        }
        Outcome::Dead(reason) => return inbox::bury(txn, event, reason, now).map(|()| None),
        Outcome::Resolved(pending_id) => Some(Some(pending_id)),
        Outcome::Missed => Some(None),
        Outcome::Applied => None,
    };
    update_contact(txn, key, now, |txn, contact| {
        let news = contact.apply(&event.event.contact, event.event.created_at);
        let created = match answer {
            // News about the customer starts the schedule over.
            Some(found) => answered(txn, key, contact, found, 0, now)?,
            None => None,
        };
        Ok(created.or(news))
    })
}

fn settle_reask(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    verdict: Outcome,
    now: Timestamp,
) -> Result<(), StoreError> {
    update_contact(txn, key, now, |txn, contact| {
        let asked = contact.lookup_retry.take().map_or(0, |retry| retry.asked);
        match verdict {
            Outcome::Resolved(pending_id) => answered(txn, key, contact, Some(pending_id), asked, now),
            Outcome::Missed | Outcome::Dead(_) => answered(txn, key, contact, None, asked, now),
            Outcome::Retry { due_at, .. } => {
                wait(txn, key, contact, Some(LookupRetry { asked, due_at: Some(due_at) }));
                Ok(None)
            }
            // Who this is has become known in the meantime.
            Outcome::Applied => Ok(None),
        }
    })?;
    Ok(())
}

/// Gives up a waiting customer's place in the queue. Whether it was still there.
fn take_reask(txn: &mut Txn<'_>, id: &WorkId) -> Result<bool, StoreError> {
    let WorkId::Reask(due_at, contact) = id else { return Ok(false) };
    let key = keys::reask(*due_at, contact);
    if !txn.has(&key)? {
        return Ok(false);
    }
    txn.delete(key);
    txn.discount(|counts| &mut counts.waiting);
    Ok(true)
}

/// WeCom answered the question about a contact, after `asked` earlier ones in vain.
fn answered(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    found: Option<PendingId>,
    asked: u32,
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    let known = contact.pending_id.is_some() || contact.link.is_some();
    match found {
        Some(pending_id) => {
            wait(txn, key, contact, None);
            resolved(txn, key, contact, &pending_id, now)
        }
        // Another question, asked at the same time, was answered: this answer is out of date.
        None if known => Ok(None),
        None => {
            let due_at = reask_after_ms(asked + 1).map(|wait_ms| now.plus_ms(wait_ms));
            wait(txn, key, contact, Some(LookupRetry { asked: asked + 1, due_at }));
            Ok(None)
        }
    }
}

fn contact(txn: &Txn<'_>, key: &ContactKey) -> Result<Option<Contact>, StoreError> {
    txn.get(&keys::contact(key))
}

/// Loads or creates a contact, lets `change` work on it, writes it back and tells the feed what changed. The
/// change is returned.
fn update_contact(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    now: Timestamp,
    change: impl FnOnce(&mut Txn<'_>, &mut Contact) -> Result<Option<ChangeType>, StoreError>,
) -> Result<Option<ChangeType>, StoreError> {
    let known = contact(txn, key)?;
    if known.is_none() {
        txn.counts().contacts += 1;
    }
    let mut contact = known.unwrap_or_else(|| Contact::new(Source::Callback, now));
    let news = change(txn, &mut contact)?;
    if let Some(news) = news {
        feed::tell(txn, key, &contact, news, now)?;
    }
    contact.drop_expired_welcome_code(now);
    txn.put(keys::contact(key), &contact)?;
    Ok(news)
}

/// Moves the contact's place in the queue of those to be asked about again.
fn wait(txn: &mut Txn<'_>, key: &ContactKey, contact: &mut Contact, retry: Option<LookupRetry>) {
    if let Some(due_before) = contact.lookup_retry.and_then(|before| before.due_at) {
        txn.delete(keys::reask(due_before, key));
        txn.discount(|counts| &mut counts.waiting);
    }
    if let Some(due_at) = retry.and_then(|retry| retry.due_at) {
        txn.mark(keys::reask(due_at, key));
        txn.counts().waiting += 1;
    }
    contact.lookup_retry = retry;
}

fn resolved(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    pending_id: &PendingId,
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    if let Some(too_old) = contact.set_pending_id(pending_id) {
        txn.delete(keys::contact_at(&too_old, key));
    }
    txn.mark(keys::contact_at(pending_id, key));
    // Only the fan matters to the one who arrives; the other contacts are not loaded.
    let mut state = JoinState { fan: roll::fan_with(txn, &key.app, pending_id)?, ..JoinState::default() };
    if let Some(fan) = &state.fan {
        let linked_already = contact.link.as_ref().is_some_and(|link| link.unionid == fan.unionid);
        let fan = FanKey { app: key.app.clone(), unionid: fan.unionid.clone() };
        let registered_at = roll::fan(txn, &fan)?.map_or(now, |entry| entry.fan.registered_at);
        if !linked_already && forget::stands_between(txn, &key.external_userid, registered_at)? {
            forget::found_out(txn, &fan, now)?;
            return Ok(None);
        }
    }
    match join::contact_arrives(&mut state, pending_id, key) {
        Some(claim) => Ok(accept(txn, key, contact, &claim, now)),
        None => Ok(None),
    }
}

/// A fan was minted: meets the contacts that wait at the pending id. Whether one of them was forgotten after the fan was
/// registered: then nobody is linked, and the fan has to go too.
pub(super) fn fan_arrives(
    txn: &mut Txn<'_>,
    app: &AppName,
    pending_id: &PendingId,
    fan: FanSide,
    registered_at: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut state = JoinState { fan: roll::fan_with(txn, app, pending_id)?, ..JoinState::default() };
    let prefix = keys::contacts_at(pending_id, Some(app));
    for key in txn.keys(&prefix, JOIN_CONTACTS_MAX)? {
        state.contacts.insert(keys::Parts(&key[prefix.len()..]).contact()?);
    }
    let claims = join::fan_arrives(&mut state, pending_id, fan);
    for claim in &claims {
        if forget::stands_between(txn, &claim.contact.external_userid, registered_at)? {
            return Ok(true);
        }
    }
    for claim in &claims {
        match settle_claim(txn, claim, now) {
            // The fan and the other customers are not to suffer for it.
            Err(StoreError::Damaged(reason)) => tracing::error!(reason, "a customer cannot be linked"),
            settled => settled?,
        }
    }
    Ok(false)
}

/// A claim from elsewhere than the contact's own resolution.
pub(super) fn settle_claim(txn: &mut Txn<'_>, claim: &Claim, now: Timestamp) -> Result<(), StoreError> {
    update_contact(txn, &claim.contact, now, |txn, contact| {
        let change = accept(txn, &claim.contact, contact, claim, now);
        // Who this is has become known: no more questions.
        wait(txn, &claim.contact, contact, None);
        Ok(change)
    })?;
    Ok(())
}

fn accept(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    claim: &Claim,
    now: Timestamp,
) -> Option<ChangeType> {
    let before = contact.link.as_ref().map(|link| link.unionid.clone());
    let (_, link_id) = txn.next_feed_id();
    let change = contact.accept(claim, link_id, now);
    if change.is_some() {
        match before {
            Some(unionid) => txn.delete(keys::linked(&unionid, key)),
            None => txn.counts().links += 1,
        }
        txn.mark(keys::linked(&claim.unionid, key));
    }
    change
}
