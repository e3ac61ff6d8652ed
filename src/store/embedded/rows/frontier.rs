//! The position in each queue of work before which every row is leased, except rows that are known by their
//! keys.
//!
//! A leased row stays in its queue until it is settled. With thousands of rows leased, a read from the front
//! would read thousands of rows only to skip them. So a read begins at this position; the writer reports the
//! rows that it writes before it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::embedded::engine::Batch;

/// How often a read looks at some rows before the frontier nevertheless: a row that was missed costs a little
/// time, not an event.
const PATROL_EVERY: Duration = Duration::from_millis(100);
/// Rows before the frontier that are known by their keys. If there are more, the frontier moves back.
const BEFORE_MAX: usize = 4_096;

/// The frontier of one queue.
pub(crate) struct Frontier {
    queue: u8,
    place: Mutex<Place>,
}

struct Place {
    /// All rows before this key are leased or damaged, except those in `before`.
    from: Vec<u8>,
    /// Rows before `from` that were written or released. During a read also later ones: it may have passed
    /// them.
    before: BTreeSet<Vec<u8>>,
    is_being_read: bool,
    /// Where the next patrol begins, and when.
    patrol: (Vec<u8>, Instant),
}

impl Place {
    fn add(&mut self, key: Vec<u8>) {
        // The next read finds it behind the frontier.
        if !self.is_being_read && key >= self.from {
            return;
        }
        self.before.insert(key);
        if self.before.len() > BEFORE_MAX && !self.is_being_read {
            self.move_back();
        }
    }

    fn move_back(&mut self) {
        if let Some(first) = self.before.pop_first().filter(|first| *first < self.from) {
            self.from = first;
        }
        self.before.clear();
    }
}

impl Frontier {
    fn new(queue: u8) -> Self {
        let place = Place {
            from: vec![queue],
            before: BTreeSet::new(),
            is_being_read: false,
            patrol: (vec![queue], Instant::now()),
        };
        Self { queue, place: Mutex::new(place) }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read of the queue. Only one at a time.
    pub(crate) fn read(&self) -> QueueRead<'_> {
        self.read_at(Instant::now())
    }

    fn read_at(&self, now: Instant) -> QueueRead<'_> {
        let mut place = self.place();
        place.is_being_read = true;
        let mut before = std::mem::take(&mut place.before);
        // The read finds the others behind the frontier.
        before.split_off(&place.from);
        let (patrol, at) = &mut place.patrol;
        let patrols = now.saturating_duration_since(*at) >= PATROL_EVERY;
        if patrols {
            *at = now;
        }
        let patrol = patrols.then(|| patrol.clone());
        QueueRead {
            frontier: self,
            from: place.from.clone(),
            before,
            taken: Vec::new(),
            patrol,
            passed: None,
        }
    }

    /// The rows before the frontier that may be free, and the frontier.
    pub(crate) fn may_be_free(&self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let place = self.place();
        (place.before.range::<Vec<u8>, _>(..&place.from).cloned().collect(), place.from.clone())
    }

    /// Records that this row was written or released, and is free.
    pub(crate) fn appeared(&self, key: &[u8]) {
        self.place().add(key.to_vec());
    }
}

/// A read of a queue under way: first of the rows before the frontier, then from there on. Dropped before it
/// has [ended](Self::end), it leaves everything as it was.
pub(crate) struct QueueRead<'a> {
    frontier: &'a Frontier,
    from: Vec<u8>,
    before: BTreeSet<Vec<u8>>,
    taken: Vec<Vec<u8>>,
    /// Where some rows before the frontier are to be looked at, if they are.
    patrol: Option<Vec<u8>>,
    /// The last row read.
    passed: Option<Vec<u8>>,
}

