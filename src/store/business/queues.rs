//! Where fans wait: a queue for every call and priority, and the timeline of what has to be looked at when.
//!
//! Both hold fan numbers, many to a record, and both are hints: the fan's own record says whether it really waits
//! ([`Fan::queued_for`](crate::domain::fan::Fan::queued_for)) or is due ([`Fan::review_at`](crate::domain::fan::Fan::review_at)),
//! so one that moved up or was settled otherwise leaves its old place behind for whoever comes across it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::fan::{Fan, FanStep, Priority};
use crate::domain::ids::AppName;
use crate::domain::tally::Tally;
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::store::rows::ids::FanNumber;
use crate::store::rows::keys;
use crate::store::rows::records::{Record, decode, readable};
use crate::store::rows::txn::Txn;
use crate::store::rows::view::View;
use crate::store::{QueuePosition, StoreError};

/// Fans in one record of a queue or the timeline.
const NUMBERS_MAX: usize = 64;
/// Reviews are gathered over so long; nothing about ninety days hangs on seconds.
const REVIEW_SLOT_MS: i64 = 10 * SECOND_MS;

/// Fans that wait, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Waiting(pub(crate) Vec<FanNumber>);

impl Record for Waiting {}

/// Fans found in a place of a queue in which they did not wait when it was read.
#[derive(Clone)]
pub(crate) struct Strays {
    pub(crate) place: Vec<u8>,
    pub(crate) step: FanStep,
    pub(crate) priority: Priority,
    pub(crate) numbers: Vec<FanNumber>,
}

/// What is kept once per app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Books {
    pub(crate) tally: Tally,
    /// The free line after the last fan, while its sheet has one.
    free_line: Option<FanNumber>,
    /// Makes keys of records that are due at the same instant different.
    number: u64,
    /// The record that each queue is being filled at.
    ends: [[Option<QueuePosition>; 4]; 2],
}

impl Record for Books {}

/// The books of one app while one transaction works on them; [`close`](OpenBooks::close) writes them back.
pub(crate) struct OpenBooks {
    app: AppName,
    now: Timestamp,
    books: Books,
    queued: BTreeMap<(FanStep, Priority, Timestamp), Vec<FanNumber>>,
    reviews: BTreeMap<Timestamp, Vec<FanNumber>>,
}

impl OpenBooks {
    pub(crate) fn open(txn: &Txn<'_>, app: &AppName, now: Timestamp) -> Result<Self, StoreError> {
        let books = match txn.get(&keys::books(app)) {
            Err(StoreError::Damaged(reason)) => {
                tracing::error!(%app, reason, "the counts of an app's fans are lost and start anew");
                // Above every number given before: those were counted up from one.
                let number = u64::try_from(now.as_millis()).unwrap_or(0) << 8;
                Books { number, ..Books::default() }
            }
            books => books?.unwrap_or_default(),
        };
        Ok(Self { app: app.clone(), now, books, queued: BTreeMap::new(), reviews: BTreeMap::new() })
    }

    /// A number for another fan.
    pub(crate) fn next_number(&mut self, txn: &mut Txn<'_>) -> FanNumber {
        let number = self.books.free_line.unwrap_or_else(|| {
            let sheet = txn.meta.sheets;
            txn.meta.sheets += 1;
            FanNumber::first_on(sheet)
        });
        self.books.free_line = number.next_on_sheet();
        number
    }

    /// Begins another sheet with the next fan, because the last one cannot be read.
    pub(crate) const fn leave_sheet(&mut self) {
        self.books.free_line = None;
    }

    /// Counts a fan as it is now instead of as it was, and puts it where it has to wait. `again` is a call that was
    /// tried and has to be tried again, and when.
    pub(crate) fn replace(
        &mut self,
        number: FanNumber,
        before: Option<&Fan>,
        after: &Fan,
        again: Option<(FanStep, Timestamp)>,
    ) {
        self.books.tally.replace(before, Some(after));
        for step in FanStep::ALL {
            let Some(priority) = after.queued_for(step) else { continue };
            let due_at = match again {
                Some((tried, due_at)) if tried == step => due_at,
                _ if before.and_then(|fan| fan.queued_for(step)) == Some(priority) => continue,
                _ => self.now,
            };
            self.queued.entry((step, priority, due_at)).or_default().push(number);
        }
        let review_at = after.review_at();
        if let Some(at) = review_at.filter(|_| before.and_then(Fan::review_at) != review_at) {
            self.look_again(number, at);
        }
    }

    /// Counts a fan no longer. Its places in queues are left to whoever comes across them.
    pub(crate) fn erase(&mut self, fan: &Fan) {
        self.books.tally.replace(Some(fan), None);
    }

    /// Puts a fan on the timeline, at the next slot that is still to come.
    fn look_again(&mut self, number: FanNumber, at: Timestamp) {
        let slot = at.max(self.now).as_millis().div_euclid(REVIEW_SLOT_MS) + 1;
        self.reviews.entry(Timestamp::from_millis(slot * REVIEW_SLOT_MS)).or_default().push(number);
    }

    pub(crate) fn close(mut self, txn: &mut Txn<'_>) -> Result<(), StoreError> {
        for ((step, priority, due_at), numbers) in std::mem::take(&mut self.queued) {
            if due_at > self.now {
                for numbers in numbers.chunks(NUMBERS_MAX) {
                    let place = self.place(due_at);
                    let key = keys::fan_place(&self.app, step, priority, place);
                    txn.put(key, &Waiting(numbers.to_vec()))?;
                }
            } else {
                self.append(txn, step, priority, &numbers)?;
            }
        }
        for (slot, numbers) in std::mem::take(&mut self.reviews) {
            self.note_reviews(txn, slot, numbers)?;
        }
        txn.put(keys::books(&self.app), &self.books)
    }

