//! Copies a store into another one of any kind: all rows as they are, which mean the same in every store.
//!
//! Nobody may use either of them meanwhile. The target is empty before, and has a mark until everything in it was read
//! again and compared; a store with that mark does not open.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Counts, Store, StoreError};

/// A row: its key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A store whose rows can be copied.
#[async_trait]
pub trait Movable: Store {
    /// The next rows from this key on, in the order of their keys, without those that differ from store to store; and
    /// where the next page begins.
    #[doc(hidden)]
    async fn page(&self, from: Vec<u8>) -> Result<(Vec<Row>, Option<Vec<u8>>), StoreError>;

    /// The counters, encoded.
    #[doc(hidden)]
    async fn meta(&self) -> Result<Vec<u8>, StoreError>;

    /// Adds rows of a store with these counters.
    #[doc(hidden)]
    async fn take_in(&self, rows: Vec<Row>, meta: &[u8]) -> Result<(), StoreError>;

    /// Marks it as incomplete, or takes over these counters and removes the mark.
    #[doc(hidden)]
    async fn mark(&self, complete: Option<Vec<u8>>) -> Result<(), StoreError>;
}

/// What a move came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Rows copied, by the first letter of their keys.
    pub rows: BTreeMap<char, u64>,
    /// Links among them.
    pub links: u64,
    /// The newest number of the feed.
    pub feed_head: u64,
}

/// Why a store was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The target holds something.
    #[error("the target is not empty")]
    NotEmpty,
    /// The source cannot be read.
    #[error("the store cannot be read")]
    Source(#[source] StoreError),
    /// The target cannot be written or read.
    #[error("the target cannot be written; empty it before you try again")]
    Target(#[source] StoreError),
    /// What was read back from the target is something else.
    #[error("the copy differs from the store in rows of kind {0:?}; empty the target before you try again")]
    Differs(char),
}

/// The number of rows of each kind, and a sum over them that does not depend on their order.
#[derive(Default, PartialEq, Eq)]
struct Sums(BTreeMap<char, (u64, u128)>);

impl Sums {
    fn add(&mut self, (key, value): &Row) {
        let length = (key.len() as u64).to_be_bytes();
        let digest = Sha256::new().chain_update(length).chain_update(key).chain_update(value).finalize();
        let digest = digest.first_chunk().map_or(0, |first| u128::from_be_bytes(*first));
        let kind = char::from(key.first().copied().unwrap_or_default());
        let (count, sum) = self.0.entry(kind).or_default();
        (*count, *sum) = (*count + 1, sum.wrapping_add(digest));
    }
}

/// Copies everything. `told` is called with `copied` or `compared`, and the number of rows so far.
///
/// # Errors
/// See [`MoveError`].
pub async fn move_store(
    from: &dyn Movable,
    to: &dyn Movable,
    mut told: impl FnMut(&'static str, u64),
) -> Result<Moved, MoveError> {
    let (rows, _) = to.page(Vec::new()).await.map_err(MoveError::Target)?;
    if !rows.is_empty() || to.counts() != Counts::default() {
        return Err(MoveError::NotEmpty);
    }
    to.mark(None).await.map_err(MoveError::Target)?;
    let meta = from.meta().await.map_err(MoveError::Source)?;
    let (mut sums, mut next, mut copied) = (Sums::default(), Some(Vec::new()), 0);
    while let Some(begin) = next {
        let (rows, then) = from.page(begin).await.map_err(MoveError::Source)?;
        for row in &rows {
            sums.add(row);
        }
        copied += rows.len() as u64;
        to.take_in(rows, &meta).await.map_err(MoveError::Target)?;
        told("copied", copied);
        next = then;
    }
    let (mut found, mut next, mut compared) = (Sums::default(), Some(Vec::new()), 0);
    while let Some(begin) = next {
        let (rows, then) = to.page(begin).await.map_err(MoveError::Target)?;
        for row in &rows {
            found.add(row);
        }
        compared += rows.len() as u64;
        told("compared", compared);
        next = then;
    }
    if let Some(kind) = sums.0.keys().chain(found.0.keys()).find(|kind| sums.0.get(kind) != found.0.get(kind))
    {
        return Err(MoveError::Differs(*kind));
    }
    to.mark(Some(meta)).await.map_err(MoveError::Target)?;
    let Counts { links, feed_head, .. } = from.counts();
    Ok(Moved { rows: sums.0.into_iter().map(|(kind, (count, _))| (kind, count)).collect(), links, feed_head })
}
