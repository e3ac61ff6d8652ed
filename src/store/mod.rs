//! The durable state behind one trait, [`Store`], whose methods are business transactions rather than CRUD.
//!
//! A method that changes something is atomic, and durable when it returns `Ok`: a power failure after that
//! loses nothing. Writes that must agree are one method: [`Store::append`] stores an event and its
//! deduplication record, [`Store::settle`] an outcome, the links it leads to and their feed entries. Methods
//! that take many items run one transaction per item or chunk; their docs say so.
//!
//! All implementations are one, `row_store`: a method is a transaction, or a read, on rows (`rows` is their layout,
//! `business` what is done with them). They differ in what keeps the rows: [`embedded`], a folder of a single machine,
//! or [`postgres`], a database that several replicas share. The suite in `contract` is what each has to pass.
//!
//! Deliberately absent: calls to WeCom, HTTP, and decisions. When to try again, and what an event means, is
//! decided by the callers and the domain.

mod business;
mod customer_groups;
pub mod embedded;
mod error;
mod fans;
mod feed;
mod history;
mod inbox;
pub mod moving;
mod people;
pub mod postgres;
mod reconcile;
mod replicas;
mod row_store;
mod rows;
pub mod shared;
mod suites;
mod trail;
mod work;

#[cfg(test)]
mod contract;

pub use customer_groups::{ChatToRead, CustomerGroups};
pub use error::StoreError;
pub use fans::{FanFilter, FanOutcome, FanPage, FanWork, NewFan, QueuePosition, Registered};
pub use feed::{Cursor, CursorState, Feed, LinksScan, Seek, Start};
pub use history::{History, Noted};
pub use inbox::{
    Appended, Arrival, EventId, EventRow, EventState, FailureReason, InboxEvent, MessageDigest, Payload,
    Quarantined,
};
pub use people::{Erased, People, PersonData, PersonId, Receipt, ReceiptId};
pub use reconcile::{DealerRow, PageFound, Reconciling};
pub use replicas::{Duty, Heard, Heartbeat, Replica, Replicas, Signal};
pub use suites::{EXCHANGES_MAX, Resealed, SealedPlace, SuiteRecords, Suites};
pub use trail::{AUDIT_ENTRIES_MAX, Trail};
pub use work::{Outcome, Work, WorkId};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use strum::{EnumCount as _, VariantArray as _};

use crate::domain::dealer::{Dealer, Qualification, TokenOwner};
use crate::domain::fan::{Fan, FanStep, Priority, Renew};
use crate::domain::history::Tallies;
use crate::domain::ids::{AppName, CorpId, ExternalUserid, FanKey, PendingId, Unionid};
use crate::domain::link::{LinkData, Source};
use crate::domain::quota::{Budget, Grant, Ledger, Share};
use crate::domain::sync_times::SyncTimes;
use crate::domain::tally::Tally;
use crate::domain::time::{Moment, Timestamp};

/// A look-up of links: by one id, with optional filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkQuery {
    /// The id to look up.
    pub by: LinkBy,
    /// Only links of this dealer's customers.
    pub corp_id: Option<CorpId>,
    /// Only links of this app.
    pub app: Option<AppName>,
}

/// The id that links are looked up by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkBy {
    /// The fan's unionid.
    Unionid(Unionid),
    /// The customer's `external_userid`.
    ExternalUserid(ExternalUserid),
    /// The pending id that fan and customer have in common.
    PendingId(PendingId),
}

/// The maximum number of links that one look-up returns.
pub const LINKS_MAX: usize = 1_000;

/// The numbers of records by kind, updated in every transaction, so that reading them takes no scan. The
/// fans' are [`Tally`], one per app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Events in the inbox, due, delayed or leased.
    pub inbox: u64,
    /// Dead letters.
    pub dead: u64,
    /// Quarantined messages.
    pub quarantined: u64,
    /// Known customers, linked or not.
    pub contacts: u64,
    /// Customers without a pending id that are still to be looked up: at a known time, or once the app may
    /// have become able to see them.
    pub waiting: u64,
    /// Links.
    pub links: u64,
    /// The sequence number of the newest feed entry.
    pub feed_head: u64,
    /// The sequence number of the newest pruned feed entry.
    pub feed_pruned: u64,
    /// The number of the newest event, in the inbox or not.
    pub event_head: u64,
    /// What was made since the store was created.
    pub made: Made,
}

