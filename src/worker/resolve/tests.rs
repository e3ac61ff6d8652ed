//! Lanes, batches and the outcomes of refusals, without any platform.

use super::*;
use crate::domain::event::{ContactChange, ContactEvent, Event};
use crate::domain::ids::{ExternalUserid, UserId};
use crate::store::{EventId, InboxEvent, WorkId};

fn work(n: u64, customer: usize, change: ContactChange) -> Work {
    let external_userid = ExternalUserid::new(format!("wm{customer}")).unwrap();
    let (app, corp_id) = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
    let at = Timestamp::from_secs(1);
    let event = InboxEvent {
        id: EventId(n),
        app: app.clone(),
        received_at: at,
        due_at: at,
        attempts: 0,
        failure: None,
        event: Event {
            corp_id: corp_id.clone(),
            created_at: at,
            contact: ContactEvent {
                change,
                user_id: UserId::new("member").unwrap(),
                external_userid: external_userid.clone(),
                state: None,
                welcome_code: None,
            },
        },
    };
    let contact = ContactKey { app, corp_id, external_userid };
    Work { id: WorkId::Event(at, EventId(n)), contact, event: Some(event), known: None }
}

fn lane_of(items: u64) -> Lane {
    let mut lane = Lane::default();
    for n in 0..items {
        assert_eq!(lane.push(work(n, usize::try_from(n).unwrap() / 2, ContactChange::Added)), None);
    }
    lane
}

#[test]
fn a_batch_holds_a_hundred_customers_and_all_items_of_each() {
    let mut lane = lane_of(250);
    assert_eq!((lane.begin(Timestamp::EPOCH).len(), lane.waiting.len()), (200, 50));
    lane.call_ended(Timestamp::EPOCH);
    assert!(!lane.has_full_batch(), "half as many customers as items");
    assert_eq!(lane.begin(Timestamp::EPOCH).len(), 50);
    assert!(lane_of(200).has_full_batch() && !lane_of(198).has_full_batch());
}

#[test]
fn a_lane_makes_the_next_call_while_one_batch_is_being_stored_but_not_two() {
    let at = |ms| Timestamp::from_millis(ms);
    let mut lane = lane_of(1_000);
    lane.begin(at(0));
    assert!(!lane.can_call(), "one call in flight");
    lane.call_ended(at(30));
    assert!(lane.can_call());
    lane.begin(at(30));
    lane.call_ended(at(60));
    assert!(!lane.can_call(), "the store does not keep up");
    lane.batch_stored();
    assert!(lane.can_call());
    lane.begin(at(100));
    lane.call_ended(at(130));
    assert_eq!(lane.drain_time_ms(0), 2 * 10 * 70, "the wait for the store counts");
    for _ in 0..2 {
        assert!(!lane.is_idle());
        lane.batch_stored();
    }
    lane.waiting.clear();
    assert!(lane.is_idle());
}

#[test]
fn a_batch_is_halved_by_customer_until_one_stands_alone() {
    let batch: Vec<_> =
        (0..6).map(|n| work(n, usize::try_from(n).unwrap() / 2, ContactChange::Added)).collect();
    let (head, tail) = halves(batch).unwrap();
    assert_eq!((head.len(), tail.len()), (2, 4));
    assert_eq!(halves(head).unwrap_err().len(), 2, "two events about one customer stay together");
}

#[test]
fn a_refused_half_added_customer_is_looked_up_again() {
    let reason = FailureReason { errcode: Some(40_096), text: String::new() };
    let (fault, now) = (Fault::Item(reason.clone()), Timestamp::from_secs(1));
    assert_eq!(
        refused_alone(&work(1, 1, ContactChange::HalfAdded), &fault, Jitter::default(), now),
        Outcome::Missed
    );
    assert_eq!(
        refused_alone(&work(1, 1, ContactChange::Added), &fault, Jitter::default(), now),
        Outcome::Dead(reason)
    );
    let waiting = Work { event: None, ..work(1, 1, ContactChange::Added) };
    assert_eq!(
        refused_alone(&waiting, &fault, Jitter::default(), now),
        Outcome::Missed,
        "the schedule bounds the lookups"
    );
    let reason = FailureReason { errcode: Some(99_999), text: String::new() };
    let unanswered = refused_alone(&waiting, &Fault::Unknown(reason.clone()), Jitter::default(), now);
    assert_eq!(
        unanswered,
        defer(now.plus_ms(HOUR_MS), reason),
        "a call without an answer is not one of them"
    );
}

#[test]
fn an_undocumented_code_gets_a_few_tries_each_slower_than_the_last() {
    let reason = FailureReason { errcode: Some(99_999), text: String::new() };
    let (fault, now) = (Fault::Unknown(reason.clone()), Timestamp::from_secs(1));
    let mut work = work(1, 1, ContactChange::Added);
    let mut waits = Vec::new();
    for _ in 1..UNKNOWN_TRIES_MAX {
        let Outcome::Retry { spent: true, due_at, .. } = refused_alone(&work, &fault, Jitter::default(), now)
        else {
            panic!()
        };
        waits.push(due_at.millis_since(now));
        let event = work.event.as_mut().unwrap();
        event.attempts += 1;
        event.failure = Some(reason.clone());
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert_eq!(refused_alone(&work, &fault, Jitter::default(), now), Outcome::Dead(reason));
}

#[test]
fn the_retry_delay_of_a_full_lane_is_its_estimated_drain_time() {
    let waits = |batch_ms, deferred| {
        let mut lane = lane_of(1);
        lane.begin(Timestamp::EPOCH);
        lane.call_ended(Timestamp::EPOCH.plus_ms(batch_ms));
        lane.drain_time_ms(deferred)
    };
    assert_eq!([0, 40, 10_000].map(|batch_ms| waits(batch_ms, 0)), [600, 800, 10_000]);
    assert_eq!([999, 1_000, 8_000].map(|deferred| waits(40, deferred)), [800, 1_200, 4_000]);
}
