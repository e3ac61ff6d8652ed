//! Exact call limits: sliding windows over the instants of admitted calls, and the blocks after an overrun.
//!
//! Clients' limiters are tested against these, so they never approximate: a window of length L admits at most
//! `limit` calls in any interval of length L, wherever it starts.
//!
//! Deliberately absent: which corp is charged for which API (`endpoints`).

use std::collections::VecDeque;

use crate::domain::time::{DAY_MS, HOUR_MS, MINUTE_MS};

/// China Standard Time, in which `WeCom`'s natural days end.
const UTC_OFFSET_MS: i64 = 8 * HOUR_MS;

/// How long calls are refused after an overrun of a window.
#[derive(Debug, Clone, Copy)]
enum BlockFor {
    Ms(i64),
    RestOfNaturalDay,
}

impl BlockFor {
    const fn until(self, now_ms: i64) -> i64 {
        match self {
            Self::Ms(length) => now_ms.saturating_add(length),
            Self::RestOfNaturalDay => {
                ((now_ms + UTC_OFFSET_MS).div_euclid(DAY_MS) + 1) * DAY_MS - UTC_OFFSET_MS
            }
        }
    }
}

/// The instants of the admitted calls within the last `length_ms`, run-length encoded.
#[derive(Debug)]
struct SlidingWindow {
    length_ms: i64,
    block_for: BlockFor,
    calls: VecDeque<(i64, u64)>,
    total: u64,
}

impl SlidingWindow {
    const fn new(length_ms: i64, block_for: BlockFor) -> Self {
        Self { length_ms, block_for, calls: VecDeque::new(), total: 0 }
    }

    fn count(&mut self, now_ms: i64) -> u64 {
        while let Some(&(at_ms, calls)) = self.calls.front() {
            if now_ms - at_ms < self.length_ms {
                break;
            }
            self.calls.pop_front();
            self.total -= calls;
        }
        self.total
    }

    fn record(&mut self, now_ms: i64) {
        self.total += 1;
        match self.calls.back_mut() {
            // Also after the clock was set back: `count` relies on ascending instants.
            Some((at_ms, calls)) if *at_ms >= now_ms => *calls += 1,
            _ => self.calls.push_back((now_ms, 1)),
        }
    }
}

/// The result of charging one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charge {
    /// Every window had room and no block was in force.
    pub(crate) is_admitted: bool,
    /// A window was full: the caller overran a documented limit.
    pub(crate) is_violation: bool,
}

/// The admitted calls of one corp to one API, in each of its windows.
#[derive(Debug)]
pub(crate) struct CallWindows {
    windows: Vec<SlidingWindow>,
    blocked_until_ms: i64,
}

impl CallWindows {
    /// The windows of the base limits, charged with `[per_minute, per_hour]`.
    pub(super) fn base() -> Self {
        Self::over(vec![
            SlidingWindow::new(MINUTE_MS, BlockFor::Ms(MINUTE_MS)),
            SlidingWindow::new(HOUR_MS, BlockFor::Ms(HOUR_MS)),
        ])
    }

    /// The windows of the unionid conversions' quota, charged with `ConversionQuota::limits`.
    pub(crate) fn conversion() -> Self {
        Self::over(vec![
            SlidingWindow::new(HOUR_MS, BlockFor::Ms(HOUR_MS)),
            SlidingWindow::new(DAY_MS, BlockFor::RestOfNaturalDay),
            SlidingWindow::new(30 * DAY_MS, BlockFor::Ms(30 * DAY_MS)),
        ])
    }

    const fn over(windows: Vec<SlidingWindow>) -> Self {
        Self { windows, blocked_until_ms: i64::MIN }
    }

    /// Counts one call if every window has room and no block is in force.
    pub(crate) fn charge(&mut self, now_ms: i64, limits: &[u64]) -> Charge {
        let is_blocked = now_ms < self.blocked_until_ms;
        let mut is_violation = false;
        for (window, limit) in self.windows.iter_mut().zip(limits) {
            if window.count(now_ms) >= *limit {
                is_violation = true;
                // Calls made while blocked are refused; they do not make the block longer.
                if !is_blocked {
                    self.blocked_until_ms = self.blocked_until_ms.max(window.block_for.until(now_ms));
                }
            }
        }
        let is_admitted = !is_violation && !is_blocked;
        if is_admitted {
            for window in &mut self.windows {
                window.record(now_ms);
            }
        }
        Charge { is_admitted, is_violation }
    }

    /// Admitted calls in each window, shortest first.
    pub(super) fn used(&mut self, now_ms: i64) -> Vec<u64> {
        self.windows.iter_mut().map(|window| window.count(now_ms)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMITTED: Charge = Charge { is_admitted: true, is_violation: false };

    #[test]
    fn a_window_admits_its_limit_in_any_alignment() {
        let mut windows = CallWindows::conversion();
        let limits = [3, 100, 100];
        for at_ms in [0, HOUR_MS - 2, HOUR_MS - 1] {
            assert_eq!(windows.charge(at_ms, &limits), ADMITTED);
        }
        // The call at 0 leaves the window exactly one hour later.
        assert_eq!(windows.charge(HOUR_MS, &limits), ADMITTED);
        let over = windows.charge(HOUR_MS + 1, &limits);
        assert_eq!(over, Charge { is_admitted: false, is_violation: true });
        assert_eq!(windows.used(HOUR_MS + 1), [3, 4, 4]);
    }

    #[test]
    fn a_block_holds_although_the_window_has_room_again() {
        let mut windows = CallWindows::conversion();
        let limits = [1, 100, 100];
        assert!(windows.charge(0, &limits).is_admitted);
        assert!(windows.charge(HOUR_MS / 2, &limits).is_violation);
        assert!(windows.charge(HOUR_MS / 2 + 1, &limits).is_violation);
        let blocked = windows.charge(HOUR_MS + 1, &limits);
        assert_eq!(blocked, Charge { is_admitted: false, is_violation: false });
        assert!(windows.charge(HOUR_MS + HOUR_MS / 2, &limits).is_admitted);
    }

    #[test]
    fn a_day_block_ends_with_the_natural_day_in_china() {
        // 1970-01-01T10:00Z is 18:00 in China; its day ends at 16:00Z.
        assert_eq!(BlockFor::RestOfNaturalDay.until(10 * HOUR_MS), 16 * HOUR_MS);
        assert_eq!(BlockFor::RestOfNaturalDay.until(16 * HOUR_MS), 40 * HOUR_MS);
    }
}
