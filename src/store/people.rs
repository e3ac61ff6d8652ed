//! What the store knows of one person: gathered for an explanation, or erased.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{EventRow, StoreError};
use crate::domain::contact::Contact;
use crate::domain::fan::Fan;
use crate::domain::ids::{ContactKey, ExternalUserid, FanKey, Unionid, hex};
use crate::domain::time::Timestamp;

/// A person, by one of the ids we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// As a fan.
    Unionid(Unionid),
    /// As a dealer's customer.
    ExternalUserid(ExternalUserid),
}

/// Everything kept about an id.
#[derive(Debug, Default)]
pub struct Trace {
    /// The fans of this unionid, or whom customers of this `external_userid` are linked to.
    pub fans: Vec<(FanKey, Fan)>,
    /// The customers of this `external_userid`, or linked to the fan of this unionid.
    pub contacts: Vec<(ContactKey, Contact)>,
    /// What is in the inbox or set aside about those customers. Of an inbox with very many events only the first are
    /// looked at.
    pub events: Vec<EventRow>,
    /// When this person was forgotten, if ever.
    pub forgotten_at: Option<Timestamp>,
}

/// The name of a receipt, shown as `rcp_…`.
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

/// The proof that a person was forgotten. Holds no personal id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its name.
    pub id: ReceiptId,
    /// When.
    pub forgotten_at: Timestamp,
    /// By which request, in the words of whoever asked.
    pub request: Option<String>,
    /// The id that was named, as a hash salted with a secret of this store: who has the id and the store can tell that
    /// this receipt is about it, nobody else can tell anything.
    pub subject: String,
    /// What was erased.
    pub erased: Erased,
}

/// How much was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Entries of the feed whose content was removed.
    pub feed_entries: u64,
}

/// What is known of one person.
#[async_trait]
pub trait People: Send + Sync {
    /// Everything kept about an id, which may be a unionid or an `external_userid`.
    async fn trace(&self, id: &str) -> Result<Trace, StoreError>;

    /// Erases a person: fans, customers, links, events, dead letters, quarantined messages and the content of feed
    /// entries, in one transaction that also tells the feed and writes the receipt. What arrives later is
    /// linked again only to a fan registered after `now`.
    async fn forget(
        &self,
        person: &Person,
        request: Option<String>,
        now: Timestamp,
    ) -> Result<Receipt, StoreError>;

    /// Forgets whole those fans who turned out to be customers that were forgotten before. Returns how many.
    async fn finish_forgetting(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// A receipt.
    async fn receipt(&self, id: ReceiptId) -> Result<Option<Receipt>, StoreError>;
}
