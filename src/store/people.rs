//! One person: everything stored about them (for `explain`), and their erasure with its receipt.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::StoreError;
use super::inbox::EventRow;
use crate::domain::audit::AuditBy;
use crate::domain::contact::Contact;
use crate::domain::fan::Fan;
use crate::domain::ids::{ContactKey, ExternalUserid, FanKey, Unionid, hex};
use crate::domain::time::Timestamp;

/// The id by which a person is to be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PersonId {
    /// A fan's unionid.
    Unionid(Unionid),
    /// The `external_userid` of a dealer's customer.
    ExternalUserid(ExternalUserid),
}

/// Everything stored about an id, which may be a unionid or an `external_userid`.
#[derive(Debug, Default)]
pub struct PersonData {
    /// The fans with this unionid, and those linked to customers with this `external_userid`.
    pub fans: Vec<(FanKey, Fan)>,
    /// The customers with this `external_userid`, and those linked to the fan with this unionid.
    pub contacts: Vec<(ContactKey, Contact)>,
    /// Events about these customers in the inbox, dead letters and quarantine; a limited number, found within
    /// the first events of a very long inbox.
    pub events: Vec<EventRow>,
    /// When the person with this id was last erased, if ever.
    pub forgotten_at: Option<Timestamp>,
}

/// The id of an erasure's receipt; shown as `rcp_` and 24 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptId(pub [u8; 12]);

impl fmt::Display for ReceiptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rcp_{}", hex(&self.0))
    }
}

impl FromStr for ReceiptId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = text.strip_prefix("rcp_").filter(|hex| hex.len() == 24 && hex.is_ascii()).ok_or(())?;
        let mut id = [0; 12];
        for (byte, digits) in id.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ())?;
        }
        Ok(Self(id))
    }
}

/// The receipt of an erasure. Contains no personal id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its id.
    pub id: ReceiptId,
    /// When the person was erased.
    pub forgotten_at: Timestamp,
    /// The reference that the operator gave for the request.
    pub request: Option<String>,
    /// The id by which the person was erased, hashed with a secret salt of this store. With the id and the
    /// store it can be verified that the receipt is about that id; without them it reveals nothing.
    pub subject: String,
    /// The numbers of erased records.
    pub erased: Erased,
}

/// The numbers of records that an erasure removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = ErasedView)]
pub struct Erased {
    /// Fans.
    pub fans: u64,
    /// Customers.
    pub contacts: u64,
    /// Links.
    pub links: u64,
    /// Events in the inbox.
    pub events: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Quarantined messages.
    pub quarantined: u64,
    /// Feed entries, whose content was removed; their sequence numbers stay.
    pub feed_entries: u64,
}

/// Data access and erasure for one person.
#[async_trait]
pub trait People: Send + Sync {
    /// Everything stored about an id, which may be a unionid or an `external_userid`.
    async fn person_data(&self, id: &str) -> Result<PersonData, StoreError>;

    /// Erases a person in one transaction: fans, customers, links, events, dead letters, quarantined messages
    /// and the content of feed entries. The same transaction appends an `erased` entry per link to the feed
    /// and writes the receipt and an entry of the audit trail. Afterwards the person's customers are linked again only to a fan registered
    /// after `now`. Repeating it erases what was stored since, and returns another receipt.
    async fn forget(
        &self,
        person: &PersonId,
        request: Option<String>,
        by: AuditBy,
        now: Timestamp,
    ) -> Result<Receipt, StoreError>;

    /// Completes erasures: a person erased as a customer before the fan was known is erased as a fan too,
    /// once an answer of WeCom shows that the two are one person. Returns the number of persons.
    async fn finish_forgetting(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// The receipt with this id.
    async fn receipt(&self, id: ReceiptId) -> Result<Option<Receipt>, StoreError>;
}
