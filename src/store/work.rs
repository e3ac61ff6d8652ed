//! The types of leased work about one customer: the work, its id and its outcome.
//!
//! Deliberately absent: the operations on them, which are methods of [`Store`](super::Store), and when to
//! look a customer up again (see [`lookup`](crate::domain::lookup)).

use super::inbox::{EventId, FailureReason, InboxEvent};
use crate::domain::contact::Contact;
use crate::domain::ids::{ChatId, ContactKey, PendingId};
use crate::domain::lookup::Haste;
use crate::domain::time::Timestamp;

/// A leased piece of work about one customer: an event to act upon, or a customer to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Identifies the work for settling; stale once it is rescheduled.
    pub id: WorkId,
    /// The customer.
    pub contact: ContactKey,
    /// The event; `None` if the customer is to be looked up.
    pub event: Option<InboxEvent>,
    /// The customer's record as of the lease; `None` if there is none yet.
    pub known: Option<Contact>,
}

impl Work {
    /// The instant it was due.
    #[must_use]
    pub const fn due_at(&self) -> Timestamp {
        match &self.id {
            WorkId::Event(due_at, _) | WorkId::Lookup(_, due_at, _) => *due_at,
        }
    }

    /// Whether it must not delay other work.
    #[must_use]
    pub const fn is_background(&self) -> bool {
        matches!(self.id, WorkId::Lookup(Haste::Background, ..))
    }
}

/// Identifies a piece of work. Contains the instant it was due, so that an id from before a rescheduling is
/// stale, and settling under it does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WorkId {
    /// An event in the inbox.
    Event(Timestamp, EventId),
    /// A customer to be looked up.
    Lookup(Haste, Timestamp, ContactKey),
}

/// The outcome of a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// WeCom returned the customer's pending id.
    Resolved(PendingId),
    /// WeCom has no pending id for the customer.
    /// [`Lookup::answered`](crate::domain::lookup::Lookup::answered) decides when to look them up again.
    Missed,
    /// WeCom refused the lookup with this code because the app cannot see the customer.
    /// [`Lookup::answered`](crate::domain::lookup::Lookup::answered) decides when to look them up again.
    NotVisible(i64),
    /// The customer is not in the group through which they were looked up, or the group no longer exists.
    /// They are looked up again at once through another group or a follower, if there is one.
    NotInChat(ChatId),
    /// Done without a call.
    Applied,
    /// Failed; to be tried again.
    Retry {
        /// When to try again.
        due_at: Timestamp,
        /// Why it failed.
        reason: FailureReason,
        /// Whether an attempt of the event is spent. Not if the app or the dealer is at fault.
        spent: bool,
    },
    /// Failed for good: the event becomes a dead letter.
    Dead(FailureReason),
}
