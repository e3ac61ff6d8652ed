//! Erasing a person, in one transaction.
//!
//! Finding everything about a person means reading the whole inbox and feed, which would hold up the writer.
//! So [`search`] reads outside of the transaction, and the transaction reads again only what can have been
//! written since. If the set of the person's ids has changed in the meantime, it changes nothing, and the
//! caller begins again.
//!
//! What remains is a record under a hash of each id: see [`forgotten`](super::forgotten).

mod ids;

use super::feed::{self, StoredEntry};
use super::forgotten::{Forgotten, erase_fan, mark, salted};
use super::inbox::{MessagePart, SetAside};
use super::roll::{self, Entry};
use super::{chat_members, contacts, dealers, set_aside};
use crate::domain::contact::Contact;
use crate::domain::ids::{ContactKey, ExternalUserid, Unionid, hex};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::records::{Record, decode, readable};
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::{
    Counts, Erased, EventId, EventRow, InboxEvent, PersonId, Quarantined, Receipt, ReceiptId, StoreError,
};
pub(crate) use ids::Ids;

impl Record for Receipt {}

/// Maximum number of rows of the inbox that the transaction reads again. Events behind them are dropped when
/// they are settled: see [`forgotten::outlived`](super::forgotten::outlived).
const LOOKED_AT_AGAIN_MAX: usize = 10_000;

/// Where something about a person was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    inbox: Vec<Vec<u8>>,
    aside: Vec<EventId>,
    feed: Vec<u64>,
    /// Index keys of customers whose damaged record would have named them.
    leftover: Vec<Vec<u8>>,
    /// The head of the feed at the search: later entries are still to be read.
    feed_head: u64,
    /// As are later events,
    event_head: u64,
    /// and those that are due from here on.
    due_from: Timestamp,
}

/// Finds what is not indexed by a person's ids, by reading all of it.
pub(crate) async fn search(store: &EmbeddedStore, ids: &Ids, now: Timestamp) -> Result<Found, StoreError> {
    let Counts { feed_head, event_head, .. } = store.writer.shared.counts();
    let mut found = Found {
        inbox: Vec::new(),
        aside: Vec::new(),
        feed: Vec::new(),
        leftover: leftover(store, ids)?,
        feed_head,
        event_head,
        due_from: now.plus_ms(-SECOND_MS),
    };
    for row in store.engine.range(b"i", &keys::after(b"i")) {
        let (key, value) = row.map_err(crate::store::embedded::failed)?;
        let event = store.undamaged(&key, decode::<InboxEvent>(&key, &value))?;
        if event.is_some_and(|event| ids.has_event(&event)) {
            found.inbox.push(key);
        }
    }
    // What is being moved from there to here has arrived then.
    store.writer.run(|_| Ok(())).await?;
    for row in store.engine.range(b"x", &keys::after(b"x")) {
        let (key, value) = row.map_err(crate::store::embedded::failed)?;
        let Some(aside) = store.undamaged(&key, decode::<SetAside>(&key, &value))? else { continue };
        let (id, about) = match EventRow::from(aside) {
            EventRow::Dead { event, .. } | EventRow::Inbox(event) => (event.id, ids.has_event(&event)),
            EventRow::Quarantined(Quarantined { id, .. }) => {
                let message = store.undamaged(&key, store.message(id))?.flatten();
                (id, ids.in_message(&message.unwrap_or_default()))
            }
        };
        if about {
            found.aside.push(id);
        }
    }
    for row in store.engine.range(b"f", &keys::feed(feed_head.saturating_add(1))) {
        let (key, value) = row.map_err(crate::store::embedded::failed)?;
        let entry = store.undamaged(&key, decode::<StoredEntry>(&key, &value))?;
        if entry.is_some_and(|entry| ids.in_entry(&entry)) {
            found.feed.push(keys::feed_seq(&key)?);
        }
    }
    Ok(found)
}

/// The index keys of contacts whose record is damaged: only the record would name them.
fn leftover(store: &EmbeddedStore, ids: &Ids) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    for contact in &ids.contacts {
        let record = keys::contact(contact);
        if !matches!(store.read::<Contact>(&record), Err(StoreError::Damaged(_))) {
            continue;
        }
        for kind in [b"w", b"y", b"q", b"u", b"M"] {
            for row in store.engine.range(kind, &keys::after(kind)) {
                let (key, _) = row.map_err(crate::store::embedded::failed)?;
                // Without its kind a contact's key is the end of all of these.
                found.extend(key.ends_with(&record[1..]).then_some(key));
            }
        }
    }
    Ok(found)
}

