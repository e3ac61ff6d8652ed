//! Deliveries under random failures, crashes and seeks: a receiver gets every entry, in order.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;
use crate::domain::audit::AuditBy;
use crate::domain::event::{ContactChange, Event};
use crate::domain::fan::{FanStep, Minted, Priority};
use crate::domain::ids::{FanKey, Openid, PendingId, Unionid};
use crate::domain::link::ChangeType;
use crate::domain::time::{DAY_MS, HOUR_MS};
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{
    Arrival, FanOutcome, Feed, MessageDigest, NewFan, Outcome, Payload, People, PersonId, Seek,
};
use crate::worker::scripted::{self, T0, app, contact_event, customer, dealer};

/// A failed delivery, as a receiver answers it.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// Entries that the receiver got.
    received: usize,
    /// Those of them that it acknowledged.
    acknowledged: usize,
    retry: Retry,
}

/// A receiver that logs what it gets and gives the prepared answers, and then succeeds.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<(Vec<FeedEntry>, VecDeque<Answer>)>>);

#[async_trait]
impl Sink for Receiver {
    fn batch_max(&self) -> usize {
        3
    }

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), DeliveryError> {
        let (log, answers) = &mut *self.0.lock().unwrap();
        let Some(Answer { received, acknowledged, retry }) = answers.pop_front() else {
            log.extend_from_slice(entries);
            return Ok(());
        };
        let received = received.min(entries.len());
        log.extend_from_slice(&entries[..received]);
        let delivered = acknowledged.min(received);
        Err(DeliveryError { delivered, retry, reason: "as prepared".to_owned() })
    }
}

fn name() -> SinkName {
    SinkName::new("crm").unwrap()
}

fn fan(n: u8) -> FanKey {
    FanKey { app: app(), unionid: Unionid::new(format!("oFAN{n}")).unwrap() }
}

/// A test run: the disk, the receiver, and the process, which may crash.
struct World {
    memory: Memory,
    clock: Arc<ManualClock>,
    receiver: Receiver,
    store: Arc<EmbeddedStore>,
    task: DeliveryTask,
    events: u32,
}

impl World {
    fn start(memory: Memory, clock: Arc<ManualClock>, receiver: Receiver) -> Self {
        let store = Arc::new(EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap());
        let sink = Box::new(receiver.clone());
        let task = DeliveryTask {
            store: store.clone(),
            clock: clock.clone(),
            jitter: Jitter::default(),
            metrics: Arc::default(),
            handle: Arc::default(),
            name: name(),
            sink,
            start: Start::Beginning,
            cursor: None,
            after: 0,
            persisted_at: Instant::now(),
            store_failures: StoreFailureLog::default(),
        };
        Self { memory, clock, receiver, store, task, events: 0 }
    }

    /// A crash: the cursor is not persisted.
    async fn crash(self) -> Self {
        self.store.close().await;
        let events = self.events;
        Self { events, ..Self::start(self.memory, self.clock, self.receiver) }
    }

    async fn deliver(&mut self) {
        self.task.activate(&CancellationToken::new()).await;
    }

    fn status(&self) -> SinkStatus {
        self.task.status(|status| status.clone())
    }

