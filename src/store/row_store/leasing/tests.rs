//! Leasing from long queues: how much one call reads, and that nothing is leased twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::domain::event::{ContactChange, ContactEvent, Event};
use crate::domain::fan::Minted;
use crate::domain::ids::{CorpId, ExternalUserid, FanKey, Openid, PendingId, Unionid, UserId};
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::rows::records::encode;
use crate::store::{
    Arrival, EventId, FailureReason, FanOutcome, InboxEvent, MessageDigest, NewFan, Outcome, Payload,
    Store as _, WorkId,
};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn event(n: u64) -> Event {
    let contact = ContactEvent {
        change: ContactChange::Added,
        user_id: UserId::new("member").unwrap(),
        external_userid: ExternalUserid::new(format!("wm{n}")).unwrap(),
        state: None,
        welcome_code: None,
    };
    Event { corp_id: CorpId::new("wpDEALER").unwrap(), created_at: T0, contact }
}

/// A memory with `count` events in the inbox that are due at `T0` and after it, ten a millisecond.
fn with_events(count: u64) -> Memory {
    let memory = Memory::default();
    let rows = (0..count).map(|n| {
        let at = T0.plus_ms(i64::try_from(n / 10).unwrap());
        let (id, event) = (EventId(n + 1), event(n));
        let row =
            InboxEvent { id, app: app(), received_at: at, due_at: at, attempts: 0, failure: None, event };
        let key = keys::inbox(at, id);
        let value = encode(&key, &row).unwrap();
        (key, Some(value))
    });
    memory.overwrite(&rows.collect::<Vec<_>>());
    memory
}

fn open(memory: &Memory) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap())
}

fn ids(work: &[Work]) -> Vec<u64> {
    work.iter()
        .map(|work| match work.id {
            WorkId::Event(_, EventId(id)) => id,
            WorkId::Lookup(..) => 0,
        })
        .collect()
}

#[tokio::test]
async fn with_many_events_leased_a_lease_reads_few_rows_wherever_the_next_event_is() {
    const LEASED: u64 = 20_000;
    let memory = with_events(LEASED);
    let store = open(&memory);
    let now = T0.plus_ms(10_000);
    assert_eq!(store.lease(now, 16_000, 0).await.unwrap().len(), 16_000);
    assert_eq!(store.lease(now, 16_000, 0).await.unwrap().len(), 4_000);
    // Behind the leased rows, before them, and in between.
    for (n, at) in [(1, now), (2, T0.plus_ms(-1)), (3, T0.plus_ms(1_000))] {
        let digest = MessageDigest([n; 16]);
        let payload = Payload::Event(event(u64::from(n)));
        store.append(Arrival { app: app(), digest, received_at: at, payload }).await.unwrap();
        let before = memory.rows_read();
        assert_eq!(store.next_due().await, Ok(Some(at)));
        let leased = store.lease(now, 16_000, 1_000).await.unwrap();
        assert_eq!(leased.len(), 1, "{n}");
        assert_eq!(leased[0].event.as_ref().unwrap().due_at, at);
        assert_eq!(store.next_due().await, Ok(None));
        let read = memory.rows_read() - before;
        assert!(read < 2 * SLICE_ROWS as u64, "{read} rows were read for event {n}");
    }
}

#[tokio::test]
async fn an_event_that_is_settled_after_the_queue_was_read_is_not_leased_again() {
    let (now, key) = (T0, keys::inbox(T0, EventId(1)));
    let reason = FailureReason { errcode: None, text: String::new() };
    let again = Outcome::Retry { due_at: now, reason, spent: true };
    for (outcome, leased_again) in [(Outcome::Applied, 0), (again, 1)] {
        let store = open(&with_events(1));
        let work = store.lease(now, 9, 0).await.unwrap();
        let queue = &store.queues.inbox;
        queue.read_again(in_a_minute());
        let from = queue.to_read(&queue.end()).unwrap();
        store.settle(vec![(work[0].clone(), outcome)], now).await.unwrap();
        queue.read(&from, vec![key.clone()], true);
        assert_eq!(store.lease(now, 9, 0).await.unwrap().len() as u64, leased_again);
        assert_eq!(store.counts().inbox, leased_again);
        assert_eq!(store.next_due().await, Ok(None));
    }
}

fn in_a_minute() -> Instant {
    Instant::now() + std::time::Duration::from_mins(1)
}

