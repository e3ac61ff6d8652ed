//! The durable state, spoken to in business transactions.
//!
//! Every method of [`Store`] that changes something is atomic, and durable (through a power cut) when it
//! returns `Ok`. Two writes that must agree are one method: appending an event and remembering that it was
//! seen; settling it, the links that follow and their feed entries.
//!
//! [`embedded`] is the store of one machine: a single writer thread over a small engine seam, sled the engine.
//! The trait keeps free of what only an embedded engine can do, so that a database server can stand behind it.
//!
//! Deliberately absent: any call to WeCom, and any knowledge of HTTP.

pub mod embedded;

#[cfg(test)]
mod contract;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, TokenOwner};
use crate::domain::event::ContactEvent;
use crate::domain::fan::{Fan, FanStep, Minted};
use crate::domain::ids::{AppName, ContactKey, CorpId, ExternalUserid, FanKey, Openid, PendingId, Unionid};
use crate::domain::link::{FeedEntry, LinkData};
use crate::domain::quota::{Grant, Limits};
use crate::domain::time::Timestamp;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk has less free space than configured; nothing is written until there is more.
    #[error("less than {min_mb} MiB free on the store's disk")]
    NoSpace {
        /// The configured minimum.
        min_mb: u64,
    },
    /// The inbox holds as many events as it may.
    #[error("the inbox is at its limit of {limit} events")]
    InboxFull {
        /// The configured maximum.
        limit: u64,
    },
    /// The writer made no progress in time. Whether the transaction will still happen is not known.
    #[error("the store's writer makes no progress")]
    Stalled,
    /// An I/O error, final for this process: what the disk holds is known only after a restart.
    #[error("the store has failed and needs a restart: {0}")]
    Failed(String),
    /// A record does not carry its own checksum, or is of a version this program does not know.
    #[error("a stored record is damaged: {0}")]
    Damaged(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

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
}

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored.
    New(EventId),
    /// Stored before; nothing changed.
    Duplicate,
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

/// Something to do on the dealers' side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Which.
    pub id: WorkId,
    /// The customer.
    pub contact: ContactKey,
    /// The event, unless this is another question about a waiting customer.
    pub event: Option<InboxEvent>,
    /// What is known of the customer.
    pub known: Option<Contact>,
}

/// Names a piece of work, with the instant it was due: an identity that goes stale when it is rescheduled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WorkId {
    /// An event in the inbox.
    Event(Timestamp, EventId),
    /// A waiting customer to be asked about again.
    Reask(Timestamp, ContactKey),
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// WeCom gave the customer's pending id.
    Resolved(PendingId),
    /// WeCom had nothing: the customer waits to be asked about again.
    Missed,
    /// Nothing had to be asked.
    Applied,
    /// To be tried again.
    Retry {
        /// When.
        due_at: Timestamp,
        /// Why it did not work.
        problem: Problem,
        /// Whether this counts as a try of this event; it does not when app or dealer are at fault.
        spent: bool,
    },
    /// Will never work; kept for an operator.
    Dead(Problem),
}

/// A new fan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFan {
    /// Who.
    pub key: FanKey,
    /// The person inside the brand's mini program.
    pub openid: Openid,
    /// Whether WeCom is to be asked which dealers have this person already.
    pub ask_existing: bool,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// Not known before.
    New,
    /// Known, nothing changed.
    Known,
    /// Known; the openid was replaced.
    Replaced,
}

/// Something to do for a fan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanWork {
    /// Who.
    pub key: FanKey,
    /// Which call.
    pub step: FanStep,
    /// When it was due; with `key` and `step` the identity of this work.
    pub due_at: Timestamp,
    /// What is known.
    pub fan: Fan,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FanVerdict {
    /// A pending id.
    Minted(Minted),
    /// The customers this person already is, and when WeCom said so.
    Existing(Vec<(CorpId, ExternalUserid)>),
    /// To be tried again.
    Retry {
        /// When.
        due_at: Timestamp,
        /// Whether this counts as a try of this fan.
        spent: bool,
    },
    /// WeCom refuses this fan for good.
    Rejected {
        /// WeCom's code.
        errcode: i64,
    },
}

/// Which links to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkQuery {
    /// By what.
    pub by: LinkBy,
    /// Only of this dealer.
    pub corp_id: Option<CorpId>,
    /// Only of this app.
    pub app: Option<AppName>,
}

/// By what links are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkBy {
    /// The fan.
    Unionid(Unionid),
    /// The customer.
    ExternalUserid(ExternalUserid),
    /// Where they met.
    PendingId(PendingId),
}

/// The most links one look-up returns.
pub const LINKS_MAX: usize = 1_000;

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

/// What is redriven, and how.
#[derive(Debug, Clone)]
pub enum Redriven {
    /// A dead letter went back to the inbox.
    Dead,
    /// A quarantined message became an event.
    Released,
    /// A quarantined message turned out to need no action.
    Dropped,
}

