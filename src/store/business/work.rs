//! Work about customers: reading it from its queue, and transactions on it, such as the outcome of an event
//! or a lookup, and moving one to another instant.
//!
//! Deliberately absent: leases, which are in memory (see `work_queue`).

use super::contacts::{self, set_lookup};
use super::{forgotten, inbox, links};
use crate::domain::contact::Contact;
use crate::domain::ids::{ContactKey, PendingId};
use crate::domain::link::ChangeType;
use crate::domain::lookup::{Haste, Lookup};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{InboxEvent, Outcome, StoreError, Work, WorkId};

/// Applies the outcome of a piece of work. Whatever the outcome, the work is first removed from its queue.
/// Returns when the event was received, if it led to a new link.
pub(crate) fn settle(
    txn: &mut Txn<'_>,
    work: &Work,
    outcome: Outcome,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    match &work.event {
        Some(event) if inbox::take(txn, event)? => {
            if forgotten::outlived(txn, event)? {
                return Ok(None);
            }
            let change = settle_event(txn, work, event, outcome, now)?;
            Ok((change == Some(ChangeType::Created)).then_some(event.received_at))
        }
        None if take_lookup(txn, &work.id)? => {
            settle_lookup(txn, work, outcome, now)?;
            Ok(None)
        }
        // Another lookup of the customer was settled in the meantime; the pending id is valid nevertheless.
        None if matches!(outcome, Outcome::Resolved(_)) => {
            if contacts::read(txn, &work.contact)?.is_some_and(|contact| !contact.is_identified()) {
                settle_lookup(txn, work, outcome, now)?;
            }
            Ok(None)
        }
        // Settled or rescheduled before.
        Some(_) | None => Ok(None),
    }
}

/// Moves a piece of waiting work to another instant. `place` is its key in the queue of events, or in one of
/// those of lookups. Returns whether it was still waiting.
pub(crate) fn move_to(
    txn: &mut Txn<'_>,
    place: &[u8],
    to: impl FnOnce(Timestamp) -> Timestamp,
) -> Result<bool, StoreError> {
    let mut parts = keys::Parts::of(place);
    let due_at = parts.instant()?;
    if place.starts_with(b"i") {
        return match txn.get::<InboxEvent>(place)? {
            Some(event) => inbox::reschedule_to(txn, &event, to(due_at)),
            None => Ok(false),
        };
    }
    let key = parts.contact()?;
    let Some(mut contact) = contacts::read(txn, &key)? else { return Ok(false) };
    let lookup = contact.lookup.filter(|lookup| {
        lookup.due_at == Some(due_at) && place.first() == Some(&keys::lookups(lookup.haste))
    });
    let Some(lookup) = lookup else { return Ok(false) };
    set_lookup(txn, &key, &mut contact, Some(Lookup { due_at: Some(to(due_at)), ..lookup }))?;
    txn.put(keys::contact(&key), &contact)?;
    Ok(true)
}

fn settle_event(
    txn: &mut Txn<'_>,
    work: &Work,
    event: &InboxEvent,
    outcome: Outcome,
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    let key = &work.contact;
    let answer = match outcome {
        Outcome::Retry { due_at, reason, spent } => {
            return inbox::reschedule(txn, event, due_at, reason, spent).map(|()| None);
        }
        Outcome::Dead(reason) => return inbox::bury(txn, event, reason, now).map(|()| None),
        Outcome::Resolved(pending_id) => Some(Ok(pending_id)),
        Outcome::Missed | Outcome::NotInChat(_) => Some(Err(None)),
        Outcome::NotVisible(errcode) => Some(Err(Some(errcode))),
        Outcome::Applied => None,
    };
    contacts::update(txn, key, now, |txn, contact| {
        let news = contact.apply(&event.event.contact, event.event.created_at);
        let created = match answer {
            // An event begins the schedule of lookups again.
            Some(answer) => {
                let lookup = Lookup::first(Haste::Live, now);
                answered(txn, key, contact, answer, (lookup, now), now)?
            }
            None => None,
        };
        Ok(created.or(news))
    })
}