#[tokio::test]
async fn a_free_row_that_nobody_reported_is_found_nevertheless() {
    let memory = with_events(1_000);
    let store = open(&memory);
    let now = T0.plus_ms(10_000);
    assert_eq!(store.lease(now, 2_000, 0).await.unwrap().len(), 1_000);
    let missed = keys::inbox(T0.plus_ms(50), EventId(501));
    store.queues.inbox.release(&missed, false);
    assert_eq!(store.lease(now, 2_000, 0).await.unwrap(), []);
    store.queues.inbox.read_again(in_a_minute());
    assert_eq!(ids(&store.lease(now, 2_000, 0).await.unwrap()), [501]);
}

#[tokio::test]
async fn a_caller_that_waits_no_longer_leaves_nothing_leased() {
    let memory = with_events(1_000);
    let store = open(&memory);
    let now = T0.plus_ms(10_000);
    for polls in 0..4 {
        let mut lease = Box::pin(store.lease(now, 2_000, 0));
        for _ in 0..polls {
            let poll = std::future::poll_fn(|context| std::task::Poll::Ready(lease.as_mut().poll(context)));
            assert!(poll.await.is_pending(), "it reads more than one slice between two other tasks");
        }
        drop(lease);
        assert!(store.queues.inbox.leased().is_empty());
    }
    let all = store.lease(now, 2_000, 0).await.unwrap();
    assert_eq!(ids(&all), (1..=1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_the_rows_that_are_due_and_asked_for_are_leased_and_in_order() {
    let memory = with_events(1_000);
    let store = open(&memory);
    let mut leased = Vec::new();
    for limit in [1, 7, 300] {
        leased.extend(ids(&store.lease(T0.plus_ms(49), limit, 0).await.unwrap()));
    }
    assert_eq!(leased, (1..=308).collect::<Vec<_>>());
    assert_eq!(store.lease(T0.plus_ms(49), 300, 0).await.unwrap().len(), 192);
    assert_eq!(store.lease(T0.plus_ms(49), 300, 0).await.unwrap().len(), 0);
    assert_eq!(store.next_due().await, Ok(Some(T0.plus_ms(50))));
    assert_eq!(store.lease(T0.plus_ms(50), 300, 0).await.unwrap().len(), 10);
}

/// Four callers lease, and settle or put off what they have leased. Nothing is ever leased by two, and all is
/// settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_leased_twice_by_concurrent_callers() {
    const EVENTS: u64 = 3_000;
    let memory = with_events(EVENTS);
    let store = open(&memory);
    let now = T0.plus_ms(10_000);
    let held = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let settled = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let callers = (0..4).map(|caller| {
        let (store, held, settled) = (store.clone(), held.clone(), settled.clone());
        tokio::spawn(async move {
            while settled.lock().unwrap().len() < usize::try_from(EVENTS).unwrap() {
                let work = store.lease(now, 300 + caller, 0).await.unwrap();
                for id in ids(&work) {
                    assert!(held.lock().unwrap().insert(id), "{id} is leased already");
                    assert!(!settled.lock().unwrap().contains(&id), "{id} is settled already");
                }
                let outcomes: Vec<_> = work
                    .into_iter()
                    .map(|work| {
                        let first_time = work.event.as_ref().unwrap().attempts == 0;
                        let reason = FailureReason { errcode: None, text: String::new() };
                        let again = Outcome::Retry { due_at: now, reason, spent: true };
                        let outcome = if first_time { again } else { Outcome::Applied };
                        // What the caller holds ends before the store can lease it again.
                        let [id] = ids(std::slice::from_ref(&work))[..] else { panic!("one id") };
                        held.lock().unwrap().remove(&id);
                        if !first_time {
                            settled.lock().unwrap().insert(id);
                        }
                        (work, outcome)
                    })
                    .collect();
                store.settle(outcomes, now).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(store.lease(now, 9_999, 9_999).await.unwrap().len(), 0);
    assert_eq!(store.counts().contacts, EVENTS);
}

fn fan(n: u64) -> NewFan {
    NewFan {
        key: FanKey { app: app(), unionid: Unionid::new(format!("oFAN{n}")).unwrap() },
        openid: Openid::new(format!("oOPEN{n}")).unwrap(),
        ask_existing: false,
        priority: Priority::Live,
        minted: None,
        retry_rejected: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fan_is_leased_twice_by_concurrent_callers() {
    const FANS: u64 = 3_000;
    let store = open(&Memory::default());
    store.put_fans((0..FANS).map(fan).collect(), T0).await.unwrap();
    let called = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let callers = (0..4).map(|caller| {
        let (store, called) = (store.clone(), called.clone());
        tokio::spawn(async move {
            loop {
                let limit = 200 + caller;
                let work = store.lease_fans(&app(), FanStep::Mint, &Priority::ALL, T0, limit).await.unwrap();
                if work.is_empty() {
                    break;
                }
                let outcomes = work.into_iter().map(|work| {
                    assert!(called.lock().unwrap().insert(work.number), "{} is called twice", work.number);
                    let pending_id = PendingId::new(format!("pend{}", work.number)).unwrap();
                    let minted = Minted::new(pending_id, T0);
                    (work, FanOutcome::Minted { minted, same_id_extends: false })
                });
                store.settle_fans(outcomes.collect(), T0).await.unwrap();
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(called.lock().unwrap().len(), usize::try_from(FANS).unwrap());
    assert_eq!(store.next_fan_due(&app(), FanStep::Mint, &Priority::ALL).await, Ok(None));
    assert_eq!(store.audit(), Ok(vec![]));
}

#[tokio::test]
async fn strays_are_removed_from_a_place_beside_a_damaged_fan() {
    let store = open(&Memory::default());
    let bulk = |n| NewFan { priority: Priority::Bulk, ..fan(n) };
    store.put_fans((0..17).map(bulk).collect(), T0).await.unwrap();
    store.put_fans((0..17).map(fan).collect(), T0).await.unwrap();
    let app = app();
    let queue = FanQueue { app: &app, step: FanStep::Mint, priority: Priority::Bulk };
    let place = || {
        let places =
            queues::places(&store.view(), &queue, &queue.begin(), &queue.until(T0), 9).unwrap().places;
        places.into_iter().next().map(|place| (place.key, place.numbers))
    };
    let (place_key, numbers) = place().unwrap();
    // The last fan is on a sheet of its own.
    store.corrupt(&keys::sheet(1));
    let strays =
        Strays { place: place_key, step: queue.step, priority: queue.priority, numbers: numbers.clone() };
    store.backend().run(move |txn| fans::remove_strays(txn, strays)).await.unwrap();
    assert_eq!(place().unwrap().1, numbers[16..]);
}

#[tokio::test]
async fn leasing_fans_lets_other_tasks_have_their_turn() {
    const FANS: u64 = 600;
    let store = open(&Memory::default());
    store.put_fans((0..FANS).map(fan).collect(), T0).await.unwrap();
    let all = usize::try_from(FANS).unwrap();
    let app = app();
    let mut lease = Box::pin(store.lease_fans(&app, FanStep::Mint, &Priority::ALL, T0, all));
    let poll = std::future::poll_fn(|context| std::task::Poll::Ready(lease.as_mut().poll(context)));
    assert!(poll.await.is_pending());
    drop(lease);
    assert_eq!(store.lease_fans(&app, FanStep::Mint, &Priority::ALL, T0, all).await.unwrap().len(), all);
}

#[tokio::test]
async fn a_fan_whose_call_was_put_off_after_its_place_was_read_is_not_leased_from_there() {
    let store = open(&Memory::default());
    store.put_fans(vec![fan(1)], T0).await.unwrap();
    let app = app();
    let queue = FanQueue { app: &app, step: FanStep::Mint, priority: Priority::Live };
    let page = queues::places(&store.view(), &queue, &queue.begin(), &queue.until(T0), 9).unwrap();
    let place = page.places.into_iter().next().unwrap();
    let leased = store.lease_fans(&app, FanStep::Mint, &Priority::ALL, T0, 9).await.unwrap();
    let later = FanOutcome::Retry { due_at: T0.plus_ms(60_000), spent: true };
    store.settle_fans(leased.into_iter().map(|work| (work, later.clone())).collect(), T0).await.unwrap();
    let (mut work, mut strays) = (Vec::new(), Vec::new());
    let mut leasing = Leasing::new(&*store);
    store.lease_of_place(&queue, place, 9, &mut leasing, &mut work, &mut strays).await.unwrap();
    assert_eq!((work.len(), strays.len()), (0, 0));
    assert_eq!(store.lease_fans(&app, FanStep::Mint, &Priority::ALL, T0, 9).await.unwrap(), []);
}
