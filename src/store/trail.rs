//! The audit trail.

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::audit::AuditEntry;
use crate::domain::time::Timestamp;

/// The most entries that are kept.
pub const AUDIT_ENTRIES_MAX: u64 = 1_000_000;

/// The audit trail: entries with ascending numbers, without gaps. [`People::forget`](super::People::forget)
/// writes its own.
#[async_trait]
pub trait Trail: Send + Sync {
    /// Appends an entry. Returns its number; the first one is 1.
    async fn record(&self, entry: AuditEntry) -> Result<u64, StoreError>;

    /// Up to `limit` entries after the number `after`, the oldest first.
    async fn trail(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError>;

    /// Deletes the entries before `cutoff`, and the oldest beyond [`AUDIT_ENTRIES_MAX`], in several
    /// transactions. Returns how many.
    async fn prune_trail(&self, cutoff: Timestamp) -> Result<u64, StoreError>;
}
