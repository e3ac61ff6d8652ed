//! One person: everything stored about them, and their erasure.

use std::time::Duration;

use async_trait::async_trait;

use super::forget::{self, Ids};
use super::forgotten;
use super::inbox::SetAside;
use super::roll;
use super::{trail, words};
use crate::domain::audit::{AuditAction, AuditBy, AuditEntry};
use crate::domain::contact::Contact;
use crate::domain::ids::{ContactKey, ExternalUserid, Unionid};
use crate::domain::time::Timestamp;
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::records::decode;
use crate::store::embedded::rows::keys;
use crate::store::embedded::rows::txn::Txn;
use crate::store::{
    Erased, EventRow, InboxEvent, People, PersonData, PersonId, Quarantined, Receipt, ReceiptId, StoreError,
};

/// Maximum number of rows of the inbox, and of dead letters and quarantine, that are read for one person.
const EVENTS_LOOKED_AT_MAX: usize = 200_000;
/// Maximum number of events returned for one person.
const EVENTS_MAX: usize = 20;
/// Attempts of an erasure: the set of a person's ids can change during the search, but hardly ever twice.
const TRIES_MAX: usize = 10;

/// How often a receipt is looked for after a time-out: the transaction is still committed unless the writer
/// has failed.
const LATE_LOOKS_MAX: u32 = 20;
const LATE_LOOK_EVERY: Duration = Duration::from_millis(500);

/// The entry of the audit trail about an erasure.
fn audit_entry(receipt: &Receipt, by: AuditBy) -> AuditEntry {
    let Erased { fans, contacts, links, events, dead_letters, quarantined, feed_entries } = receipt.erased;
    AuditEntry::new(receipt.forgotten_at, by, AuditAction::Erase)
        .count("fans", fans)
        .count("customers", contacts)
        .count("links", links)
        .count("events", events + dead_letters + quarantined)
        .count("feed_entries", feed_entries)
        .about("receipt", &receipt.id)
}

impl EmbeddedStore {
    fn contact(&self, key: &ContactKey) -> Result<Option<Contact>, StoreError> {
        let record = keys::contact(key);
        Ok(self.undamaged(&record, self.read(&record))?.flatten())
    }

