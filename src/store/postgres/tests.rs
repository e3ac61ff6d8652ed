//! Several stores on one database, and connections that are lost at any instant.

mod failover;
mod replicas;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_postgres::SimpleQueryMessage;

use super::tables::Table;
use super::{Notify, OpenError, PostgresStore, SchemaError, Settings};
use crate::domain::audit::AuditBy;
use crate::domain::dealer::Dealer;
use crate::domain::event::{ContactChange, ContactEvent, Event, QuarantineReason};
use crate::domain::fan::{FanStep, Minted, Priority};
use crate::domain::ids::{
    AppName, CorpId, ExternalUserid, FanKey, Openid, PendingId, SinkName, Unionid, UserId,
};
use crate::domain::time::Timestamp;
use crate::postgres_server::{Schema, address, execute};
use crate::store::business::audit;
use crate::store::row_store::Backend as _;
use crate::store::{
    Appended, Arrival, Duty, EventId, EventState, FanOutcome, Feed as _, Heard, Heartbeat, MessageDigest,
    NewFan, Outcome, Payload, People as _, PersonId, Signal, Store as _, StoreError,
};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

/// A place for stores on one database.
struct Place {
    settings: Settings,
    _schema: Schema,
}

impl Place {
    fn new() -> Option<Self> {
        let schema = Schema::new()?;
        // The server of the tests does not sync.
        let settings = Settings { allow_unsafe: true, ..Settings::of(schema.url, &schema.name) };
        Some(Self { settings, _schema: schema })
    }

    async fn open(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::open(&self.settings).await.unwrap())
    }

    /// Ends all connections of the store.
    fn cut(&self) {
        execute(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'unionlink/{}/%'",
            self.settings.schema
        ));
    }
}

