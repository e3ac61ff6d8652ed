//! A log whose appends are timed.

use std::time::{Duration, Instant};

use super::segment::AppendError;
use super::write::Log;
use crate::store::rows::source::Batch;

/// A log, and what is told how long each of its appends took.
pub(crate) struct Timed<L> {
    pub(crate) log: L,
    pub(crate) took: Box<dyn Fn(Duration) + Send>,
}

impl<L: Log> Log for Timed<L> {
    fn append(&mut self, seq: u64, writes: &Batch) -> Result<(), AppendError> {
        let begun = Instant::now();
        let appended = self.log.append(seq, writes);
        (self.took)(begun.elapsed());
        appended
    }

    fn rotate(&mut self) {
        self.log.rotate();
    }
}
