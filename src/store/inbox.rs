//! The types of the inbox, the durable queue of received events: what is appended, the queued events, dead
//! letters and quarantined messages.
//!
//! Deliberately absent: the operations on them, which are methods of [`Store`](super::Store).

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::domain::chat::ChatEvent;
use crate::domain::event::{AppAlarm, Event, QuarantineReason};
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::suite::SuiteEvent;
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

/// The deduplication key of a message: SHA-256 over app and decrypted message, truncated to 16 bytes. The key
/// that WeCom recommends (`FromUserName` + `CreateTime`) would drop the second of two customers added within
/// one second.
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
    /// The app or suite that received it.
    pub app: AppName,
    /// The deduplication key.
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
    /// A change of a customer group. It is applied at once: lookups of customers are queued, and a reading of
    /// the member list, if one is needed.
    Chat(ChatEvent),
    /// The visible range of the app at this corp may have changed: its customers without a pending id are to
    /// be looked up again.
    Visibility(CorpId),
    /// A warning about the use of the app at a corp, or its end.
    Alarm(AppAlarm),
    /// An event of a suite. It is applied at once.
    Suite(SuiteEvent),
    /// A verified message to keep for an operator, because it was not accepted as an event.
    Quarantine {
        /// Why it was not accepted.
        reason: QuarantineReason,
        /// The corp or suite that WeCom encrypted it for.
        receive_id: String,
        /// Its `CreateTime`; `None` if it has none that can be read.
        created_at: Option<Timestamp>,
        /// The whole decrypted message.
        message: Vec<u8>,
        /// The event in the message, if it could be parsed.
        event: Option<Event>,
    },
}

impl Payload {
    /// The event to act upon, or the one in the message to quarantine if it could be parsed.
    #[must_use]
    pub const fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Quarantine { event, .. } => event.as_ref(),
            Self::Chat(_) | Self::Visibility(_) | Self::Alarm(_) | Self::Suite(_) => None,
        }
    }
}

/// The result of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Appended under this number.
    New(EventId),
    /// Appended before; nothing was stored.
    Duplicate,
    /// An old event about a person who has been erased since it happened, or a message to quarantine that
    /// names such a person; nothing was stored.
    Forgotten,
    /// A suite's event without effect, such as an older ticket or a replayed auth code. Only its digest was
    /// stored.
    Stale,
}

/// Why something failed, for an operator. Contains no personal id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReason {
    /// WeCom's error code, if WeCom answered with one.
    pub errcode: Option<i64>,
    /// What happened, and what to do about it.
    pub text: String,
}

/// An event in the inbox, or a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxEvent {
    /// Its number.
    pub id: EventId,
    /// The app it was sent to.
    pub app: AppName,
    /// When we received it.
    pub received_at: Timestamp,
    /// When it is due next.
    pub due_at: Timestamp,
    /// The failed attempts that were spent: not those where the app or the dealer was at fault.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub failure: Option<FailureReason>,
    /// The event itself.
    pub event: Event,
}

impl InboxEvent {
    /// The customer that the event is about.
    #[must_use]
    pub fn contact_key(&self) -> ContactKey {
        ContactKey {
            app: self.app.clone(),
            corp_id: self.event.corp_id.clone(),
            external_userid: self.event.contact.external_userid.clone(),
        }
    }
}

/// A quarantined message without its text, which
/// [`Store::quarantined_message`](super::Store::quarantined_message) returns.
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
    /// The length of its text in bytes.
    pub message_bytes: u32,
}

/// The state of an event or message.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, IntoStaticStr, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EventState {
    /// In the inbox and not leased; due now or later.
    #[default]
    Waiting,
    /// Leased by a worker.
    Leased,
    /// A dead letter: failed for good, kept for an operator.
    Dead,
    /// Quarantined: not parsed or not accepted, kept for an operator.
    Quarantined,
}

/// An event or message in any state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventRow {
    /// An event that is waiting or leased.
    Inbox(InboxEvent),
    /// A dead letter.
    Dead {
        /// The event.
        event: InboxEvent,
        /// When it became a dead letter.
        died_at: Timestamp,
    },
    /// A quarantined message.
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
