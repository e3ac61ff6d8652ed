//! The rows that are at hand while a read or a transaction runs.
//!
//! Reads and transactions are plain functions over rows, and ask for one after the other. Here a row that is not at hand
//! counts as absent and is noted as wanted, and so does the rest of a range; when the function has run, what it wanted is
//! fetched, all of it in one round trip, and the function runs again. Once it has wanted nothing, its result counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::StoreError;
use crate::store::rows::clue::{Clue, Print};
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::source::{Rows, Source};

/// What is to be fetched.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::store) struct Wanted {
    pub(in crate::store) keys: BTreeSet<Vec<u8>>,
    /// From the first key on and before the second.
    pub(in crate::store) ranges: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

impl Wanted {
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }
}

/// The rows that are at hand.
pub(in crate::store) struct Known {
    salt: [u8; 16],
    /// `None`: there is no such row.
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Ranges of which all rows are at hand: where each begins and ends. They do not overlap or touch.
    ranges: BTreeMap<Vec<u8>, Vec<u8>>,
    wanted: Mutex<Wanted>,
}

impl Known {
    /// Nothing is at hand.
    pub(in crate::store) fn nothing(salt: [u8; 16]) -> Self {
        Self { salt, rows: BTreeMap::new(), ranges: BTreeMap::new(), wanted: Mutex::default() }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked for in vain since the last call.
    pub(in crate::store) fn take_wanted(&self) -> Wanted {
        std::mem::take(&mut self.wanted())
    }

    /// Adds a row, or that there is none with this key.
    pub(super) fn add(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.rows.insert(key, value);
    }

    /// Records that all rows from `from` on and before `to` were added.
    pub(super) fn add_range(&mut self, mut from: Vec<u8>, mut to: Vec<u8>) {
        while let Some((begin, end)) = self.ranges.range(..=to.clone()).next_back() {
            if *end < from {
                break;
            }
            let (begin, end) = (begin.clone(), end.clone());
            self.ranges.remove(&begin);
            from = from.min(begin);
            to = to.max(end);
        }
        self.ranges.insert(from, to);
    }

    /// Where the range ends of which all rows are at hand, and in which this key is.
    fn known_until(&self, key: &[u8]) -> Option<&Vec<u8>> {
        let (_, end) = self.ranges.range::<[u8], _>((Unbounded, Included(key))).next_back()?;
        (key < end.as_slice()).then_some(end)
    }
}

/// What the transactions of a group see: the rows at hand, and the index of fans as those before them have changed it.
pub(super) struct InGroup<'a> {
    pub(super) known: &'a Known,
    /// By print and fan: whether it leads there.
    pub(super) index: &'a BTreeMap<(u64, FanNumber), bool>,
}

impl Source for InGroup<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.known.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        self.known.range(from, to)
    }

    fn print(&self, clue: &Clue<'_>) -> Print {
        self.known.print(clue)
    }

    fn find(&self, print: Print) -> Result<Vec<FanNumber>, StoreError> {
        let mut found = self.known.find(print)?;
        let changed = self.index.range((print.0, FanNumber(0))..=(print.0, FanNumber(u32::MAX)));
        for ((_, fan), leads) in changed {
            found.retain(|known| known != fan);
            found.extend(leads.then_some(*fan));
        }
        Ok(found)
    }
}

/// The key of an entry of the index of fans.
pub(super) fn fan_entry(print: Print, fan: FanNumber) -> Vec<u8> {
    [fan_entries(print), fan.0.to_be_bytes().to_vec()].concat()
}

fn fan_entries(print: Print) -> Vec<u8> {
    [b"N".as_slice(), &print.0.to_be_bytes()].concat()
}

impl Source for Known {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let known = self.rows.get(key);
        if known.is_none() && self.known_until(key).is_none() {
            self.wanted().keys.insert(key.to_vec());
        }
        Ok(known.cloned().flatten())
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let known_to = self.known_until(from).map_or(from, Vec::as_slice).min(to).to_vec();
        let rows = self.rows.range::<[u8], _>((Included(from), Excluded(known_to.as_slice())));
        let rows = rows.filter_map(|(key, value)| Some(Ok((key.clone(), value.clone()?))));
        let to = to.to_vec();
        let rest = std::iter::from_fn(move || {
            if known_to < to {
                self.wanted().ranges.insert((known_to.clone(), to.clone()));
            }
            None
        });
        Box::new(rows.chain(rest))
    }

    fn print(&self, clue: &Clue<'_>) -> Print {
        clue.print(self.salt)
    }

    fn find(&self, print: Print) -> Result<Vec<FanNumber>, StoreError> {
        let prefix = fan_entries(print);
        let numbers = self.range(&prefix, &keys::after(&prefix)).map(|row| {
            let (key, _) = row?;
            let number = key.last_chunk().copied().map(u32::from_be_bytes);
            number.map(FanNumber).ok_or_else(|| StoreError::Damaged("a short key of the index".to_owned()))
        });
        numbers.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Vec<u8> {
        vec![b'k', n]
    }

    fn keys_of(known: &Known, from: u8, to: u8) -> Vec<u8> {
        known.range(&key(from), &key(to)).map(|row| row.unwrap().0[1]).collect()
    }

    fn with_range(known: &mut Known, from: u8, to: u8, rows: &[u8]) {
        for n in rows {
            known.add(key(*n), Some(vec![]));
        }
        known.add_range(key(from), key(to));
    }

    #[test]
    fn what_is_not_at_hand_counts_as_absent_and_is_wanted() {
        let mut known = Known::nothing([0; 16]);
        assert_eq!((known.get(&key(1)), keys_of(&known, 5, 9)), (Ok(None), vec![]));
        let wanted = known.take_wanted();
        assert_eq!((wanted.keys, wanted.ranges), ([key(1)].into(), [(key(5), key(9))].into()));
        known.add(key(1), Some(vec![7]));
        known.add(key(2), None);
        with_range(&mut known, 5, 9, &[6]);
        assert_eq!((known.get(&key(1)), known.get(&key(2))), (Ok(Some(vec![7])), Ok(None)));
        assert_eq!((known.get(&key(7)), keys_of(&known, 5, 9)), (Ok(None), vec![6]));
        assert!(known.take_wanted().is_empty());
        assert_eq!(keys_of(&known, 9, 5), [0; 0]);
        assert!(known.take_wanted().is_empty());
    }

    #[test]
    fn of_a_range_that_is_at_hand_in_part_the_rest_is_wanted_once_it_is_needed() {
        let mut known = Known::nothing([0; 16]);
        with_range(&mut known, 2, 5, &[2, 4]);
        // One that is at hand and not in a range at hand may have others before it.
        known.add(key(6), Some(vec![]));
        assert_eq!(known.range(&key(2), &key(9)).next().unwrap().unwrap().0, key(2));
        assert!(known.take_wanted().is_empty());
        assert_eq!(keys_of(&known, 2, 9), [2, 4]);
        assert_eq!(known.take_wanted().ranges, [(key(5), key(9))].into());
        assert_eq!(keys_of(&known, 1, 4), [0; 0]);
        assert_eq!(known.take_wanted().ranges, [(key(1), key(4))].into());
    }

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let mut known = Known::nothing([0; 16]);
        for (from, to) in [(2, 4), (8, 9), (4, 6), (1, 2), (5, 8)] {
            known.add_range(key(from), key(to));
        }
        assert_eq!(known.ranges, [(key(1), key(9))].into());
        known.add_range(key(3), key(4));
        assert_eq!(known.ranges, [(key(1), key(9))].into());
    }
}
