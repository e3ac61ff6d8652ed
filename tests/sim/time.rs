//! Virtual time and the clocks that follow it, randomness from a seed, and the trace of events.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use unionlink::clock::Clock;
use unionlink::domain::time::{Moment, Steady, Timestamp};

/// The time at which every schedule begins.
const START: Timestamp = Timestamp::from_secs(1_795_309_323);

/// The true time, which WeCom's clocks show.
#[derive(Debug, Clone, Copy)]
pub struct TrueTime(Instant);

impl TrueTime {
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed_ms(self) -> i64 {
        i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

impl Clock for TrueTime {
    fn now(&self) -> Timestamp {
        START.plus_ms(self.elapsed_ms())
    }
}

/// The clocks of the machine that the service runs on: a wall clock, which may be set, and a monotonic clock
/// since boot.
#[derive(Debug)]
pub struct MachineClock {
    time: TrueTime,
    skew_ms: AtomicI64,
    boot: AtomicU64,
    /// The boot that the service has recorded, and whether the wall clock was right then.
    noted: Mutex<(u64, bool)>,
    /// The wall clock and the monotonic clock at the start of the process.
    process: Mutex<(Timestamp, i64)>,
}

impl MachineClock {
    pub fn new(time: TrueTime) -> Self {
        let process = Mutex::new((time.now(), time.elapsed_ms()));
        Self { time, skew_ms: AtomicI64::new(0), boot: AtomicU64::new(1), noted: Mutex::default(), process }
    }

    /// What it follows.
    pub const fn true_time(&self) -> TrueTime {
        self.time
    }

    /// Sets the offset of the wall clock from the true time.
    pub fn set(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    fn is_right(&self) -> bool {
        self.skew_ms.load(Ordering::Relaxed) == 0
    }

    /// Whether the wall clock measures the time across a reboot: it is right now, and was when the boot was
    /// recorded.
    pub fn survives_reboot(&self) -> bool {
        self.is_right() && self.noted.lock().unwrap().1
    }

    /// Reboots the machine.
    pub fn reboot(&self) {
        self.boot.fetch_add(1, Ordering::Relaxed);
    }

    /// The service has recorded this boot. Until then it can rely on the wall clock only.
    pub fn noted(&self) {
        *self.noted.lock().unwrap() = (self.boot.load(Ordering::Relaxed), self.is_right());
    }

    pub fn is_noted(&self) -> bool {
        self.noted.lock().unwrap().0 == self.boot.load(Ordering::Relaxed)
    }

    /// A process starts.
    pub fn start_process(&self) {
        *self.process.lock().unwrap() = (self.now(), self.time.elapsed_ms());
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        self.time.now().plus_ms(self.skew_ms.load(Ordering::Relaxed))
    }

    fn moment(&self) -> Moment {
        let uptime_ms = self.time.elapsed_ms();
        let (wall, uptime_at_start) = *self.process.lock().unwrap();
        Moment {
            wall: self.now(),
            unset: wall.plus_ms(uptime_ms - uptime_at_start),
            steady: Some(Steady { boot: self.boot.load(Ordering::Relaxed), uptime_ms }),
        }
    }
}

/// Lets time pass. The service works through a short wait; a long one is skipped at once, as by a machine
/// asleep.
pub async fn pass(time: Duration) {
    if time <= Duration::from_secs(3) {
        tokio::time::sleep(time).await;
    } else {
        tokio::time::advance(time).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Random numbers from a seed.
pub struct Dice(StdRng);

impl Dice {
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(purpose)))
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n)
    }

    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0.random_range(from..=to)
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    pub fn among<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }
}

/// The trace of a schedule: what happened when.
#[derive(Clone)]
pub struct Trace(Arc<Written>);

struct Written {
    time: TrueTime,
    lines: Mutex<Vec<(i64, String)>>,
}

impl Trace {
    pub fn new(time: TrueTime) -> Self {
        Self(Arc::new(Written { time, lines: Mutex::default() }))
    }

    pub fn note(&self, what: impl Into<String>) {
        let Written { time, lines } = &*self.0;
        lines.lock().unwrap().push((time.elapsed_ms(), what.into()));
    }

    /// The lines, sorted within each millisecond: the order in which tokio wakes several waiting sinks is the
    /// one thing that does not come from the seed.
    pub fn lines(&self) -> Vec<(i64, String)> {
        let mut lines = self.0.lines.lock().unwrap().clone();
        lines.sort();
        lines
    }

    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lines().hash(&mut hasher);
        hasher.finish()
    }
}
