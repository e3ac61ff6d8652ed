//! The contract of [`Store`]: one suite of behaviours, run against every implementation, with restarts in
//! between.
//!
//! What only the embedded store has to do, on failing disks and with writes under way, is in `disk_faults`
//! and `pending_writes`; what only its files have to do is beside its code.

mod customers;
mod damage;
mod disk_faults;
mod fans;
mod feed;
mod groups;
mod history;
mod moving;
mod neighbours;
mod pending_writes;
mod people;
mod properties;
mod reconcile;
mod suites;
mod trail;

use std::sync::Arc;

use super::business::audit;
use super::embedded::engine::Memory;
use super::embedded::{EmbeddedStore, Settings};
use super::moving::Movable;
use super::postgres::{self, Notify};
use super::row_store::Backend as _;
use super::rows::txn::Txn;
use super::rows::view::Read as _;
use super::shared::SharedStore;
use super::shared::memory::{Direct, SharedMemory};
use super::*;
use crate::clock::SystemClock;
use crate::domain::event::{ContactChange, ContactEvent, Event, QuarantineReason};
use crate::domain::fan::Minted;
use crate::domain::ids::{ContactKey, Openid, UserId};
use crate::domain::link::{ChangeType, FeedEntry};
use crate::domain::quota::Limits;
use crate::domain::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};
use crate::postgres_server::Schema;

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

/// A store that is tested, and what tests do to it behind its back.
#[async_trait]
trait TestStore: Movable {
    /// The disagreements between its rows, as text.
    async fn audit(&self) -> Result<Vec<String>, StoreError>;
    /// The keys of all records of a kind.
    async fn keys_of(&self, kind: u8) -> Vec<Vec<u8>>;
    /// The value of a key.
    async fn value_of(&self, key: &[u8]) -> Vec<u8>;
    /// Overwrites the value of a key, or deletes it, wherever it is kept.
    async fn overwrite(&self, key: &[u8], value: Option<Vec<u8>>);
    /// Loses a record.
    async fn lose(&self, key: &[u8]) {
        self.overwrite(key, None).await;
    }

    /// Flips a bit of a record.
    async fn corrupt(&self, key: &[u8]) {
        let mut value = self.value_of(key).await;
        value[1] ^= 4;
        self.overwrite(key, Some(value)).await;
    }
}

#[async_trait]
impl TestStore for EmbeddedStore {
    async fn audit(&self) -> Result<Vec<String>, StoreError> {
        Self::audit(self)
    }

    async fn keys_of(&self, kind: u8) -> Vec<Vec<u8>> {
        Self::keys_of(self, kind)
    }

    async fn value_of(&self, key: &[u8]) -> Vec<u8> {
        Self::value_of(self, key)
    }

    async fn overwrite(&self, key: &[u8], value: Option<Vec<u8>>) {
        Self::overwrite(self, key, value);
    }
}

type Tested = Arc<dyn TestStore>;

/// Where a store keeps its data. It outlives the store, so that a test can restart it.
#[async_trait]
trait Place: Sync {
    async fn open_with(&self, settings: Settings) -> Tested;

    async fn open(&self) -> Tested {
        self.open_with(small()).await
    }
}

fn small() -> Settings {
    Settings { cache_mb: 8, free_mb_min: 1, ..Settings::default() }
}

/// A place of an embedded store.
trait EmbeddedPlace: Sync {
    fn open_embedded_with(&self, settings: Settings) -> EmbeddedStore;

    fn open_embedded(&self) -> EmbeddedStore {
        self.open_embedded_with(small())
    }
}

#[async_trait]
impl<P: EmbeddedPlace> Place for P {
    async fn open_with(&self, settings: Settings) -> Tested {
        Arc::new(self.open_embedded_with(settings))
    }
}

impl EmbeddedPlace for Memory {
    fn open_embedded_with(&self, settings: Settings) -> EmbeddedStore {
        EmbeddedStore::in_memory(self.clone(), settings).unwrap()
    }
}

impl EmbeddedPlace for tempfile::TempDir {
    fn open_embedded_with(&self, settings: Settings) -> EmbeddedStore {
        EmbeddedStore::open(&self.path().join("data"), settings).unwrap()
    }
}

