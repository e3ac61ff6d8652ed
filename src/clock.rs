//! The source of the current time.
//!
//! Code that needs the current time is passed a [`Clock`]; clippy forbids the ambient functions
//! (`.clippy.toml`). Intervals within this process, such as time-outs, use tokio's timer instead.
//!
//! The service runs on a [`ServiceClock`]: a wait is an instant, and on a clock that jumps it would end at
//! the wrong time. Deliberately absent: moving the waits (see [`crate::worker::clock_watch`]).

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};

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

/// The clock of the service. It counts elapsed time and follows the wall clock only in steps: when the wall
/// clock is set, this one goes on as before until [`step`](Self::step), the moment at which waits are moved
/// too.
///
/// Where the machine has no boot clock (not Linux), it shows the wall clock.
pub struct ServiceClock {
    inner: Arc<dyn Clock>,
    /// This clock minus [`Moment::unset`].
    offset_ms: AtomicI64,
}

impl ServiceClock {
    /// A clock that shows what the wall clock of `inner` does.
    #[must_use]
    pub fn new(inner: Arc<dyn Clock>) -> Self {
        let now = inner.moment();
        Self { inner, offset_ms: AtomicI64::new(now.wall.millis_since(now.unset)) }
    }

    /// This clock and the boot clock, read at once.
    #[must_use]
    pub fn reading(&self) -> Moment {
        let now = self.inner.moment();
        Moment { wall: self.of(now), ..now }
    }

    /// By how many milliseconds the wall clock is ahead of this one; negative if it is behind.
    #[must_use]
    pub fn pending_step(&self) -> i64 {
        let now = self.inner.moment();
        now.wall.millis_since(self.of(now))
    }

    /// Moves this clock by `by_ms`, back if negative.
    pub fn step(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    fn of(&self, moment: Moment) -> Timestamp {
        moment.unset.plus_ms(self.offset_ms.load(Ordering::SeqCst))
    }
}

impl Clock for ServiceClock {
    fn now(&self) -> Timestamp {
        self.of(self.inner.moment())
    }

    /// The clocks of the machine, with the wall clock as it is set, for the quota ledgers. They measure
    /// elapsed time themselves, and across a reboot they compare wall clocks, so they need the machine's,
    /// even before this clock has followed a step. Waits must not be computed from [`Moment::wall`].
    fn moment(&self) -> Moment {
        self.inner.moment()
    }
}

/// A machine's clock that nobody can set, in milliseconds; its wall clock, where there is none.
#[must_use]
pub fn local_ms(machine: &dyn Clock) -> i64 {
    let moment = machine.moment();
    moment.steady.map_or_else(|| moment.wall.as_millis(), |steady| steady.uptime_ms)
}

/// The clock of a server, as far as this machine knows it: read now and then, and counted on by the boot clock in
/// between. Several machines that read the same server agree to within a round trip, however their own clocks are set.
///
/// Until it is read for the first time it shows the wall clock.
pub struct ServerClock {
    /// The clocks of this machine.
    machine: Arc<dyn Clock>,
    /// The server's clock minus this machine's, in milliseconds.
    offset_ms: AtomicI64,
    is_read: AtomicBool,
}

impl ServerClock {
    /// A clock that was never read, on this machine.
    #[must_use]
    pub fn new(machine: Arc<dyn Clock>) -> Self {
        Self { machine, offset_ms: AtomicI64::new(0), is_read: AtomicBool::new(false) }
    }

    /// This machine's clock that nobody can set, in milliseconds.
    #[must_use]
    pub fn local_ms(&self) -> i64 {
        local_ms(&*self.machine)
    }

