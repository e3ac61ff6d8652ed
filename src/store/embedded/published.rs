//! What is committed, as the source of rows for views and transactions: a snapshot of the database, and the index of
//! fans.

use super::database::{Database, Snapshot};
use super::fan_index::Index;
use crate::store::StoreError;
use crate::store::rows::clue::{Clue, Print};
use crate::store::rows::ids::FanNumber;
use crate::store::rows::source::{Rows, Source};

/// The state of the store as it was when this was made.
pub(crate) struct Published<'a> {
    snapshot: Snapshot<'a>,
    index: &'a Index,
}

impl<'a> Published<'a> {
    pub(crate) fn new(database: &'a Database, index: &'a Index) -> Self {
        Self { snapshot: database.snapshot(), index }
    }
}

impl Source for Published<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.snapshot.get(key)?)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        Box::new(self.snapshot.range(from, to).map(|row| Ok(row?)))
    }

    fn print(&self, clue: &Clue<'_>) -> Print {
        self.index.print(clue)
    }

    fn find(&self, print: Print) -> Result<Vec<FanNumber>, StoreError> {
        Ok(self.index.find(print))
    }
}