    fn place(&mut self, due_at: Timestamp) -> QueuePosition {
        self.books.number += 1;
        QueuePosition { due_at, number: self.books.number }
    }

    /// Appends to a queue whose head is due now.
    fn append(
        &mut self,
        txn: &mut Txn<'_>,
        step: FanStep,
        priority: Priority,
        numbers: &[FanNumber],
    ) -> Result<(), StoreError> {
        let end = self.books.ends[step as usize][priority as usize];
        let mut at_end = None;
        if let Some(place) = end.filter(|place| place.due_at <= self.now) {
            let waiting = readable(txn.get::<Waiting>(&keys::fan_place(&self.app, step, priority, place)))?;
            at_end = waiting.filter(|waiting| waiting.0.len() < NUMBERS_MAX).map(|waiting| (place, waiting));
        }
        let mut numbers = numbers;
        while !numbers.is_empty() {
            let (place, mut waiting) =
                at_end.take().unwrap_or_else(|| (self.place(self.now), Waiting::default()));
            let (here, rest) = numbers.split_at(numbers.len().min(NUMBERS_MAX - waiting.0.len()));
            waiting.0.extend(here);
            numbers = rest;
            txn.put(keys::fan_place(&self.app, step, priority, place), &waiting)?;
            self.books.ends[step as usize][priority as usize] = Some(place);
        }
        Ok(())
    }

    /// The record numbered 0 of a slot is filled up; a full one moves on and makes room for the next.
    fn note_reviews(
        &mut self,
        txn: &mut Txn<'_>,
        slot: Timestamp,
        mut numbers: Vec<FanNumber>,
    ) -> Result<(), StoreError> {
        let mut first = keys::review(&self.app, slot, 0);
        let filled = txn.get::<Waiting>(&first);
        if matches!(filled, Err(StoreError::Damaged(_))) {
            let place = self.place(slot);
            first = keys::review(&self.app, slot, place.number);
        }
        let mut waiting = readable(filled)?.unwrap_or_default();
        waiting.0.append(&mut numbers);
        while waiting.0.len() > NUMBERS_MAX {
            let rest = waiting.0.split_off(NUMBERS_MAX);
            let place = self.place(slot);
            txn.put(keys::review(&self.app, slot, place.number), &waiting)?;
            waiting.0 = rest;
        }
        txn.put(first, &waiting)
    }
}

/// Takes fans out of a record of a queue or the timeline. Whether they were there.
pub(crate) fn leave(txn: &mut Txn<'_>, key: Vec<u8>, leaving: &[FanNumber]) -> Result<bool, StoreError> {
    let Some(mut waiting) = txn.get::<Waiting>(&key)? else { return Ok(false) };
    let before = waiting.0.len();
    waiting.0.retain(|number| !leaving.contains(number));
    let left = waiting.0.len() < before;
    if waiting.0.is_empty() {
        txn.delete(key);
    } else if left {
        txn.put(key, &waiting)?;
    }
    Ok(left)
}

/// The counters of the fans of each app.
pub(crate) fn tallies(view: &View<'_>) -> Result<Vec<(AppName, Tally)>, StoreError> {
    view.rows(b"l", &keys::after(b"l"), usize::MAX, |key, value| {
        let read = keys::Parts::of(key).app().and_then(|app| Ok((app, decode::<Books>(key, value)?)));
        Ok(view.undamaged(key, read)?.map(|(app, books)| (app, books.tally)))
    })
}

/// The queue of one app, step and priority.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FanQueue<'a> {
    pub(crate) app: &'a AppName,
    pub(crate) step: FanStep,
    pub(crate) priority: Priority,
}

impl FanQueue<'_> {
    /// What the keys of its places begin with.
    pub(crate) fn begin(&self) -> Vec<u8> {
        keys::fan_queue(self.app, self.step, self.priority)
    }

    /// The end of the places that are due at `now`.
    pub(crate) fn until(&self, now: Timestamp) -> Vec<u8> {
        keys::fan_queue_until(self.app, self.step, self.priority, now)
    }
}

/// A record of a queue.
pub(crate) struct Place {
    pub(crate) key: Vec<u8>,
    pub(crate) position: QueuePosition,
    pub(crate) numbers: Vec<FanNumber>,
}

/// Some places of a queue.
pub(crate) struct PlacesPage {
    pub(crate) places: Vec<Place>,
    /// Where the next page begins; `None` after the last one.
    pub(crate) next: Option<Vec<u8>>,
}

/// The fans in the place with this key.
pub(crate) fn in_place(view: &View<'_>, place: &[u8]) -> Result<Vec<FanNumber>, StoreError> {
    Ok(view.read_undamaged::<Waiting>(place)?.map_or_else(Vec::new, |Waiting(numbers)| numbers))
}

/// Up to `limit` undamaged places of a queue, with keys from `from` on and before `to`.
pub(crate) fn places(
    view: &View<'_>,
    queue: &FanQueue<'_>,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<PlacesPage, StoreError> {
    let prefix_bytes = queue.begin().len();
    let rows = view.rows(from, to, limit, |key, value| {
        let mut parts = keys::Parts(&key[prefix_bytes..]);
        let read = parts.instant().and_then(|due_at| {
            let position = QueuePosition { due_at, number: parts.number()? };
            let Waiting(numbers) = decode(key, value)?;
            Ok(Place { key: key.to_vec(), position, numbers })
        });
        Ok(Some((key.to_vec(), view.undamaged(key, read)?)))
    })?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(last, _)| keys::next(last));
    Ok(PlacesPage { places: rows.into_iter().filter_map(|(_, place)| place).collect(), next })
}
