//! Batches and blame, without any platform.

use super::*;
use crate::domain::event::{ContactChange, ContactEvent};
use crate::domain::ids::{ExternalUserid, UserId};
use crate::store::{EventId, Happening, InboxEvent, WorkId};

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
        problem: None,
        happening: Happening {
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

#[test]
fn a_batch_holds_a_hundred_customers_and_all_that_is_known_about_each() {
    let mut waiting: VecDeque<_> =
        (0..250).map(|n| work(n, usize::try_from(n).unwrap() / 2, ContactChange::Added)).collect();
    let batch = take_batch(&mut waiting);
    assert_eq!((batch.len(), waiting.len()), (200, 50));
    assert_eq!(take_batch(&mut waiting).len(), 50);
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
    let problem = Problem { errcode: Some(40_096), text: String::new() };
    assert_eq!(blame(&work(1, 1, ContactChange::HalfAdded), problem.clone()), Verdict::Missed);
    assert_eq!(blame(&work(1, 1, ContactChange::Added), problem.clone()), Verdict::Dead(problem));
}

#[test]
fn an_undocumented_code_gets_a_few_slow_tries() {
    let problem = Problem { errcode: Some(99_999), text: String::new() };
    let later = Timestamp::from_secs(60);
    let mut work = work(1, 1, ContactChange::Added);
    for _ in 1..UNKNOWN_TRIES_MAX {
        let Verdict::Retry { spent: true, .. } = unknown(&work, problem.clone(), later) else { panic!() };
        let event = work.event.as_mut().unwrap();
        event.attempts += 1;
        event.problem = Some(problem.clone());
    }
    assert_eq!(unknown(&work, problem.clone(), later), Verdict::Dead(problem));
}
