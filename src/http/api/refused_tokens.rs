//! Counts refused tokens by source, until they are added to the audit trail: a run of guesses is one entry.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::time::Timestamp;
use crate::http::socket::Source;

/// The most sources that are counted separately; further ones are counted together, without an address.
const SOURCES_MAX: usize = 1_000;

/// Refused tokens by source.
#[derive(Default)]
pub struct RefusedTokens(Mutex<BTreeMap<Source, Run>>);

/// Refused tokens of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) requests: u64,
    pub(super) first_at: Timestamp,
    pub(super) last_at: Timestamp,
}

impl RefusedTokens {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<Source, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refused token.
    pub(super) fn count(&self, source: Source, now: Timestamp) {
        self.put_back(source, Run { requests: 1, first_at: now, last_at: now });
    }

    /// Takes all runs.
    pub(super) fn take(&self) -> BTreeMap<Source, Run> {
        std::mem::take(&mut self.runs())
    }

    /// Counts a run that was taken again.
    pub(super) fn put_back(&self, source: Source, run: Run) {
        let mut runs = self.runs();
        let is_known = runs.contains_key(&source) || runs.len() < SOURCES_MAX;
        runs.entry(if is_known { source } else { Source(None) })
            .and_modify(|known| {
                known.requests += run.requests;
                known.first_at = known.first_at.min(run.first_at);
                known.last_at = known.last_at.max(run.last_at);
            })
            .or_insert(run);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_run_is_counted_once_and_sources_are_bounded() {
        let (refused, at) = (RefusedTokens::default(), |ms| Timestamp::from_millis(ms));
        let source = |n: u32| Source(Some(IpAddr::from(n.to_be_bytes())));
        for ms in [5, 3, 9] {
            refused.count(source(0), at(ms));
        }
        let run = Run { requests: 3, first_at: at(3), last_at: at(9) };
        assert_eq!(refused.take(), [(source(0), run)].into_iter().collect());
        refused.count(source(0), at(20));
        refused.put_back(source(0), run);
        assert_eq!(refused.take()[&source(0)], Run { requests: 4, first_at: at(3), last_at: at(20) });
        for n in 0..3_000 {
            refused.count(source(n), at(1));
        }
        let runs = refused.take();
        assert_eq!((runs.len(), runs[&Source(None)].requests), (1_001, 2_000));
        assert!(refused.take().is_empty());
    }
}
