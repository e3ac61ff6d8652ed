//! The position in each queue of work before which every row is leased.
//!
//! A leased row stays in its queue until it is settled. With thousands of rows leased, each lease would read
//! thousands of rows only to skip them. So it begins at this position; the writer reports rows that are
//! written before it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::embedded::engine::Batch;

/// How often a lease begins at the front of the queue nevertheless: a row that was missed costs a second, not
/// an event.
const FROM_THE_FRONT_EVERY: Duration = Duration::from_secs(1);

/// The frontier of one queue.
pub(crate) struct Frontier {
    queue: u8,
    place: Mutex<Place>,
}

struct Place {
    /// All rows before this key are leased, or damaged.
    from: Vec<u8>,
    /// The first row that was written since the last read began.
    appeared: Option<Vec<u8>>,
    from_the_front_at: Instant,
}

impl Frontier {
    fn new(queue: u8) -> Self {
        let place = Place { from: vec![queue], appeared: None, from_the_front_at: Instant::now() };
        Self { queue, place: Mutex::new(place) }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a read of the queue has to begin. Only one read at a time.
    pub(crate) fn begin(&self) -> Vec<u8> {
        self.begin_at(Instant::now())
    }

    fn begin_at(&self, now: Instant) -> Vec<u8> {
        let mut place = self.place();
        let appeared = place.appeared.take();
        if now.saturating_duration_since(place.from_the_front_at) >= FROM_THE_FRONT_EVERY {
            place.from_the_front_at = now;
            place.from = vec![self.queue];
        } else if let Some(appeared) = appeared.filter(|appeared| *appeared < place.from) {
            place.from = appeared;
        }
        place.from.clone()
    }

    /// Records that the read has passed this row, and no row up to it is free.
    pub(crate) fn passed(&self, last: &[u8]) {
        self.place().from = [last, &[0]].concat();
    }

    /// No row before this one is free.
    pub(crate) fn first(&self) -> Vec<u8> {
        let place = self.place();
        place.appeared.as_ref().map_or(&place.from, |appeared| appeared.min(&place.from)).clone()
    }

    /// Records that this row was written or released, and is free.
    pub(crate) fn appeared(&self, key: &[u8]) {
        let mut place = self.place();
        if place.appeared.as_ref().is_none_or(|first| key < first.as_slice()) {
            place.appeared = Some(key.to_vec());
        }
    }
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

    /// The first row of each queue in a batch.
    pub(crate) fn first_of(&self, batch: &Batch) -> [Option<Vec<u8>>; 3] {
        self.all().map(|Frontier { queue, .. }| {
            let mut rows = batch.range(vec![*queue]..vec![*queue + 1]).filter(|(_, value)| value.is_some());
            rows.next().map(|(key, _)| key.clone())
        })
    }

    /// Records that these rows were written.
    pub(crate) fn appeared(&self, first: &[Option<Vec<u8>>; 3]) {
        for (frontier, key) in self.all().into_iter().zip(first) {
            if let Some(key) = key {
                frontier.appeared(key);
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

    #[test]
    fn what_appears_before_the_frontier_is_where_the_next_look_begins() {
        let (now, queue) = (Instant::now(), Frontier::new(b'i'));
        assert_eq!(queue.begin_at(now), b"i");
        queue.passed(b"i5");
        assert_eq!((queue.begin_at(now), queue.first()), (b"i5\0".to_vec(), b"i5\0".to_vec()));
        queue.appeared(b"i7");
        assert_eq!(queue.begin_at(now), b"i5\0", "what appears behind it is come upon anyway");
        queue.appeared(b"i3");
        queue.appeared(b"i4");
        assert_eq!((queue.first(), queue.begin_at(now)), (b"i3".to_vec(), b"i3".to_vec()));
    }

    #[test]
    fn what_appears_during_a_look_is_not_lost() {
        let (now, queue) = (Instant::now(), Frontier::new(b'i'));
        queue.begin_at(now);
        // The read has passed i2 when i2 is written.
        queue.appeared(b"i2");
        queue.passed(b"i9");
        assert_eq!(queue.begin_at(now), b"i2");
    }

    #[test]
    fn once_in_a_while_the_whole_queue_is_looked_through() {
        let queue = Frontier::new(b'i');
        queue.passed(b"i5");
        assert_eq!(queue.begin_at(Instant::now() + FROM_THE_FRONT_EVERY), b"i");
    }

    #[test]
    fn the_writes_of_a_commit_are_told_by_queue() {
        let (now, frontiers) = (Instant::now(), Frontiers::default());
        let write = |key: &str, there: bool| (key.as_bytes().to_vec(), there.then(Vec::new));
        let writes = Batch::from([
            write("d0", true),
            write("i1", false),
            write("i2", true),
            write("i3", true),
            write("w9", false),
        ]);
        let first = frontiers.first_of(&writes);
        assert_eq!(first, [Some(b"i2".to_vec()), None, None]);
        frontiers.inbox.passed(b"i8");
        frontiers.appeared(&first);
        assert_eq!(frontiers.inbox.begin_at(now), b"i2");
    }
}
