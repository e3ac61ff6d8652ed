//! Two stores on one database, and connections that are lost at any instant.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::server::{address, execute};
use super::{PostgresStore, Settings};
use crate::domain::event::{ContactChange, ContactEvent, Event};
use crate::domain::fan::{FanStep, Minted, Priority};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, FanKey, Openid, PendingId, Unionid, UserId};
use crate::domain::time::Timestamp;
use crate::store::business::audit;
use crate::store::row_store::Backend as _;
use crate::store::{
    Appended, Arrival, FanOutcome, Feed as _, MessageDigest, NewFan, Outcome, Payload, Store as _, StoreError,
};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

/// A schema that is dropped at the end.
struct Schema(Settings);

impl Schema {
    fn new() -> Option<Self> {
        let schema = format!("test_{:016x}", rand::random::<u64>());
        let url = address()?.to_owned();
        Some(Self(Settings { url, schema, inbox_events_max: 100_000, dedupe_days: 7, quarantine_days: 30 }))
    }

    async fn open(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::open(&self.0).await.unwrap())
    }

    /// Ends all connections of the store.
    fn cut(&self) {
        let name = format!("unionlink/{}", self.0.schema);
        execute(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = left('{name}', 63)"
        ));
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.0.schema));
    }
}

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn added(n: usize) -> Arrival {
    let contact = ContactEvent {
        change: ContactChange::Added,
        user_id: UserId::new("member").unwrap(),
        external_userid: ExternalUserid::new(format!("wm{n}")).unwrap(),
        state: None,
        welcome_code: None,
    };
    let event = Event { corp_id: CorpId::new("wpDEALER").unwrap(), created_at: T0, contact };
    let digest = MessageDigest::of(&app(), format!("{event:?}").as_bytes());
    Arrival { app: app(), digest, received_at: T0, payload: Payload::Event(event) }
}

fn new_fan(n: usize) -> NewFan {
    NewFan {
        key: FanKey { app: app(), unionid: Unionid::new(format!("oFAN{n}")).unwrap() },
        openid: Openid::new(format!("oOPEN{n}")).unwrap(),
        ask_existing: false,
        priority: Priority::Live,
        minted: None,
        retry_rejected: false,
    }
}

fn pending(n: &str) -> PendingId {
    PendingId::new(format!("pend{n}")).unwrap()
}

async fn disagreements(store: &PostgresStore) -> Vec<String> {
    let counts = store.counts();
    store.backend().read(|view| audit::complaints(view, counts)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_database_store_every_message_once_and_number_the_feed_without_gaps() {
    let Some(schema) = Schema::new() else { return };
    let (one, other) = tokio::join!(schema.open(), schema.open());
    everybody_is_linked_once(one, other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_one_group_see_what_those_before_them_write() {
    let Some(schema) = Schema::new() else { return };
    let store = schema.open().await;
    everybody_is_linked_once(store.clone(), store).await;
}

/// Sends the same fans and messages to both stores at once, and then has one work on the fans and the other on the
/// customers, at once again: either may come second.
async fn everybody_is_linked_once(one: Arc<PostgresStore>, other: Arc<PostgresStore>) {
    const PEOPLE: usize = 60;
    let mut tasks = JoinSet::new();
    for n in 0..PEOPLE {
        for store in [&one, &other] {
            let store = store.clone();
            tasks.spawn(async move {
                store.put_fans(vec![new_fan(n)], T0).await.unwrap();
                matches!(store.append(added(n)).await.unwrap(), Appended::New(_))
            });
        }
    }
    let new = tasks.join_all().await.into_iter().filter(|is_new| *is_new).count();
    assert_eq!(new, PEOPLE);
    let fans = one.lease_fans(&app(), FanStep::Mint, &Priority::ALL, T0, PEOPLE).await.unwrap();
    let events = other.lease(T0, PEOPLE, 0).await.unwrap();
    assert_eq!((fans.len(), events.len()), (PEOPLE, PEOPLE));
    let mut tasks = JoinSet::new();
    for fan in fans {
        let (store, id) = (one.clone(), pending(&fan.key.unionid.as_str()["oFAN".len()..]));
        let outcome = FanOutcome::Minted { minted: Minted::new(id, T0), same_id_extends: false };
        tasks.spawn(async move { store.settle_fans(vec![(fan, outcome)], T0).await.unwrap() });
    }
    for event in events {
        let (store, id) = (other.clone(), pending(&event.contact.external_userid.as_str()["wm".len()..]));
        tasks.spawn(async move {
            store.settle(vec![(event, Outcome::Resolved(id))], T0).await.unwrap();
        });
    }
    tasks.join_all().await;
    // What a store knows without asking is as of its last commit.
    one.put_moment(crate::domain::time::Moment::on_the_wall(T0, None)).await.unwrap();
    assert_eq!(disagreements(&one).await, [""; 0]);
    let entries = one.feed(0, 2 * PEOPLE, T0).await.unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        (1..=PEOPLE as u64).collect::<Vec<_>>()
    );
    assert_eq!(entries.iter().map(|entry| &entry.id).collect::<BTreeSet<_>>().len(), PEOPLE);
    assert_eq!(one.counts().links, PEOPLE as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_connections_are_lost_what_was_acknowledged_is_stored_and_nothing_twice() {
    const CUTS: u64 = 12;
    let Some(schema) = Schema::new() else { return };
    let store = schema.open().await;
    let (next, is_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (store, next, is_done) = (store.clone(), next.clone(), is_done.clone());
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            while !is_done.load(Relaxed) {
                let n = next.fetch_add(1, Relaxed);
                match store.append(added(n)).await {
                    Ok(Appended::New(_)) => acknowledged.push(n),
                    // Not acknowledged: it may be stored or not.
                    Err(StoreError::Stalled) => {}
                    other => panic!("{other:?}"),
                }
            }
            acknowledged
        });
    }
    let schema = Arc::new(schema);
    let cutting = schema.clone();
    let cut = move || {
        for n in 0..CUTS {
            std::thread::park_timeout(Duration::from_millis(100 + 37 * n));
            cutting.cut();
        }
    };
    tokio::task::spawn_blocking(cut).await.unwrap();
    is_done.store(true, Relaxed);
    let acknowledged = tasks.join_all().await.concat();
    assert!(acknowledged.len() > 100, "{} were acknowledged", acknowledged.len());
    let again = |n: usize| {
        let store = store.clone();
        async move { (n, store.append(added(n)).await.unwrap()) }
    };
    for (n, appended) in join_all(acknowledged.into_iter().map(again)).await {
        assert_eq!(appended, Appended::Duplicate, "{n} was acknowledged");
    }
    let sent = next.load(Relaxed);
    join_all((0..sent).map(again)).await;
    assert_eq!(store.counts().inbox, sent as u64);
    assert_eq!(disagreements(&store).await, [""; 0]);
    store.close().await;
}
