//! A view of the store as of one sequence number.

use std::collections::VecDeque;
use std::sync::Arc;

use itertools::{EitherOrBoth, Itertools as _};

use super::memtable::{Known, Memtable};
use super::tables::{Database, Epoch};
use crate::store::embedded::engine::{EngineError, Rows, Write};
use crate::store::rows::source::Row;

/// Rows read at a time: few at first, since most readers want only one.
const ROWS_AT_FIRST: usize = 8;
const ROWS_AT_A_TIME: usize = 256;

impl Database {
    /// A view of the store as it is now.
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        let state = self.state();
        Snapshot {
            database: self,
            seq: state.seq,
            active: state.active.clone(),
            frozen: state.frozen.clone(),
            _epoch: state.epoch.clone(),
        }
    }
}

/// The store as of one sequence number. While it lives, nothing that was published after it is drained: so it is for a
/// few reads, never for a scan of everything.
pub(crate) struct Snapshot<'a> {
    database: &'a Database,
    seq: u64,
    active: Arc<Memtable>,
    frozen: Option<Arc<Memtable>>,
    _epoch: Arc<Epoch>,
}

impl Snapshot<'_> {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let known = match self.active.get(key, self.seq) {
            Known::Nothing => self.frozen.as_ref().map_or(Known::Nothing, |frozen| frozen.get(key, self.seq)),
            known => known,
        };
        match known {
            Known::Value(value) => Ok(Some(value)),
            Known::Deleted => Ok(None),
            Known::Nothing => self.database.engine.get(key).map_err(|error| self.database.unreadable(error)),
        }
    }

    /// The rows with `from <= key < to`, in order.
    pub(crate) fn range<'b>(&'b self, from: &[u8], to: &[u8]) -> Rows<'b> {
        let mut range = Range {
            snapshot: self,
            next: Some(from.to_vec()),
            to: to.to_vec(),
            rows: VecDeque::new(),
            rows_at_a_time: ROWS_AT_FIRST,
        };
        Box::new(std::iter::from_fn(move || range.next_row().transpose()))
    }
}

struct Range<'b, 'a> {
    snapshot: &'b Snapshot<'a>,
    /// Where the next portion begins.
    next: Option<Vec<u8>>,
    to: Vec<u8>,
    rows: VecDeque<Row>,
    rows_at_a_time: usize,
}

impl Range<'_, '_> {
    fn next_row(&mut self) -> Result<Option<Row>, EngineError> {
        while self.rows.is_empty() {
            let Some(from) = self.next.take().filter(|from| *from < self.to) else { return Ok(None) };
            self.read_portion(&from)?;
        }
        Ok(self.rows.pop_front())
    }

    /// Reads as far as every source has been read.
    fn read_portion(&mut self, from: &[u8]) -> Result<(), EngineError> {
        let Snapshot { database, seq, active, frozen, .. } = self.snapshot;
        let limit = self.rows_at_a_time;
        self.rows_at_a_time = (limit * 4).min(ROWS_AT_A_TIME);
        let (newest, mut last) = active.range(from, &self.to, *seq, limit);
        let (older, older_last) =
            frozen.as_ref().map_or_else(Default::default, |frozen| frozen.range(from, &self.to, *seq, limit));
        last = last.into_iter().chain(older_last).min();
        let patch = overlaid(older, newest);
        let mut stored = Vec::new();
        let until = last.as_ref().map_or_else(|| self.to.clone(), |last| after(last));
        let mut rows = database.engine.range(from, &until);
        for row in rows.by_ref().take(limit) {
            stored.push(row.map_err(|error| database.unreadable(error))?);
        }
        if stored.len() == limit
            && let Some((key, _)) = stored.last()
        {
            last = Some(last.map_or_else(|| key.clone(), |last| last.min(key.clone())));
        }
        let is_read = |key: &[u8]| last.as_ref().is_none_or(|last| key <= last.as_slice());
        let merged = stored.into_iter().merge_join_by(patch, |(stored, _), (patched, _)| stored.cmp(patched));
        self.rows.extend(merged.filter_map(|row| {
            let row = match row {
                EitherOrBoth::Left(stored) => Some(stored),
                EitherOrBoth::Both(_, (key, value)) | EitherOrBoth::Right((key, value)) => {
                    value.map(|value| (key, value))
                }
            };
            row.filter(|(key, _)| is_read(key))
        }));
        self.next = last.as_deref().map(after);
        Ok(())
    }
}

/// Two sorted lists of writes as one; of one key the newer has the last word.
fn overlaid(older: Vec<Write>, newer: Vec<Write>) -> Vec<Write> {
    if older.is_empty() {
        return newer;
    }
    let joined = older.into_iter().merge_join_by(newer, |(older, _), (newer, _)| older.cmp(newer));
    joined.map(|entry| entry.reduce(|_, newer| newer)).collect()
}

/// The first key after this one.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
