//! Lanes, without any platform.

use std::time::Duration;

use super::super::tests::{lookup, work};
use super::*;
use crate::domain::event::ContactChange;
use crate::domain::time::Timestamp;
use crate::store::{EventId, FailureReason};

fn lane_of(items: u64) -> Lane {
    let mut lane = Lane::default();
    for n in 0..items {
        assert_eq!(lane.push(work(n, usize::try_from(n).unwrap() / 2, ContactChange::Added)), None);
    }
    lane
}

fn key(owner: &str, class: LaneClass) -> LaneKey {
    let (app, owner) = (AppName::new("brand").unwrap(), CorpId::new(owner).unwrap());
    LaneKey { app, owner, chat_id: None, class }
}

#[test]
fn a_batch_holds_a_hundred_customers_and_all_items_of_each() {
    let (mut lane, now) = (lane_of(250), Instant::now());
    assert_eq!((lane.begin(now).len(), lane.waiting.len()), (200, 50));
    lane.call_ended(now);
    assert!(!lane.has_full_batch(), "half as many customers as items");
    assert_eq!(lane.begin(now).len(), 50);
    assert!(lane_of(200).has_full_batch() && !lane_of(198).has_full_batch());
}

#[test]
fn a_group_of_230_who_join_at_once_costs_three_calls() {
    let chat_id = ChatId::new("wrGROUP").unwrap();
    let (mut lanes, now) = (Lanes::default(), Instant::now());
    let key = LaneKey { chat_id: Some(chat_id.clone()), ..key("wpDEALER", LaneClass::Live) };
    for customer in 0..230 {
        let work = lookup(customer, Haste::Live, None, Some(&chat_id));
        assert_eq!(lanes.push(key.clone(), work, &mut Deferred::default()), None);
    }
    let lane = lanes.0.get_mut(&key).unwrap();
    let mut batches = Vec::new();
    while lane.can_call() {
        batches.push(lane.begin(now).len());
        lane.call_ended(now);
        lane.batch_stored(100);
    }
    assert_eq!(batches, [100, 100, 30]);
}

#[test]
fn a_lane_makes_the_next_call_while_one_batch_is_being_stored_but_not_two() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut lane = lane_of(1_000);
    lane.begin(at(0));
    assert!(!lane.can_call(), "one call in flight");
    lane.call_ended(at(30));
    assert!(lane.can_call());
    lane.begin(at(30));
    lane.call_ended(at(60));
    assert!(!lane.can_call(), "the store does not keep up");
    lane.batch_stored(200);
    assert!(lane.can_call());
    lane.begin(at(100));
    lane.call_ended(at(130));
    assert_eq!(lane.drain_time_ms(0), 2 * 10 * 70, "the wait for the store counts");
    for _ in 0..2 {
        assert!(!lane.is_idle());
        lane.batch_stored(200);
    }
    lane.waiting.clear();
    assert!(lane.is_idle());
}

#[test]
fn the_retry_delay_of_a_full_lane_is_its_estimated_drain_time() {
    let start = Instant::now();
    let waits = |batch_ms, deferred| {
        let mut lane = lane_of(1);
        lane.begin(start);
        lane.call_ended(start + Duration::from_millis(batch_ms));
        lane.drain_time_ms(deferred)
    };
    assert_eq!([0, 40, 10_000].map(|batch_ms| waits(batch_ms, 0)), [600, 800, 10_000]);
    assert_eq!([999, 1_000, 8_000].map(|deferred| waits(40, deferred)), [800, 1_200, 4_000]);
}