/// The first value that a statement returns.
async fn ask(statement: &str) -> String {
    let (client, connection) =
        tokio_postgres::connect(address().unwrap(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one(statement, &[]).await.unwrap().get(0)
}

const SHORT: Duration = Duration::from_mins(1);

fn duties(held_for: Duration) -> BTreeMap<Duty, Duration> {
    [Duty::Work, Duty::Sink(SinkName::new("crm").unwrap())].map(|duty| (duty, held_for)).into()
}

async fn beat(store: &PostgresStore, held_for: Duration) -> Heartbeat {
    store.replicas().unwrap().beat(&duties(held_for), None).await.unwrap()
}

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn added(n: usize) -> Arrival {
    added_at(n, T0)
}

fn added_at(n: usize, created_at: Timestamp) -> Arrival {
    let contact = ContactEvent {
        change: ContactChange::Added,
        user_id: UserId::new("member").unwrap(),
        external_userid: ExternalUserid::new(format!("wm{n}")).unwrap(),
        state: None,
        welcome_code: None,
    };
    let event = Event { corp_id: CorpId::new("wpDEALER").unwrap(), created_at, contact };
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

/// Asserts that each of these messages, which were acknowledged, is known when it is sent again.
async fn all_are_stored(store: &PostgresStore, acknowledged: Vec<usize>) {
    let again = |n: usize| async move { (n, store.append(added(n)).await.unwrap()) };
    for (n, appended) in join_all(acknowledged.into_iter().map(again)).await {
        assert_eq!(appended, Appended::Duplicate, "{n} was acknowledged");
    }
}

/// Brings what a store knows without asking up to date: it is as of the last commit that it has made or followed.
async fn bring_up_to_date(store: &PostgresStore) {
    store.put_moment(crate::domain::time::Moment::on_the_wall(T0, None)).await.unwrap();
}

async fn disagreements(store: &PostgresStore) -> Vec<String> {
    let counts = store.counts();
    let mut complaints = store.backend().read(|view| audit::complaints(view, counts)).await.unwrap();
    complaints.extend(store.shown_wrongly().await);
    complaints
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_database_store_every_message_once_and_number_the_feed_without_gaps() {
    let Some(place) = Place::new() else { return };
    let (one, other) = tokio::join!(place.open(), place.open());
    everybody_is_linked_once(one, other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_of_one_group_see_what_those_before_them_write() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await;
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
    bring_up_to_date(&one).await;
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
    let Some(place) = Place::new() else { return };
    let store = place.open().await;
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
    let place = Arc::new(place);
    let cutting = place.clone();
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
    all_are_stored(&store, acknowledged).await;
    let sent = next.load(Relaxed);
    let store_again = &store;
    join_all((0..sent).map(|n| async move { store_again.append(added(n)).await.unwrap() })).await;
    assert_eq!(store.counts().inbox, sent as u64);
    assert_eq!(disagreements(&store).await, [""; 0]);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_prepared_statements_nothing_is_kept_in_a_session() {
    let Some(mut place) = Place::new() else { return };
    place.settings.prepared = false;
    let (one, other) = tokio::join!(place.open(), place.open());
    everybody_is_linked_once(one, other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_make_one_schema_and_a_program_that_is_too_old_refuses_it() {
    let Some(place) = Place::new() else { return };
    let refused = Settings { migrate: false, ..place.settings.clone() };
    assert!(matches!(
        PostgresStore::open(&refused).await.err().unwrap(),
        OpenError::Migrations(SchemaError::ToMigrate { found: 0, .. })
    ));
    let stores = join_all((0..6).map(|_| place.open())).await;
    assert!(stores.iter().all(|store| store.backend().salt() == stores[0].backend().salt()));
    assert!(PostgresStore::open(&refused).await.is_ok(), "it is up to date");
    execute(&format!("UPDATE {}.cluster SET oldest_binary = 1000", place.settings.schema));
    let error = PostgresStore::open(&place.settings).await.err().unwrap();
    assert!(matches!(error, OpenError::Migrations(SchemaError::TooNew { oldest: 1000, .. })), "{error}");
    beat(&stores[0], SHORT).await;
    let failure = tokio::time::timeout(SHORT, stores[0].failed()).await.unwrap();
    assert!(failure.contains("1000"), "{failure}");
}

#[tokio::test]
async fn a_server_that_loses_commits_is_refused_unless_that_is_allowed() {
    let Some(place) = Place::new() else { return };
    let careful = Settings { allow_unsafe: false, ..place.settings.clone() };
    let fsync: String = ask("SHOW fsync").await;
    let opened = PostgresStore::open(&careful).await;
    assert_eq!(opened.is_ok(), fsync == "on", "{:?}", opened.err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_fans_and_dealers_can_be_read_with_sql() {
    let Some(place) = Place::new() else { return };
    let store = place.open().await;
    let schema = &place.settings.schema;
    let now = Timestamp::from_millis(store_now().await);
    let minted = NewFan { minted: Some(Minted::new(pending("1"), now)), ..new_fan(1) };
    store.put_fans(vec![minted, new_fan(2)], now).await.unwrap();
    store.append(added(1)).await.unwrap();
    let work = store.lease(now, 9, 0).await.unwrap().remove(0);
    store.settle(vec![(work, Outcome::Resolved(pending("1")))], now).await.unwrap();
    let dealer = Dealer::listed(CorpId::new("wpDEALER").unwrap(), 1, "上海\0一店".to_owned(), now);
    store.put_dealers(&app(), vec![dealer]).await.unwrap();
    for (select, wanted) in [
        (
            "unionid || ' ' || external_userid || ' ' || source || ' ' || (followers->0->>'user_id') FROM %.link",
            "oFAN1 wm1 callback member",
        ),
        (
            "string_agg(unionid || ' ' || state, ', ' ORDER BY unionid) FROM %.fan_state",
            "oFAN1 minted, oFAN2 queued",
        ),
        ("corp_id || ' ' || name || ' ' || state FROM %.dealer_state", "wpDEALER 上海\u{fffd}一店 shared"),
        ("(now() - linked_at < interval '1 hour')::text FROM %.link", "true"),
    ] {
        assert_eq!(ask(&format!("SELECT {}", select.replace('%', schema))).await, wanted);
    }
    store.forget(&PersonId::Unionid(new_fan(1).key.unionid), None, AuditBy::service(), now).await.unwrap();
    let left =
        format!("SELECT count(*)::text || (SELECT count(*) FROM {schema}.fan_state) FROM {schema}.link");
    assert_eq!(ask(&left).await, "01");
    assert_eq!(disagreements(&store).await, [""; 0]);
}

/// The clock of the database, in milliseconds.
async fn store_now() -> i64 {
    ask("SELECT (extract(epoch FROM now()) * 1000)::bigint::text").await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_the_release_before_runs_on_while_and_after_a_newer_one_migrates_the_schema() {
    const BEFORE_AND_AFTER: usize = 100;
    let Some(place) = Place::new() else { return };
    let store = place.open().await;
    let (next, is_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (store, next, is_done) = (store.clone(), next.clone(), is_done.clone());
        tasks.spawn(async move {
            while !is_done.load(Relaxed) {
                let n = next.fetch_add(1, Relaxed);
                assert!(matches!(store.append(added(n)).await, Ok(Appended::New(_))), "{n}");
            }
        });
    }
    let until = async |sent: usize| {
        while next.load(Relaxed) < sent {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(BEFORE_AND_AFTER).await;
    // What a newer program does: it adds, in one transaction that holds the lock of those who write.
    let schema = place.settings.schema.clone();
    let migrate = format!(
        "BEGIN; SELECT 1 FROM {schema}.cluster FOR UPDATE; ALTER TABLE {schema}.queue ADD COLUMN more text; \
         ALTER TABLE {schema}.record ADD COLUMN more int NOT NULL DEFAULT 0; CREATE TABLE {schema}.another (n int); \
         UPDATE {schema}.cluster SET schema_version = schema_version + 1; COMMIT"
    );
    tokio::task::spawn_blocking(move || execute(&migrate)).await.unwrap();
    let migrated_at = next.load(Relaxed);
    until(migrated_at + BEFORE_AND_AFTER).await;
    is_done.store(true, Relaxed);
    tasks.join_all().await;
    // Another one of that release starts on it.
    let other = place.open().await;
    assert_eq!(other.counts().inbox, next.load(Relaxed) as u64);
    assert_eq!(other.append(added(0)).await, Ok(Appended::Duplicate));
    assert_eq!(disagreements(&other).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_written_all_the_time_is_found_at_once_however_old_a_snapshot_is_held() {
    const WRITTEN: usize = 1_000;
    let Some(place) = Place::new() else { return };
    let store = place.open().await;
    let schema = &place.settings.schema;
    let (holder, connection) =
        tokio_postgres::connect(address().unwrap(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let hold = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM {schema}.hot");
    holder.batch_execute(&hold).await.unwrap();
    for _ in 0..WRITTEN {
        bring_up_to_date(&store).await;
    }
    let live = format!("SELECT count(*)::text || ' ' || count(DISTINCT key)::text FROM {schema}.hot");
    assert_eq!(ask(&live).await, "1 1");
    // The pages that are looked at to find it.
    let key = ask(&format!("SELECT encode(key, 'hex') FROM {schema}.hot")).await;
    let keys = format!("ARRAY[decode('{key}', 'hex')]");
    let get = Table::Hot.get(schema).replace("$1", &keys);
    let (client, connection) =
        tokio_postgres::connect(address().unwrap(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SET enable_seqscan = off").await.unwrap();
    let plan = client.simple_query(&format!("EXPLAIN (ANALYZE, BUFFERS) {get}")).await.unwrap();
    let lines: Vec<_> = plan
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect();
    let hits = lines.iter().find_map(|line| line.trim().strip_prefix("Buffers: shared hit="));
    let pages: usize = hits.unwrap().split(' ').next().unwrap().parse().unwrap();
    // One of the heap, and those of the index from its root on; older versions fill many.
    assert!(pages <= 5, "{pages} pages are looked at: {lines:#?}");
}
