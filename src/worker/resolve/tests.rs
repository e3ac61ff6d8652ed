//! Batches and fault, without any platform.

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

fn lane_of(pieces: u64) -> Lane {
    let mut lane = Lane::default();
    for n in 0..pieces {
        assert_eq!(lane.push(work(n, usize::try_from(n).unwrap() / 2, ContactChange::Added)), None);
    }
    lane
}

#[test]
fn a_batch_holds_a_hundred_customers_and_all_that_is_known_about_each() {
    let mut lane = lane_of(250);
    assert_eq!((lane.begin(Timestamp::EPOCH).len(), lane.waiting.len()), (200, 50));
    lane.call_ended(Timestamp::EPOCH);
    assert!(!lane.has_full_batch(), "half as many customers as pieces");
    assert_eq!(lane.begin(Timestamp::EPOCH).len(), 50);
    assert!(lane_of(200).has_full_batch() && !lane_of(198).has_full_batch());
}

#[test]
fn a_lane_calls_again_while_one_outcome_is_written_down_and_waits_for_two() {
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
fn a_half_added_customer_is_never_given_up() {
    let reason = FailureReason { errcode: Some(40_096), text: String::new() };
    let (fault, now) = (Fault::Item(reason.clone()), Timestamp::from_secs(1));
    assert_eq!(alone(&work(1, 1, ContactChange::HalfAdded), &fault, Jitter::default(), now), Outcome::Missed);
    assert_eq!(
        alone(&work(1, 1, ContactChange::Added), &fault, Jitter::default(), now),
        Outcome::Dead(reason)
    );
    let waiting = Work { event: None, ..work(1, 1, ContactChange::Added) };
    assert_eq!(
        alone(&waiting, &fault, Jitter::default(), now),
        Outcome::Missed,
        "the schedule bounds the questions"
    );
    let reason = FailureReason { errcode: Some(99_999), text: String::new() };
    let unanswered = alone(&waiting, &Fault::Unknown(reason.clone()), Jitter::default(), now);
    assert_eq!(unanswered, defer(now.plus_ms(HOUR_MS), reason), "nor is one spent where there is no answer");
}

#[test]
fn an_undocumented_code_gets_a_few_tries_each_slower_than_the_last() {
    let reason = FailureReason { errcode: Some(99_999), text: String::new() };
    let (fault, now) = (Fault::Unknown(reason.clone()), Timestamp::from_secs(1));
    let mut work = work(1, 1, ContactChange::Added);
    let mut waits = Vec::new();
    for _ in 1..UNKNOWN_TRIES_MAX {
        let Outcome::Retry { spent: true, due_at, .. } = alone(&work, &fault, Jitter::default(), now) else {
            panic!()
        };
        waits.push(due_at.millis_since(now));
        let event = work.event.as_mut().unwrap();
        event.attempts += 1;
        event.failure = Some(reason.clone());
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert_eq!(alone(&work, &fault, Jitter::default(), now), Outcome::Dead(reason));
}

#[test]
fn what_a_full_lane_cannot_hold_waits_as_long_as_the_lane_is_busy() {
    let waits = |batch_ms, put_off| {
        let mut lane = lane_of(1);
        lane.begin(Timestamp::EPOCH);
        lane.call_ended(Timestamp::EPOCH.plus_ms(batch_ms));
        lane.drain_time_ms(put_off)
    };
    assert_eq!([0, 40, 10_000].map(|batch_ms| waits(batch_ms, 0)), [600, 800, 10_000]);
    assert_eq!([999, 1_000, 8_000].map(|put_off| waits(40, put_off)), [800, 1_200, 4_000]);
}
