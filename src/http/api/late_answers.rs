//! Late answers to wrong tokens, so that guessing is slow.
//!
//! A right token is never held up, whoever else guesses from the same address: behind a reverse proxy all
//! requests come from one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::http::socket::Source;

/// The time between two answers to one source.
const BETWEEN: Duration = Duration::from_millis(500);
/// How late an answer is at most.
const LATE_MAX: Duration = Duration::from_secs(5);
/// Answers that are held back at the same time, and the part of the connections that they may occupy.
const WAITING_MAX: usize = 256;
const WAITING_PART: usize = 16;
/// The most sources that have a turn of their own; further ones share one.
const SOURCES_MAX: usize = 1_000;

/// Delays the answers to wrong tokens.
pub struct LateAnswers {
    /// When the last of the answers to a source is due.
    last: Mutex<HashMap<Source, Instant>>,
    waiting: Semaphore,
}

impl LateAnswers {
    /// For a listener with this many connections.
    #[must_use]
    pub fn of(connections: usize) -> Self {
        let waiting = WAITING_MAX.min(connections / WAITING_PART).max(1);
        Self { last: Mutex::default(), waiting: Semaphore::new(waiting) }
    }

    /// Waits for the turn of the next answer to this source. False, at once, if too many wait already.
    pub(super) async fn wait(&self, source: Source) -> bool {
        let Ok(_permit) = self.waiting.try_acquire() else { return false };
        let turn = self.turn(source, Instant::now());
        tokio::time::sleep_until(turn).await;
        true
    }

    fn turn(&self, source: Source, now: Instant) -> Instant {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, due| *due > now);
        let is_known = last.contains_key(&source) || last.len() < SOURCES_MAX;
        let due = last.entry(if is_known { source } else { Source(None) }).or_insert(now);
        *due = (*due + BETWEEN).min(now + LATE_MAX);
        *due
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_to_one_source_are_half_a_second_apart_up_to_five_seconds() {
        let late = LateAnswers::of(10_000);
        let start = Instant::now();
        let [a, b] = [1, 2].map(|n| Source(Some(IpAddr::from([10, 0, 0, n]))));
        let first = futures_util::future::join_all((0..12).map(|_| late.wait(a)));
        let (all, other) = tokio::join!(first, async {
            assert!(late.wait(b).await);
            start.elapsed()
        });
        assert!(all.into_iter().all(|is_late| is_late));
        assert_eq!((start.elapsed(), other), (LATE_MAX, BETWEEN));
        let again = Instant::now();
        assert!(late.wait(a).await, "what is over is forgotten");
        assert_eq!(again.elapsed(), BETWEEN);
        assert_eq!(late.turn(a, start + LATE_MAX * 9), start + LATE_MAX * 9 + BETWEEN);
        assert_eq!(late.last.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_its_part_of_the_connections_no_answer_waits() {
        let late = LateAnswers::of(64);
        let start = Instant::now();
        let all = futures_util::future::join_all((0..10).map(|_| late.wait(Source(None)))).await;
        assert_eq!(all.into_iter().filter(|is_late| *is_late).count(), 4);
        assert_eq!(start.elapsed(), BETWEEN * 4);
    }

    #[test]
    fn ever_more_sources_share_a_turn() {
        let (late, now) = (LateAnswers::of(64), Instant::now());
        for n in 0..3_000_u32 {
            late.turn(Source(Some(IpAddr::from(n.to_be_bytes()))), now);
        }
        assert!(late.last.lock().unwrap().len() <= SOURCES_MAX + 1);
    }
}