/// How much there is of everything. Kept with every commit, so reading it costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Events in the inbox, leased ones included.
    pub inbox: u64,
    /// Dead letters.
    pub dead: u64,
    /// Quarantined messages.
    pub quarantined: u64,
    /// Customers heard of.
    pub contacts: u64,
    /// Customers WeCom will be asked about again.
    pub waiting: u64,
    /// Links.
    pub links: u64,
    /// Fans registered.
    pub fans: u64,
    /// Fans waiting to be minted.
    pub fans_queued: u64,
    /// Fans with a pending id.
    pub fans_minted: u64,
    /// Fans WeCom refuses.
    pub fans_rejected: u64,
    /// The number of the newest feed entry.
    pub feed_head: u64,
    /// The number of the newest event.
    pub event_head: u64,
}

/// The durable state.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a verified callback unless its like was stored before.
    async fn append(&self, arrival: Arrival) -> Result<Appended, StoreError>;

    /// Takes up to `limit` pieces of work that are due at `now`, oldest first, and marks them as being worked
    /// on until they are settled or the process ends.
    async fn lease(&self, now: Timestamp, limit: usize) -> Result<Vec<Work>, StoreError>;

    /// When the next piece of work that nobody works on is due.
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Writes down what came of leased work: followers, meetings, links, feed entries, the inbox. Each outcome
    /// is atomic; one whose work is no longer there is passed over.
    async fn settle(&self, outcomes: Vec<(Work, Verdict)>, now: Timestamp) -> Result<(), StoreError>;

    /// Up to `limit` events in `state` with a number above `after`, by number (`Waiting` and `Leased`: by the
    /// instant they are due).
    async fn events(
        &self,
        state: EventState,
        after: EventId,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError>;

    /// One dead or quarantined event.
    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError>;

    /// The whole text of a quarantined message.
    async fn quarantined_message(&self, id: EventId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Puts a dead letter back into the inbox, or replaces a quarantined message by the event it turned out to
    /// be (`None`: by nothing). Returns whether there was one.
    async fn redrive(
        &self,
        id: EventId,
        becomes: Option<Happening>,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Registers fans. Answers in the same order.
    async fn put_fans(&self, fans: Vec<NewFan>, now: Timestamp) -> Result<Vec<Registered>, StoreError>;

    /// A fan in every app that knows it.
    async fn fans(&self, unionid: &Unionid) -> Result<Vec<(FanKey, Fan)>, StoreError>;

    /// Takes up to `limit` fans of `app` for whom `step` is due, as [`lease`](Store::lease) does.
    async fn lease_fans(
        &self,
        app: &AppName,
        step: FanStep,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<FanWork>, StoreError>;

    /// When `step` is next due for a fan of `app` whom nobody works on.
    async fn next_fan_due(&self, app: &AppName, step: FanStep) -> Result<Option<Timestamp>, StoreError>;

    /// Writes down what came of it, with the links that follow.
    async fn settle_fans(
        &self,
        outcomes: Vec<(FanWork, FanVerdict)>,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Reserves up to `want` calls of `api` for `corp`, durably, before any of them is made.
    async fn reserve(
        &self,
        corp: &CorpId,
        api: &'static str,
        limits: Limits,
        want: u32,
        now: Timestamp,
    ) -> Result<Grant, StoreError>;

    /// Notes that WeCom blocks `api` for `corp` until then.
    async fn block(&self, corp: &CorpId, api: &'static str, until: Timestamp) -> Result<(), StoreError>;

    /// Calls counted against the hour, day and month ending at `now`, and WeCom's block if there is one.
    async fn quota_used(
        &self,
        corp: &CorpId,
        api: &'static str,
        now: Timestamp,
    ) -> Result<([u32; 3], Option<Timestamp>), StoreError>;

    /// Notes what WeCom says of an app's dealers. What was learnt about a dealer's token stays.
    async fn put_dealers(&self, app: &AppName, dealers: Vec<Dealer>) -> Result<(), StoreError>;

    /// One dealer.
    async fn dealer(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, StoreError>;

    /// All dealers of an app.
    async fn dealers(&self, app: &AppName) -> Result<Vec<Dealer>, StoreError>;

    /// Notes whose token converts a dealer's customers.
    async fn remember_token(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        owner: TokenOwner,
    ) -> Result<(), StoreError>;

    /// Up to [`LINKS_MAX`] links, as of `now`.
    async fn links(&self, query: &LinkQuery, now: Timestamp) -> Result<Vec<LinkData>, StoreError>;

    /// Up to `limit` feed entries after `after`, durable ones only, as of `now`.
    async fn feed(&self, after: u64, limit: usize, now: Timestamp) -> Result<Vec<FeedEntry>, StoreError>;

    /// Follows the number of the newest durable feed entry.
    fn feed_head(&self) -> watch::Receiver<u64>;

    /// How much there is of everything.
    fn counts(&self) -> Counts;

    /// When the oldest event in the inbox was received.
    async fn oldest_event(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Whether an event could be made durable now.
    ///
    /// # Errors
    /// Why it could not.
    fn ready(&self) -> Result<(), StoreError>;

    /// Resolves when the store has failed for good, with the reason.
    async fn failed(&self) -> String;

    /// Deletes what has outlived its use as of `now`: records of seen messages. Returns how many.
    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Finishes what was handed in, and closes. Later calls return [`StoreError::Closed`].
    async fn close(&self);
}
