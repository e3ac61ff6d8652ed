//! Who a person is: every id that leads to the same one; and what is about them.

use std::collections::BTreeSet;

use crate::domain::contact::Contact;
use crate::domain::ids::{ContactKey, ExternalUserid, Unionid};
use crate::store::business::feed::StoredEntry;
use crate::store::business::words::names;
use crate::store::rows::keys;
use crate::store::rows::records::readable;
use crate::store::rows::view::Read;
use crate::store::{InboxEvent, PersonId, StoreError};

/// Ids that one person has. More than any person can have is somebody's mistake, and is cut off.
const IDS_MAX: usize = 10_000;

/// The ids of one person.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ids {
    pub(crate) unionids: BTreeSet<Unionid>,
    pub(crate) customers: BTreeSet<ExternalUserid>,
    pub(crate) contacts: BTreeSet<ContactKey>,
}

impl Ids {
    /// Everything that is linked to what `person` names, and so on.
    pub(crate) fn of(read: &impl Read, person: &PersonId) -> Result<Self, StoreError> {
        let mut ids = Self::default();
        match person {
            PersonId::Unionid(id) => drop(ids.unionids.insert(id.clone())),
            PersonId::ExternalUserid(id) => drop(ids.customers.insert(id.clone())),
        }
        loop {
            let before = ids.clone();
            for unionid in &before.unionids {
                let prefix = keys::linked_to(unionid);
                for key in read.under(&prefix, IDS_MAX)? {
                    let mut parts = keys::Parts(&key[prefix.len()..]);
                    parts.id()?;
                    ids.customers.insert(parts.contact()?.external_userid);
                }
            }
            for customer in &before.customers {
                for key in read.under(&keys::contacts_of(customer), IDS_MAX)? {
                    // Who a damaged record was linked to is not known; it goes all the same.
                    let link = readable(read.record::<Contact>(&key))?.and_then(|contact| contact.link);
                    ids.unionids.extend(link.map(|link| link.unionid));
                    ids.contacts.insert(keys::Parts::of(&key).contact()?);
                }
            }
            if ids == before || ids.contacts.len() > IDS_MAX {
                return Ok(ids);
            }
        }
    }

    pub(crate) fn has_event(&self, event: &InboxEvent) -> bool {
        self.customers.contains(&event.event.contact.external_userid)
    }

    pub(crate) fn in_entry(&self, entry: &StoredEntry) -> bool {
        entry.link().is_some_and(|link| {
            self.unionids.contains(&link.unionid) || self.customers.contains(&link.external_userid)
        })
    }

    pub(crate) fn in_message(&self, message: &[u8]) -> bool {
        let texts = self.unionids.iter().map(Unionid::as_str);
        let mut texts = texts.chain(self.customers.iter().map(ExternalUserid::as_str));
        texts.any(|id| names(message, id))
    }
}
