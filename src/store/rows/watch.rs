//! What is written while a search reads in slices: a search that takes seconds cannot be part of a
//! transaction, and a row may be written or moved behind the place that it has reached. So the writer shows
//! each batch to the watches before it applies it, and the transaction that uses the result of the search
//! also uses what its watch has seen.
//!
//! Deliberately absent: which rows are looked for, which the caller decides.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::store::rows::source::Batch;

/// The keys of the rows in a batch that are looked for.
type Wanted = Box<dyn Fn(&Batch) -> Vec<Vec<u8>> + Send + Sync>;

/// The watches under way.
#[derive(Default)]
pub(crate) struct Watches(Mutex<Vec<Weak<Watch>>>);

/// A watch; it ends when it is dropped.
pub(crate) struct Watch {
    wanted: Wanted,
    seen: Mutex<Vec<Vec<u8>>>,
    has_missed: AtomicBool,
}

impl Watches {
    /// Begins a watch. A batch that is being applied at this moment may not be seen, so the caller waits for
    /// a transaction before reading.
    pub(crate) fn begin(
        &self,
        wanted: impl Fn(&Batch) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<Watch> {
        let watch = Arc::new(Watch {
            wanted: Box::new(wanted),
            seen: Mutex::default(),
            has_missed: AtomicBool::new(false),
        });
        self.watches().push(Arc::downgrade(&watch));
        watch
    }

    /// Whether there are any.
    pub(crate) fn are_any(&self) -> bool {
        self.watches().iter().any(|watch| watch.strong_count() > 0)
    }

    /// Records that a batch cannot be shown any more.
    pub(crate) fn miss(&self) {
        for watch in self.watches().iter().filter_map(Weak::upgrade) {
            watch.has_missed.store(true, Relaxed);
        }
    }

    /// Called by the writer with each batch before it is applied.
    pub(crate) fn show(&self, batch: &Batch) {
        let mut watches = self.watches();
        watches.retain(|watch| watch.strong_count() > 0);
        for watch in watches.iter().filter_map(Weak::upgrade) {
            let wanted = watch.wanted(batch);
            watch.all_seen().extend(wanted);
        }
    }

    fn watches(&self) -> MutexGuard<'_, Vec<Weak<Watch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// The keys of the rows in this batch that are looked for.
    pub(crate) fn wanted(&self, batch: &Batch) -> Vec<Vec<u8>> {
        (self.wanted)(batch)
    }

    /// Whether a batch was not shown: the search has to be made again.
    pub(crate) fn has_missed(&self) -> bool {
        self.has_missed.load(Relaxed)
    }

    /// The keys of the rows looked for in all batches applied since the watch began.
    pub(crate) fn seen(&self) -> Vec<Vec<u8>> {
        self.all_seen().clone()
    }

    fn all_seen(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sees_the_batches_between_its_begin_and_its_end() {
        let (watches, batch) =
            (Watches::default(), |key: u8| Batch::from([(vec![key], Some(Vec::new())), (vec![0], None)]));
        watches.show(&batch(1));
        let small = watches.begin(|batch| batch.keys().filter(|key| **key < vec![5]).cloned().collect());
        let all = watches.begin(|batch| batch.keys().cloned().collect());
        watches.show(&batch(2));
        assert_eq!(all.seen(), [vec![0], vec![2]]);
        drop(all);
        watches.show(&batch(7));
        assert_eq!(small.seen(), [vec![0], vec![2], vec![0]]);
        assert_eq!(watches.watches().len(), 1, "the one that was dropped costs nothing");
        assert!(!small.has_missed());
        watches.miss();
        assert!(small.has_missed() && watches.are_any());
        drop(small);
        assert!(!watches.are_any());
    }
}
