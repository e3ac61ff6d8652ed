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
mod feed;
mod inbox;
mod people;

#[cfg(test)]
mod contract;

pub use feed::{Cursor, CursorState, Feed, LinksSnapshot, Seek, Start};
pub use inbox::{
    Appended, Arrival, EventId, EventRow, EventState, FailureReason, InboxEvent, MessageDigest, Payload,
    Quarantined,
};
pub use people::{Erased, People, Person, Receipt, ReceiptId, Trace};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, TokenOwner};
use crate::domain::event::Event;
pub use crate::domain::fan::Registered;
use crate::domain::fan::{Fan, FanStep, Minted, Priority, Renew};
use crate::domain::ids::{AppName, ContactKey, CorpId, ExternalUserid, FanKey, Openid, PendingId, Unionid};
use crate::domain::link::LinkData;
use crate::domain::quota::{Budget, Grant, Ledger, Share};
use crate::domain::tally::Tally;
use crate::domain::time::{Moment, Timestamp};

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
    /// The feed no longer has what was asked for.
    #[error("the feed begins with entry {oldest}; what was before is no longer kept")]
    Gone {
        /// The number of the oldest entry kept.
        oldest: u64,
    },
    /// More changed while a snapshot was read than could be put aside for it.
    #[error("so much changed meanwhile that the snapshot of the links was given up")]
    SnapshotLost,
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
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

impl Work {
    /// When it was due.
    #[must_use]
    pub const fn due_at(&self) -> Timestamp {
        match &self.id {
            WorkId::Event(due_at, _) | WorkId::Reask(due_at, _) => *due_at,
        }
    }
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
pub enum Outcome {
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
        /// Why it failed.
        reason: FailureReason,
        /// Whether this counts as a try of this event; it does not when app or dealer are at fault.
        spent: bool,
    },
    /// Will never work; kept for an operator.
    Dead(FailureReason),
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
    /// Who goes first where quota is short.
    pub priority: Priority,
    /// A pending id that another system obtained.
    pub minted: Option<Minted>,
}

/// Something to do for a fan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanWork {
    /// Who.
    pub key: FanKey,
    /// Which call.
    pub step: FanStep,
    /// In which queue it waited.
    pub priority: Priority,
    /// Where in that queue.
    pub place: FanPlace,
    /// Where the store keeps it; a fan who was forgotten and registered again is kept elsewhere.
    pub number: u32,
    /// What is known.
    pub fan: Fan,
}

/// A place in a queue of fans, shared by those who were put there together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FanPlace {
    /// When it was due.
    pub due_at: Timestamp,
    /// Makes it different from others due then.
    pub number: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FanOutcome {
    /// A pending id.
    Minted {
        /// It.
        minted: Minted,
        /// Whether the same one again, before its end, lives for another 90 days.
        same_id_extends: bool,
    },
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
    /// The number of the newest feed entry.
    pub feed_head: u64,
    /// The number of the newest feed entry that is no longer kept.
    pub feed_pruned: u64,
    /// The number of the newest event.
    pub event_head: u64,
}

/// The durable state. What leaves it, and what is known of one person, are traits of their own: [`Feed`], [`People`].
#[async_trait]
pub trait Store: Feed + People + Send + Sync + 'static {
    /// Stores a verified callback unless its like was stored before.
    async fn append(&self, arrival: Arrival) -> Result<Appended, StoreError>;

    /// Takes up to `limit` pieces of work that are due at `now`, oldest first, and marks them as being worked
    /// on until they are settled or the process ends.
    async fn lease(&self, now: Timestamp, limit: usize) -> Result<Vec<Work>, StoreError>;

    /// When the next piece of work that nobody works on is due.
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Writes down what came of leased work: followers, meetings, links, feed entries, the inbox. Each outcome
    /// is atomic; one whose work is no longer there is passed over.
    async fn settle(&self, outcomes: Vec<(Work, Outcome)>, now: Timestamp) -> Result<(), StoreError>;

    /// Up to `limit` events in `state`: dead and quarantined ones by number, from above `after`; waiting and leased
    /// ones by the instant they are due, from the first.
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
    async fn redrive(&self, id: EventId, becomes: Option<Event>, now: Timestamp) -> Result<bool, StoreError>;

    /// Registers fans. Answers in the same order.
    async fn put_fans(&self, fans: Vec<NewFan>, now: Timestamp) -> Result<Vec<Registered>, StoreError>;

    /// A fan in every app that knows it.
    async fn fans(&self, unionid: &Unionid) -> Result<Vec<(FanKey, Fan)>, StoreError>;

    /// How many fans of each app are where.
    async fn fan_tallies(&self) -> Result<Vec<(AppName, Tally)>, StoreError>;

    /// Takes up to `limit` fans of `app` for whom `step` is due, as [`lease`](Store::lease) does: those of the first
    /// of `priorities` first.
    async fn lease_fans(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<FanWork>, StoreError>;

    /// When `step` is next due for a fan of `app` in one of these queues whom nobody works on.
    async fn next_fan_due(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
    ) -> Result<Option<Timestamp>, StoreError>;

    /// Does what time alone does to fans of `app` up to `now`: pending ids fall due for renewal, end, are
    /// forgotten. Looks at some of those who are due; returns how many, 0 when nobody is.
    async fn review_fans(&self, app: &AppName, renew: Renew, now: Timestamp) -> Result<usize, StoreError>;

    /// Writes down what came of it, with the links that follow.
    async fn settle_fans(
        &self,
        outcomes: Vec<(FanWork, FanOutcome)>,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Reserves up to `want` calls of `api` on all these accounts, durably, before any of them is made.
    async fn reserve(
        &self,
        accounts: &[(String, Budget)],
        api: &'static str,
        share: Share,
        want: u32,
        now: Moment,
    ) -> Result<Grant, StoreError>;

    /// Records that WeCom answered 45009 (call limit reached) and blocks `api` for this account. Returns for
    /// how long, in milliseconds.
    async fn rate_limited(
        &self,
        account: &str,
        budget: Budget,
        api: &'static str,
        now: Moment,
    ) -> Result<i64, StoreError>;

    /// The calls of `api` on an account.
    async fn ledger(&self, account: &str, api: &'static str) -> Result<Ledger, StoreError>;

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

    /// How much there is of everything.
    fn counts(&self) -> Counts;

    /// When the oldest event in the inbox was received.
    async fn oldest_event(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Whether an event could be made durable now.
    ///
    /// # Errors
    /// Why it could not.
    fn ready(&self) -> Result<(), StoreError>;

    /// How many damaged records were come across since the start; they are left alone.
    fn damaged(&self) -> usize;

    /// Resolves when the store has failed for good, with the reason.
    async fn failed(&self) -> String;

    /// Deletes what has outlived its use as of `now`: records of seen messages. Returns how many.
    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Finishes what was handed in, and closes. Later calls return [`StoreError::Closed`].
    async fn close(&self);
}