#[test]
fn a_full_lane_defers_only_its_own_work() {
    let (mut lanes, mut deferred) = (Lanes::default(), Deferred::default());
    let mut push = |owner, n| {
        let work = work(n, usize::try_from(n).unwrap(), ContactChange::Added);
        lanes.push(key(owner, LaneClass::Live), work, &mut deferred).map(|(_, wait_ms)| wait_ms)
    };
    let full = u64::try_from(LANE_HELD_MAX).unwrap();
    let waits: Vec<_> = (0..2 * full).filter_map(|n| push("wpBUSY", n)).collect();
    assert_eq!(waits.len(), LANE_HELD_MAX);
    assert!(waits[0] < waits[LANE_HELD_MAX - 1], "{waits:?}");
    // The other dealer's lane has room, and its first deferred item does not queue behind this backlog.
    let waits_of_other: Vec<_> = (0..=full).filter_map(|n| push("wpOTHER", n)).collect();
    assert_eq!(waits_of_other, [waits[0]]);
}

#[test]
fn lookups_that_delay_no_event_and_those_refused_before_have_lanes_of_their_own() {
    let class = |haste, refused| LaneClass::of(&lookup(1, haste, refused, None));
    assert_eq!(class(Haste::Live, None), LaneClass::Live);
    assert_eq!(class(Haste::Background, None), LaneClass::Background);
    assert_eq!(class(Haste::Live, Some(84_061)), LaneClass::Suspect);
    assert_eq!(class(Haste::Background, Some(60_011)), LaneClass::Suspect);
}

#[test]
fn the_retry_of_an_id_that_was_refused_alone_is_a_call_of_its_own() {
    let retry = |errcode, attempts| {
        let mut work = work(1, 1, ContactChange::Added);
        let event = work.event.as_mut().unwrap();
        event.attempts = attempts;
        event.failure = Some(FailureReason { errcode: Some(errcode), text: String::new() });
        LaneClass::of(&work)
    };
    let alone = LaneClass::Alone(work(1, 1, ContactChange::Added).contact.external_userid);
    assert_eq!([84_061, 40_096].map(|errcode| retry(errcode, 1)), [alone.clone(), alone]);
    assert_eq!([retry(99_999, 1), retry(84_061, 0)], [LaneClass::Live, LaneClass::Live]);
}

#[test]
fn live_work_is_called_first_however_old_the_other_work_is() {
    let mut lanes = Lanes::default();
    let customer = work(9, 9, ContactChange::Added).contact.external_userid;
    let classes = [LaneClass::Suspect, LaneClass::Background, LaneClass::Alone(customer), LaneClass::Live];
    for (n, class) in (0..).zip(&classes) {
        let mut work = work(n, 1, ContactChange::Added);
        work.id = WorkId::Event(Timestamp::from_secs(i64::try_from(n).unwrap()), EventId(n));
        assert_eq!(lanes.push(key("wpDEALER", class.clone()), work, &mut Deferred::default()), None);
    }
    let order: Vec<_> = lanes.ready().into_iter().map(|(key, _)| key.class.clone()).collect();
    assert_eq!((&order[0], &order[1]), (&classes[3], &classes[2]));
    assert_eq!((&order[2], &order[3]), (&classes[0], &classes[1]), "of the same rank the oldest first");
}

#[test]
fn the_small_budget_counts_items_until_they_are_stored() {
    let (mut lanes, mut deferred, now) = (Lanes::default(), Deferred::default(), Instant::now());
    let background = key("wpDEALER", LaneClass::Background);
    for n in 0..150 {
        let work = lookup(usize::try_from(n).unwrap(), Haste::Background, None, None);
        assert_eq!(lanes.push(background.clone(), work, &mut deferred), None);
        lanes.push(key("wpDEALER", LaneClass::Live), self::work(n, 1, ContactChange::Added), &mut deferred);
    }
    let lane = lanes.0.get_mut(&background).unwrap();
    lane.begin(now);
    lane.call_ended(now);
    assert_eq!(lanes.held(), Held { live: 150, background: 150 });
    lanes.0.get_mut(&background).unwrap().batch_stored(100);
    assert_eq!(lanes.held(), Held { live: 150, background: 50 });
}
