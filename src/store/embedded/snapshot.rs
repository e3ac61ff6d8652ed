//! All links as they are at one instant, read while they change.
//!
//! sled iterates over what is there at each step, so a long read would see some changes and miss others. While a
//! snapshot is read, the writer therefore puts the old value of every contact aside before it overwrites it; the
//! reader prefers what was put aside. What is kept so is bounded, and only of contacts that the reader has still to come
//! to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;

use super::super::{LinksSnapshot, StoreError};
use super::EmbeddedStore;
use super::business::corp_names::CorpNames;
use super::engine::{Batch, Engine, EngineError};
use super::records::decode;
use super::rows::index::Index;
use super::rows::keys;
use super::rows::view::{Damaged, View};
use crate::domain::contact::Contact;
use crate::domain::link::LinkData;
use crate::domain::time::Timestamp;

/// What may be put aside for one reader.
const ASIDE_BYTES_MAX: usize = 64 << 20;
/// Contacts read at a time.
const ROWS_AT_A_TIME: usize = 512;

/// The snapshots being read.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<Vec<Weak<Aside>>>);

/// What was overwritten since a snapshot was taken.
#[derive(Default)]
struct Aside(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Values before the snapshot's instant was left behind; `None` where there was nothing.
    before: HashMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    /// The reader has read everything before this key.
    read_to: Vec<u8>,
    lost: bool,
}

impl Snapshots {
    /// Called by the writer before it writes.
    pub(super) fn keep(&self, engine: &dyn Engine, batch: &Batch) -> Result<(), EngineError> {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| reader.strong_count() > 0);
        for reader in readers.iter().filter_map(Weak::upgrade) {
            let mut kept = reader.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, value) in batch.iter().filter(|(key, _)| key.first() == Some(&b'c')) {
                if kept.lost || *key < kept.read_to {
                    continue;
                }
                if value.is_none() {
                    // Forgotten: not to be shown, should the same customer be heard of again.
                    kept.before.insert(key.clone(), None);
                }
                if kept.before.contains_key(key) {
                    continue;
                }
                let before = engine.get(key)?;
                kept.bytes += key.len() + before.as_ref().map_or(0, Vec::len);
                kept.before.insert(key.clone(), before);
                if kept.bytes > ASIDE_BYTES_MAX {
                    kept.lost = true;
                    kept.before = HashMap::new();
                }
            }
        }
        Ok(())
    }

    fn begin(&self) -> Arc<Aside> {
        let aside = Arc::new(Aside::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&aside));
        aside
    }
}

struct Snapshot {
    engine: Arc<dyn Engine>,
    aside: Arc<Aside>,
    index: Arc<Index>,
    damaged: Damaged,
    feed_head: u64,
    links: u64,
}

/// Takes a snapshot between two commits.
pub(super) async fn take(store: &EmbeddedStore) -> Result<Box<dyn LinksSnapshot>, StoreError> {
    let (snapshots, shared) = (store.snapshots.clone(), store.writer.shared.clone());
    // On the writer's thread: what it has committed so far is what the snapshot shows, and the counts say so too.
    let (aside, counts) = store.writer.run(move |_| Ok((snapshots.begin(), shared.counts()))).await?;
    Ok(Box::new(Snapshot {
        engine: store.engine.clone(),
        aside,
        index: store.index.clone(),
        damaged: store.damaged.clone(),
        feed_head: counts.feed_head,
        links: counts.links,
    }))
}

impl Snapshot {
    fn read(&self, now: Timestamp) -> Result<Option<Vec<LinkData>>, StoreError> {
        let from = {
            let kept = self.aside.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.lost {
                return Err(StoreError::SnapshotLost);
            }
            if kept.read_to.is_empty() { b"c".to_vec() } else { kept.read_to.clone() }
        };
        let rows = self.engine.range(&from, &keys::after(b"c")).take(ROWS_AT_A_TIME);
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(super::failed)?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        let next = [last.as_slice(), &[0]].concat();
        let mut links = Vec::new();
        let mut kept = self.aside.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Read first, looked up second: what changed in between has been put aside before it was overwritten.
        for (key, value) in &rows {
            let value = match kept.before.remove(key) {
                Some(before) => {
                    let bytes = key.len() + before.as_ref().map_or(0, Vec::len);
                    kept.bytes = kept.bytes.saturating_sub(bytes);
                    before
                }
                None => Some(value.clone()),
            };
            let Some(value) = value else { continue };
            let read = decode::<Contact>(key, &value)
                .and_then(|contact| Ok((keys::Parts::of(key).contact()?, contact)));
            let Some((contact_key, contact)) = self.damaged.skip(key, read)? else { continue };
            links.extend(contact.link_data(&contact_key, now));
        }
        kept.read_to = next;
        if kept.lost {
            return Err(StoreError::SnapshotLost);
        }
        drop(kept);
        let view = View::new(&*self.engine, &self.index, &self.damaged);
        let mut names = CorpNames::new(&view);
        links.iter_mut().try_for_each(|link| names.fill(link))?;
        Ok(Some(links))
    }
}

#[async_trait]
impl LinksSnapshot for Snapshot {
    fn feed_head(&self) -> u64 {
        self.feed_head
    }

    fn links(&self) -> u64 {
        self.links
    }

    async fn next(&mut self, now: Timestamp) -> Result<Option<Vec<LinkData>>, StoreError> {
        self.read(now)
    }
}
