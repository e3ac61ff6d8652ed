//! The queues of work about customers, as far as they are in memory: which rows are free to be leased, and which
//! are leased or put off.
//!
//! A row stays in its queue until its work is settled, so a read from the front would meet every leased row again.
//! Instead, the keys of free rows are kept here: a queue is read on only when they run out, and the writer reports
//! every row that it commits. What does not fit is forgotten, and read again.
//!
//! What is here may be out of date, because nothing is locked while a queue is read. So a row is leased first and
//! read afterwards: from then on nobody else settles it, and it is there or it is gone. One that is reported while it
//! is leased was written again, or the report came late: it is free once the lease ends, and read again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::rows::keys;
use crate::store::rows::source::Batch;

/// Free rows whose keys are kept.
const FREE_MAX: usize = 16_384;
/// How often a queue is read from its front nevertheless: a row that was not reported is late, and not lost.
const READ_AGAIN_EVERY: Duration = Duration::from_mins(1);

/// A queue of work about customers.
pub(crate) struct WorkQueue {
    prefix: u8,
    state: Mutex<State>,
}

struct State {
    /// Every row before this key is free and known, held or damaged.
    read_to: Vec<u8>,
    /// Free rows, none of which is held: those before `read_to`, and some behind it.
    free: BTreeSet<Vec<u8>>,
    /// The first row that was forgotten, and is to be read again.
    forgotten: Option<Vec<u8>>,
    held: HashMap<Vec<u8>, Held>,
    /// When it was last read from its front.
    began_at: Instant,
}

/// A row that is leased, or put off.
#[derive(Clone, Copy, Default)]
struct Held {
    is_put_off: bool,
    /// Whether it was reported since it is held.
    is_reported: bool,
}

impl State {
    fn add(&mut self, key: Vec<u8>) {
        if let Some(held) = self.held.get_mut(&key) {
            held.is_reported = true;
            return;
        }
        self.free.insert(key);
        if self.free.len() > FREE_MAX
            && let Some(last) = self.free.pop_last()
        {
            if last < self.read_to {
                self.read_to.clone_from(&last);
            }
            self.forgotten = self.forgotten.take().into_iter().chain([last]).min();
        }
    }

    /// The first free row that is known to be the first of all.
    fn first(&self) -> Option<&Vec<u8>> {
        self.free.first().filter(|first| **first < self.read_to)
    }
}

