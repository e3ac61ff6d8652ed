//! What the inbox holds: verified callbacks on their way in, events to be worked on, and what was set aside.

use serde::{Deserialize, Serialize};

use crate::domain::event::ContactEvent;
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::time::Timestamp;

/// The number of an event in the inbox; shown as `evt_42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId(pub u64);

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "evt_{}", self.0)
    }
}

impl std::str::FromStr for EventId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("evt_").unwrap_or(text).parse().map(Self)
    }
}

/// Identifies a message for deduplication: SHA-256 over app and decrypted message, cut to 16 bytes. WeCom's
/// own advice (`FromUserName` + `CreateTime`) would take two customers added in one second for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageDigest(pub [u8; 16]);

impl MessageDigest {
    /// The digest of `message` as received by `app`.
    #[must_use]
    pub fn of(app: &AppName, message: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
        let digest =
            Sha256::new().chain_update(app.as_str()).chain_update([0]).chain_update(message).finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Self(short)
    }
}

/// A verified callback on its way into the inbox.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The app it was sent to.
    pub app: AppName,
    /// For deduplication.
    pub digest: MessageDigest,
    /// When we received it.
    pub received_at: Timestamp,
    /// What came.
    pub content: Content,
}

/// What came.
#[derive(Debug, Clone)]
pub enum Content {
    /// An event to act upon.
    Event(Happening),
    /// A message that is WeCom's but cannot be acted upon now.
    Quarantine {
        /// Why.
        reason: QuarantineReason,
        /// Whom WeCom sealed it for.
        receive_id: String,
        /// The decrypted message, whole.
        message: Vec<u8>,
        /// What it says, where that is understood.
        about: Option<Happening>,
    },
}

/// A change between a member and a customer, and where and when it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// The dealer, or the brand itself.
    pub corp_id: CorpId,
    /// `CreateTime` of the event.
    pub created_at: Timestamp,
    /// What happened.
    pub contact: ContactEvent,
}

/// Why a verified message waits for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuarantineReason {
    /// Sealed for a corp or suite we were not told to accept.
    ReceiveId,
    /// Its content is not understood.
    NotUnderstood(String),
    /// It is an event of long ago, or of days ahead.
    FarOff {
        /// Its `CreateTime`.
        created_at: Timestamp,
    },
}

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored.
    New(EventId),
    /// Stored before; nothing changed.
    Duplicate,
    /// An old event about a person who was forgotten since; nothing is kept of it.
    Forgotten,
}

/// Why something did not work, for people to read. Holds no personal id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// WeCom's code, if it was WeCom who refused.
    pub errcode: Option<i64>,
    /// What happened and what to do.
    pub text: String,
}

/// An event in the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxEvent {
    /// Its number.
    pub id: EventId,
    /// The app it was sent to.
    pub app: AppName,
    /// When we received it.
    pub received_at: Timestamp,
    /// When it is to be worked on.
    pub due_at: Timestamp,
    /// Tries that failed.
    pub attempts: u32,
    /// Why the last try failed.
    pub problem: Option<Problem>,
    /// What happened.
    pub happening: Happening,
}

impl Content {
    /// What it says happened, where that is understood.
    #[must_use]
    pub const fn happening(&self) -> Option<&Happening> {
        match self {
            Self::Event(happening) => Some(happening),
            Self::Quarantine { about, .. } => about.as_ref(),
        }
    }
}

impl InboxEvent {
    /// The customer it is about.
    #[must_use]
    pub fn contact_key(&self) -> ContactKey {
        ContactKey {
            app: self.app.clone(),
            corp_id: self.happening.corp_id.clone(),
            external_userid: self.happening.contact.external_userid.clone(),
        }
    }
}

/// A quarantined message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its number.
    pub id: EventId,
    /// The app it was sent to.
    pub app: AppName,
    /// When we received it.
    pub received_at: Timestamp,
    /// Why it is here.
    pub reason: QuarantineReason,
    /// Whom WeCom sealed it for.
    pub receive_id: String,
    /// The length of the message in bytes.
    pub message_bytes: u32,
}

/// The states of the inbox's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventState {
    /// To be worked on, now or later.
    Waiting,
    /// Being worked on.
    Leased,
    /// Given up; kept for an operator.
    Dead,
    /// Not understood or not for us; kept for an operator.
    Quarantined,
}

/// One row of the inbox's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventRow {
    /// Waiting or leased.
    Inbox(InboxEvent),
    /// Given up at `died_at`.
    Dead {
        /// The event.
        event: InboxEvent,
        /// When.
        died_at: Timestamp,
    },
    /// Quarantined.
    Quarantined(Quarantined),
}

impl EventRow {
    /// Its number.
    #[must_use]
    pub const fn id(&self) -> EventId {
        match self {
            Self::Inbox(event) | Self::Dead { event, .. } => event.id,
            Self::Quarantined(quarantined) => quarantined.id,
        }
    }
}
