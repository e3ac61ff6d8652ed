//! The wall clock of a machine is set, in either direction, while the service runs and while it is stopped.

use super::*;
use crate::clock::ManualClock;
use crate::domain::dealer::Dealer;
use crate::domain::event::{ContactChange, Event};
use crate::domain::ids::SinkName;
use crate::domain::time::{HOUR_MS, MINUTE_MS, Timestamp};
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{Arrival, FailureReason, MessageDigest, Outcome, Payload};
use crate::worker::breaker::Scope;
use crate::worker::scripted::{app, contact_event, customer, dealer, member};

const IN_FLIGHT_MS: i64 = 6_000;
const NOON: Timestamp = Timestamp::from_secs(1_795_320_000);

/// A machine, and the service that runs on it.
struct Machine {
    clock: Arc<ManualClock>,
    memory: Memory,
    watch: ClockWatch,
}

impl Machine {
    /// A machine whose wall clock is `ahead_ms` ahead of the true time.
    async fn with_clock_ahead(ahead_ms: i64) -> Self {
        let (clock, memory) = (Arc::new(ManualClock::new(NOON)), Memory::default());
        clock.set_wall(ahead_ms);
        Self { watch: start(&clock, &memory).await, clock, memory }
    }

    async fn restart(&mut self) {
        self.watch = start(&self.clock, &self.memory).await;
    }

    fn now(&self) -> Timestamp {
        self.watch.clock.now()
    }

    /// An event that is due at `due_at`: after a failed attempt if that is later than now.
    async fn wait_until(&self, due_at: Timestamp) {
        let (store, now) = (&self.watch.store, self.now());
        let contact = contact_event(ContactChange::Added, member(0), customer(0));
        let event = Event { corp_id: dealer(), created_at: now, contact };
        let digest = MessageDigest::of(&app(), b"added");
        let arrival = Arrival { app: app(), digest, received_at: now, payload: Payload::Event(event) };
        store.append(arrival).await.unwrap();
        if due_at > now {
            let work = store.lease(now, 9, 9).await.unwrap().pop().unwrap();
            let outcome = Outcome::Retry { due_at, reason: reason(), spent: false };
            store.settle(vec![(work, outcome)], now).await.unwrap();
        }
    }

    /// Follows the wall clock, until every wait is moved.
    async fn follow(&mut self) {
        self.watch.look().await;
        if !self.watch.steps_back.is_empty() {
            self.look_for(IN_FLIGHT_MS).await;
        }
    }

    /// Looks every second of these milliseconds.
    async fn look_for(&mut self, ms: i64) {
        for _ in 0..ms / SECOND_MS {
            self.clock.advance_ms(SECOND_MS);
            self.watch.look().await;
        }
    }

    async fn next_due(&self) -> Timestamp {
        self.watch.store.next_due().await.unwrap().unwrap()
    }
}

/// Starts the service.
async fn start(clock: &Arc<ManualClock>, memory: &Memory) -> ClockWatch {
    let mut watch = ClockWatch {
        store: store(memory),
        clock: Arc::new(ServiceClock::new(clock.clone())),
        breakers: Arc::default(),
        sinks: Arc::new(SinkRegistry::new([(sink(), "webhook")])),
        activity: Arc::default(),
        wake: Arc::default(),
        store_failures: Arc::default(),
        steps_back: VecDeque::new(),
        stored_at: None,
    };
    watch.correct_at_start().await.unwrap();
    watch
}

fn store(memory: &Memory) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap())
}

fn sink() -> SinkName {
    SinkName::new("crm").unwrap()
}

fn reason() -> FailureReason {
    FailureReason { errcode: None, text: "as prepared".to_owned() }
}

