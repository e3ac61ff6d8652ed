//! The source of the current time.
//!
//! Code that needs the current time is passed a [`Clock`]; clippy forbids the ambient functions
//! (`.clippy.toml`). Intervals within this process, such as time-outs, use tokio's timer instead.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::time::{Moment, Steady, Timestamp};

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The current instant on the wall clock.
    fn now(&self) -> Timestamp;

    /// The current instant on the wall clock and on the monotonic clock, for code that must not depend on
    /// whether the wall clock is set.
    fn moment(&self) -> Moment {
        Moment::on_the_wall(self.now(), None)
    }
}

/// The clocks of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    fn moment(&self) -> Moment {
        static FIRST: LazyLock<Moment> = LazyLock::new(|| Moment::on_the_wall(SystemClock.now(), steady()));
        let (first, now) = (*FIRST, Moment::on_the_wall(self.now(), steady()));
        match now.steady {
            Some(_) => Moment { unset: first.wall.plus_ms(now.millis_since(first)), ..now },
            None => now,
        }
    }
}

/// The monotonic clock since boot, suspended time included, with an id of that boot, so that readings of
/// different processes can be compared. Linux only; elsewhere there is only the wall clock.
#[cfg(target_os = "linux")]
fn steady() -> Option<Steady> {
    static BOOT: LazyLock<Option<u64>> = LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        u64::from_str_radix(id.trim().replace('-', "").get(..16)?, 16).ok()
    });
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(Steady { boot: (*BOOT)?, uptime_ms: uptime.tv_sec * 1_000 + uptime.tv_nsec / 1_000_000 })
}

#[cfg(not(target_os = "linux"))]
const fn steady() -> Option<Steady> {
    None
}

/// A clock that moves only when told to, for tests and simulations.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.as_millis()))
    }

    /// Moves the clock by `delta_ms` milliseconds, backwards if negative.
    pub fn advance_ms(&self, delta_ms: i64) {
        self.0.fetch_add(delta_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_does_not_depend_on_the_wall_clock() {
        let first = SystemClock.moment();
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while SystemClock.moment().millis_since(first) < 5 {
            assert!(std::time::Instant::now() < give_up, "the monotonic clock does not advance");
        }
        let set_back = Moment { wall: Timestamp::EPOCH, ..SystemClock.moment() };
        assert!(cfg!(not(target_os = "linux")) || set_back.millis_since(first) >= 5);
    }
}