    /// Takes a reading of the server's clock, for which it was asked and has answered at these times of
    /// [`local_ms`](Self::local_ms). What is known is changed by no more than the reading contradicts it.
    pub fn read(&self, server: Timestamp, asked_ms: i64, answered_ms: i64) {
        let (least, most) = (server.as_millis() - answered_ms, server.as_millis() - asked_ms);
        let known = self.offset_ms.load(Ordering::SeqCst);
        let is_read = self.is_read.swap(true, Ordering::SeqCst);
        let offset = if is_read { known.clamp(least, most.max(least)) } else { i64::midpoint(least, most) };
        self.offset_ms.store(offset, Ordering::SeqCst);
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Timestamp {
        if self.is_read.load(Ordering::SeqCst) {
            Timestamp::from_millis(self.local_ms() + self.offset_ms.load(Ordering::SeqCst))
        } else {
            self.machine.now()
        }
    }

    /// The server's clock is that of a machine which never boots: intervals between readings on different machines are
    /// exact.
    fn moment(&self) -> Moment {
        let now = self.now();
        Moment::on_the_wall(now, Some(Steady { boot: 0, uptime_ms: now.as_millis() }))
    }
}

/// A clock that moves only by calls, for tests and simulations. It is that of one boot of one machine.
#[derive(Debug)]
pub struct ManualClock {
    start: Timestamp,
    elapsed_ms: AtomicI64,
    /// By how much the wall clock was set.
    set_by_ms: AtomicI64,
}

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub const fn new(start: Timestamp) -> Self {
        Self { start, elapsed_ms: AtomicI64::new(0), set_by_ms: AtomicI64::new(0) }
    }

    /// Lets `delta_ms` milliseconds pass, backwards if negative.
    pub fn advance_ms(&self, delta_ms: i64) {
        self.elapsed_ms.fetch_add(delta_ms, Ordering::SeqCst);
    }

    /// Sets the wall clock `by_ms` milliseconds ahead of what it shows, or back if negative. No time passes.
    pub fn set_wall(&self, by_ms: i64) {
        self.set_by_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.moment().wall
    }

    fn moment(&self) -> Moment {
        let uptime_ms = self.elapsed_ms.load(Ordering::SeqCst);
        let unset = self.start.plus_ms(uptime_ms);
        let wall = unset.plus_ms(self.set_by_ms.load(Ordering::SeqCst));
        Moment { wall, unset, steady: Some(Steady { boot: 1, uptime_ms }) }
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

    #[test]
    fn the_service_clock_goes_on_when_the_wall_clock_is_set_until_it_is_stepped() {
        const HOUR_MS: i64 = 3_600_000;
        let noon = Timestamp::from_secs(1_795_320_000);
        let machine = Arc::new(ManualClock::new(noon));
        // Set before the service starts: that is no step.
        machine.set_wall(HOUR_MS);
        let clock = ServiceClock::new(machine.clone());
        assert_eq!((clock.now(), clock.pending_step()), (noon.plus_ms(HOUR_MS), 0));
        machine.set_wall(-9 * HOUR_MS);
        machine.advance_ms(1_000);
        let goes_on = noon.plus_ms(HOUR_MS + 1_000);
        assert_eq!((clock.now(), clock.pending_step()), (goes_on, -9 * HOUR_MS));
        assert_eq!(clock.reading(), Moment { wall: goes_on, ..machine.moment() });
        assert_eq!(clock.moment(), machine.moment(), "the ledgers see the clocks of the machine");
        clock.step(-9 * HOUR_MS);
        assert_eq!((clock.now(), clock.pending_step()), (machine.now(), 0));
    }

    #[test]
    fn a_servers_clock_is_changed_by_no_more_than_a_reading_contradicts_it() {
        let clock = ServerClock::new(Arc::new(SystemClock));
        let ahead = |clock: &ServerClock| clock.offset_ms.load(Ordering::SeqCst);
        let server = |offset: i64, at: i64| Timestamp::from_millis(offset + at);
        clock.read(server(5_000, 110), 100, 120);
        assert_eq!(ahead(&clock), 5_000);
        // The answer came late, and says little.
        clock.read(server(5_000, 200), 200, 900);
        assert_eq!(ahead(&clock), 5_000);
        clock.read(server(5_100, 1_005), 1_000, 1_010);
        assert_eq!(ahead(&clock), 5_095);
        clock.read(server(4_000, 2_000), 2_000, 2_000);
        assert_eq!(ahead(&clock), 4_000);
        let (one, other) = (clock.moment(), clock.moment());
        assert!((0..1_000).contains(&other.millis_since(one)));
    }

    #[test]
    fn without_a_boot_clock_the_service_clock_shows_the_wall_clock() {
        /// A clock of which only the wall is known.
        struct WallOnly(ManualClock);
        impl Clock for WallOnly {
            fn now(&self) -> Timestamp {
                self.0.now()
            }
        }
        let machine = Arc::new(WallOnly(ManualClock::new(Timestamp::from_secs(1_795_320_000))));
        let clock = ServiceClock::new(machine.clone());
        machine.0.set_wall(-9_000);
        assert_eq!((clock.now(), clock.pending_step()), (machine.now(), 0));
    }
}
