//! Call limits judged exactly: sliding windows over the instants of admitted calls, and the blocks that
//! follow.
//!
//! This is the judge of a client's own limiter, so it never approximates: a window of length L admits at most
//! `limit` calls in any interval of length L, wherever it starts.
//!
//! Deliberately absent: who is charged for which API (`endpoints`).

use std::collections::VecDeque;

use super::options::Quota;
use crate::domain::time::{DAY_MS, HOUR_MS, MINUTE_MS};

/// China Standard Time, in which `WeCom`'s natural days end.
const UTC_OFFSET_MS: i64 = 8 * HOUR_MS;

/// How long a caller is refused after running over a window.
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
struct Window {
    length_ms: i64,
    block_for: BlockFor,
    calls: VecDeque<(i64, u64)>,
    total: u64,
}

impl Window {
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
            // A clock that went backwards must not break the order the pruning relies on.
            Some((at_ms, calls)) if *at_ms >= now_ms => *calls += 1,
            _ => self.calls.push_back((now_ms, 1)),
        }
    }
}

/// What one charge found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charge {
    /// Within every window and not blocked.
    pub(crate) is_admitted: bool,
    /// A window was full: the caller overran a limit it should have known.
    pub(crate) is_violation: bool,
}

/// The calls of one corp to one API.
#[derive(Debug)]
pub(crate) struct Ledger {
    windows: Vec<Window>,
    blocked_until_ms: i64,
}

impl Ledger {
    /// The limits that every API has, charged with `[per_minute, per_hour]`.
    pub(super) fn base() -> Self {
        Self::over(vec![
            Window::new(MINUTE_MS, BlockFor::Ms(MINUTE_MS)),
            Window::new(HOUR_MS, BlockFor::Ms(HOUR_MS)),
        ])
    }

    /// The limits of the unionid conversions, charged with [`conversion_limits`].
    pub(crate) fn conversion() -> Self {
        Self::over(vec![
            Window::new(HOUR_MS, BlockFor::Ms(HOUR_MS)),
            Window::new(DAY_MS, BlockFor::RestOfNaturalDay),
            Window::new(30 * DAY_MS, BlockFor::Ms(30 * DAY_MS)),
        ])
    }

    const fn over(windows: Vec<Window>) -> Self {
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

/// The limits of [`Ledger::conversion`], in its order.
pub(crate) const fn conversion_limits(quota: &Quota) -> [u64; 3] {
    [quota.per_hour, quota.per_day, quota.per_month]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMITTED: Charge = Charge { is_admitted: true, is_violation: false };

    #[test]
    fn a_window_admits_its_limit_in_any_alignment() {
        let mut ledger = Ledger::conversion();
        let limits = [3, 100, 100];
        for at_ms in [0, HOUR_MS - 2, HOUR_MS - 1] {
            assert_eq!(ledger.charge(at_ms, &limits), ADMITTED);
        }
        // The call at 0 leaves the window exactly one hour later.
        assert_eq!(ledger.charge(HOUR_MS, &limits), ADMITTED);
        let over = ledger.charge(HOUR_MS + 1, &limits);
        assert_eq!(over, Charge { is_admitted: false, is_violation: true });
        assert_eq!(ledger.used(HOUR_MS + 1), [3, 4, 4]);
    }

    #[test]
    fn a_block_outlives_the_room_it_was_imposed_for() {
        let mut ledger = Ledger::conversion();
        let limits = [1, 100, 100];
        assert!(ledger.charge(0, &limits).is_admitted);
        assert!(ledger.charge(HOUR_MS / 2, &limits).is_violation);
        assert!(ledger.charge(HOUR_MS / 2 + 1, &limits).is_violation);
        let blocked = ledger.charge(HOUR_MS + 1, &limits);
        assert_eq!(blocked, Charge { is_admitted: false, is_violation: false });
        assert!(ledger.charge(HOUR_MS + HOUR_MS / 2, &limits).is_admitted);
    }

    #[test]
    fn a_day_block_ends_with_the_natural_day_in_china() {
        // 1970-01-01T10:00Z is 18:00 in China; its day ends at 16:00Z.
        assert_eq!(BlockFor::RestOfNaturalDay.until(10 * HOUR_MS), 16 * HOUR_MS);
        assert_eq!(BlockFor::RestOfNaturalDay.until(16 * HOUR_MS), 40 * HOUR_MS);
    }
}