#[async_trait]
impl Place for Schema {
    async fn open_with(&self, settings: Settings) -> Tested {
        open_on_postgres(self, settings, Notify::Listen).await
    }
}

/// A schema whose replicas look for each other's commits.
struct Polled(Schema);

#[async_trait]
impl Place for Polled {
    async fn open_with(&self, settings: Settings) -> Tested {
        open_on_postgres(&self.0, settings, Notify::Poll).await
    }
}

async fn open_on_postgres(schema: &Schema, settings: Settings, notify: Notify) -> Tested {
    let Settings { inbox_events_max, dedupe_days, quarantine_days, .. } = settings;
    // The server of the tests does not sync.
    let settings = postgres::Settings {
        allow_unsafe: true,
        notify,
        inbox_events_max,
        dedupe_days,
        quarantine_days,
        ..postgres::Settings::of(schema.url, &schema.name)
    };
    let opened = SharedStore::open(&settings).await;
    Arc::new(opened.unwrap())
}

#[async_trait]
impl Place for SharedMemory {
    async fn open_with(&self, settings: Settings) -> Tested {
        let Settings { inbox_events_max, dedupe_days, quarantine_days, .. } = settings;
        let replica = rand::random::<u64>().to_string();
        let settings =
            shared::memory::Settings { replica, store_id: 7, inbox_events_max, dedupe_days, quarantine_days };
        let opened = SharedMemory::open(self, &settings, Arc::new(SystemClock), Arc::new(Direct)).await;
        Arc::new(opened.unwrap())
    }
}

#[async_trait]
impl TestStore for SharedStore {
    async fn audit(&self) -> Result<Vec<String>, StoreError> {
        let counts = self.counts();
        let mut complaints = self.backend().read(|view| audit::complaints(view, counts)).await?;
        complaints.extend(self.shown_wrongly().await);
        Ok(complaints)
    }

    async fn keys_of(&self, kind: u8) -> Vec<Vec<u8>> {
        self.backend().read(|view| view.under(&[kind], usize::MAX >> 1)).await.unwrap()
    }

    async fn value_of(&self, key: &[u8]) -> Vec<u8> {
        self.backend().read(|view| view.get(key)).await.unwrap().unwrap()
    }

    async fn overwrite(&self, key: &[u8], value: Option<Vec<u8>>) {
        let key = key.to_vec();
        let write = move |txn: &mut Txn<'_>| {
            txn.overwrite(key, value);
            Ok(())
        };
        self.backend().run(write).await.unwrap();
    }
}

async fn reopen(place: &dyn Place, store: Tested) -> Tested {
    store.close().await;
    drop(store);
    place.open().await
}

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn corp(n: u8) -> CorpId {
    CorpId::new(format!("wpDEALER{n}")).unwrap()
}

fn customer(n: u8) -> ExternalUserid {
    ExternalUserid::new(format!("wmCUSTOMER{n}")).unwrap()
}

fn pending(n: u8) -> PendingId {
    PendingId::new(format!("pend{n}")).unwrap()
}

fn fan_key(n: u8) -> FanKey {
    FanKey { app: app(), unionid: Unionid::new(format!("oFAN{n}")).unwrap() }
}

fn contact_key(person: u8, dealer: u8) -> ContactKey {
    ContactKey { app: app(), corp_id: corp(dealer), external_userid: customer(person) }
}

fn event(person: u8, dealer: u8, member: u8, change: ContactChange, at_secs: i64) -> Event {
    Event {
        corp_id: corp(dealer),
        created_at: T0.plus_ms(at_secs * 1_000),
        contact: ContactEvent {
            change,
            user_id: UserId::new(format!("member{member}")).unwrap(),
            external_userid: customer(person),
            state: Some("spring".to_owned()),
            welcome_code: Some("WELCOME".to_owned()),
        },
    }
}

fn arrival(event: Event) -> Arrival {
    let message = format!("{event:?}");
    Arrival {
        app: app(),
        digest: MessageDigest::of(&app(), message.as_bytes()),
        received_at: T0,
        payload: Payload::Event(event),
    }
}

fn added(person: u8, dealer: u8) -> Arrival {
    arrival(event(person, dealer, 1, ContactChange::Added, 0))
}

