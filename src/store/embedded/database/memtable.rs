//! Commit groups that are durable in the log, in memory and in order, until the index has them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::store::embedded::engine::Write;
use crate::store::rows::source::Batch;

/// What a key costs beside its bytes, roughly: two allocations and a place in a tree.
const ENTRY_BYTES: usize = 128;

/// The values of a key, by the number of the record that wrote them; `None` is a tombstone.
struct Versions {
    seq: u64,
    value: Option<Vec<u8>>,
    /// Those that a reader may still need, newest last.
    older: Vec<(u64, Option<Vec<u8>>)>,
}

impl Versions {
    /// The newest that is visible as of the record `seq`.
    fn at(&self, seq: u64) -> Option<&Option<Vec<u8>>> {
        if self.seq <= seq {
            return Some(&self.value);
        }
        self.older.iter().rev().find(|(written, _)| *written <= seq).map(|(_, value)| value)
    }
}

/// What a memtable knows of a key.
pub(super) enum Known {
    Value(Vec<u8>),
    Deleted,
    /// It was not written since the memtable was begun.
    Nothing,
}

/// A memtable. Written by one thread until it is full, and from then on only read.
#[derive(Default)]
pub(super) struct Memtable(RwLock<Rows>);

#[derive(Default)]
struct Rows {
    by_key: BTreeMap<Vec<u8>, Versions>,
    bytes: usize,
    last: u64,
}

impl Memtable {
    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a group. Older values are kept if there is a reader who may still need them.
    pub(super) fn insert(&self, seq: u64, batch: Batch, has_readers: bool) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Rows { by_key, bytes, last } = &mut *table;
        *last = seq;
        for (key, value) in batch {
            let added = value.as_ref().map_or(0, Vec::len);
            match by_key.entry(key) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    *bytes += ENTRY_BYTES + place.key().len() + added;
                    place.insert(Versions { seq, value, older: Vec::new() });
                }
                std::collections::btree_map::Entry::Occupied(mut place) => {
                    let versions = place.get_mut();
                    *bytes += added;
                    let before = (versions.seq, std::mem::replace(&mut versions.value, value));
                    versions.seq = seq;
                    if has_readers {
                        versions.older.push(before);
                    } else {
                        let freed = before.1.map_or(0, |value| value.len());
                        let kept =
                            versions.older.drain(..).filter_map(|(_, value)| value).map(|value| value.len());
                        *bytes = bytes.saturating_sub(freed + kept.sum::<usize>());
                    }
                }
            }
        }
    }

    /// What is known of a key as of the record `seq`.
    pub(super) fn get(&self, key: &[u8], seq: u64) -> Known {
        match self.rows().by_key.get(key).and_then(|versions| versions.at(seq)) {
            Some(Some(value)) => Known::Value(value.clone()),
            Some(None) => Known::Deleted,
            None => Known::Nothing,
        }
    }

    /// Up to `limit` entries of `from <= key < to` as of the record `seq`; and the key of the last row looked at, if
    /// there are more.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: &[u8],
        seq: u64,
        limit: usize,
    ) -> (Vec<Write>, Option<Vec<u8>>) {
        let (mut found, mut looked_at) = (Vec::new(), 0);
        let table = self.rows();
        let mut rows = table.by_key.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let mut last = None;
        for (key, versions) in rows.by_ref().take(limit) {
            looked_at += 1;
            last = Some(key);
            found.extend(versions.at(seq).map(|value| (key.clone(), value.clone())));
        }
        let more = looked_at == limit && rows.next().is_some();
        (found, last.filter(|_| more).cloned())
    }

    /// The newest entries after a key, up to `limit`; from the beginning if there is none.
    pub(super) fn newest_after(&self, after: Option<&[u8]>, limit: usize) -> Vec<Write> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.rows();
        let rows = table.by_key.range::<[u8], _>((from, Bound::Unbounded)).take(limit);
        rows.map(|(key, versions)| (key.clone(), versions.value.clone())).collect()
    }

    /// Bytes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.rows().bytes
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.rows().by_key.len()
    }

    /// The number of the last record in it; 0 if it is empty.
    pub(super) fn last(&self) -> u64 {
        self.rows().last
    }
}
