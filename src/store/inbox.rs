//! The inbox, the durable queue of received events: what goes in, what is in it, dead letters and quarantine.

use serde::{Deserialize, Serialize};

use crate::domain::event::{Event, QuarantineReason};
use crate::domain::ids::{AppName, ContactKey};
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

/// A verified message to be appended to the inbox.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The app that received it.
    pub app: AppName,
    /// Deduplication key.
    pub digest: MessageDigest,
    /// When we received it.
    pub received_at: Timestamp,
    /// The event, or the message to quarantine.
    pub payload: Payload,
}

/// What an [`Arrival`] carries.
#[derive(Debug, Clone)]
pub enum Payload {
    /// An event to act upon.
    Event(Event),
    /// A verified message that cannot be acted upon now.
    Quarantine {
        /// Why.
        reason: QuarantineReason,
        /// The corp or suite that WeCom encrypted it for.
        receive_id: String,
        /// The whole decrypted message.
        message: Vec<u8>,
        /// The event in it, if the message could be parsed.
        event: Option<Event>,
    },
}

impl Payload {
    /// The event in it, if there is one that could be parsed.
    #[must_use]
    pub const fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Quarantine { event, .. } => event.as_ref(),
        }
    }
}

/// The result of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored.
    New(EventId),
    /// Stored before; nothing changed.
    Duplicate,
    /// An old event about a person who was erased since; nothing is kept of it.
    Forgotten,
}

/// Why something failed, for people to read. Contains no personal id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReason {
    /// WeCom's error code, if WeCom answered with one.
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
    /// When it is next due.
    pub due_at: Timestamp,
    /// Failed attempts that counted.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub failure: Option<FailureReason>,
    /// What happened.
    pub event: Event,
}

impl InboxEvent {
    /// The customer it is about.
    #[must_use]
    pub fn contact_key(&self) -> ContactKey {
        ContactKey {
            app: self.app.clone(),
            corp_id: self.event.corp_id.clone(),
            external_userid: self.event.contact.external_userid.clone(),
        }
    }
}

/// A quarantined message, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its number.
    pub id: EventId,
    /// The app it was sent to.
    pub app: AppName,
    /// When we received it.
    pub received_at: Timestamp,
    /// Why it was quarantined.
    pub reason: QuarantineReason,
    /// The corp or suite that WeCom encrypted it for.
    pub receive_id: String,
    /// The length of the message in bytes.
    pub message_bytes: u32,
}

/// The state of an event or message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventState {
    /// In the queue, due now or later.
    Waiting,
    /// Leased by a worker.
    Leased,
    /// Failed for good; kept for an operator.
    Dead,
    /// Not parsed or not accepted; kept for an operator.
    Quarantined,
}

/// An event or message in any state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventRow {
    /// Waiting or leased.
    Inbox(InboxEvent),
    /// A dead letter.
    Dead {
        /// The event.
        event: InboxEvent,
        /// When it became one.
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
