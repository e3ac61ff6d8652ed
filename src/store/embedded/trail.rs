//! The audit trail as the embedded store keeps it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::super::{AUDIT_ENTRIES_MAX, StoreError, Trail};
use super::records::{Record, decode, readable};
use super::txn::Txn;
use super::{EmbeddedStore, keys};
use crate::domain::audit::AuditEntry;
use crate::domain::time::Timestamp;

/// The number of the newest entry.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Head(u64);

impl Record for Head {}

impl Record for AuditEntry {}

/// Appends an entry. Returns its number.
pub(super) fn record(txn: &mut Txn<'_>, entry: &AuditEntry) -> Result<u64, StoreError> {
    let head_key = keys::only("trail");
    let Head(head) = match readable(txn.get(&head_key))? {
        Some(head) => head,
        // The first one, or its record is damaged: the number is that of the newest entry then.
        None => Head(match txn.keys(b"D", usize::MAX >> 1)?.last() {
            Some(key) => keys::audit_number(key)?,
            None => 0,
        }),
    };
    txn.put(head_key, &Head(head + 1))?;
    txn.put(keys::audit_entry(head + 1), entry)?;
    Ok(head + 1)
}

#[async_trait]
impl Trail for EmbeddedStore {
    async fn record(&self, entry: AuditEntry) -> Result<u64, StoreError> {
        self.writer.run(move |txn| record(txn, &entry)).await
    }

    async fn trail(&self, after: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        let from = keys::audit_entry(after.saturating_add(1));
        let read = |key: &[u8], value: &[u8]| {
            Ok(Some((keys::audit_number(key)?, decode::<AuditEntry>(key, value)?)))
        };
        self.rows(&from, &keys::after(b"D"), limit, read)
    }

    async fn prune_trail(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        const ENTRIES_PER_TRANSACTION: usize = 80;
        let mut deleted = 0;
        loop {
            let pruned = self
                .writer
                .run(move |txn| {
                    let Head(head) = readable(txn.get(&keys::only("trail")))?.unwrap_or_default();
                    let mut pruned = 0;
                    for key in txn.keys(b"D", ENTRIES_PER_TRANSACTION)? {
                        let is_surplus = keys::audit_number(&key)? + AUDIT_ENTRIES_MAX <= head;
                        // A damaged entry goes with those around it.
                        let entry = readable(txn.get::<AuditEntry>(&key))?;
                        if !is_surplus && entry.is_some_and(|entry| entry.at >= cutoff) {
                            break;
                        }
                        txn.delete(key);
                        pruned += 1;
                    }
                    Ok(pruned)
                })
                .await?;
            deleted += pruned;
            if pruned < ENTRIES_PER_TRANSACTION as u64 {
                return Ok(deleted);
            }
        }
    }
}
