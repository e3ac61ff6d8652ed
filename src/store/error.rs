//! The error of every operation of the store.

use strum::IntoStaticStr;

/// Why an operation of the store failed.
///
/// After [`Stalled`](Self::Stalled) and [`Failed`](Self::Failed) the outcome of the transaction is unknown;
/// after any other error it has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum StoreError {
    /// The disk has less free space than the configured minimum. Nothing is written until there is more.
    #[error("less than {min_mb} MiB free on the store's disk")]
    NoSpace {
        /// The configured minimum, in MiB.
        min_mb: u64,
    },
    /// The inbox has reached its limit, or the quarantine for a message that belongs there.
    #[error("the inbox, or the quarantine, is at its limit of {limit} messages")]
    InboxFull {
        /// The maximum that was reached: the configured number of events, which the quarantine has too, or a
        /// smaller one for messages of corps that no app serves.
        limit: u64,
    },
    /// No checkpoint can be written, and the log has become too long. Nothing is accepted until one succeeds.
    #[error("the store's log cannot be shortened: {reason}")]
    NoCheckpoint {
        /// Why the last checkpoint failed.
        reason: String,
    },
    /// A suite has as many auth codes that wait to be exchanged as are kept.
    #[error("{limit} auth codes of the suite wait to be exchanged, which is the maximum")]
    AuthCodesFull {
        /// The maximum.
        limit: u64,
    },
    /// The writer made no progress within the time limit. The transaction may still be committed.
    #[error("the store's writer makes no progress")]
    Stalled,
    /// The database cannot be reached, or does not answer. Nothing is broken, and a later call may succeed.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// An I/O error, or a bug. Final for this process: after a failed write only a restart can tell what is
    /// on the disk.
    #[error("the store has failed and needs a restart: {0}")]
    Failed(String),
    /// A record fails its checksum, or has a version that this program does not know.
    #[error("a stored record is damaged: {0}")]
    Damaged(String),
    /// The requested feed entries have been pruned.
    #[error("the feed begins with entry {oldest}; older entries have been pruned")]
    Gone {
        /// The sequence number of the oldest entry that is kept.
        oldest: u64,
    },
    /// The target of a seek is beyond the newest feed entry.
    #[error("the feed ends with entry {head}")]
    BeyondHead {
        /// The sequence number of the newest entry.
        head: u64,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}