fn settle_lookup(txn: &mut Txn<'_>, work: &Work, outcome: Outcome, now: Timestamp) -> Result<(), StoreError> {
    let (key, known) = (&work.contact, work.known.as_ref());
    contacts::update(txn, key, now, |txn, contact| {
        let next = contact.lookup.unwrap_or_else(|| Lookup::first(Haste::Background, now));
        let was_through_chat = known.and_then(Contact::lookup_chat).is_some();
        if matches!(outcome, Outcome::Missed) && contact.has_another_way_than(known) {
            // It was found while the call was in flight.
            set_lookup(txn, key, contact, Some(Lookup { due_at: Some(now), ..next }))?;
            return Ok(None);
        }
        let lookup = Lookup { through_chat: was_through_chat, ..next };
        let since = (lookup, contact.known_since());
        match outcome {
            Outcome::Resolved(pending_id) => answered(txn, key, contact, Ok(pending_id), since, now),
            Outcome::Missed | Outcome::Dead(_) => answered(txn, key, contact, Err(None), since, now),
            Outcome::NotVisible(errcode) => answered(txn, key, contact, Err(Some(errcode)), since, now),
            Outcome::NotInChat(chat_id) => {
                contact.leave(&chat_id);
                txn.delete(keys::chat_member(&chat_id, key));
                if !contact.can_be_looked_up() {
                    return answered(txn, key, contact, Err(None), since, now);
                }
                set_lookup(txn, key, contact, Some(Lookup { due_at: Some(now), refused: None, ..next }))?;
                Ok(None)
            }
            Outcome::Retry { due_at, reason, spent } => {
                let refused = reason.errcode.filter(|_| spent).or(next.refused);
                let due_at = Some(due_at);
                set_lookup(txn, key, contact, Some(Lookup { due_at, refused, task: None, ..next }))?;
                Ok(None)
            }
            // The customer was identified in the meantime.
            Outcome::Applied => {
                set_lookup(txn, key, contact, None)?;
                Ok(None)
            }
        }
    })?;
    Ok(())
}

/// Removes a lookup from its queue. Returns whether it was still there.
fn take_lookup(txn: &mut Txn<'_>, id: &WorkId) -> Result<bool, StoreError> {
    let WorkId::Lookup(haste, due_at, contact) = id else { return Ok(false) };
    let key = keys::lookup(*haste, *due_at, contact);
    if !txn.has(&key)? {
        return Ok(false);
    }
    txn.delete(key);
    Ok(true)
}

/// Applies WeCom's answer to a lookup: a pending id, or none, with WeCom's code if it refused. `lookup` is
/// the one that was made; `known_since` is the instant since when the person is known to be a customer.
fn answered(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    answer: Result<PendingId, Option<i64>>,
    (lookup, known_since): (Lookup, Timestamp),
    now: Timestamp,
) -> Result<Option<ChangeType>, StoreError> {
    match answer {
        Ok(pending_id) => {
            txn.counts().made.resolved += 1;
            set_lookup(txn, key, contact, None)?;
            links::contact_arrives(txn, key, contact, &pending_id, now)
        }
        // Another lookup, made at the same time, was answered: this answer is out of date.
        Err(_) if contact.is_identified() => Ok(None),
        Err(refused) => {
            set_lookup(txn, key, contact, Some(lookup.answered(refused, known_since, now)))?;
            Ok(None)
        }
    }
}

/// The piece of work that a row of the inbox is; `None` if it, or the record of its customer, is damaged.
pub(crate) fn of_event(view: &View<'_>, key: &[u8], value: &[u8]) -> Result<Option<Work>, StoreError> {
    let Some(event) = view.undamaged(key, decode::<InboxEvent>(key, value))? else { return Ok(None) };
    let (id, contact) = (WorkId::Event(event.due_at, event.id), event.contact_key());
    known(view, key, Work { id, contact, event: Some(event), known: None })
}

/// The piece of work that a row of a queue of lookups is; `None` if it, or the record of its customer, is
/// damaged.
pub(crate) fn of_lookup(view: &View<'_>, key: &[u8], _: &[u8]) -> Result<Option<Work>, StoreError> {
    let haste =
        if key.first() == Some(&keys::lookups(Haste::Live)) { Haste::Live } else { Haste::Background };
    let mut parts = keys::Parts::of(key);
    let parsed = parts.instant().and_then(|due_at| Ok((due_at, parts.contact()?)));
    let Some((due_at, contact)) = view.undamaged(key, parsed)? else { return Ok(None) };
    let id = WorkId::Lookup(haste, due_at, contact.clone());
    known(view, key, Work { id, contact, event: None, known: None })
}

/// A piece of work with the record of its customer; `None` if that record is damaged.
fn known(view: &View<'_>, row: &[u8], mut work: Work) -> Result<Option<Work>, StoreError> {
    let known = view.read::<Contact>(&keys::contact(&work.contact));
    let known = known.map(|known| work.known = known);
    Ok(view.undamaged(row, known)?.map(|()| work))
}