/// How often things were made since the store was created, or since its program counts them; none ever decreases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Made {
    /// Links, by [`Source`].
    pub links: [u64; Source::COUNT],
    /// Pending ids that WeCom returned for fans.
    pub minted: u64,
    /// Pending ids that WeCom returned for customers.
    pub resolved: u64,
    /// Dead letters.
    pub dead: u64,
    /// Quarantined messages.
    pub quarantined: u64,
}

impl Made {
    /// What was made, as counts of an hour.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let Self { links, minted, resolved, dead, quarantined } = self;
        let mut tallies = Tallies::default();
        for (source, count) in Source::VARIANTS.iter().zip(links) {
            tallies.add("links", source.into(), *count);
        }
        for (name, count) in
            [("minted", minted), ("resolved", resolved), ("dead", dead), ("quarantined", quarantined)]
        {
            tallies.add("made", name, *count);
        }
        tallies
    }
}

/// How a store's write-ahead log and its checkpoints are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Bytes of the log behind the last checkpoint.
    pub log_bytes: u64,
    /// Bytes of the last checkpoint.
    pub checkpoint_bytes: u64,
    /// Checkpoints that failed since the start.
    pub checkpoints_failed: u64,
    /// Why the last one failed; `None` if it succeeded.
    pub checkpoint_failure: Option<String>,
    /// Whether the index was missing or damaged at the start, and was rebuilt.
    pub index_rebuilt: bool,
    /// How long commits took to become durable, since the start.
    pub syncs: SyncTimes,
}

