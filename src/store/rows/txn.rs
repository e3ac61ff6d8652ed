//! The view and the writes of one business transaction. It reads its own writes, then those decided in its
//! group, then what is published. Nothing is written unless the whole transaction
//! succeeds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::clue::{Clue, Print};
use super::keys;
use crate::domain::ids::hex;
use crate::domain::time::Timestamp;
use crate::store::rows::ids::FanNumber;
use crate::store::rows::records::{Record, decode, encode};
use crate::store::rows::source::{Batch, Source};
use crate::store::rows::view::Read;
use crate::store::{Counts, Made, StoreError};

/// The counters of the store, in the one record that every commit rewrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Made at random when the store was created; part of every feed id.
    pub(crate) store_id: [u8; 16],
    /// The numbers of records, and the newest numbers of events and feed entries.
    pub(crate) counts: Counts,
    /// The number of sheets with fans.
    pub(crate) sheets: u32,
    /// When a person was last forgotten. Registering a fan again after that counts as a new registration.
    pub(crate) forgotten_at: Option<Timestamp>,
}

impl Record for Meta {
    const VERSION: u8 = 5;

    /// Versions 3 and 4 do not count what was made. Their numbers keep older programs from opening a store with newer
    /// records.
    fn of_version(version: u8, body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        matches!(version, 3 | 4).then(|| postcard::from_bytes(body).map(Self::from_before))
    }
}

/// The fields of a [`Meta`] up to version 4, in their order; the numbers are those of [`Counts`].
type MetaBefore = ([u8; 16], [u64; 9], u32, Option<Timestamp>);

impl Meta {
    fn from_before((store_id, numbers, sheets, forgotten_at): MetaBefore) -> Self {
        let [inbox, dead, quarantined, contacts, waiting, links, feed_head, feed_pruned, event_head] =
            numbers;
        let made = Made::default();
        let counts = Counts {
            inbox,
            dead,
            quarantined,
            contacts,
            waiting,
            links,
            feed_head,
            feed_pruned,
            event_head,
            made,
        };
        Self { store_id, counts, sheets, forgotten_at }
    }

    /// The body of a record of version 4 or before.
    #[cfg(test)]
    pub(crate) fn as_before(&self) -> Vec<u8> {
        let Self { store_id, counts: c, sheets, forgotten_at } = *self;
        let numbers = [
            c.inbox,
            c.dead,
            c.quarantined,
            c.contacts,
            c.waiting,
            c.links,
            c.feed_head,
            c.feed_pruned,
            c.event_head,
        ];
        let before: MetaBefore = (store_id, numbers, sheets, forgotten_at);
        postcard::to_allocvec(&before).unwrap()
    }
}

pub(crate) struct Txn<'a> {
    source: &'a dyn Source,
    group: &'a Batch,
    own: Batch,
    own_index: Vec<(Print, FanNumber, bool)>,
    pub(crate) meta: Meta,
    erases: bool,
}

/// The result of a transaction that has succeeded.
pub(crate) struct Decided {
    pub(crate) writes: Batch,
    pub(crate) index: Vec<(Print, FanNumber, bool)>,
    pub(crate) meta: Meta,
    /// Whether it erases a person.
    pub(crate) erases: bool,
}

impl<'a> Txn<'a> {
    /// `group` holds what is decided but not yet published; `None` deletes.
    pub(crate) fn new(source: &'a dyn Source, group: &'a Batch, meta: Meta) -> Self {
        let (own, own_index) = (Batch::new(), Vec::new());
        Self { source, group, own, own_index, meta, erases: false }
    }

    /// The writes, once the transaction has succeeded.
    pub(crate) fn into_decided(self) -> Decided {
        let Self { own, own_index, meta, erases, .. } = self;
        Decided { writes: own, index: own_index, meta, erases }
    }

    /// Records that it erases a person, at this time: nothing of the person may stay in log and checkpoint.
    pub(crate) fn erase_person(&mut self, now: Timestamp) {
        self.meta.forgotten_at = self.meta.forgotten_at.max(Some(now));
        self.erases = true;
    }

