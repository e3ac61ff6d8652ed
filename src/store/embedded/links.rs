//! Transactions on contacts, the join and links; the pure rules are in [`crate::domain::join`] and
//! [`crate::domain::contact`].

use super::super::{InboxEvent, Outcome, PageFound, StoreError, Work, WorkId};
use super::records::Record;
use super::txn::Txn;
use super::{dealers, feed, forgotten, inbox, keys, roll, tasks};
use crate::domain::contact::{Contact, ContactVersion1};
use crate::domain::ids::{AppName, ContactKey, FanKey, PendingId};
use crate::domain::join::{self, FanSide, JoinState};
use crate::domain::link::{ChangeType, Claim, Source};
use crate::domain::lookup::{Haste, Lookup};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;

impl Record for Contact {
    const VERSION: u8 = 2;

    fn of_version(version: u8, body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        (version == 1).then(|| postcard::from_bytes::<ContactVersion1>(body).map(Self::from))
    }
}

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
            if forgotten::outlived(txn, event)? {
                return Ok(None);
            }
            let change = settle_event(txn, work, event, verdict, now)?;
            Ok((change == Some(ChangeType::Created)).then_some(event.received_at))
        }
        None if take_lookup(txn, &work.id)? => {
            settle_lookup(txn, &work.contact, verdict, now)?;
            Ok(None)
        }
        // Another lookup of the customer was settled meanwhile; what this one found is true all the same.
        None if matches!(verdict, Outcome::Resolved(_)) => {
            if contact(txn, &work.contact)?.is_some_and(|contact| !contact.is_identified()) {
                settle_lookup(txn, &work.contact, verdict, now)?;
            }
            Ok(None)
        }
        // Settled before, by whoever leased it before a restart.
        Some(_) | None => Ok(None),
    }
}

/// Makes a piece of waiting work due at `now`. `place` is its key in the queue of events, or in one of those of
/// lookups. Returns whether it was still waiting.
pub(super) fn bring_forward(txn: &mut Txn<'_>, place: &[u8], now: Timestamp) -> Result<bool, StoreError> {
    move_work(txn, place, |_| now)
}

/// Moves a piece of waiting work to another instant. Returns whether it was still waiting.
pub(super) fn move_work(
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
    let Some(mut contact) = contact(txn, &key)? else { return Ok(false) };
    let lookup = contact.lookup.filter(|lookup| {
        lookup.due_at == Some(due_at) && place.first() == Some(&keys::lookups(lookup.haste))
    });
    let Some(lookup) = lookup else { return Ok(false) };
    wait(txn, &key, &mut contact, Some(Lookup { due_at: Some(to(due_at)), ..lookup }))?;
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
        Outcome::Resolved(pending_id) => Some(Ok(pending_id)),
        Outcome::Missed | Outcome::NotInChat(_) => Some(Err(None)),
        Outcome::NotVisible(errcode) => Some(Err(Some(errcode))),
        Outcome::Applied => None,
    };
    update_contact(txn, key, now, |txn, contact| {
        let news = contact.apply(&event.event.contact, event.event.created_at);
        let created = match answer {
            // News about the customer starts the schedule over.
            Some(answer) => {
                let lookup = Lookup::first(Haste::Live, now);
                answered(txn, key, contact, answer, (lookup, now), now)?
            }
            None => None,
        };
        Ok(created.or(news))
    })
}

fn settle_lookup(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    verdict: Outcome,
    now: Timestamp,
) -> Result<(), StoreError> {
    update_contact(txn, key, now, |txn, contact| {
        let lookup = contact.lookup.unwrap_or_else(|| Lookup::first(Haste::Background, now));
        let since = (lookup, contact.known_since());
        match verdict {
            Outcome::Resolved(pending_id) => answered(txn, key, contact, Ok(pending_id), since, now),
            Outcome::Missed | Outcome::Dead(_) => answered(txn, key, contact, Err(None), since, now),
            Outcome::NotVisible(errcode) => answered(txn, key, contact, Err(Some(errcode)), since, now),
            Outcome::NotInChat(chat_id) => {
                contact.leave(&chat_id);
                if !contact.can_be_looked_up() {
                    return answered(txn, key, contact, Err(None), since, now);
                }
                wait(txn, key, contact, Some(Lookup { due_at: Some(now), refused: None, ..lookup }))?;
                Ok(None)
            }
            Outcome::Retry { due_at, reason, spent } => {
                let refused = reason.errcode.filter(|_| spent).or(lookup.refused);
                let due_at = Some(due_at);
                wait(txn, key, contact, Some(Lookup { due_at, refused, is_of_run: false, ..lookup }))?;
                Ok(None)
            }
            // Who this is has become known in the meantime.
            Outcome::Applied => {
                wait(txn, key, contact, None)?;
                Ok(None)
            }
        }
    })?;
    Ok(())
}