fn new_fan(n: u8) -> NewFan {
    NewFan {
        key: fan_key(n),
        openid: Openid::new(format!("oOPEN{n}")).unwrap(),
        ask_existing: false,
        priority: Priority::Live,
        minted: None,
        retry_rejected: false,
    }
}

/// Leases one piece of work and settles it with this outcome.
async fn settle_next(store: &Tested, now: Timestamp, outcome: Outcome) {
    let work = store.lease(now, 1, 1).await.unwrap().pop().expect("work is due");
    store.settle(vec![(work, outcome)], now).await.unwrap();
}

fn minted(pending_id: u8, now: Timestamp) -> FanOutcome {
    FanOutcome::Minted { minted: Minted::new(pending(pending_id), now), same_id_extends: false }
}

async fn lease_fans(store: &Tested, step: FanStep, now: Timestamp, limit: usize) -> Vec<FanWork> {
    store.lease_fans(&app(), step, &Priority::ALL, now, limit).await.unwrap()
}

/// The counters of the app's fans.
async fn tally(store: &Tested) -> Tally {
    store.fan_tallies().await.unwrap().pop().map(|(_, tally)| tally).unwrap_or_default()
}

async fn mint(store: &Tested, fan: u8, pending_id: u8, now: Timestamp) {
    store.put_fans(vec![new_fan(fan)], now).await.unwrap();
    let work = lease_fans(store, FanStep::Mint, now, 1).await.pop().expect("a fan is due");
    store.settle_fans(vec![(work, minted(pending_id, now))], now).await.unwrap();
}

async fn links_of(store: &Tested, by: LinkBy) -> Vec<LinkData> {
    store.links(&LinkQuery { by, corp_id: None, app: None }, T0).await.unwrap()
}

async fn reserved_calls_survive_a_restart(place: &dyn Place) {
    let store = place.open().await;
    let limits = Limits { per_hour: 10, per_day: 100, per_month: 1_000 };
    let accounts =
        [(corp(1).as_str().to_owned(), Budget::Conversion(limits)), ("address".to_owned(), Budget::Address)];
    let now = Moment::on_the_wall(T0, None);
    let reserve = async |store: &Tested, api, want| {
        store.reserve(&accounts, api, Share::Whole, want, now).await.unwrap()
    };
    assert_eq!(reserve(&store, "mint", 7).await, Grant::Permits(7));
    let store = reopen(place, store).await;
    assert_eq!(reserve(&store, "mint", 7).await, Grant::Permits(3));
    assert!(matches!(reserve(&store, "mint", 1).await, Grant::Exhausted { .. }));
    assert_eq!(reserve(&store, "existing", 7).await, Grant::Permits(7));
    let (account, budget) = &accounts[0];
    assert_eq!(store.rate_limited(account, *budget, "existing", now).await, Ok(HOUR_MS));
    let store = reopen(place, store).await;
    let used = store.ledger(account, "existing").await.unwrap().used(now);
    assert_eq!((used.hour, used.day, used.month, used.blocked_ms), (7, 7, 7, Some(HOUR_MS)));
    assert_eq!(store.ledger("address", "mint").await.unwrap().used(now).hour, 10);
}

async fn a_dealers_token_owner_survives_a_new_list_of_dealers(place: &dyn Place) {
    let store = place.open().await;
    let dealer = |n, name: &str| Dealer::listed(corp(n), 1_000_000 + i64::from(n), name.to_owned(), T0);
    store.put_dealers(&app(), vec![dealer(1, "first"), dealer(2, "second")]).await.unwrap();
    store.set_token_owner(&app(), &corp(1), TokenOwner::Upstream).await.unwrap();
    store.put_dealers(&app(), vec![dealer(1, "renamed")]).await.unwrap();
    let store = reopen(place, store).await;
    let known = store.dealer(&app(), &corp(1)).await.unwrap().unwrap();
    assert_eq!((known.name.as_str(), known.token), ("renamed", Some(TokenOwner::Upstream)));
    assert_eq!(store.dealers(&app()).await.unwrap().len(), 2);
    assert_eq!(store.dealer(&app(), &corp(3)).await.unwrap(), None);
}

