//! Transactions on the audit trail, and reading it.

use serde::{Deserialize, Serialize};

use crate::domain::audit::AuditEntry;
use crate::domain::time::Timestamp;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, readable};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::{Read, View};
use crate::store::{AUDIT_ENTRIES_MAX, StoreError};

/// The number of the newest entry.
#[derive(Debug, Serialize, Deserialize)]
struct Head(u64);

impl Record for Head {}

impl Record for AuditEntry {}

/// The number of the newest entry, or of the newest there was; 0 before the first.
pub(crate) fn head(read: &impl Read) -> Result<u64, StoreError> {
    let key = keys::only("trail");
    if let Some(Head(head)) = readable(read.record(&key))? {
        return Ok(head);
    }
    // There is no entry yet, or the record is damaged.
    read.under(b"D", usize::MAX >> 1)?.last().map_or(Ok(0), |key| keys::number(key))
}

/// Appends an entry. Returns its number.
pub(crate) fn record(txn: &mut Txn<'_>, entry: &AuditEntry) -> Result<u64, StoreError> {
    let number = head(txn)? + 1;
    txn.put(keys::only("trail"), &Head(number))?;
    txn.put(keys::audit_entry(number), entry)?;
    Ok(number)
}

/// Up to `limit` entries after the number `after`.
pub(crate) fn page(view: &View<'_>, after: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
    let from = keys::audit_entry(after.saturating_add(1));
    let read = |key: &[u8], value: &[u8]| {
        let entry = decode::<AuditEntry>(key, value).and_then(|entry| Ok((keys::number(key)?, entry)));
        view.undamaged(key, entry)
    };
    view.rows(&from, &keys::after(b"D"), limit, read)
}

/// Deletes up to `limit` of the oldest entries: those before `cutoff`, and those beyond
/// [`AUDIT_ENTRIES_MAX`]. Returns how many.
pub(crate) fn prune(txn: &mut Txn<'_>, cutoff: Timestamp, limit: usize) -> Result<u64, StoreError> {
    let head = head(txn)?;
    let mut pruned = 0;
    for key in txn.keys(b"D", limit)? {
        let is_surplus = keys::number(&key)? + AUDIT_ENTRIES_MAX <= head;
        // A damaged entry goes with those around it.
        let entry = readable(txn.get::<AuditEntry>(&key))?;
        if !is_surplus && entry.is_some_and(|entry| entry.at >= cutoff) {
            break;
        }
        txn.delete(key);
        pruned += 1;
    }
    Ok(pruned)
}