/// Takes a lookup out of its queue. Returns whether it was still there.
fn take_lookup(txn: &mut Txn<'_>, id: &WorkId) -> Result<bool, StoreError> {
    let WorkId::Lookup(haste, due_at, contact) = id else { return Ok(false) };
    let key = keys::lookup(*haste, *due_at, contact);
    if !txn.has(&key)? {
        return Ok(false);
    }
    txn.delete(key);
    Ok(true)
}

/// WeCom answered a lookup, with a pending id or without; then with its code, if it refused to. `lookup` is the
/// one that was made, with the instant since when the person is known to be a customer.
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
            wait(txn, key, contact, None)?;
            resolved(txn, key, contact, &pending_id, now)
        }
        // Another lookup, made at the same time, was answered: this answer is out of date.
        Err(_) if contact.is_identified() => Ok(None),
        Err(refused) => {
            wait(txn, key, contact, Some(lookup.answered(refused, known_since, now)))?;
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
        count_new(txn, key)?;
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

fn count_new(txn: &mut Txn<'_>, key: &ContactKey) -> Result<(), StoreError> {
    txn.counts().contacts += 1;
    txn.mark(keys::contact_of_corp(key));
    dealers::count(txn, key, |counts| counts.customers += 1)
}

/// A customer that WeCom listed, in a list that was read at `seen_at`. Queues a lookup if the customer was never
/// looked up, or has joined a group since.
pub(super) fn see(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    sighting: &Sighting,
    how: Seen,
    now: Timestamp,
) -> Result<PageFound, StoreError> {
    let since = sighting.since.unwrap_or(how.read_at);
    if forgotten::is_back(txn, &key.external_userid, since)? {
        return Ok(PageFound::default());
    }
    let known = match contact(txn, key) {
        // The other customers of the list are not to suffer for it.
        Err(StoreError::Damaged(reason)) => {
            tracing::error!(reason, "a customer whose record is damaged is left alone");
            return Ok(PageFound::default());
        }
        known => known?,
    };
    let is_new = known.is_none();
    if is_new {
        count_new(txn, key)?;
    }
    let before = known.clone();
    let mut contact = known.unwrap_or_else(|| {
        let mut new = Contact::new(how.source, now);
        new.found_in = match &sighting.place {
            SightingPlace::Chat(chat_id) => Some(chat_id.clone()),
            SightingPlace::Follower { .. } => None,
        };
        new
    });
    let chats = contact.chats().len();
    let news = contact.see(sighting, how.read_at);
    let has_joined = contact.chats().len() > chats;
    let lookup = match contact.lookup {
        _ if contact.is_identified() => None,
        None => Some(Lookup { is_of_run: how.is_of_run, ..Lookup::first(how.haste, now) }),
        // A group is another way to look the customer up.
        // WeCom still lists somebody whose lookups were refused to the end.
        Some(Lookup { due_at: None, refused: Some(_), .. }) => {
            Some(Lookup { is_of_run: how.is_of_run, ..Lookup::first(how.haste, now) })
        }
        Some(lookup) if has_joined && lookup.due_at.is_none_or(|due_at| now < due_at) => Some(Lookup {
            due_at: Some(now),
            haste: how.haste,
            is_of_run: how.is_of_run,
            through_chat: true,
            ..lookup
        }),
        Some(_) => None,
    };
    if let Some(lookup) = lookup {
        wait(txn, key, &mut contact, Some(lookup))?;
    }
    if let Some(news) = news {
        feed::tell(txn, key, &contact, news, now)?;
    }
    if before.as_ref() != Some(&contact) {
        txn.put(keys::contact(key), &contact)?;
    }
    Ok(PageFound { new: is_new.into(), queued: lookup.is_some().into() })
}

/// How a customer is seen in a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// When the list was read.
    pub(super) read_at: Timestamp,
    pub(super) source: Source,
    pub(super) haste: Haste,
    /// Whether a reconcile run waits for the lookup.
    pub(super) is_of_run: bool,
}