    /// A dealer's member adds a customer, which creates or changes a link.
    async fn add(&mut self, person: u8, member: u8) {
        let now = self.clock.now();
        let pending_id = PendingId::new(format!("pend{person}")).unwrap();
        let openid = Openid::new(format!("oOPEN{person}")).unwrap();
        let new = NewFan {
            key: fan(person),
            openid,
            ask_existing: false,
            priority: Priority::Live,
            minted: None,
            retry_rejected: false,
        };
        self.store.put_fans(vec![new], now).await.unwrap();
        for work in self.store.lease_fans(&app(), FanStep::Mint, &Priority::ALL, now, 9).await.unwrap() {
            let minted = Minted::new(pending_id.clone(), now);
            let minted = FanOutcome::Minted { minted, same_id_extends: false };
            self.store.settle_fans(vec![(work, minted)], now).await.unwrap();
        }
        self.events += 1;
        let contact =
            contact_event(ContactChange::Added, scripted::member(member.into()), customer(person.into()));
        let created_at = now.plus_ms(i64::from(self.events));
        let digest = MessageDigest::of(&app(), &self.events.to_be_bytes());
        let payload = Payload::Event(Event { corp_id: dealer(), created_at, contact });
        self.store.append(Arrival { app: app(), digest, received_at: now, payload }).await.unwrap();
        for work in self.store.lease(now, 9, 9).await.unwrap() {
            self.store.settle(vec![(work, Outcome::Resolved(pending_id.clone()))], now).await.unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8),
    Deliver,
    Answers(Vec<Answer>),
    Wait(i64),
    Crash,
    Rewind(u64),
    Pause,
    Resume,
    Prune,
    Forget(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let retry = prop_oneof![
        4 => Just(Retry::Backoff),
        2 => (1_u64..5_000).prop_map(|ms| Retry::After(Duration::from_millis(ms))),
        1 => Just(Retry::Never),
    ];
    let answer = (0_usize..4, 0_usize..4, retry);
    let answer = answer.prop_map(|(received, acknowledged, retry)| Answer { received, acknowledged, retry });
    let one = prop_oneof![
        8 => (0_u8..5, 0_u8..4).prop_map(|(person, member)| Step::Add(person, member)),
        8 => Just(Step::Deliver),
        3 => proptest::collection::vec(answer, 1..4).prop_map(Step::Answers),
        3 => (0_i64..2 * HOUR_MS).prop_map(Step::Wait),
        2 => Just(Step::Crash),
        2 => (0_u64..20).prop_map(Step::Rewind),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Prune),
        1 => (0_u8..5).prop_map(Step::Forget),
    ];
    proptest::collection::vec(one, 0..60)
}

async fn run_through(steps: Vec<Step>) {
    let clock = Arc::new(ManualClock::new(T0));
    let mut world = World::start(Memory::default(), clock, Receiver::default());
    for step in steps {
        let now = world.clock.now();
        match step {
            Step::Add(person, member) => world.add(person, member).await,
            Step::Deliver => world.deliver().await,
            Step::Answers(answers) => world.receiver.0.lock().unwrap().1.extend(answers),
            Step::Wait(ms) => world.clock.advance_ms(ms),
            Step::Crash => world = world.crash().await,
            Step::Rewind(after) => {
                // Never forwards: skipped entries would not be delivered.
                let at = world.store.cursor(&name()).await.unwrap().map_or(0, |cursor| cursor.after);
                let to = if after == 0 { Seek::Beginning } else { Seek::After(after.min(at)) };
                match world.store.seek(&name(), to).await {
                    Ok(_) | Err(StoreError::Gone { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Pause => {
                world.store.set_state(&name(), CursorState::Paused { since: now }).await.map(drop).unwrap();
            }
            Step::Resume => world.store.set_state(&name(), CursorState::Running).await.map(drop).unwrap(),
            Step::Prune => {
                world.store.prune_feed(now.plus_ms(-HOUR_MS), &[name()]).await.map(drop).unwrap();
            }
            Step::Forget(n) => {
                let person = PersonId::Unionid(fan(n).unionid);
                world.store.forget(&person, None, AuditBy::service(), now).await.map(drop).unwrap();
            }
        }
    }
    // Finally the receiver works and the sink is running.
    world.receiver.0.lock().unwrap().1.clear();
    world.deliver().await;
    world.store.set_state(&name(), CursorState::Running).await.unwrap();
    world.clock.advance_ms(DAY_MS);
    world.deliver().await;
    let head = world.store.counts().feed_head;
    assert_eq!(world.store.cursor(&name()).await.unwrap().unwrap().after, head, "the cursor is persisted");

    let (mut newest, mut known, mut links) = (0, BTreeSet::new(), BTreeSet::new());
    for entry in &world.receiver.0.lock().unwrap().0 {
        assert!(entry.seq <= newest + 1, "{} came after {newest}", entry.seq);
        newest = newest.max(entry.seq);
        if known.insert(entry.id.clone()) {
            match entry.change {
                ChangeType::Erased => links.remove(entry.data.link_id()),
                _ => links.insert(entry.data.link_id().to_owned()),
            };
        }
    }
    assert_eq!((newest, known.len() as u64), (head, head), "an entry was never delivered");
    let (mut scan, mut kept) = (world.store.scan_links().await.unwrap(), BTreeSet::new());
    while let Some(page) = scan.next(T0).await.unwrap() {
        kept.extend(page.into_iter().map(|link| link.link_id));
    }
    assert_eq!(links, kept, "a receiver that drops repeated ids ends with the links of the store");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_entry_is_delivered_in_order_whatever_happens(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_through(steps));
    }
}

#[tokio::test]
async fn a_failing_receiver_is_retried_with_backoff_and_then_gets_everything_at_once() {
    let clock = Arc::new(ManualClock::new(T0));
    let mut world = World::start(Memory::default(), clock.clone(), Receiver::default());
    let fails = Answer { received: 0, acknowledged: 0, retry: Retry::Backoff };
    world.receiver.0.lock().unwrap().1.extend([fails; 30]);
    for person in 0..9 {
        world.add(person, 0).await;
    }
    let mut waits = Vec::new();
    for _ in 0..30 {
        world.deliver().await;
        let status = world.status();
        let due_at = status.next_attempt_at.unwrap();
        assert_eq!((status.oldest_at, status.failing_since), (Some(T0), Some(T0)));
        waits.push(due_at.millis_since(clock.now()));
        // An activation before that does nothing.
        world.deliver().await;
        assert_eq!(world.status().attempts, status.attempts);
        clock.advance_ms(due_at.millis_since(clock.now()));
    }
    assert!((500..=1_000).contains(&waits[0]) && waits.iter().all(|wait| *wait <= HOUR_MS), "{waits:?}");
    assert!(waits[29] >= HOUR_MS / 2, "{waits:?}");
    world.deliver().await;
    let status = world.status();
    assert_eq!((status.after, status.delivered, status.failures), (9, 9, 30));
    assert_eq!((status.last_error, status.failing_since, status.oldest_at), (None, None, None));
}

#[tokio::test]
async fn a_receiver_that_wants_no_more_deliveries_gets_none_until_the_sink_is_resumed() {
    let clock = Arc::new(ManualClock::new(T0));
    let mut world = World::start(Memory::default(), clock.clone(), Receiver::default());
    let gone = Answer { received: 0, acknowledged: 0, retry: Retry::Never };
    world.receiver.0.lock().unwrap().1.push_back(gone);
    world.add(1, 0).await;
    world.deliver().await;
    let reason = "as prepared".to_owned();
    let disabled = CursorState::Disabled { since: T0, reason };
    assert_eq!(world.store.cursor(&name()).await.unwrap().unwrap().state, disabled);
    clock.advance_ms(DAY_MS);
    let mut world = world.crash().await;
    world.deliver().await;
    assert!(world.receiver.0.lock().unwrap().0.is_empty());
    world.store.set_state(&name(), CursorState::Running).await.unwrap();
    world.deliver().await;
    assert_eq!(world.receiver.0.lock().unwrap().0.len(), 1);
}
