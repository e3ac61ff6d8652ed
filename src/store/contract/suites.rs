//! Agency-developed apps: tickets, the exchange of auth codes, authorisations, bindings, and secrets that are
//! sealed again.

use super::*;
use crate::domain::authorization::{Agent, Authorization, AuthorizationState, Granted};
use crate::domain::sealed::Sealed;
use crate::domain::suite::{
    CodeId, CodeKind, Exchange, ExchangeEnd, ExchangeFailure, ExchangeNext, SuiteChange, SuiteEvent,
    TICKET_LIFE_MS,
};

const LIFE: i64 = 10 * MINUTE_MS;

fn suite() -> AppName {
    AppName::new("agency").unwrap()
}

fn other_suite() -> AppName {
    AppName::new("agency2").unwrap()
}

fn sealed(n: u8) -> Sealed {
    Sealed { key: [n; 8], nonce: [n; 12], text: vec![n; 20] }
}

fn code(n: u8) -> CodeId {
    CodeId::of(&suite(), &format!("code{n}"))
}

fn at(secs: i64) -> Timestamp {
    T0.plus_ms(secs * SECOND_MS)
}

/// Appends an event that WeCom sent then; each in a message of its own.
async fn append(store: &Tested, secs: i64, change: SuiteChange) -> Result<Appended, StoreError> {
    let event = SuiteEvent { sent_at: at(secs), change };
    let digest = MessageDigest::of(&suite(), format!("{event:?} {}", rand::random::<u64>()).as_bytes());
    store.append(Arrival { app: suite(), digest, received_at: T0, payload: Payload::Suite(event) }).await
}

fn create(n: u8) -> SuiteChange {
    SuiteChange::Code { kind: CodeKind::Create, id: code(n), code: sealed(n) }
}

async fn exchange(store: &Tested, n: u8) -> Option<Exchange> {
    let records = store.suite(&suite()).await.unwrap();
    records.exchanges.into_iter().find(|(id, _)| *id == code(n)).map(|(_, exchange)| exchange)
}

/// The authorisation of corp 1 after a code sent then was exchanged.
async fn authorize(store: &Tested, secs: u8) -> Authorization {
    let granted =
        Granted { corp_id: corp(1), name: "甲品牌".into(), code: sealed(secs), sent_at: at(secs.into()) };
    store.grant(&suite(), &code(secs), granted, T0).await.unwrap()
}

async fn authorization(store: &Tested) -> Authorization {
    store.suite(&suite()).await.unwrap().authorizations.pop().expect("an authorisation")
}

fn agent() -> Agent {
    Agent { agent_id: 7, shared_from: None, is_verified: None, may_read_customers: None, read_at: T0 }
}

fn is_new(appended: Result<Appended, StoreError>) -> bool {
    match appended.unwrap() {
        Appended::New(_) => true,
        Appended::Stale => false,
        other => panic!("{other:?}"),
    }
}

