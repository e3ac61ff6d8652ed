//! Lanes, without any platform.

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
    let mut lane = lane_of(250);
    assert_eq!((lane.begin().len(), lane.waiting.len()), (200, 50));
    lane.call_ended();
    assert!(!lane.has_full_batch(), "half as many customers as items");
    assert_eq!(lane.begin().len(), 50);
    assert!(lane_of(200).has_full_batch() && !lane_of(198).has_full_batch());
}

#[test]
fn a_group_of_230_who_join_at_once_costs_three_calls() {
    let chat_id = ChatId::new("wrGROUP").unwrap();
    let mut lanes = Lanes::default();
    let key = LaneKey { chat_id: Some(chat_id.clone()), ..key("wpDEALER", LaneClass::Live) };
    for customer in 0..230 {
        let work = lookup(customer, Haste::Live, None, Some(&chat_id));
        assert_eq!(lanes.push(key.clone(), work), None);
    }
    let lane = lanes.0.get_mut(&key).unwrap();
    let mut batches = Vec::new();
    while lane.can_call() {
        batches.push(lane.begin().len());
        lane.call_ended();
        lane.batch_stored(100);
    }
    assert_eq!(batches, [100, 100, 30]);
}

#[test]
fn a_lane_makes_the_next_call_while_one_batch_is_being_stored_but_not_two() {
    let mut lane = lane_of(1_000);
    lane.begin();
    assert!(!lane.can_call(), "one call in flight");
    lane.call_ended();
    assert!(lane.can_call());
    lane.begin();
    lane.call_ended();
    assert!(!lane.can_call(), "the store does not keep up");
    lane.batch_stored(200);
    assert!(lane.can_call());
    lane.begin();
    lane.call_ended();
    for _ in 0..2 {
        assert!(!lane.is_idle());
        lane.batch_stored(200);
    }
    lane.waiting.clear();
    assert!(lane.is_idle());
}

#[test]
fn a_full_lane_takes_nothing_from_another() {
    let mut lanes = Lanes::default();
    let mut push = |owner, n| {
        let work = work(n, usize::try_from(n).unwrap(), ContactChange::Added);
        lanes.push(key(owner, LaneClass::Live), work).is_none()
    };
    let full = u64::try_from(LANE_HELD_MAX).unwrap();
    assert_eq!((0..2 * full).filter(|n| push("wpBUSY", *n)).count(), LANE_HELD_MAX);
    assert!(push("wpOTHER", 0));
    let room = |owner| lanes.room(&key(owner, LaneClass::Live));
    assert_eq!([room("wpBUSY"), room("wpOTHER"), room("wpNEW")], [0, LANE_HELD_MAX - 1, LANE_HELD_MAX]);
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
        assert_eq!(lanes.push(key("wpDEALER", class.clone()), work), None);
    }
    let order: Vec<_> = lanes.ready().into_iter().map(|(key, _)| key.class.clone()).collect();
    assert_eq!((&order[0], &order[1]), (&classes[3], &classes[2]));
    assert_eq!((&order[2], &order[3]), (&classes[0], &classes[1]), "of the same rank the oldest first");
}

#[test]
fn the_small_budget_counts_items_until_they_are_stored() {
    let mut lanes = Lanes::default();
    let background = key("wpDEALER", LaneClass::Background);
    for n in 0..150 {
        let work = lookup(usize::try_from(n).unwrap(), Haste::Background, None, None);
        assert_eq!(lanes.push(background.clone(), work), None);
        lanes.push(key("wpDEALER", LaneClass::Live), self::work(n, 1, ContactChange::Added));
    }
    let lane = lanes.0.get_mut(&background).unwrap();
    lane.begin();
    lane.call_ended();
    assert_eq!(lanes.held(), Held { live: 150, background: 150 });
    lanes.0.get_mut(&background).unwrap().batch_stored(100);
    assert_eq!(lanes.held(), Held { live: 150, background: 50 });
}
