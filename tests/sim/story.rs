//! Five days at two dealers, with the wall clock set by hours meanwhile: a customer whom the app does not see, a
//! dealer that leaves and comes back, a visible range that is widened. Everything else comes from the seed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use unionlink::clock::Clock;
use unionlink::domain::fan::Priority;
use unionlink::simulator::ConversionQuota;

use crate::cast::Somebody;
use crate::schedule::Schedule;
use crate::time::pass;

const HOUR_MS: i64 = 3_600_000;
/// Enough for callbacks that are late, and for the work that follows.
const A_WHILE: Duration = Duration::from_secs(100);
/// Until a new customer of healthy dealers is linked.
const AT_ONCE_SECS: u32 = 5;
/// Until an event that gives a reason to look customers up again has come (up to 90 s) and they are linked.
const ON_A_REASON_SECS: u32 = 300;

impl Schedule {
    /// A schedule with nothing lost and no quota in the way.
    pub fn of_the_story(seed: u64) -> Self {
        let mut schedule = Self::with(seed, None, |options| options.quota = ConversionQuota::default());
        schedule.lost_percent = 0;
        schedule
    }

    /// Plays the five days.
    pub async fn play_the_story(&mut self) {
        self.machine.start().await;
        let (d, leaving) = (self.add_dealer(), self.add_dealer());
        let people: [usize; 5] = std::array::from_fn(|_| self.add_somebody());
        self.register_all(&people, Priority::Live, false).await;
        self.hide_member(d, "zhangsan");
        tokio::time::sleep(A_WHILE).await;
        let [unseen, first, left, second, last] = people;
        self.add_customer(unseen, d, "zhangsan").await;

        self.next_day(9 * HOUR_MS).await;
        self.add_customer(first, d, "lisi").await;
        self.expect_link(first, d, AT_ONCE_SECS).await;

        self.next_day(-17 * HOUR_MS).await;
        self.share(leaving, false);
        tokio::time::sleep(A_WHILE).await;
        self.add_customer(left, leaving, "wangwu").await;

        self.machine.kill_all();
        self.next_day(6 * HOUR_MS).await;
        self.machine.start().await;
        self.add_customer(second, d, "lisi").await;
        self.expect_link(second, d, AT_ONCE_SECS).await;

        self.next_day(-5 * HOUR_MS).await;
        for (p, d) in [(unseen, d), (left, leaving)] {
            if self.is_linked(&self.cast.people[p], d).await {
                self.late.push(format!("p{p} at d{d} is linked, and could not be looked up"));
            }
        }
        self.share(leaving, true);
        self.expect_link(left, leaving, ON_A_REASON_SECS).await;
        self.add_customer(last, leaving, "wangwu").await;
        self.expect_link(last, leaving, AT_ONCE_SECS).await;

        self.next_day(20 * HOUR_MS).await;
        self.show_members(d);
        self.expect_link(unseen, d, ON_A_REASON_SECS).await;
    }

    pub fn add_somebody(&mut self) -> usize {
        let (person, brand) = (self.machine.sim.add_person(), self.any_brand());
        self.cast.people.push(Somebody::new(person, brand));
        self.cast.people.len() - 1
    }

    /// The next day, with the wall clock off by `skew_ms`.
    async fn next_day(&mut self, skew_ms: i64) {
        pass(Duration::from_hours(24)).await;
        self.note(format!("the next day; the wall clock is {} h off", skew_ms / HOUR_MS));
        self.machine.clock.set(skew_ms);
        let now = self.time.now();
        self.cast.clock_shows(now.plus_ms(skew_ms), now);
        tokio::time::sleep(A_WHILE).await;
    }

    async fn add_customer(&mut self, p: usize, d: usize, member: &str) {
        let (event, flag, what) = self.befriend(p, d, member, false);
        let answer = self.machine.post(&event, &self.machine.seal(&event)).await;
        self.note(format!("{what}: answered {answer:?}"));
        assert_eq!(answer, Some(200), "{what}");
        flag.store(true, Ordering::Relaxed);
    }

    async fn expect_link(&mut self, p: usize, d: usize, within_secs: u32) {
        for _ in 0..within_secs * 4 {
            if self.is_linked(&self.cast.people[p], d).await {
                return;
            }
            pass(Duration::from_millis(250)).await;
        }
        self.late.push(format!("p{p} at d{d} is not linked within {within_secs} s"));
    }
}
