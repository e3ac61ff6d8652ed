//! The keys under which work is leased, and the fans on which it is. Which customers' rows are leased is in
//! `work_queue`.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::domain::fan::FanStep;
use crate::store::WorkId;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;

/// The key under which work is leased: that of its row in its queue.
pub(super) fn lease_key(id: &WorkId) -> Vec<u8> {
    match id {
        WorkId::Event(due_at, id) => keys::inbox(*due_at, *id),
        WorkId::Lookup(haste, due_at, contact) => keys::lookup(*haste, *due_at, contact),
    }
}

/// The key under which work on a fan is leased. Shorter than any key of a queue, so that the two differ.
pub(super) fn fan_lease(step: FanStep, number: FanNumber) -> Vec<u8> {
    let mut key = vec![b't', step as u8];
    key.extend(number.0.to_be_bytes());
    key
}

/// The fans on which work is leased.
#[derive(Default)]
pub(super) struct FanLeases(Mutex<HashSet<Vec<u8>>>);

impl FanLeases {
    /// Leases work on a fan. False if it is leased already.
    pub(super) fn lease(&self, key: &[u8]) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_vec())
    }

    pub(super) fn end_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn release(&self, key: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub(super) fn are_all_leased(&self, mut keys: impl Iterator<Item = Vec<u8>>) -> bool {
        let leased = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.all(|key| leased.contains(&key))
    }
}
