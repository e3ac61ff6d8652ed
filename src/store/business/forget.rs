//! Erasing a person, in one transaction.
//!
//! Finding everything about a person means reading the whole inbox and feed, which would hold up the writer.
//! So it is done outside of the transaction, in slices, with a
//! [`Watch`](crate::store::rows::watch::Watch) on what is written meanwhile; the transaction reads
//! the person's own rows and nothing else. If the set of the person's ids has changed since the search, it
//! changes nothing, and the caller begins again.
//!
//! What remains is a record under a hash of each id: see [`forgotten`](super::forgotten).

mod ids;

use std::collections::BTreeSet;

use super::feed::{self, StoredEntry};
use super::forgotten::{Forgotten, erase_fan, mark, salted};
use super::inbox::{MessagePart, SetAside};
use super::roll::{self, Entry};
use super::{chat_members, contacts, dealers, events, set_aside};
use crate::domain::contact::Contact;
use crate::domain::ids::{ContactKey, ExternalUserid, Unionid, hex};
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, readable};
use crate::store::rows::source::Batch;
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::rows::watch::Watch;
use crate::store::{Erased, EventId, PersonId, Quarantined, Receipt, ReceiptId, StoreError};
pub(crate) use ids::Ids;

impl Record for Receipt {}

/// Where something about a person was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    inbox: Vec<Vec<u8>>,
    aside: BTreeSet<EventId>,
    feed: BTreeSet<u64>,
    /// Index keys of customers whose damaged record would have named them.
    leftover: Vec<Vec<u8>>,
}

impl Found {
    /// Adds the key of a row about the person.
    pub(crate) fn add(&mut self, key: &[u8]) -> Result<(), StoreError> {
        match key.first() {
            Some(b'x') => drop(self.aside.insert(EventId(keys::number(key)?))),
            Some(b'f') => drop(self.feed.insert(keys::number(key)?)),
            _ => self.inbox.push(key.to_vec()),
        }
        Ok(())
    }

    /// Adds index keys that lead to contacts whose records are damaged.
    pub(crate) fn add_leftovers(&mut self, keys: impl IntoIterator<Item = Vec<u8>>) {
        self.leftover.extend(keys);
    }
}

/// Whether a row is about the person, and of a kind that is not indexed by ids.
pub(crate) fn is_about(view: &View<'_>, ids: &Ids, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
    let about = match key.first() {
        Some(b'i') => decode(key, value).map(|event| ids.has_event(&event)),
        Some(b'f') => decode(key, value).map(|entry| ids.in_entry(&entry)),
        Some(b'x') => match decode(key, value) {
            Ok(SetAside::Dead { event, .. }) => Ok(ids.has_event(&event)),
            Ok(SetAside::Quarantined(Quarantined { id, .. })) => {
                Ok(ids.in_message(&events::readable_text(view, id)?))
            }
            Err(error) => Err(error),
        },
        _ => Ok(false),
    };
    Ok(view.undamaged(key, about)?.unwrap_or(false))
}

/// Whether an index key leads to one of these `contacts`.
pub(crate) fn leads_to(contacts: &[Vec<u8>], key: &[u8]) -> bool {
    // Without its kind a contact's key is the end of its key in every index.
    contacts.iter().any(|contact| key.ends_with(&contact[1..]))
}

/// The keys of the rows in a batch that a search would find.
pub(crate) fn written_about(ids: &Ids, batch: &Batch) -> Vec<Vec<u8>> {
    let written = |kind: &[u8]| {
        let rows = batch.range(kind.to_vec()..keys::after(kind));
        rows.filter_map(|(key, value)| Some((key, value.as_deref()?)))
    };
    let text = |id| {
        let parts = written(&keys::message_parts(id)).filter_map(|(key, value)| decode(key, value).ok());
        parts.flat_map(|MessagePart(text)| text).collect::<Vec<_>>()
    };
    let events = written(b"i").filter(|(key, value)| decode(key, value).is_ok_and(|e| ids.has_event(&e)));
    let entries = written(b"f").filter(|(key, value)| decode(key, value).is_ok_and(|e| ids.in_entry(&e)));
    let aside = written(b"x").filter(|(key, value)| match decode(key, value) {
        Ok(SetAside::Dead { event, .. }) => ids.has_event(&event),
        Ok(SetAside::Quarantined(Quarantined { id, .. })) => ids.in_message(&text(id)),
        Err(_) => false,
    });
    events.chain(entries).chain(aside).map(|(key, _)| key.clone()).collect()
}

/// The keys of those of the person's contacts whose record is damaged: only the record would name its places
/// in the indexes.
pub(crate) fn damaged_contacts(view: &View<'_>, ids: &Ids) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut damaged = Vec::new();
    for key in ids.contacts.iter().map(keys::contact) {
        match view.read::<Contact>(&key) {
            Err(StoreError::Damaged(_)) => damaged.push(key),
            read => drop(read?),
        }
    }
    Ok(damaged)
}

/// The kinds of the keys that lead to contacts.
pub(crate) const INDEXES_OF_CONTACTS: [&[u8]; 5] = [b"w", b"y", b"q", b"u", b"M"];

/// Erases a person: what was `found`, and what the watch of the search has seen since. `None` if the set of
/// the person's ids has changed since `ids` was read, or the watch has missed something.
pub(crate) fn forget(
    txn: &mut Txn<'_>,
    person: &PersonId,
    ids: &Ids,
    (mut found, watch): (Found, &Watch),
    (id, request): (ReceiptId, Option<String>),
    now: Timestamp,
) -> Result<Option<Receipt>, StoreError> {
    if Ids::of(txn, person)? != *ids || watch.has_missed() {
        return Ok(None);
    }
    let mut erased = Erased::default();
    let unpublished = watch.wanted(txn.unpublished());
    watch.seen().iter().chain(&unpublished).try_for_each(|key| found.add(key))?;
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
    for seq in found.feed {
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
    txn.erase_person(now);
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
