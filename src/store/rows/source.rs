//! Where rows come from: a consistent state of all of them.
//!
//! Keys are in the order of their bytes (see [`keys`](super::keys)); a value is a [record](super::records).

use std::collections::BTreeMap;

use super::clue::{Clue, Print};
use super::ids::FanNumber;
use crate::store::StoreError;

/// A key with its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// Rows of a range, in the order of their keys. The first error ends it.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = Result<Row, StoreError>> + 'a>;

/// The writes of a commit, each key once; `None` deletes it.
pub(crate) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A consistent state of all rows.
pub(crate) trait Source: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The rows with `from <= key < to`.
    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a>;

    /// Under which print the index of fans has a clue.
    fn print(&self, clue: &Clue<'_>) -> Print;

    /// The fans that the index has under a print.
    fn find(&self, print: Print) -> Result<Vec<FanNumber>, StoreError>;
}

impl<S: Source + ?Sized> Source for &S {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        (**self).range(from, to)
    }

    fn print(&self, clue: &Clue<'_>) -> Print {
        (**self).print(clue)
    }

    fn find(&self, print: Print) -> Result<Vec<FanNumber>, StoreError> {
        (**self).find(print)
    }
}