/// Changes a customer's followers. Returns whether the customer is known.
pub(super) fn change_followers(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    now: Timestamp,
    change: impl FnOnce(&mut Contact) -> Option<ChangeType>,
) -> Result<(), StoreError> {
    let Some(mut contact) = contact(txn, key)? else { return Ok(()) };
    if let Some(news) = change(&mut contact) {
        feed::tell(txn, key, &contact, news, now)?;
    }
    txn.put(keys::contact(key), &contact)
}

/// Makes the lookup of a customer without a pending id due at `now`: of one that was refused, or with `all` of
/// any. Returns whether it did.
pub(super) fn look_up_again(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    all: bool,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Some(mut contact) = contact(txn, key)? else { return Ok(false) };
    let unasked = || (all && contact.can_be_looked_up()).then(|| Lookup::first(Haste::Background, now));
    let lookup = match contact.lookup {
        None => unasked(),
        Some(lookup) => Some(lookup).filter(|lookup| {
            (all || lookup.refused.is_some()) && lookup.due_at.is_none_or(|due_at| now < due_at)
        }),
    };
    let Some(lookup) = lookup.filter(|_| !contact.is_identified()) else { return Ok(false) };
    wait(txn, key, &mut contact, Some(Lookup { due_at: Some(now), ..lookup }))?;
    txn.put(keys::contact(key), &contact)?;
    Ok(true)
}

/// Changes the lookup of a customer, and its place in the queues.
pub(super) fn wait(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    contact: &mut Contact,
    lookup: Option<Lookup>,
) -> Result<(), StoreError> {
    let place = |lookup: Lookup| Some(keys::lookup(lookup.haste, lookup.due_at?, key));
    let before = std::mem::replace(&mut contact.lookup, lookup);
    if let Some(place) = before.and_then(place) {
        txn.delete(place);
    }
    if let Some(place) = lookup.and_then(place) {
        txn.mark(place);
    }
    let waits = |lookup: Option<Lookup>| lookup.is_some_and(Lookup::is_waiting);
    match (waits(before), waits(lookup)) {
        (false, true) => txn.counts().waiting += 1,
        (true, false) => txn.discount(|counts| &mut counts.waiting),
        (false, false) | (true, true) => {}
    }
    let of_run = |lookup: Option<Lookup>| lookup.is_some_and(|lookup| lookup.is_of_run);
    match (of_run(before), of_run(lookup)) {
        (false, true) => tasks::count_unresolved(txn, key, |unresolved| unresolved + 1),
        (true, false) => tasks::count_unresolved(txn, key, |unresolved| unresolved.saturating_sub(1)),
        (false, false) | (true, true) => Ok(()),
    }
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
        if !linked_already && forgotten::stands_between(txn, &key.external_userid, registered_at)? {
            forgotten::found_out(txn, &fan, now)?;
            return Ok(None);
        }
    }
    match join::contact_arrives(&mut state, pending_id, key) {
        Some(claim) => accept(txn, key, contact, &claim, now),
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
        if forgotten::stands_between(txn, &claim.contact.external_userid, registered_at)? {
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
        let change = accept(txn, &claim.contact, contact, claim, now)?;
        // Who this is has become known: no more lookups.
        wait(txn, &claim.contact, contact, None)?;
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
) -> Result<Option<ChangeType>, StoreError> {
    let before = contact.link.as_ref().map(|link| link.unionid.clone());
    let (_, link_id) = txn.next_feed_id();
    let change = contact.accept(claim, link_id, now);
    if change.is_some() {
        if let Some(unionid) = before {
            txn.delete(keys::linked(&unionid, key));
        } else {
            txn.counts().links += 1;
            dealers::count(txn, key, |counts| counts.links += 1)?;
            if contact.source == Source::Reconcile {
                tasks::count_link(txn)?;
            }
        }
        txn.mark(keys::linked(&claim.unionid, key));
    }
    Ok(change)
}