/// Erases a person. `None` if the set of the person's ids has changed since `ids` was read.
pub(crate) fn forget(
    txn: &mut Txn<'_>,
    person: &PersonId,
    ids: &Ids,
    mut found: Found,
    (id, request): (ReceiptId, Option<String>),
    now: Timestamp,
) -> Result<Option<Receipt>, StoreError> {
    if Ids::of(txn, person)? != *ids {
        return Ok(None);
    }
    let mut erased = Erased::default();
    look_again(txn, ids, &mut found)?;
    for key in found.inbox {
        if txn.has(&key)? {
            txn.delete(key);
            txn.discount(|counts| &mut counts.inbox);
            erased.events += 1;
        }
    }
    for id in found.aside {
        match readable(set_aside::remove(txn, id))? {
            None => {}
            Some(SetAside::Dead { .. }) => erased.dead_letters += 1,
            Some(SetAside::Quarantined(_)) => erased.quarantined += 1,
        }
    }
    for key in found.leftover {
        match key.first() {
            Some(b'w' | b'y') => txn.discount(|counts| &mut counts.waiting),
            Some(b'u') => txn.discount(|counts| &mut counts.links),
            _ => {}
        }
        txn.delete(key);
    }
    // The entries found, and those written since the search; not the entries that report this erasure.
    let meanwhile: Vec<_> = (found.feed_head + 1..=txn.counts().feed_head).collect();
    for seq in found.feed.into_iter().chain(meanwhile) {
        let key = keys::feed(seq);
        let entry = readable(txn.get::<StoredEntry>(&key))?.filter(|entry| ids.in_entry(entry));
        if let Some(entry) = entry {
            txn.put(key, &entry.erased())?;
            erased.feed_entries += 1;
        }
    }
    for key in &ids.contacts {
        erase_contact(txn, key, &mut erased, now)?;
    }
    txn.meta.forgotten_at = txn.meta.forgotten_at.max(Some(now));
    for unionid in &ids.unionids {
        for Entry { key, .. } in roll::fans_of(txn, unionid)? {
            erased.fans += u64::from(erase_fan(txn, &key, now)?);
        }
    }
    let salt = txn.salt();
    let texts = ids.unionids.iter().map(Unionid::as_str);
    for id in texts.chain(ids.customers.iter().map(ExternalUserid::as_str)) {
        txn.put(mark(salt, id), &Forgotten(now))?;
    }
    let named = match person {
        PersonId::Unionid(id) => id.as_str(),
        PersonId::ExternalUserid(id) => id.as_str(),
    };
    let subject = hex(&salted(salt, "subject", named));
    for unionid in &ids.unionids {
        txn.delete(keys::to_forget(unionid));
    }
    let receipt = Receipt { id, forgotten_at: now, request, subject, erased };
    txn.put(keys::receipt(receipt.id), &receipt)?;
    Ok(Some(receipt))
}

/// What has come in, or has been set aside, since it was searched for.
fn look_again(txn: &Txn<'_>, ids: &Ids, found: &mut Found) -> Result<(), StoreError> {
    // An event that was in the inbox may have been given up since.
    for key in &found.inbox {
        let mut parts = keys::Parts::of(key);
        parts.instant()?;
        found.aside.push(EventId(parts.number()?));
    }
    for key in txn.keys_from(&keys::inbox(found.due_from, EventId(0)), b"i", LOOKED_AT_AGAIN_MAX)? {
        if readable(txn.get::<InboxEvent>(&key))?.is_some_and(|event| ids.has_event(&event)) {
            found.inbox.push(key);
        }
    }
    let later = keys::set_aside(EventId(found.event_head.saturating_add(1)));
    for key in txn.keys_from(&later, b"x", LOOKED_AT_AGAIN_MAX)? {
        let Some(aside) = readable(txn.get::<SetAside>(&key))? else { continue };
        let (id, about) = match aside {
            SetAside::Dead { event, .. } => (event.id, ids.has_event(&event)),
            SetAside::Quarantined(Quarantined { id, .. }) => {
                let mut message = Vec::new();
                for part in txn.keys(&keys::message_parts(id), usize::MAX >> 1)? {
                    message.extend(readable(txn.get::<MessagePart>(&part))?.unwrap_or_default().0);
                }
                (id, ids.in_message(&message))
            }
        };
        found.aside.extend(about.then_some(id));
    }
    found.aside.sort_unstable();
    found.aside.dedup();
    Ok(())
}

fn erase_contact(
    txn: &mut Txn<'_>,
    key: &ContactKey,
    erased: &mut Erased,
    now: Timestamp,
) -> Result<(), StoreError> {
    let record = keys::contact(key);
    if !txn.has(&record)? {
        return Ok(());
    }
    let contact = readable(txn.get::<Contact>(&record))?;
    txn.delete(record);
    txn.discount(|counts| &mut counts.contacts);
    erased.contacts += 1;
    txn.delete(keys::contact_of_corp(key));
    let is_linked = contact.as_ref().is_some_and(|contact| contact.link.is_some());
    dealers::count(txn, key, |counts| {
        counts.customers = counts.customers.saturating_sub(1);
        counts.links = counts.links.saturating_sub(is_linked.into());
    })?;
    let Some(mut contact) = contact else { return Ok(()) };
    contacts::set_lookup(txn, key, &mut contact, None)?;
    chat_members::follow(txn, key, contact.chats(), &[]);
    for pending_id in contact.pending_id.iter().chain(&contact.earlier_pending_ids) {
        txn.delete(keys::contact_at(pending_id, key));
    }
    if let Some(link) = contact.link {
        txn.delete(keys::linked(&link.unionid, key));
        txn.discount(|counts| &mut counts.links);
        erased.links += 1;
        feed::append_erased(txn, key.app.clone(), link.link_id, now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