async fn deduplication_records_expire(place: &dyn Place) {
    let store = place.open().await;
    for person in 0..200 {
        store.append(added(person, 1)).await.unwrap();
    }
    assert_eq!(store.sweep(T0.plus_ms(6 * DAY_MS)).await, Ok(0));
    assert_eq!(store.sweep(T0.plus_ms(8 * DAY_MS)).await, Ok(200));
    assert!(matches!(store.append(added(1, 1)).await, Ok(Appended::New(_))));
}

async fn quarantined_messages_expire_with_their_text_and_dead_letters_do_not(place: &dyn Place) {
    let store = place.open().await;
    let quarantine = async |n: u8, received_at| {
        let payload = Payload::Quarantine {
            reason: QuarantineReason::ReceiveId,
            receive_id: "wwOTHER".to_owned(),
            created_at: None,
            message: vec![n; 7_000],
            event: None,
        };
        let arrival = Arrival { app: app(), digest: MessageDigest([n; 16]), received_at, payload };
        let Ok(Appended::New(id)) = store.append(arrival).await else { panic!("not quarantined") };
        id
    };
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Dead(FailureReason { errcode: None, text: String::new() })).await;
    let young = quarantine(0, T0.plus_ms(DAY_MS)).await;
    let mut old = Vec::new();
    for n in 1..=100 {
        old.push(quarantine(n, T0).await);
    }
    assert_eq!(store.sweep_quarantine(T0.plus_ms(30 * DAY_MS)).await, (0, Ok(())));
    let later = T0.plus_ms(30 * DAY_MS + 1);
    assert_eq!(store.sweep_quarantine(later).await, (100, Ok(())));
    assert_eq!(store.sweep_quarantine(later).await, (0, Ok(())));
    let store = reopen(place, store).await;
    let Counts { dead, quarantined, .. } = store.counts();
    assert_eq!((dead, quarantined), (1, 1));
    for id in old {
        assert_eq!(store.event(id).await, Ok(None));
    }
    assert_eq!(store.quarantined_message(young).await, Ok(Some(vec![0; 7_000])));
    assert_eq!(store.events(EventState::Dead, EventId(0), 9).await.unwrap().len(), 1);
}

async fn concurrent_appends_are_all_stored(place: &dyn Place) {
    let store = Arc::new(place.open().await);
    let mut tasks = tokio::task::JoinSet::new();
    for person in 0..200_u8 {
        let store = store.clone();
        tasks.spawn(async move { store.append(added(person, 1)).await });
    }
    let results = tasks.join_all().await;
    assert!(results.iter().all(|r| matches!(r, Ok(Appended::New(_)))));
    let ids: std::collections::BTreeSet<_> = results.iter().map(|r| format!("{r:?}")).collect();
    assert_eq!(ids.len(), 200, "every event has its own number");
    assert_eq!(store.lease(T0, 1_000, 1_000).await.unwrap().len(), 200);
}

async fn a_closed_store_refuses_to_write(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    store.close().await;
    assert_eq!(store.append(added(2, 1)).await, Err(StoreError::Closed));
}

/// Makes three tests of each behaviour: in memory, on a disk, and on PostgreSQL.
macro_rules! contract {
    ($($behaviour:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&crate::store::embedded::engine::Memory::default()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                if let Some(schema) = super::Schema::new() {
                    super::$behaviour(&schema).await;
                }
            })*
        }
        mod on_postgres_without_notifications {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                if let Some(schema) = super::Schema::new() {
                    super::$behaviour(&super::Polled(schema)).await;
                }
            })*
        }
        mod shared_in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                let clock = std::sync::Arc::new(crate::clock::SystemClock);
                super::$behaviour(&super::SharedMemory::new(clock)).await;
            })*
        }
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(&tempfile::tempdir().unwrap()).await;
            })*
        }
    };
}
use contract;

contract!(
    reserved_calls_survive_a_restart,
    a_dealers_token_owner_survives_a_new_list_of_dealers,
    deduplication_records_expire,
    quarantined_messages_expire_with_their_text_and_dead_letters_do_not,
    concurrent_appends_are_all_stored,
    a_closed_store_refuses_to_write,
);