/// The durable state: inbox, fans, quota ledgers, dealers, links and the reading of the clocks. The feed is
/// [`Feed`], data access and erasure for one person is [`People`], customer groups are [`CustomerGroups`],
/// the comparison with WeCom's lists is [`Reconciling`], agency-developed apps are [`Suites`], the audit trail
/// is [`Trail`], what is counted by hour [`History`].
///
/// Any method may fail with [`StoreError::Failed`], [`StoreError::Damaged`] or [`StoreError::Closed`]; one
/// that writes also with [`StoreError::NoSpace`] or [`StoreError::Stalled`].
#[async_trait]
pub trait Store:
    CustomerGroups + Feed + History + People + Reconciling + Suites + Trail + Send + Sync + 'static
{
    /// Appends a verified message to the inbox or the quarantine, or applies it at once, unless its digest is
    /// known.
    ///
    /// # Errors
    /// [`StoreError::InboxFull`]: nothing was stored, and the same message may be appended later.
    async fn append(&self, arrival: Arrival) -> Result<Appended, StoreError>;

    /// Leases work that is due at `now`, the longest due first: up to `limit` events and live lookups, and up
    /// to `background` lookups of the other kind. They are not leased again until they are settled or the
    /// process ends: leases are not durable.
    async fn lease(&self, now: Timestamp, limit: usize, background: usize) -> Result<Vec<Work>, StoreError>;

    /// Ends leases, but the work is not leased again before it is [taken up](Self::take_up), or the process ends: it
    /// can only wait, and waiting costs it no write. It counts as waiting, and [`next_due`](Self::next_due)
    /// ignores it.
    async fn put_off(&self, work: &[WorkId]);

    /// Allows to lease work again that was put off.
    async fn take_up(&self, work: &[WorkId]);

    /// When the next piece of work that is neither leased nor put off is due.
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Applies the outcomes of leased work and ends the leases. One transaction per outcome updates the
    /// inbox, the customer and its followers, the links and the feed. An outcome whose work no longer exists
    /// (settled, rescheduled or erased since) has no effect. Returns when each event that led to a new link
    /// was received.
    ///
    /// # Errors
    /// The first error; the other outcomes are applied nevertheless. Work that was not settled can be leased
    /// again, except work on a damaged record, which stays leased.
    async fn settle(
        &self,
        outcomes: Vec<(Work, Outcome)>,
        now: Timestamp,
    ) -> Result<Vec<Timestamp>, StoreError>;

    /// Makes the work that is due exactly at `due_at` due at `now`: work that a circuit breaker deferred to
    /// its next probe. In several transactions; leased work stays as it is. Returns the number of pieces.
    async fn bring_forward(&self, due_at: Timestamp, now: Timestamp) -> Result<u64, StoreError>;

    /// Up to `limit` events in `state`. Dead and quarantined ones are ordered by number and begin after
    /// `after`; waiting and leased ones are ordered by the instant they are due and always begin with the
    /// first.
    async fn events(
        &self,
        state: EventState,
        after: EventId,
        limit: usize,
    ) -> Result<Vec<EventRow>, StoreError>;

    /// The dead letter or quarantined message with this number.
    async fn event(&self, id: EventId) -> Result<Option<EventRow>, StoreError>;

    /// The decrypted text of a quarantined message.
    async fn quarantined_message(&self, id: EventId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Redrives a dead letter or a quarantined message: moves it back to the inbox, due now, with no attempts
    /// spent. For a quarantined message `becomes` is what to append in its place; `None` deletes the
    /// message. A dead letter keeps its own event. Returns false if there is none with this number.
    async fn redrive(
        &self,
        id: EventId,
        becomes: Option<Payload>,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Deletes the dead letters and quarantined messages with these numbers for good, one transaction each.
    /// The results are in the same order: the state that it was in, or `None` if there is none with this
    /// number.
    async fn discard(&self, ids: Vec<EventId>) -> Vec<Result<Option<EventState>, StoreError>>;

    /// Registers fans, in several transactions. The results are in the same order. Idempotent, so that after
    /// an error all of them can be registered again.
    async fn put_fans(&self, fans: Vec<NewFan>, now: Timestamp) -> Result<Vec<Registered>, StoreError>;

    /// The fan with this unionid, in every app that has it.
    async fn fans(&self, unionid: &Unionid) -> Result<Vec<(FanKey, Fan)>, StoreError>;

    /// Lists the fans that match `filter`, at most `limit`, from the position `from` on: 0, or the `next` of
    /// an earlier page. Reads a bounded number of records, so that a page may have fewer fans, even none, and
    /// still be followed by another. Every fan that matches throughout is on exactly one page.
    async fn list_fans(
        &self,
        filter: &FanFilter,
        from: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<FanPage, StoreError>;

    /// The counters of each app's fans.
    async fn fan_tallies(&self) -> Result<Vec<(AppName, Tally)>, StoreError>;

    /// Leases up to `limit` fans of `app` for which `step` is due, in the order of `priorities`, as
    /// [`lease`](Store::lease) does.
    async fn lease_fans(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<FanWork>, StoreError>;

    /// When `step` is next due for a fan of `app` that is not leased, in the queues of `priorities`.
    async fn next_fan_due(
        &self,
        app: &AppName,
        step: FanStep,
        priorities: &[Priority],
    ) -> Result<Option<Timestamp>, StoreError>;

    /// Applies what the passage of time does to fans of `app` up to `now`: pending ids become due for
    /// renewal, expire, and are deleted. Reviews a limited number of the fans that are due and returns how
    /// many; to be repeated until it returns 0.
    async fn review_fans(&self, app: &AppName, renew: Renew, now: Timestamp) -> Result<usize, StoreError>;

    /// Applies the outcomes of leased calls and creates the links that follow from them, as
    /// [`settle`](Store::settle) does.
    async fn settle_fans(
        &self,
        outcomes: Vec<(FanWork, FanOutcome)>,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Reserves up to `want` calls of `api` in the quota ledgers of all these accounts, or none. Durable when
    /// it returns, so that calls made afterwards are never counted too low.
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

    /// The quota ledger of an account and API; an empty one if no call was ever reserved.
    async fn ledger(&self, account: &str, api: &'static str) -> Result<Ledger, StoreError>;

    /// Inserts or updates an app's dealers as WeCom lists them, one transaction each. Keeps what is known of
    /// a dealer beside the list, and dealers that are not in it. Returns those that were not listed before,
    /// or had left.
    async fn put_dealers(&self, app: &AppName, dealers: Vec<Dealer>) -> Result<Vec<CorpId>, StoreError>;

    /// Records that WeCom no longer lists a dealer. Returns false if it had left before, or is not known.
    async fn dealer_left(&self, app: &AppName, corp_id: &CorpId, now: Timestamp) -> Result<bool, StoreError>;

    /// Records how far WeCom has verified a dealer. Does nothing if the dealer is not known.
    async fn set_qualification(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        qualification: Qualification,
    ) -> Result<(), StoreError>;

    /// One dealer of an app.
    async fn dealer(&self, app: &AppName, corp_id: &CorpId) -> Result<Option<Dealer>, StoreError>;

    /// All dealers of an app.
    async fn dealers(&self, app: &AppName) -> Result<Vec<Dealer>, StoreError>;

    /// Sets whose token converts a dealer's customers. Does nothing if the dealer is not known.
    async fn set_token_owner(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        owner: TokenOwner,
    ) -> Result<(), StoreError>;

    /// Up to [`LINKS_MAX`] links, with the names that their dealers have now. `now` decides whether a welcome
    /// code is still valid and shown.
    async fn links(&self, query: &LinkQuery, now: Timestamp) -> Result<Vec<LinkData>, StoreError>;

    /// The numbers of records as of the last commit.
    fn counts(&self) -> Counts;

    /// When the oldest event in the inbox was received; `None` if the inbox is empty. An estimate if it is
    /// very long: only its first events are read.
    async fn oldest_event(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Whether an event could be made durable now. A check in memory, for `/readyz`.
    ///
    /// # Errors
    /// The reason why it could not.
    fn ready(&self) -> Result<(), StoreError>;

    /// The number of damaged records found since the start. They are skipped and not changed.
    fn damaged_records(&self) -> usize;

    /// Free bytes on the disk that the store writes to; `None` if it is not known.
    fn free_disk_bytes(&self) -> Option<u64>;

    /// The write-ahead log and its checkpoints; `None` if the store has none of its own.
    fn log_status(&self) -> Option<LogStatus>;

    /// Waits until the store has failed for good ([`StoreError::Failed`]) and returns the reason.
    async fn failed(&self) -> String;

    /// Moves every stored wait (events, lookups, readings of groups, calls for fans, exchanges of auth codes,
    /// the life of tickets) that is due after `after` by `by_ms`: by as much as the wall clock was set. In several transactions.
    /// Leased work stays as it is if `by_ms` is positive; if it is negative, the lease no longer settles it,
    /// and it is leased again.
    async fn shift_waits(&self, by_ms: i64, after: Timestamp) -> Result<(), StoreError>;

    /// The reading of the clocks that was stored last.
    async fn last_moment(&self) -> Result<Option<Moment>, StoreError>;

    /// Stores a reading of the clocks.
    async fn put_moment(&self, now: Moment) -> Result<(), StoreError>;

    /// Deletes the deduplication records that have expired at `now`, in several transactions; those of
    /// messages without a `CreateTime` may be kept for another day. Returns how many.
    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Deletes quarantined messages that were received more than `quarantine_days` before `now`, a limited
    /// number in several transactions. Returns how many, also if it fails meanwhile; to be repeated until it
    /// returns 0. Dead letters do not expire.
    async fn sweep_quarantine(&self, now: Timestamp) -> (u64, Result<(), StoreError>);

    /// What replicas of the service have in common through this store; `None` if only one process can use it.
    fn replicas(&self) -> Option<&dyn Replicas>;

    /// Ends the leases of all pieces of work. The tasks that hold them must have ended, or never settle them.
    fn end_leases(&self);

    /// Completes the submitted transactions and closes the store. Later calls return [`StoreError::Closed`].
    async fn close(&self);
}