    /// Erases a person, if that is still wanted when the transaction runs; `None` otherwise.
    async fn erase(
        &self,
        person: &PersonId,
        (request, by): (Option<String>, AuditBy),
        is_wanted: impl Fn(&Txn<'_>) -> Result<bool, StoreError> + Clone + Send + 'static,
        now: Timestamp,
    ) -> Result<Option<Receipt>, StoreError> {
        enum Attempt {
            Done(Receipt),
            IdsChanged,
            Unwanted,
        }
        self.indexed().await?;
        let id = ReceiptId(rand::random());
        for _ in 0..TRIES_MAX {
            let ids = Ids::of(self, person)?;
            let found = forget::search(self, &ids, now).await?;
            let (person, request, by) = (person.clone(), request.clone(), by.clone());
            let is_wanted = is_wanted.clone();
            let erase = move |txn: &mut Txn<'_>| {
                if !is_wanted(txn)? {
                    return Ok(Attempt::Unwanted);
                }
                let receipt = forget::forget(txn, &person, &ids, found, (id, request), now)?;
                let Some(receipt) = receipt else { return Ok(Attempt::IdsChanged) };
                trail::record(txn, &audit_entry(&receipt, by))?;
                Ok(Attempt::Done(receipt))
            };
            match self.writer.run(erase).await {
                Ok(Attempt::IdsChanged) => {}
                Ok(Attempt::Done(receipt)) => return Ok(Some(receipt)),
                Ok(Attempt::Unwanted) => return Ok(None),
                // It may still be committed, and the caller needs the receipt.
                Err(StoreError::Stalled) => return self.late_receipt(id).await.map(Some),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Stalled)
    }

    async fn late_receipt(&self, id: ReceiptId) -> Result<Receipt, StoreError> {
        for _ in 0..LATE_LOOKS_MAX {
            tokio::time::sleep(LATE_LOOK_EVERY).await;
            if let Some(receipt) = self.read(&keys::receipt(id))? {
                return Ok(receipt);
            }
        }
        Err(StoreError::Stalled)
    }

    /// Events about one of these customers, and quarantined messages that contain `id`.
    fn events_about(&self, customers: &[&ExternalUserid], id: &str) -> Result<Vec<EventRow>, StoreError> {
        let about = |event: &InboxEvent| customers.contains(&&event.event.contact.external_userid);
        let mut found = Vec::new();
        for row in self.engine.range(b"i", &keys::after(b"i")).take(EVENTS_LOOKED_AT_MAX) {
            let (key, value) = row.map_err(crate::store::embedded::failed)?;
            let event = self.undamaged(&key, decode::<InboxEvent>(&key, &value))?;
            found.extend(event.filter(|event| about(event)).map(EventRow::Inbox));
            if found.len() >= EVENTS_MAX {
                return Ok(found);
            }
        }
        for row in self.engine.range(b"x", &keys::after(b"x")).take(EVENTS_LOOKED_AT_MAX) {
            let (key, value) = row.map_err(crate::store::embedded::failed)?;
            let Some(aside) = self.undamaged(&key, decode::<SetAside>(&key, &value))? else { continue };
            let row = EventRow::from(aside);
            let wanted = match &row {
                EventRow::Dead { event, .. } | EventRow::Inbox(event) => about(event),
                EventRow::Quarantined(Quarantined { id: message, .. }) => {
                    let message = self.undamaged(&key, self.message(*message))?.flatten();
                    words::names(&message.unwrap_or_default(), id)
                }
            };
            found.extend(wanted.then_some(row));
            if found.len() >= EVENTS_MAX {
                break;
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl People for EmbeddedStore {
    async fn person_data(&self, id: &str) -> Result<PersonData, StoreError> {
        self.indexed().await?;
        let mut data = PersonData {
            forgotten_at: forgotten::forgotten_at(self, self.salt, id)?,
            ..PersonData::default()
        };
        let (mut unionids, mut contacts) = (Vec::new(), Vec::new());
        if let Ok(unionid) = Unionid::new(id) {
            contacts = self.contacts_in(&keys::linked_to(&unionid))?;
            unionids.push(unionid);
        }
        if let Ok(customer) = ExternalUserid::new(id) {
            let prefix = keys::contacts_of(&customer);
            let of_key = |key: &[u8], _: &[u8]| keys::Parts::of(key).contact().map(Some);
            contacts.extend(self.rows(&prefix, &keys::after(&prefix), EVENTS_MAX, of_key)?);
        }
        for key in contacts {
            let Some(contact) = self.contact(&key)? else { continue };
            unionids.extend(contact.link.as_ref().map(|link| link.unionid.clone()));
            data.contacts.push((key, contact));
        }
        unionids.sort_unstable();
        unionids.dedup();
        for unionid in &unionids {
            data.fans.extend(roll::fans_of(self, unionid)?.into_iter().map(|entry| (entry.key, entry.fan)));
        }
        let named = ExternalUserid::new(id).ok();
        let mut customers: Vec<_> = data.contacts.iter().map(|(key, _)| &key.external_userid).collect();
        customers.extend(&named);
        data.events = self.events_about(&customers, id)?;
        Ok(data)
    }

    async fn forget(
        &self,
        person: &PersonId,
        request: Option<String>,
        by: AuditBy,
        now: Timestamp,
    ) -> Result<Receipt, StoreError> {
        self.erase(person, (request, by), |_| Ok(true), now).await?.ok_or(StoreError::Stalled)
    }

    async fn finish_forgetting(&self, now: Timestamp) -> Result<u64, StoreError> {
        const AT_ONCE: usize = 100;
        let unionids = self.rows(b"k", &keys::after(b"k"), AT_ONCE, |key, _| {
            Ok(keys::Parts::of(key).id().ok().and_then(|id| Unionid::new(id).ok()))
        })?;
        let mut forgotten = 0;
        for unionid in unionids {
            let request = Some("found to be a customer who was forgotten before".to_owned());
            // Registered again meanwhile, the person is a fan anew.
            let to_forget = keys::to_forget(&unionid);
            let is_wanted = move |txn: &Txn<'_>| txn.has(&to_forget);
            let person = PersonId::Unionid(unionid);
            let why = (request, AuditBy::service());
            if let Some(receipt) = self.erase(&person, why, is_wanted, now).await? {
                tracing::info!(receipt = %receipt.id, "a person was forgotten");
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    async fn receipt(&self, id: ReceiptId) -> Result<Option<Receipt>, StoreError> {
        self.read(&keys::receipt(id))
    }
}