#[tokio::test]
async fn waits_of_an_hour_last_an_hour_in_whatever_direction_the_clock_is_set() {
    let scope = Scope::Corp(app(), dealer());
    // A machine that started with its clock 8 hours ahead, or behind, is set right.
    for ahead_ms in [8 * HOUR_MS, -8 * HOUR_MS] {
        let mut machine = Machine::with_clock_ahead(ahead_ms).await;
        let in_an_hour = machine.now().plus_ms(HOUR_MS);
        machine.watch.breakers.hold(scope.clone(), reason(), machine.now(), in_an_hour);
        machine.wait_until(in_an_hour).await;
        let handle = machine.watch.sinks.handle(&sink()).unwrap();
        handle.with_status(|status| status.next_attempt_at = Some(in_an_hour));

        machine.clock.set_wall(-ahead_ms);
        assert_eq!(machine.now(), NOON.plus_ms(ahead_ms), "it goes on until the waits are moved");
        machine.follow().await;
        let in_an_hour = NOON.plus_ms(HOUR_MS);
        let breaker = machine.watch.breakers.open(&[&scope], machine.now()).unwrap();
        assert_eq!((breaker.since, breaker.probe_at), (NOON, in_an_hour));
        assert_eq!(machine.next_due().await, in_an_hour);
        assert_eq!(machine.watch.sinks.status(&sink()).unwrap().next_attempt_at, Some(in_an_hour));

        let is_free = |now| machine.watch.breakers.open(&[&scope], now).is_none();
        machine.clock.advance_ms(in_an_hour.millis_since(machine.now()) - 1);
        assert_eq!(machine.watch.store.lease(machine.now(), 9, 9).await, Ok(vec![]));
        assert!(!is_free(machine.now()));
        machine.clock.advance_ms(1);
        assert!(is_free(machine.now()));
        assert_eq!(machine.watch.store.lease(machine.now(), 9, 9).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_is_due_stays_due_when_the_clock_is_set() {
    for by_ms in [8 * HOUR_MS, -8 * HOUR_MS] {
        let mut machine = Machine::with_clock_ahead(0).await;
        machine.wait_until(NOON).await;
        machine.clock.set_wall(by_ms);
        machine.follow().await;
        assert_eq!(machine.watch.store.lease(machine.now(), 9, 9).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_is_stored_with_the_time_of_before_a_step_back_is_moved_too() {
    let mut machine = Machine::with_clock_ahead(8 * HOUR_MS).await;
    let received_at = machine.now();
    machine.clock.set_wall(-8 * HOUR_MS);
    machine.watch.look().await;
    // The step came between the two.
    machine.wait_until(received_at).await;
    // The machine is suspended with a callback in flight.
    machine.clock.advance_ms(HOUR_MS);
    machine.watch.look().await;
    assert_eq!(machine.watch.store.lease(machine.now(), 9, 9).await, Ok(vec![]));
    machine.look_for(IN_FLIGHT_MS).await;
    assert_eq!(machine.watch.store.lease(machine.now(), 9, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn waits_follow_each_of_two_steps_back_in_its_own_time() {
    for (begins_between, crashes) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut machine = Machine::with_clock_ahead(8 * HOUR_MS).await;
        if !begins_between {
            machine.wait_until(machine.now().plus_ms(HOUR_MS)).await;
        }
        machine.clock.set_wall(-8 * HOUR_MS);
        machine.watch.look().await;
        let in_an_hour = machine.now().plus_ms(HOUR_MS);
        machine.look_for(IN_FLIGHT_MS - 2_000).await;
        machine.clock.set_wall(-3 * HOUR_MS);
        machine.look_for(2_000).await;
        if begins_between {
            machine.wait_until(in_an_hour).await;
        }
        assert_eq!(machine.next_due().await, in_an_hour, "it has followed the first step only");
        if crashes {
            machine.watch.store.close().await;
            machine.restart().await;
        } else {
            machine.look_for(IN_FLIGHT_MS - 1_000).await;
        }
        assert_eq!(machine.next_due().await, in_an_hour.plus_ms(-3 * HOUR_MS), "after a crash: {crashes}");
    }
}

#[tokio::test]
async fn steps_back_that_do_not_stop_are_each_followed_in_time() {
    const STEP_MS: i64 = -4_000;
    let mut machine = Machine::with_clock_ahead(HOUR_MS).await;
    let ends_at = machine.clock.moment().unset.plus_ms(2 * HOUR_MS);
    machine.wait_until(machine.now().plus_ms(2 * HOUR_MS)).await;
    for _ in 0..20 {
        machine.clock.set_wall(STEP_MS);
        machine.look_for(IN_FLIGHT_MS / 2).await;
    }
    let now = machine.clock.moment();
    let lasts_ms = machine.next_due().await.millis_since(machine.now());
    let too_long_ms = lasts_ms - ends_at.millis_since(now.unset);
    assert_eq!(too_long_ms, 2 * -STEP_MS, "only the last two are still to be followed");
}

#[tokio::test]
async fn a_step_forward_just_after_one_back_and_then_a_crash_lengthens_no_wait() {
    for forward_ms in [8 * HOUR_MS, HOUR_MS] {
        let mut machine = Machine::with_clock_ahead(8 * HOUR_MS).await;
        machine.wait_until(machine.now().plus_ms(HOUR_MS)).await;
        machine.clock.set_wall(-8 * HOUR_MS);
        machine.watch.look().await;
        machine.clock.set_wall(forward_ms);
        machine.watch.look().await;
        machine.watch.store.close().await;
        machine.restart().await;
        assert_eq!(machine.next_due().await, machine.now().plus_ms(HOUR_MS), "{forward_ms}");
    }
}

#[tokio::test]
async fn a_difference_under_two_seconds_moves_no_wait() {
    for by_ms in [1_999, -1_999] {
        let mut machine = Machine::with_clock_ahead(0).await;
        machine.wait_until(NOON.plus_ms(HOUR_MS)).await;
        machine.clock.set_wall(by_ms);
        machine.watch.look().await;
        assert_eq!(machine.now(), NOON.plus_ms(by_ms));
        assert_eq!(machine.next_due().await, NOON.plus_ms(HOUR_MS));
    }
}

#[tokio::test]
async fn stored_waits_are_corrected_at_start_if_the_clock_was_set_while_the_service_was_stopped() {
    for by_ms in [8 * HOUR_MS, 0, -8 * HOUR_MS] {
        let mut machine = Machine::with_clock_ahead(0).await;
        machine.wait_until(NOON.plus_ms(HOUR_MS)).await;
        machine.watch.store_reading().await;
        machine.watch.store.close().await;
        machine.clock.advance_ms(20 * MINUTE_MS);
        machine.clock.set_wall(by_ms);
        machine.restart().await;
        assert_eq!(machine.now(), machine.clock.now());
        assert_eq!(machine.next_due().await, machine.now().plus_ms(40 * MINUTE_MS), "{by_ms}");
        // Once only.
        machine.watch.store.close().await;
        machine.restart().await;
        assert_eq!(machine.next_due().await, machine.now().plus_ms(40 * MINUTE_MS), "{by_ms}");
    }
}

#[tokio::test]
async fn waits_that_could_not_be_moved_back_are_moved_later_also_after_a_crash() {
    for crashes in [false, true] {
        let mut machine = Machine::with_clock_ahead(8 * HOUR_MS).await;
        machine.wait_until(machine.now().plus_ms(HOUR_MS)).await;
        machine.clock.set_wall(-8 * HOUR_MS);
        // Nothing can be written.
        machine.watch.store.close().await;
        machine.watch.look().await;
        machine.watch.store_reading().await;
        assert_eq!(machine.now(), NOON);
        if crashes {
            machine.restart().await;
        } else {
            machine.watch.store = store(&machine.memory);
            machine.look_for(IN_FLIGHT_MS).await;
        }
        assert_eq!(machine.next_due().await, NOON.plus_ms(HOUR_MS), "after a crash: {crashes}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_forward_is_followed_even_if_no_wait_can_be_moved() {
    let mut machine = Machine::with_clock_ahead(0).await;
    machine.wait_until(NOON.plus_ms(HOUR_MS)).await;
    machine.clock.set_wall(8 * HOUR_MS);
    machine.watch.store.close().await;
    machine.watch.look().await;
    assert_eq!(machine.now(), machine.clock.now());
    assert_eq!(machine.watch.stored_at, None, "the reading is stored as soon as possible");
}

#[tokio::test]
async fn the_last_write_is_of_the_clocks_and_of_what_happened_at_dealers() {
    let machine = Machine::with_clock_ahead(0).await;
    machine.clock.advance_ms(HOUR_MS);
    let store = machine.watch.store.clone();
    let dealers = vec![Dealer::listed(dealer(), 7, String::new(), NOON)];
    store.put_dealers(&app(), dealers).await.unwrap();
    machine.watch.activity.seen(&app(), &dealer(), NOON);
    let stopped = CancellationToken::new();
    stopped.cancel();
    machine.watch.run(stopped).await;
    assert_eq!(store.last_moment().await, Ok(Some(machine.clock.moment())));
    let row = store.dealer_rows(&app()).await.unwrap().remove(0);
    assert_eq!(row.activity.first_event_at, Some(NOON));
}

#[tokio::test]
async fn the_suites_are_read_again_once_their_waits_are_moved() {
    use futures_util::FutureExt as _;
    for ahead_ms in [HOUR_MS, -HOUR_MS] {
        let mut machine = Machine::with_clock_ahead(ahead_ms).await;
        let wake = machine.watch.wake.clone();
        machine.watch.look().await;
        assert!(wake.suites.notified().now_or_never().is_none());
        machine.clock.set_wall(-ahead_ms);
        machine.follow().await;
        assert!(wake.suites.notified().now_or_never().is_some(), "{ahead_ms}");
    }
}