async fn the_ticket_that_was_sent_last_is_kept(place: &dyn Place) {
    let store = place.open().await;
    let ticket = |n: u8| SuiteChange::Ticket(sealed(n));
    assert!(is_new(append(&store, 600, ticket(1)).await));
    assert!(!is_new(append(&store, 0, ticket(2)).await));
    assert!(is_new(append(&store, 1_200, ticket(3)).await));
    let event = SuiteEvent { sent_at: T0, change: ticket(4) };
    let digest = MessageDigest::of(&suite(), b"late");
    let late = Arrival { app: suite(), digest, received_at: T0, payload: Payload::Suite(event) };
    assert_eq!(store.append(late.clone()).await, Ok(Appended::Stale));
    let store = reopen(place, store).await;
    assert_eq!(store.append(late).await, Ok(Appended::Duplicate), "a message without effect is known too");
    let records = store.suite(&suite()).await.unwrap();
    assert_eq!(records.ticket.map(|ticket| (ticket.sealed, ticket.sent_at)), Some((sealed(3), at(1_200))));
    assert_eq!(store.suite(&other_suite()).await, Ok(SuiteRecords::default()));
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn a_code_is_one_exchange_whose_tries_are_counted_before_the_call(place: &dyn Place) {
    let store = place.open().await;
    assert!(is_new(append(&store, 0, create(1)).await));
    assert!(!is_new(append(&store, 1, create(1)).await), "the code in another message");
    let begin = async |store: &Tested, ms: i64| {
        store.begin_exchange(&suite(), &code(1), true, T0.plus_ms(ms)).await.unwrap()
    };
    let tries = |begun: Option<(Exchange, ExchangeNext)>| {
        begun.map(|(exchange, next)| (next, exchange.asked, exchange.answered))
    };
    assert_eq!(tries(begin(&store, 0).await), Some((ExchangeNext::Ask, 1, 0)));
    let store = reopen(place, store).await;
    assert_eq!(tries(begin(&store, 0).await), Some((ExchangeNext::Ask, 2, 0)));
    let failure = ExchangeFailure::Refused { errcode: -1, is_permanent: false };
    let next = store.fail_exchange(&suite(), &code(1), failure, 1.0, T0).await.unwrap();
    assert_eq!(next, Some(ExchangeNext::Wait(T0.plus_ms(1_000))));
    let due_at = ExchangeNext::Wait(T0.plus_ms(1_000));
    assert_eq!(tries(begin(&store, 999).await), Some((due_at, 2, 1)), "it is not due");
    assert_eq!(tries(begin(&store, 1_000).await), Some((ExchangeNext::Ask, 3, 1)));
    let failure = ExchangeFailure::Refused { errcode: 40078, is_permanent: true };
    let lost = ExchangeEnd::Lost { at: at(1) };
    let next = store.fail_exchange(&suite(), &code(1), failure, 1.0, at(1)).await.unwrap();
    assert_eq!(next, Some(ExchangeNext::End(lost)), "the first try had no answer");
    assert_eq!(begin(&store, LIFE).await, None);
    assert!(!is_new(append(&store, 2, create(1)).await), "the code is known");
    let store = reopen(place, store).await;
    assert_eq!(exchange(&store, 1).await.unwrap().end, Some(lost));
    assert_eq!(store.begin_exchange(&other_suite(), &code(1), true, T0).await, Ok(None));
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn an_exchange_ends_at_its_deadline_and_is_deleted_later(place: &dyn Place) {
    let store = place.open().await;
    for n in 1..=3 {
        append(&store, 0, create(n)).await.unwrap();
    }
    let end_at = T0.plus_ms(LIFE);
    assert!(store.begin_exchange(&suite(), &code(1), true, T0).await.unwrap().is_some());
    store.fail_exchange(&suite(), &code(1), ExchangeFailure::NotSent, 1.0, T0).await.unwrap();
    let begun = store.begin_exchange(&suite(), &code(1), true, end_at).await.unwrap();
    let end = ExchangeEnd::Expired { at: end_at };
    assert_eq!(begun.map(|(exchange, next)| (exchange.end, next)), Some((Some(end), ExchangeNext::End(end))));
    assert_eq!(store.begin_exchange(&suite(), &code(1), true, end_at).await, Ok(None), "it had ended before");
    assert_eq!(exchange(&store, 1).await.unwrap().end, Some(ExchangeEnd::Expired { at: end_at }));
    let unreadable = ExchangeEnd::Unreadable { at: at(5) };
    for (n, end) in [(1, unreadable), (2, unreadable)] {
        store.end_exchange(&suite(), &code(n), end).await.unwrap();
    }
    let store = reopen(place, store).await;
    assert_eq!(exchange(&store, 1).await.unwrap().end, Some(ExchangeEnd::Expired { at: end_at }), "final");
    assert_eq!(exchange(&store, 2).await.unwrap().end, Some(unreadable));
    assert_eq!(store.drop_ended_exchanges(&other_suite(), end_at).await, Ok(0));
    assert_eq!(store.drop_ended_exchanges(&suite(), end_at).await, Ok(1));
    assert_eq!(store.drop_ended_exchanges(&suite(), end_at.plus_ms(1)).await, Ok(1));
    assert!(exchange(&store, 3).await.is_some());
}

async fn a_replayed_code_is_not_exchanged(place: &dyn Place) {
    let store = place.open().await;
    append(&store, 0, SuiteChange::Ticket(sealed(1))).await.unwrap();
    assert!(!is_new(append(&store, -70 * 60 - 1, create(1)).await));
    assert!(is_new(append(&store, -70 * 60, create(2)).await));
    assert_eq!((exchange(&store, 1).await, exchange(&store, 2).await.is_some()), (None, true));
}

async fn an_exchange_becomes_an_authorization_at_once(place: &dyn Place) {
    let store = place.open().await;
    append(&store, 1, create(1)).await.unwrap();
    let granted = authorize(&store, 1).await;
    assert_eq!(exchange(&store, 1).await, None);
    let store = reopen(place, store).await;
    assert_eq!(authorization(&store).await, granted);
    assert_eq!(authorize(&store, 1).await, granted, "the answer again");
    let reset = authorize(&store, 2).await;
    assert_eq!((reset.codes, &reset.code), (2, &sealed(2)), "although its exchange is gone");
    assert_eq!(authorize(&store, 1).await, reset, "an older answer");
    assert_eq!(store.suite(&suite()).await.unwrap().authorizations.len(), 1);
    assert_eq!(store.suite(&other_suite()).await, Ok(SuiteRecords::default()));
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn a_cancellation_counts_unless_it_is_older_than_the_grant(place: &dyn Place) {
    let store = place.open().await;
    let cancel = |secs| append(&store, secs, SuiteChange::Cancelled(corp(1)));
    assert!(!is_new(cancel(9).await), "the corp has not authorised");
    assert!(!is_new(append(&store, 9, SuiteChange::Changed(corp(1))).await));
    assert_eq!(store.suite(&suite()).await, Ok(SuiteRecords::default()));
    let granted = authorize(&store, 5).await;
    assert_eq!(store.put_agent(&suite(), &granted, String::new(), agent()).await, Ok(true));
    assert!(!is_new(cancel(4).await));
    assert_eq!(authorization(&store).await.state(), AuthorizationState::Active);
    assert!(is_new(cancel(5).await), "of the same second: it is read");
    let active = authorization(&store).await;
    assert_eq!((active.state(), active.check_due), (AuthorizationState::Active, true));
    assert!(is_new(cancel(6).await));
    let store = reopen(place, store).await;
    assert_eq!(authorization(&store).await.cancelled_at, Some(at(6)));
    assert_eq!(authorize(&store, 7).await.state(), AuthorizationState::Incomplete);
}

async fn what_was_read_with_an_older_code_is_ignored(place: &dyn Place) {
    let store = place.open().await;
    let older = authorize(&store, 1).await;
    let newer = authorize(&store, 2).await;
    assert_eq!(store.put_agent(&suite(), &older, "x".into(), agent()).await, Ok(false));
    assert_eq!(store.put_cancelled(&suite(), &older, T0).await, Ok(false));
    assert_eq!(authorization(&store).await, newer);
    // A change during a reading is read too.
    assert!(is_new(append(&store, 3, SuiteChange::Changed(corp(1))).await));
    assert_eq!(store.put_agent(&suite(), &newer, "乙品牌".into(), agent()).await, Ok(true));
    let read = authorization(&store).await;
    assert_eq!((read.name.as_str(), read.agent.clone(), read.check_due), ("乙品牌", Some(agent()), true));
    assert_eq!(store.put_cancelled(&suite(), &read, T0).await, Ok(true));
    let store = reopen(place, store).await;
    assert_eq!(authorization(&store).await.state(), AuthorizationState::Cancelled);
}

async fn an_app_is_bound_once(place: &dyn Place) {
    let store = place.open().await;
    assert_eq!(store.bind(&app(), &corp(1)).await, Ok(corp(1)));
    assert_eq!(store.bind(&app(), &corp(2)).await, Ok(corp(1)));
    let store = reopen(place, store).await;
    assert_eq!(store.bindings().await.unwrap().into_iter().collect::<Vec<_>>(), [(app(), corp(1))]);
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn secrets_are_sealed_again_unless_they_have_changed(place: &dyn Place) {
    let store = place.open().await;
    append(&store, 0, SuiteChange::Ticket(sealed(1))).await.unwrap();
    append(&store, 0, create(2)).await.unwrap();
    let granted = authorize(&store, 3).await;
    let fresh = |change: u8| {
        let places = [
            (SealedPlace::Ticket, 1),
            (SealedPlace::Exchange(code(2)), 2),
            (SealedPlace::Authorization(corp(1)), 3),
            (SealedPlace::Authorization(corp(2)), 3),
        ];
        places
            .map(|(place, n)| Resealed { place, old: sealed(n + change), new: sealed(n + change + 10) })
            .to_vec()
    };
    assert_eq!(store.reseal(&suite(), fresh(50)).await, Ok(0), "they have changed");
    assert_eq!(store.reseal(&suite(), fresh(0)).await, Ok(3));
    let store = reopen(place, store).await;
    let records = store.suite(&suite()).await.unwrap();
    assert_eq!(records.ticket.unwrap().sealed, sealed(11));
    assert_eq!(records.exchanges[0].1.code, sealed(12));
    // The same permanent code: its tokens remain valid.
    assert_eq!(records.authorizations, [Authorization { code: sealed(13), ..granted }]);
}

async fn exchanges_follow_the_clock_when_it_is_set(place: &dyn Place) {
    let store = place.open().await;
    append(&store, 0, create(1)).await.unwrap();
    append(&store, 0, create(2)).await.unwrap();
    let end = ExchangeEnd::Unreadable { at: T0 };
    store.end_exchange(&suite(), &code(2), end).await.unwrap();
    let ended = exchange(&store, 2).await;
    store.shift_waits(-HOUR_MS, T0.plus_ms(-HOUR_MS)).await.unwrap();
    let store = reopen(place, store).await;
    let moved = exchange(&store, 1).await.unwrap();
    let expected = (T0.plus_ms(-HOUR_MS), T0.plus_ms(LIFE - HOUR_MS));
    assert_eq!((moved.due_at, moved.deadline), expected);
    assert_eq!(exchange(&store, 2).await, ended);
    // A deadline that had passed already remains where it was.
    store.shift_waits(HOUR_MS, moved.deadline).await.unwrap();
    assert_eq!(exchange(&store, 1).await.unwrap(), moved);
}

async fn tickets_follow_the_clock_when_it_is_set(place: &dyn Place) {
    let store = place.open().await;
    append(&store, 0, SuiteChange::Ticket(sealed(1))).await.unwrap();
    let received_at =
        async |store: &Tested| store.suite(&suite()).await.unwrap().ticket.map(|ticket| ticket.received_at);
    let received = received_at(&store).await.unwrap();
    store.shift_waits(HOUR_MS, received.plus_ms(1)).await.unwrap();
    let store = reopen(place, store).await;
    assert_eq!(received_at(&store).await, Some(received.plus_ms(HOUR_MS)));
    store.shift_waits(-HOUR_MS, received.plus_ms(1)).await.unwrap();
    assert_eq!(received_at(&store).await, Some(received));
    // Received since the clock was set back, or expired before it was set forward.
    store.shift_waits(-HOUR_MS, received).await.unwrap();
    store.shift_waits(HOUR_MS, received.plus_ms(TICKET_LIFE_MS)).await.unwrap();
    assert_eq!(received_at(&store).await, Some(received));
}

async fn a_damaged_record_is_left_out_and_replaced(place: &dyn Place) {
    let store = place.open().await;
    authorize(&store, 1).await;
    append(&store, 0, SuiteChange::Ticket(sealed(1))).await.unwrap();
    let store = reopen(place, store).await;
    store.corrupt(&[b"Pagency\0", corp(1).as_str().as_bytes(), b"\0"].concat()).await;
    store.corrupt(b"Sagency\0").await;
    assert_eq!(store.suite(&suite()).await, Ok(SuiteRecords::default()));
    assert!(!is_new(append(&store, 2, SuiteChange::Cancelled(corp(1))).await));
    assert!(is_new(append(&store, 1, SuiteChange::Ticket(sealed(2))).await));
    authorize(&store, 3).await;
    let records = store.suite(&suite()).await.unwrap();
    assert_eq!((records.ticket.unwrap().sealed, records.authorizations.len()), (sealed(2), 1));
    assert_eq!(store.audit().await, Ok(vec![]));
}

#[tokio::test]
async fn the_exchanges_of_a_suite_are_bounded() {
    let store = Memory::default().open().await;
    for n in 0..EXCHANGES_MAX {
        let id = CodeId::of(&suite(), &format!("another{n}"));
        let change = SuiteChange::Code { kind: CodeKind::Reset, id, code: sealed(1) };
        assert!(is_new(append(&store, 0, change).await));
    }
    let full = StoreError::AuthCodesFull { limit: EXCHANGES_MAX as u64 };
    assert_eq!(append(&store, 0, create(1)).await, Err(full.clone()));
    assert!(is_new(append(&store, 0, SuiteChange::Ticket(sealed(1))).await));
    // Exchanges that have ended are replaced, the one that ended first before the others.
    let another = |n: u8| CodeId::of(&suite(), &format!("another{n}"));
    for (n, ended_at) in [(5, at(2)), (6, at(1))] {
        let end = ExchangeEnd::Expired { at: ended_at };
        store.end_exchange(&suite(), &another(n), end).await.unwrap();
    }
    for (n, gone) in [(1, another(6)), (2, another(5))] {
        assert!(is_new(append(&store, 0, create(n)).await));
        let exchanges = store.suite(&suite()).await.unwrap().exchanges;
        assert_eq!(exchanges.len(), EXCHANGES_MAX);
        assert!(exchanges.iter().all(|(id, _)| *id != gone) && exchange(&store, n).await.is_some());
    }
    assert_eq!(append(&store, 0, create(3)).await, Err(full));
}

contract!(
    the_ticket_that_was_sent_last_is_kept,
    a_code_is_one_exchange_whose_tries_are_counted_before_the_call,
    an_exchange_ends_at_its_deadline_and_is_deleted_later,
    a_replayed_code_is_not_exchanged,
    an_exchange_becomes_an_authorization_at_once,
    a_cancellation_counts_unless_it_is_older_than_the_grant,
    what_was_read_with_an_older_code_is_ignored,
    an_app_is_bound_once,
    secrets_are_sealed_again_unless_they_have_changed,
    exchanges_follow_the_clock_when_it_is_set,
    tickets_follow_the_clock_when_it_is_set,
    a_damaged_record_is_left_out_and_replaced,
);
