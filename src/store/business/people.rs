//! Everything stored about one person, and what the audit trail says of an erasure.
//!
//! Deliberately absent: the erasure (see `forget`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::inbox::SetAside;
use super::{events, forgotten, links, roll, words};
use crate::domain::audit::{AuditAction, AuditBy, AuditEntry};
use crate::domain::ids::{ExternalUserid, Unionid};
use crate::store::rows::keys;
use crate::store::rows::records::decode;
use crate::store::rows::view::View;
use crate::store::{Erased, EventRow, InboxEvent, PersonData, Quarantined, Receipt, ReceiptId, StoreError};

/// Maximum number of rows of the inbox, and of dead letters and quarantine, that are read for one person.
const EVENTS_LOOKED_AT_MAX: usize = 200_000;
/// Maximum number of events returned for one person.
const EVENTS_MAX: usize = 20;

/// The entry of the audit trail about an erasure.
pub(crate) fn audit_entry(receipt: &Receipt, by: AuditBy) -> AuditEntry {
    let Erased { fans, contacts, links, events, dead_letters, quarantined, feed_entries } = receipt.erased;
    AuditEntry::new(receipt.forgotten_at, by, AuditAction::Erase)
        .count("fans", fans)
        .count("customers", contacts)
        .count("links", links)
        .count("events", events + dead_letters + quarantined)
        .count("feed_entries", feed_entries)
        .about("receipt", &receipt.id)
}

/// The receipt with this id.
pub(crate) fn receipt(view: &View<'_>, id: ReceiptId) -> Result<Option<Receipt>, StoreError> {
    view.read(&keys::receipt(id))
}

/// Everything stored about an id except events. `salt` is the store's secret.
pub(crate) fn data(view: &View<'_>, salt: [u8; 16], id: &str) -> Result<PersonData, StoreError> {
    let mut data =
        PersonData { forgotten_at: forgotten::forgotten_at(view, salt, id)?, ..PersonData::default() };
    let (mut unionids, mut contacts) = (Vec::new(), Vec::new());
    if let Ok(unionid) = Unionid::new(id) {
        contacts = view.contacts_in(&keys::linked_to(&unionid))?;
        unionids.push(unionid);
    }
    if let Ok(customer) = ExternalUserid::new(id) {
        let contact = |key: &[u8], _: &[u8]| keys::Parts::of(key).contact();
        contacts.extend(view.undamaged_under(&keys::contacts_of(&customer), EVENTS_MAX, contact)?);
    }
    for key in contacts {
        let Some(contact) = links::contact(view, &key)? else { continue };
        unionids.extend(contact.link.as_ref().map(|link| link.unionid.clone()));
        data.contacts.push((key, contact));
    }
    unionids.sort_unstable();
    unionids.dedup();
    for unionid in &unionids {
        data.fans
            .extend(roll::undamaged_fans_of(view, unionid)?.into_iter().map(|entry| (entry.key, entry.fan)));
    }
    Ok(data)
}

/// A search for events about a person: those of their customers, and quarantined messages that contain the
/// id.
pub(crate) struct EventsAbout<'a> {
    id: &'a str,
    customers: BTreeSet<ExternalUserid>,
}

impl<'a> EventsAbout<'a> {
    /// A search for events about the person with the id `id`, of whom `data` is known.
    pub(crate) fn new(id: &'a str, data: &PersonData) -> Self {
        let mut customers: BTreeSet<_> =
            data.contacts.iter().map(|(key, _)| key.external_userid.clone()).collect();
        customers.extend(ExternalUserid::new(id));
        Self { id, customers }
    }

    /// Looks at a row of the inbox, or at a dead letter or quarantined message. `None` if it is not about them.
    pub(crate) fn look_at(
        &self,
        view: &View<'_>,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<EventRow>, StoreError> {
        let row = if key.starts_with(b"i") {
            view.undamaged(key, decode(key, value))?.map(EventRow::Inbox)
        } else {
            view.undamaged(key, decode::<SetAside>(key, value))?.map(EventRow::from)
        };
        let about = |event: &InboxEvent| self.customers.contains(&event.event.contact.external_userid);
        let is_wanted = match &row {
            None => false,
            Some(EventRow::Dead { event, .. } | EventRow::Inbox(event)) => about(event),
            Some(EventRow::Quarantined(Quarantined { id, .. })) => {
                words::names(&events::readable_text(view, *id)?, self.id)
            }
        };
        Ok(row.filter(|_| is_wanted))
    }
}

/// The events found by a search.
#[derive(Default)]
pub(crate) struct EventsFound {
    pub(crate) found: Vec<EventRow>,
    /// Rows of the present kind.
    looked_at: usize,
}

impl EventsFound {
    /// Begins with the rows of another kind. False if enough events are found.
    pub(crate) fn begin(&mut self) -> bool {
        self.looked_at = 0;
        self.found.len() < EVENTS_MAX
    }

    /// Adds what a row turned out to be. Breaks once enough events are found, or enough rows looked at.
    pub(crate) fn add(&mut self, row: Option<EventRow>) -> ControlFlow<()> {
        self.found.extend(row);
        self.looked_at += 1;
        let is_enough = self.looked_at >= EVENTS_LOOKED_AT_MAX || self.found.len() >= EVENTS_MAX;
        if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