impl QueueRead<'_> {
    /// The next rows before the frontier and before `to` that may be free, at most `limit`. One that is still
    /// free when the read ends has to be reported again, with [`Frontier::appeared`].
    pub(crate) fn before(&mut self, to: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        while rows.len() < limit && self.before.first().is_some_and(|first| first.as_slice() < to) {
            rows.extend(self.before.pop_first());
        }
        self.taken.extend_from_slice(&rows);
        rows
    }

    /// Where the read goes on behind the frontier.
    pub(crate) fn from(&self) -> Vec<u8> {
        self.passed.as_ref().map_or_else(|| self.from.clone(), |last| after(last))
    }

    /// Records that the read has passed this row, and no row from the frontier up to it is free.
    pub(crate) fn passed(&mut self, last: &[u8]) {
        self.passed = Some(last.to_vec());
    }

    /// The rows before the frontier that are to be looked at now: where they begin, and the end of all.
    pub(crate) fn patrol(&self) -> Option<(&[u8], &[u8])> {
        self.patrol.as_deref().map(|begin| (begin, self.from.as_slice()))
    }

    /// Records which row was looked at last; `None` if there are no more before the frontier.
    pub(crate) fn patrolled(&mut self, last: Option<&[u8]>) {
        let next = last.map_or_else(|| vec![self.frontier.queue], after);
        self.frontier.place().patrol.0 = next;
        self.patrol = None;
    }

    /// Ends the read: what it has passed is leased.
    pub(crate) fn end(mut self) {
        self.taken.clear();
        if let Some(last) = self.passed.take() {
            self.frontier.place().from = after(&last);
        }
    }
}

impl Drop for QueueRead<'_> {
    fn drop(&mut self) {
        let mut place = self.frontier.place();
        place.is_being_read = false;
        place.before.append(&mut self.before);
        place.before.extend(self.taken.drain(..));
        let from = place.from.clone();
        place.before.split_off(&from);
        if place.before.len() > BEFORE_MAX {
            place.move_back();
        }
    }
}

/// The first key after this one.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The frontiers of the queues of work about customers.
pub(crate) struct Frontiers {
    pub(crate) inbox: Frontier,
    pub(crate) live: Frontier,
    pub(crate) background: Frontier,
}

impl Default for Frontiers {
    fn default() -> Self {
        Self { inbox: Frontier::new(b'i'), live: Frontier::new(b'y'), background: Frontier::new(b'w') }
    }
}

impl Frontiers {
    pub(crate) fn all(&self) -> [&Frontier; 3] {
        [&self.inbox, &self.live, &self.background]
    }

    /// The rows of each queue that a batch writes.
    pub(crate) fn rows_of(&self, batch: &Batch) -> [Vec<Vec<u8>>; 3] {
        self.all().map(|Frontier { queue, .. }| {
            let rows = batch.range(vec![*queue]..vec![*queue + 1]).filter(|(_, value)| value.is_some());
            rows.map(|(key, _)| key.clone()).collect()
        })
    }

