//! What every store must do, run against every store, with drop-and-reopen.

mod by_hand;
mod fans;
mod feed;
mod people;
mod properties;
mod trouble;

use super::embedded::engine::Memory;
use super::embedded::{EmbeddedStore, Settings};
use super::*;
use crate::domain::event::{ContactChange, ContactEvent};
use crate::domain::ids::UserId;
use crate::domain::link::{ChangeType, FeedEntry};
use crate::domain::quota::Limits;
use crate::domain::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

/// A place that outlives the stores opened in it.
trait Place {
    fn open_with(&self, settings: Settings) -> EmbeddedStore;

    fn open(&self) -> EmbeddedStore {
        self.open_with(Settings { cache_mb: 8, free_mb_min: 1, ..Settings::default() })
    }
}

impl Place for Memory {
    fn open_with(&self, settings: Settings) -> EmbeddedStore {
        EmbeddedStore::in_memory(self.clone(), settings).unwrap()
    }
}

impl Place for tempfile::TempDir {
    fn open_with(&self, settings: Settings) -> EmbeddedStore {
        EmbeddedStore::open(&self.path().join("data"), settings).unwrap()
    }
}

async fn reopen(place: &dyn Place, store: EmbeddedStore) -> EmbeddedStore {
    store.close().await;
    drop(store);
    place.open()
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

fn happening(person: u8, dealer: u8, member: u8, change: ContactChange, at_secs: i64) -> Happening {
    Happening {
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

fn arrival(happening: Happening) -> Arrival {
    let message = format!("{happening:?}");
    Arrival {
        app: app(),
        digest: MessageDigest::of(&app(), message.as_bytes()),
        received_at: T0,
        content: Content::Event(happening),
    }
}

fn added(person: u8, dealer: u8) -> Arrival {
    arrival(happening(person, dealer, 1, ContactChange::Added, 0))
}

fn new_fan(n: u8) -> NewFan {
    NewFan {
        key: fan_key(n),
        openid: Openid::new(format!("oOPEN{n}")).unwrap(),
        ask_existing: false,
        priority: Priority::Live,
        minted: None,
    }
}

/// Leases one piece of work and settles it.
async fn work_off(store: &EmbeddedStore, now: Timestamp, verdict: Verdict) {
    let work = store.lease(now, 1).await.unwrap().pop().expect("there is work");
    store.settle(vec![(work, verdict)], now).await.unwrap();
}

fn minted(pending_id: u8, now: Timestamp) -> FanVerdict {
    FanVerdict::Minted { minted: Minted::new(pending(pending_id), now), same_id_extends: false }
}

async fn lease_fans(store: &EmbeddedStore, step: FanStep, now: Timestamp, limit: usize) -> Vec<FanWork> {
    store.lease_fans(&app(), step, &Priority::ALL, now, limit).await.unwrap()
}

/// How many fans are where.
async fn tally(store: &EmbeddedStore) -> Tally {
    store.fan_tallies().await.unwrap().pop().map(|(_, tally)| tally).unwrap_or_default()
}

async fn mint(store: &EmbeddedStore, fan: u8, pending_id: u8, now: Timestamp) {
    store.put_fans(vec![new_fan(fan)], now).await.unwrap();
    let work = lease_fans(store, FanStep::Mint, now, 1).await.pop().expect("there is a fan");
    store.settle_fans(vec![(work, minted(pending_id, now))], now).await.unwrap();
}

async fn links_of(store: &EmbeddedStore, by: LinkBy) -> Vec<LinkData> {
    store.links(&LinkQuery { by, corp_id: None, app: None }, T0).await.unwrap()
}

async fn a_repeated_message_is_stored_once(place: &dyn Place) {
    let store = place.open();
    assert!(matches!(store.append(added(1, 1)).await, Ok(Appended::New(_))));
    assert_eq!(store.append(added(1, 1)).await, Ok(Appended::Duplicate));
    let store = reopen(place, store).await;
    assert_eq!(store.append(added(1, 1)).await, Ok(Appended::Duplicate));
    // Two customers in one second are two.
    assert!(matches!(store.append(added(2, 1)).await, Ok(Appended::New(_))));
    assert_eq!(store.counts().inbox, 2);
    assert_eq!(store.lease(T0, 10).await.unwrap().len(), 2);
}

async fn leased_work_is_nobody_elses_until_the_process_ends(place: &dyn Place) {
    let store = place.open();
    store.append(added(1, 1)).await.unwrap();
    assert_eq!(store.next_due().await, Ok(Some(T0)));
    assert_eq!(store.lease(T0, 10).await.unwrap().len(), 1);
    assert_eq!(store.lease(T0, 10).await.unwrap().len(), 0);
    assert_eq!(store.next_due().await, Ok(None));
    assert_eq!(store.events(EventState::Leased, EventId(0), 10).await.unwrap().len(), 1);
    assert_eq!(store.events(EventState::Waiting, EventId(0), 10).await.unwrap().len(), 0);
    let store = reopen(place, store).await;
    assert_eq!(store.lease(T0, 10).await.unwrap().len(), 1);
}

async fn a_contact_meets_the_fan_in_either_order(place: &dyn Place) {
    let store = place.open();
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    work_off(&store, T0, Verdict::Resolved(pending(1))).await;
    // The other way round, with a restart between.
    store.append(added(2, 1)).await.unwrap();
    work_off(&store, T0, Verdict::Resolved(pending(2))).await;
    let store = reopen(place, store).await;
    mint(&store, 2, 2, T0).await;

    for n in [1, 2] {
        for by in [
            LinkBy::Unionid(fan_key(n).unionid),
            LinkBy::ExternalUserid(customer(n)),
            LinkBy::PendingId(pending(n)),
        ] {
            let links = links_of(&store, by).await;
            assert_eq!(links.len(), 1);
            assert_eq!(links[0].unionid, fan_key(n).unionid);
            assert_eq!(links[0].external_userid, customer(n));
            assert_eq!(links[0].corp_id, corp(1));
            assert_eq!(links[0].pending_id, Some(pending(n)));
            assert_eq!(links[0].followers.len(), 1);
            assert_eq!(links[0].followers[0].state.as_deref(), Some("spring"));
        }
    }
    let feed = store.feed(0, 10, T0).await.unwrap();
    assert_eq!(
        feed.iter().map(|e| (e.seq, e.change)).collect::<Vec<_>>(),
        [(1, ChangeType::Created), (2, ChangeType::Created)]
    );
    let welcome_code = |entry: &FeedEntry| entry.data.link().and_then(|link| link.welcome_code.clone());
    assert_eq!(welcome_code(&feed[0]).as_deref(), Some("WELCOME"));
    assert_eq!(feed[0].id, feed[0].data.link_id());
    assert_ne!(feed[0].id, feed[1].id);
    assert_eq!(*store.feed_head().borrow(), 2);
    assert_eq!(welcome_code(&store.feed(1, 10, T0.plus_ms(20_000)).await.unwrap()[0]), None);
    let Counts { links, contacts, inbox, feed_head, .. } = store.counts();
    assert_eq!((links, contacts, inbox, tally(&store).await.minted, feed_head), (2, 2, 0, 2, 2));
}

async fn one_person_at_two_dealers_is_two_links(place: &dyn Place) {
    let store = place.open();
    for dealer in [1, 2] {
        store.append(added(dealer, dealer)).await.unwrap();
        work_off(&store, T0, Verdict::Resolved(pending(7))).await;
    }
    mint(&store, 7, 7, T0).await;
    let links = links_of(&store, LinkBy::Unionid(fan_key(7).unionid)).await;
    assert_eq!(links.iter().map(|l| &l.corp_id).collect::<Vec<_>>(), [&corp(1), &corp(2)]);
    let by_dealer = LinkQuery { by: LinkBy::PendingId(pending(7)), corp_id: Some(corp(2)), app: Some(app()) };
    assert_eq!(store.links(&by_dealer, T0).await.unwrap().len(), 1);
    let elsewhere = LinkQuery { app: Some(AppName::new("other").unwrap()), ..by_dealer };
    assert_eq!(store.links(&elsewhere, T0).await.unwrap().len(), 0);
}

async fn work_settled_twice_counts_once(place: &dyn Place) {
    let store = place.open();
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    let work = store.lease(T0, 1).await.unwrap().pop().unwrap();
    let outcome = (work, Verdict::Resolved(pending(1)));
    store.settle(vec![outcome.clone()], T0).await.unwrap();
    let store = reopen(place, store).await;
    store.settle(vec![outcome.clone(), outcome], T0).await.unwrap();
    assert_eq!((store.counts().links, store.counts().inbox, store.counts().feed_head), (1, 0, 1));
}

async fn a_customer_nobody_knows_yet_is_asked_about_on_schedule(place: &dyn Place) {
    let store = place.open();
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    work_off(&store, T0, Verdict::Missed).await;
    assert_eq!((store.counts().inbox, store.counts().waiting), (0, 1));
    let mut now = T0;
    for wait in crate::domain::backoff::REASK_AFTER_MS {
        assert_eq!(store.lease(now.plus_ms(wait - 1), 1).await.unwrap().len(), 0);
        now = now.plus_ms(wait);
        assert_eq!(store.next_due().await, Ok(Some(now)));
        let work = store.lease(now, 1).await.unwrap().pop().unwrap();
        assert!(work.event.is_none() && work.known.is_some());
        store.settle(vec![(work, Verdict::Missed)], now).await.unwrap();
    }
    assert_eq!((store.counts().waiting, store.next_due().await), (0, Ok(None)));
    // News about the customer starts over, and this time WeCom knows.
    store.append(arrival(happening(1, 1, 2, ContactChange::Added, 9))).await.unwrap();
    work_off(&store, now, Verdict::Missed).await;
    assert_eq!(store.counts().waiting, 1);
    work_off(&store, now.plus_ms(MINUTE_MS), Verdict::Resolved(pending(1))).await;
    assert_eq!((store.counts().waiting, store.counts().links), (0, 1));
    assert_eq!(links_of(&store, LinkBy::ExternalUserid(customer(1))).await[0].followers.len(), 2);
}

async fn followers_of_a_link_come_and_go_on_the_feed(place: &dyn Place) {
    let store = place.open();
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    work_off(&store, T0, Verdict::Resolved(pending(1))).await;
    for (member, change, at) in [
        (2, ContactChange::HalfAdded, 5),
        (2, ContactChange::Added, 6),
        (1, ContactChange::DeletedByCustomer, 7),
        (1, ContactChange::Added, 3), // late news from before
    ] {
        store.append(arrival(happening(1, 1, member, change, at))).await.unwrap();
        work_off(&store, T0, Verdict::Applied).await;
    }
    let store = reopen(place, store).await;
    let changes: Vec<_> = store.feed(0, 10, T0).await.unwrap().iter().map(|e| e.change).collect();
    assert_eq!(changes, [ChangeType::Created, ChangeType::FollowerAdded, ChangeType::FollowerRemoved]);
    let links = links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await;
    assert_eq!(links[0].followers.iter().map(|f| f.user_id.as_str()).collect::<Vec<_>>(), ["member2"]);
}

async fn a_retry_comes_back_when_due_and_says_why(place: &dyn Place) {
    let store = place.open();
    store.append(added(1, 1)).await.unwrap();
    let problem = Problem { errcode: Some(-1), text: "busy".to_owned() };
    let later = T0.plus_ms(HOUR_MS);
    work_off(&store, T0, Verdict::Retry { due_at: later, problem: problem.clone(), spent: true }).await;
    let store = reopen(place, store).await;
    assert_eq!(store.lease(T0, 1).await.unwrap().len(), 0);
    assert_eq!(store.next_due().await, Ok(Some(later)));
    let work = store.lease(later, 1).await.unwrap().pop().unwrap();
    let event = work.event.clone().unwrap();
    assert_eq!((event.attempts, event.problem.as_ref()), (1, Some(&problem)));
    let unspent = Verdict::Retry { due_at: later, problem, spent: false };
    store.settle(vec![(work, unspent)], later).await.unwrap();
    let work = store.lease(later, 1).await.unwrap().pop().unwrap();
    assert_eq!(work.event.unwrap().attempts, 1);
    assert_eq!(store.counts().inbox, 1);
}

async fn a_dead_letter_is_kept_and_can_be_redriven(place: &dyn Place) {
    let store = place.open();
    store.append(added(1, 1)).await.unwrap();
    let problem = Problem { errcode: Some(40_096), text: "not a customer".to_owned() };
    work_off(&store, T0, Verdict::Dead(problem)).await;
    let store = reopen(place, store).await;
    assert_eq!((store.counts().dead, store.counts().inbox), (1, 0));
    let rows = store.events(EventState::Dead, EventId(0), 10).await.unwrap();
    let EventRow::Dead { event, .. } = &rows[0] else { panic!("{rows:?}") };
    assert_eq!(event.problem.as_ref().and_then(|p| p.errcode), Some(40_096));
    assert!(store.redrive(event.id, None, T0).await.unwrap());
    assert!(!store.redrive(event.id, None, T0).await.unwrap(), "redriving is idempotent");
    assert_eq!((store.counts().dead, store.counts().inbox), (0, 1));
    work_off(&store, T0, Verdict::Resolved(pending(1))).await;
}

async fn a_quarantined_message_is_kept_whole_and_can_be_released(place: &dyn Place) {
    let store = place.open();
    let message: Vec<u8> = (0..60_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let quarantine = Arrival {
        app: app(),
        digest: MessageDigest::of(&app(), &message),
        received_at: T0,
        content: Content::Quarantine {
            reason: QuarantineReason::NotUnderstood("a text ".repeat(1_000)),
            receive_id: "wwOTHER".to_owned(),
            message: message.clone(),
            about: None,
        },
    };
    let Ok(Appended::New(id)) = store.append(quarantine.clone()).await else { panic!("not stored") };
    assert_eq!(store.append(quarantine).await, Ok(Appended::Duplicate));
    let store = reopen(place, store).await;
    assert_eq!(store.quarantined_message(id).await.unwrap(), Some(message));
    let rows = store.events(EventState::Quarantined, EventId(0), 10).await.unwrap();
    let EventRow::Quarantined(row) = &rows[0] else { panic!("{rows:?}") };
    assert_eq!((row.message_bytes, row.receive_id.as_str()), (60_000, "wwOTHER"));
    assert!(store.redrive(id, Some(happening(1, 1, 1, ContactChange::Added, 0)), T0).await.unwrap());
    assert_eq!(store.quarantined_message(id).await.unwrap(), None);
    assert_eq!((store.counts().quarantined, store.counts().inbox), (0, 1));
    assert_eq!(store.lease(T0, 1).await.unwrap()[0].event.as_ref().unwrap().id, id);
}

async fn a_full_inbox_refuses_and_recovers(place: &dyn Place) {
    let settings = Settings { inbox_events_max: 2, cache_mb: 8, free_mb_min: 1, ..Settings::default() };
    let store = place.open_with(settings);
    store.append(added(1, 1)).await.unwrap();
    store.append(added(2, 1)).await.unwrap();
    assert_eq!(store.append(added(3, 1)).await, Err(StoreError::InboxFull { limit: 2 }));
    assert_eq!(
        store.append(added(1, 1)).await,
        Ok(Appended::Duplicate),
        "what is stored may be acknowledged"
    );
    work_off(&store, T0, Verdict::Missed).await;
    assert!(matches!(store.append(added(3, 1)).await, Ok(Appended::New(_))), "a refusal left no trace");
}

async fn reserved_calls_are_remembered_through_a_restart(place: &dyn Place) {
    let store = place.open();
    let limits = Limits { per_hour: 10, per_day: 100, per_month: 1_000 };
    let accounts =
        [(corp(1).as_str().to_owned(), Budget::Conversion(limits)), ("address".to_owned(), Budget::Address)];
    let now = Moment::on_the_wall(T0, None);
    let reserve = async |store: &EmbeddedStore, api, want| {
        store.reserve(&accounts, api, Share::Whole, want, now).await.unwrap()
    };
    assert_eq!(reserve(&store, "mint", 7).await, Grant::Permits(7));
    let store = reopen(place, store).await;
    assert_eq!(reserve(&store, "mint", 7).await, Grant::Permits(3));
    assert!(matches!(reserve(&store, "mint", 1).await, Grant::Exhausted { .. }));
    assert_eq!(reserve(&store, "existing", 7).await, Grant::Permits(7));
    let (account, budget) = &accounts[0];
    assert_eq!(store.refused(account, *budget, "existing", now).await, Ok(HOUR_MS));
    let store = reopen(place, store).await;
    let used = store.ledger(account, "existing").await.unwrap().used(now);
    assert_eq!((used.hour, used.day, used.month, used.blocked_ms), (7, 7, 7, Some(HOUR_MS)));
    assert_eq!(store.ledger("address", "mint").await.unwrap().used(now).hour, 10);
}

async fn what_was_learnt_about_a_dealer_survives_a_new_list(place: &dyn Place) {
    let store = place.open();
    let dealer = |n, name: &str| Dealer {
        corp_id: corp(n),
        agent_id: 1_000_000 + i64::from(n),
        name: name.to_owned(),
        listed_at: T0,
        token: None,
    };
    store.put_dealers(&app(), vec![dealer(1, "first"), dealer(2, "second")]).await.unwrap();
    store.remember_token(&app(), &corp(1), TokenOwner::Upstream).await.unwrap();
    store.put_dealers(&app(), vec![dealer(1, "renamed")]).await.unwrap();
    let store = reopen(place, store).await;
    let known = store.dealer(&app(), &corp(1)).await.unwrap().unwrap();
    assert_eq!((known.name.as_str(), known.token), ("renamed", Some(TokenOwner::Upstream)));
    assert_eq!(store.dealers(&app()).await.unwrap().len(), 2);
    assert_eq!(store.dealer(&app(), &corp(3)).await.unwrap(), None);
}

async fn seen_messages_are_forgotten_after_their_time(place: &dyn Place) {
    let store = place.open();
    for person in 0..200 {
        store.append(added(person, 1)).await.unwrap();
    }
    assert_eq!(store.sweep(T0.plus_ms(6 * DAY_MS)).await, Ok(0));
    assert_eq!(store.sweep(T0.plus_ms(8 * DAY_MS)).await, Ok(200));
    assert!(matches!(store.append(added(1, 1)).await, Ok(Appended::New(_))));
}

async fn many_callers_at_once_lose_nothing(place: &dyn Place) {
    let store = std::sync::Arc::new(place.open());
    let mut tasks = tokio::task::JoinSet::new();
    for person in 0..200_u8 {
        let store = store.clone();
        tasks.spawn(async move { store.append(added(person, 1)).await });
    }
    let results = tasks.join_all().await;
    assert!(results.iter().all(|r| matches!(r, Ok(Appended::New(_)))));
    let ids: std::collections::BTreeSet<_> = results.iter().map(|r| format!("{r:?}")).collect();
    assert_eq!(ids.len(), 200, "every event has a number of its own");
    assert_eq!(store.lease(T0, 1_000).await.unwrap().len(), 200);
}

async fn a_closed_store_says_so(place: &dyn Place) {
    let store = place.open();
    store.append(added(1, 1)).await.unwrap();
    store.close().await;
    assert_eq!(store.append(added(2, 1)).await, Err(StoreError::Closed));
}

/// Runs each behaviour of this module in memory and on a disk.
macro_rules! contract {
    ($($behaviour:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&crate::store::embedded::engine::Memory::default()).await;
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
    a_repeated_message_is_stored_once,
    leased_work_is_nobody_elses_until_the_process_ends,
    a_contact_meets_the_fan_in_either_order,
    one_person_at_two_dealers_is_two_links,
    work_settled_twice_counts_once,
    a_customer_nobody_knows_yet_is_asked_about_on_schedule,
    followers_of_a_link_come_and_go_on_the_feed,
    a_retry_comes_back_when_due_and_says_why,
    a_dead_letter_is_kept_and_can_be_redriven,
    a_quarantined_message_is_kept_whole_and_can_be_released,
    a_full_inbox_refuses_and_recovers,
    reserved_calls_are_remembered_through_a_restart,
    what_was_learnt_about_a_dealer_survives_a_new_list,
    seen_messages_are_forgotten_after_their_time,
    many_callers_at_once_lose_nothing,
    a_closed_store_says_so,
);