    /// Records for the index that a clue leads, or no longer leads, to a fan.
    pub(crate) fn index(&mut self, clue: &Clue<'_>, fan: FanNumber, leads: bool) {
        self.own_index.push((self.source.print(clue), fan, leads));
    }

    pub(crate) fn counts(&mut self) -> &mut Counts {
        &mut self.meta.counts
    }

    /// Decrements a counter. One that is wrong must not stop the service, so it stops at zero.
    pub(crate) fn discount(&mut self, which: impl FnOnce(&mut Counts) -> &mut u64) {
        let count = which(&mut self.meta.counts);
        *count = count.saturating_sub(1);
    }

    fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let decided = self.own.get(key).or_else(|| self.group.get(key));
        match decided {
            Some(decided) => Ok(decided.clone()),
            None => self.source.get(key),
        }
    }

    /// Writes a row as it is.
    pub(crate) fn put_row(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.own.insert(key, Some(value));
    }

    pub(crate) fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.bytes(key)?.map(|bytes| decode(key, &bytes)).transpose()
    }

    pub(crate) fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.bytes(key)?.is_some())
    }

    pub(crate) fn put<R: Record>(&mut self, key: Vec<u8>, record: &R) -> Result<(), StoreError> {
        let bytes = encode(&key, record)?;
        self.own.insert(key, Some(bytes));
        Ok(())
    }

    /// Changes the record with this key. Returns what `change` returns; `None` if there is no such record.
    pub(crate) fn change<R: Record, T>(
        &mut self,
        key: Vec<u8>,
        change: impl FnOnce(&mut R) -> T,
    ) -> Result<Option<T>, StoreError> {
        let Some(mut record) = self.get::<R>(&key)? else { return Ok(None) };
        let changed = change(&mut record);
        self.put(key, &record)?;
        Ok(Some(changed))
    }

    /// Writes a key without a value.
    pub(crate) fn mark(&mut self, key: Vec<u8>) {
        self.own.insert(key, Some(Vec::new()));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.own.insert(key, None);
    }

    /// Writes these bytes, or deletes the key.
    #[cfg(test)]
    pub(crate) fn overwrite(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.own.insert(key, value);
    }

    /// Up to `limit` keys that begin with `prefix`, in order.
    pub(crate) fn keys(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let end = keys::after(prefix);
        let patches =
            [self.group, &self.own].into_iter().flat_map(|layer| layer.range(prefix.to_vec()..end.clone()));
        let patch: BTreeMap<_, _> = patches.map(|(key, value)| (key.clone(), value.is_some())).collect();
        let mut found: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for row in self.source.range(prefix, &end).take(limit + patch.len()) {
            found.insert(row?.0, true);
        }
        found.extend(patch);
        Ok(found.into_iter().filter(|(_, there)| *there).map(|(key, _)| key).take(limit).collect())
    }

    /// The writes of the transactions that are decided and not yet published.
    pub(crate) fn unpublished(&self) -> &Batch {
        self.group
    }

    /// A random secret of this store, for hashes that cannot be made without it.
    pub(crate) fn salt(&self) -> [u8; 16] {
        self.meta.store_id
    }

    /// The sequence and id that the next feed entry will have.
    pub(crate) fn next_feed_id(&self) -> (u64, String) {
        let seq = self.meta.counts.feed_head + 1;
        let digest =
            Sha256::new().chain_update(self.meta.store_id).chain_update(seq.to_be_bytes()).finalize();
        (seq, format!("lnk_{}", hex(&digest[..12])))
    }
}

impl Read for Txn<'_> {
    fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.get(key)
    }

    fn under(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        self.keys(prefix, limit)
    }

    fn candidates(&self, clue: &Clue<'_>) -> Result<Vec<FanNumber>, StoreError> {
        let print = self.source.print(clue);
        let mut found = self.source.find(print)?;
        for (_, fan, leads) in self.own_index.iter().filter(|(own, ..)| *own == print) {
            found.retain(|known| known != fan);
            found.extend(leads.then_some(*fan));
        }
        Ok(found)
    }
}