    /// Records that these rows were written.
    pub(crate) fn appeared(&self, rows: [Vec<Vec<u8>>; 3]) {
        for (frontier, rows) in self.all().into_iter().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            let mut place = frontier.place();
            for key in rows {
                place.add(key);
            }
        }
    }

    /// The queue a row is in.
    pub(crate) fn of(&self, key: &[u8]) -> Option<&Frontier> {
        self.all().into_iter().find(|frontier| key.starts_with(&[frontier.queue]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(queue: &Frontier, last: &[u8]) {
        let mut read = queue.read();
        read.passed(last);
        read.end();
    }

    /// Ends a read that leases the rows before the frontier. Returns those, and where it went on.
    fn read_on(queue: &Frontier) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut read = queue.read();
        let found = (read.before(b"j", usize::MAX), read.from());
        read.end();
        found
    }

    #[test]
    fn rows_that_appear_before_the_frontier_are_read_first_and_no_others() {
        let queue = Frontier::new(b'i');
        assert_eq!(read_on(&queue), (vec![], b"i".to_vec()));
        pass(&queue, b"i5");
        queue.appeared(b"i7");
        assert_eq!(read_on(&queue), (vec![], b"i5\0".to_vec()), "the read finds it behind the frontier");
        queue.appeared(b"i4");
        queue.appeared(b"i3");
        let both = vec![b"i3".to_vec(), b"i4".to_vec()];
        assert_eq!(queue.may_be_free(), (both.clone(), b"i5\0".to_vec()));
        assert_eq!(read_on(&queue), (both, b"i5\0".to_vec()));
        assert_eq!(read_on(&queue), (vec![], b"i5\0".to_vec()), "they are leased now");
    }

    #[test]
    fn what_appears_during_a_read_is_not_lost() {
        let queue = Frontier::new(b'i');
        let mut read = queue.read();
        // The read has passed i2 when i2 is written.
        queue.appeared(b"i2");
        queue.appeared(b"i9x");
        read.passed(b"i9");
        read.end();
        assert_eq!(read_on(&queue), (vec![b"i2".to_vec()], b"i9\0".to_vec()));
    }

    #[test]
    fn a_read_that_is_given_up_or_takes_only_some_rows_leaves_the_others() {
        let queue = Frontier::new(b'i');
        pass(&queue, b"i5");
        for key in [b"i1", b"i2", b"i3"] {
            queue.appeared(key);
        }
        let mut read = queue.read();
        assert_eq!(read.before(b"i3", usize::MAX), [b"i1".to_vec(), b"i2".to_vec()], "not due");
        read.passed(b"i8");
        drop(read);
        let all = [b"i1", b"i2", b"i3"].map(|key| key.to_vec());
        assert_eq!(queue.may_be_free(), (all.to_vec(), b"i5\0".to_vec()));
        let mut read = queue.read();
        assert_eq!(read.before(b"j", 1), [b"i1".to_vec()]);
        read.end();
        assert_eq!(read_on(&queue), (all[1..].to_vec(), b"i5\0".to_vec()));
    }

    #[test]
    fn more_rows_than_are_known_by_their_keys_move_the_frontier_back() {
        let queue = Frontier::new(b'i');
        pass(&queue, b"i9");
        let key = |n: usize| format!("i{n:05}").into_bytes();
        (0..=BEFORE_MAX).rev().for_each(|n| queue.appeared(&key(n)));
        assert_eq!(read_on(&queue), (vec![], key(0)));
        let read = queue.read();
        (0..=BEFORE_MAX).rev().for_each(|n| queue.appeared(&key(n)));
        let mut read_again = read;
        read_again.passed(b"i9");
        read_again.end();
        assert_eq!(read_on(&queue), (vec![], key(0)));
    }

    #[test]
    fn once_in_a_while_some_rows_before_the_frontier_are_looked_at() {
        let queue = Frontier::new(b'i');
        let now = Instant::now();
        let mut read = queue.read_at(now);
        read.passed(b"i5");
        read.end();
        assert_eq!(queue.read_at(now).patrol(), None);
        let mut read = queue.read_at(now + PATROL_EVERY);
        assert_eq!(read.patrol(), Some((&b"i"[..], &b"i5\0"[..])));
        read.patrolled(Some(b"i2"));
        drop(read);
        assert_eq!(queue.read_at(now + PATROL_EVERY).patrol(), None);
        let mut read = queue.read_at(now + 2 * PATROL_EVERY);
        assert_eq!(read.patrol(), Some((&b"i2\0"[..], &b"i5\0"[..])));
        read.patrolled(None);
        drop(read);
        let read = queue.read_at(now + 3 * PATROL_EVERY);
        assert_eq!(read.patrol(), Some((&b"i"[..], &b"i5\0"[..])));
    }

    #[test]
    fn the_rows_that_a_commit_writes_are_reported_to_their_queues() {
        let frontiers = Frontiers::default();
        let write = |key: &str, there: bool| (key.as_bytes().to_vec(), there.then(Vec::new));
        let writes = Batch::from([
            write("d0", true),
            write("i1", false),
            write("i2", true),
            write("i3", true),
            write("w9", false),
        ]);
        let rows = frontiers.rows_of(&writes);
        let written = vec![b"i2".to_vec(), b"i3".to_vec()];
        assert_eq!(rows, [written.clone(), vec![], vec![]]);
        pass(&frontiers.inbox, b"i8");
        frontiers.appeared(rows);
        assert_eq!(read_on(&frontiers.inbox), (written, b"i8\0".to_vec()));
    }
}