impl WorkQueue {
    fn new(prefix: u8) -> Self {
        let state = State {
            read_to: vec![prefix],
            free: BTreeSet::new(),
            forgotten: None,
            held: HashMap::new(),
            began_at: Instant::now(),
        };
        Self { prefix, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key behind all rows.
    pub(crate) fn end(&self) -> Vec<u8> {
        keys::after(&[self.prefix])
    }

    /// Leases the first free rows before `to`, at most `limit`. None are known if there are none, or the queue has
    /// to be [read](Self::to_read) on.
    pub(crate) fn lease(&self, to: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let (mut state, mut leased) = (self.state(), Vec::new());
        while leased.len() < limit && state.first().is_some_and(|first| first.as_slice() < to) {
            let Some(key) = state.free.pop_first() else { break };
            state.held.insert(key.clone(), Held::default());
            leased.push(key);
        }
        leased
    }

    /// Takes the first free row out of the free ones; it is to be [added](Self::add) again if it is there.
    pub(crate) fn pop_free(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        state.first()?;
        state.free.pop_first()
    }

    /// Where the queue is to be read on, to know all rows before `to`.
    pub(crate) fn to_read(&self, to: &[u8]) -> Option<Vec<u8>> {
        Some(self.state().read_to.clone()).filter(|read_to| read_to.as_slice() < to)
    }

    /// Records the next rows from `from` on, which is where the queue was [to be read](Self::to_read), and whether
    /// these are the last.
    pub(crate) fn read(&self, from: &[u8], rows: Vec<Vec<u8>>, are_last: bool) {
        let read_to = match rows.last() {
            Some(last) if !are_last => keys::next(last),
            Some(_) | None => self.end(),
        };
        let mut state = self.state();
        // Otherwise rows before it were forgotten meanwhile.
        if state.read_to == from {
            // A row behind it may have been, too, after these were read.
            let forgotten = state.forgotten.take_if(|forgotten| *forgotten < read_to);
            state.read_to = forgotten.unwrap_or(read_to);
        }
        for key in rows {
            if !state.held.contains_key(&key) {
                state.add(key);
            }
        }
    }

    /// Has the queue read from its front, if that was not done for a while.
    pub(crate) fn read_again(&self, now: Instant) {
        let mut state = self.state();
        if now.saturating_duration_since(state.began_at) >= READ_AGAIN_EVERY {
            state.began_at = now;
            state.read_to = vec![self.prefix];
        }
    }

    /// Ends that rows are held, and has the queue read from its front.
    fn begin_again(&self) {
        let mut state = self.state();
        state.held.clear();
        state.read_to = vec![self.prefix];
    }

    /// Records that this row is there, and free unless it is held.
    pub(crate) fn add(&self, key: Vec<u8>) {
        self.state().add(key);
    }

    /// Ends that a row is held. It is free again if it `is_there`, or was reported meanwhile.
    pub(crate) fn release(&self, key: &[u8], is_there: bool) {
        let mut state = self.state();
        let held = state.held.remove(key);
        if is_there || held.is_some_and(|held| held.is_reported) {
            state.add(key.to_vec());
        }
    }

    fn is_leased(&self, key: &[u8]) -> bool {
        self.state().held.get(key).is_some_and(|held| !held.is_put_off)
    }

    /// The keys of all leased rows.
    pub(crate) fn leased(&self) -> HashSet<Vec<u8>> {
        let state = self.state();
        let leased = state.held.iter().filter(|(_, held)| !held.is_put_off);
        leased.map(|(key, _)| key.clone()).collect()
    }
}

/// The queues of work about customers.
pub(crate) struct WorkQueues {
    pub(crate) inbox: WorkQueue,
    pub(crate) live: WorkQueue,
    pub(crate) background: WorkQueue,
}

impl Default for WorkQueues {
    fn default() -> Self {
        Self { inbox: WorkQueue::new(b'i'), live: WorkQueue::new(b'y'), background: WorkQueue::new(b'w') }
    }
}

impl WorkQueues {
    pub(crate) fn all(&self) -> [&WorkQueue; 3] {
        [&self.inbox, &self.live, &self.background]
    }

    /// The rows of each queue that a batch writes.
    pub(crate) fn rows_of(&self, batch: &Batch) -> [Vec<Vec<u8>>; 3] {
        self.all().map(|queue| {
            let rows = batch.range(vec![queue.prefix]..queue.end()).filter(|(_, value)| value.is_some());
            rows.map(|(key, _)| key.clone()).collect()
        })
    }

    /// Records that these rows were written, and can be read.
    pub(crate) fn add(&self, rows: [Vec<Vec<u8>>; 3]) {
        for (queue, rows) in self.all().into_iter().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            let mut state = queue.state();
            for key in rows {
                state.add(key);
            }
        }
    }

    /// Has all queues read from their fronts: rows may have been written that were not reported.
    pub(crate) fn read_all_again(&self) {
        for queue in self.all() {
            queue.state().read_to = vec![queue.prefix];
        }
    }

    /// Has the queue of this row read from its front.
    pub(crate) fn read_one_again(&self, key: &[u8]) {
        if let Some(queue) = self.of(key) {
            queue.state().read_to = vec![queue.prefix];
        }
    }

    /// Ends that rows are leased or put off, whoever holds them.
    pub(crate) fn end_leases(&self) {
        self.all().into_iter().for_each(WorkQueue::begin_again);
    }

    /// Holds leased rows back from being leased again.
    pub(crate) fn put_off(&self, keys: impl Iterator<Item = Vec<u8>>) {
        for key in keys {
            if let Some(queue) = self.of(&key) {
                let mut state = queue.state();
                state.free.remove(&key);
                state.held.entry(key).or_default().is_put_off = true;
            }
        }
    }

    /// Those of these keys whose rows are not leased.
    pub(crate) fn not_leased(&self, mut keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        keys.retain(|key| self.of(key).is_none_or(|queue| !queue.is_leased(key)));
        keys
    }

    /// The queue that a row is in.
    pub(crate) fn of(&self, key: &[u8]) -> Option<&WorkQueue> {
        self.all().into_iter().find(|queue| key.starts_with(&[queue.prefix]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Vec<u8> {
        format!("i{n:05}").into_bytes()
    }

    /// A queue of which everything is read, with these rows.
    fn queue_of(rows: impl IntoIterator<Item = usize>) -> WorkQueue {
        let queue = WorkQueue::new(b'i');
        queue.read(b"i", rows.into_iter().map(key).collect(), true);
        queue
    }

    fn lease_all(queue: &WorkQueue) -> Vec<Vec<u8>> {
        queue.lease(&queue.end(), usize::MAX)
    }

    #[test]
    fn rows_are_leased_in_order_before_the_end_and_up_to_the_limit() {
        let queue = queue_of([1, 2, 3, 4]);
        assert_eq!(queue.lease(&key(4), 2), [key(1), key(2)]);
        assert_eq!(queue.lease(&key(4), 9), [key(3)]);
        assert_eq!(queue.leased().len(), 3);
        queue.add(key(0));
        assert_eq!(lease_all(&queue), [key(0), key(4)]);
        assert_eq!(lease_all(&queue), [[0_u8; 0]; 0]);
        assert_eq!(queue.to_read(&queue.end()), None);
    }

    #[test]
    fn a_row_behind_what_is_unread_waits_for_it_to_be_read() {
        let queue = WorkQueue::new(b'i');
        queue.add(key(9));
        assert_eq!(lease_all(&queue), [[0_u8; 0]; 0]);
        assert_eq!(queue.to_read(&key(5)), Some(b"i".to_vec()));
        queue.read(b"i", vec![key(1), key(2)], false);
        assert_eq!(queue.to_read(&key(2)), None, "all before it is known");
        assert_eq!(lease_all(&queue), [key(1), key(2)]);
        let from = queue.to_read(&queue.end()).unwrap();
        queue.read(&from, vec![key(9)], true);
        assert_eq!(lease_all(&queue), [key(9)]);
    }

    #[test]
    fn a_row_that_is_held_is_not_leased_however_often_it_is_read_or_reported() {
        let queues = WorkQueues { inbox: queue_of([1, 2]), ..WorkQueues::default() };
        let queue = &queues.inbox;
        assert_eq!(lease_all(queue), [key(1), key(2)]);
        queues.put_off([key(2)].into_iter());
        queue.add(key(1));
        queue.read_again(Instant::now() + READ_AGAIN_EVERY);
        queue.read(b"i", vec![key(1), key(2)], true);
        assert_eq!(lease_all(queue), [[0_u8; 0]; 0]);
        assert_eq!(queues.not_leased(vec![key(1), key(2)]), [key(2)]);
        for n in [1, 2] {
            queue.release(&key(n), n == 2);
        }
        assert_eq!(lease_all(queue), [key(1), key(2)], "the first was reported meanwhile");
        queue.release(&key(1), false);
        assert_eq!(lease_all(queue), [[0_u8; 0]; 0]);
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_is_read_again() {
        let queue = queue_of([]);
        (0..FREE_MAX + 10).for_each(|n| queue.add(key(n)));
        assert_eq!(lease_all(&queue).len(), FREE_MAX);
        assert_eq!(queue.to_read(&queue.end()), Some(key(FREE_MAX)));
        // As if more were forgotten while the queue is read.
        (0..=FREE_MAX).rev().for_each(|n| queue.add(format!("h{n:05}").into_bytes()));
        queue.read(&key(FREE_MAX), vec![key(FREE_MAX)], true);
        assert!(queue.to_read(&queue.end()).is_some_and(|from| from < key(0)));
    }

    #[test]
    fn a_row_that_is_forgotten_while_the_queue_is_read_is_read_again() {
        let queue = WorkQueue::new(b'i');
        let from = queue.to_read(&queue.end()).unwrap();
        // They are written after the reader has looked, and before it says what it has seen.
        (0..=FREE_MAX).for_each(|n| queue.add(key(n)));
        queue.read(&from, vec![], true);
        assert_eq!(queue.to_read(&queue.end()), Some(key(FREE_MAX)));
        assert_eq!(lease_all(&queue).len(), FREE_MAX);
        queue.read(&key(FREE_MAX), vec![key(FREE_MAX)], true);
        assert_eq!(lease_all(&queue), [key(FREE_MAX)]);
        assert_eq!(queue.to_read(&queue.end()), None);
    }

    #[test]
    fn once_in_a_while_a_queue_is_read_from_its_front() {
        let queue = queue_of([]);
        let now = Instant::now();
        queue.read_again(now);
        assert_eq!(queue.to_read(&queue.end()), None);
        queue.read_again(now + READ_AGAIN_EVERY);
        assert_eq!(queue.to_read(&queue.end()), Some(b"i".to_vec()));
    }

    #[test]
    fn when_all_leases_end_what_was_leased_or_put_off_is_read_and_leased_again() {
        let queues = WorkQueues { inbox: queue_of([1, 2]), ..WorkQueues::default() };
        lease_all(&queues.inbox);
        queues.put_off([key(2)].into_iter());
        queues.end_leases();
        assert_eq!(lease_all(&queues.inbox), [[0_u8; 0]; 0]);
        let from = queues.inbox.to_read(&queues.inbox.end()).unwrap();
        queues.inbox.read(&from, vec![key(1), key(2)], true);
        assert_eq!(lease_all(&queues.inbox), [key(1), key(2)]);
        queues.read_all_again();
        assert_eq!(queues.inbox.to_read(&queues.inbox.end()), Some(b"i".to_vec()));
    }

    #[test]
    fn the_rows_that_a_commit_writes_are_reported_to_their_queues() {
        let queues = WorkQueues::default();
        let write = |key: &str, there: bool| (key.as_bytes().to_vec(), there.then(Vec::new));
        let writes = Batch::from([
            write("d0", true),
            write("i1", false),
            write("i2", true),
            write("i3", true),
            write("w9", false),
        ]);
        let rows = queues.rows_of(&writes);
        let written = vec![b"i2".to_vec(), b"i3".to_vec()];
        assert_eq!(rows, [written.clone(), vec![], vec![]]);
        queues.inbox.read(b"i", vec![], true);
        queues.add(rows);
        assert_eq!(lease_all(&queues.inbox), written);
    }
}
