//! A store is copied into another one of any kind, and goes on there.

use super::*;
use crate::domain::ids::SinkName;
use crate::store::moving::{MoveError, move_store};

/// Fills a store with some of everything. The fans 1 and 2 have pending ids, the customer 1 is linked.
async fn fill(store: &Tested) {
    store.put_fans((1..=20).map(new_fan).collect(), T0).await.unwrap();
    mint(store, 1, 1, T0).await;
    mint(store, 2, 2, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(store, T0, Outcome::Resolved(pending(1))).await;
    store.append(added(3, 1)).await.unwrap();
    settle_next(store, T0, Outcome::Missed).await;
    let reason = FailureReason { errcode: Some(40_058), text: "refused".to_owned() };
    store.append(added(4, 1)).await.unwrap();
    settle_next(store, T0, Outcome::Dead(reason)).await;
    let quarantined = Payload::Quarantine {
        reason: QuarantineReason::ReceiveId,
        receive_id: "wwOTHER".to_owned(),
        created_at: None,
        message: vec![7; 200_000],
        event: None,
    };
    let digest = MessageDigest([7; 16]);
    store.append(Arrival { app: app(), digest, received_at: T0, payload: quarantined }).await.unwrap();
    store.append(added(5, 1)).await.unwrap();
    let sink = SinkName::new("crm").unwrap();
    store.open_cursor(&sink, Start::Beginning).await.unwrap();
    let (cursor, _) = store.open_cursor(&sink, Start::Beginning).await.unwrap();
    assert!(store.advance(&sink, cursor.epoch, 1).await.unwrap());
    let budget = Budget::Conversion(Limits::DOCUMENTED);
    let account = [("wwBRAND".to_owned(), budget)];
    let now = Moment::on_the_wall(T0, None);
    store.reserve(&account, "unionid_to_pending_id", Share::Whole, 5, now).await.unwrap();
    let dealer = Dealer::listed(corp(1), 1_000_002, "Dealer".to_owned(), T0);
    store.put_dealers(&app(), vec![dealer]).await.unwrap();
    store.put_moment(now).await.unwrap();
}

/// What can be seen of a store.
async fn seen(store: &Tested) -> String {
    let sink = SinkName::new("crm").unwrap();
    format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
        store.counts(),
        store.feed(0, 100, T0).await.unwrap(),
        store.cursor(&sink).await.unwrap(),
        store.ledger("wwBRAND", "unionid_to_pending_id").await.unwrap(),
        store.dealers(&app()).await.unwrap(),
        store.fan_tallies().await.unwrap(),
        store.events(EventState::Dead, EventId(0), 9).await.unwrap(),
        store
            .quarantined_message(store.events(EventState::Quarantined, EventId(0), 9).await.unwrap()[0].id())
            .await,
    )
}

async fn goes_on_in(from: &Tested, target: &dyn Place) {
    let to = target.open().await;
    let mut told = Vec::new();
    let moved = move_store(&**from, &*to, |what, rows| told.push((what, rows))).await.unwrap();
    let total: u64 = moved.rows.values().sum();
    assert_eq!((moved.links, moved.feed_head, moved.rows[&'n']), (1, 1, 2));
    assert!(told.contains(&("copied", total)) && told.contains(&("compared", total)), "{told:?}");
    let to = reopen(target, to).await;
    assert_eq!(seen(&to).await, seen(from).await);
    assert_eq!(to.audit().await, Ok(Vec::new()));
    assert_eq!(to.append(added(1, 1)).await, Ok(Appended::Duplicate));
    // A fan is found by a pending id from before, and the feed goes on behind it.
    to.append(added(2, 1)).await.unwrap();
    for work in to.lease(T0, 9, 0).await.unwrap() {
        let is_second = work.contact.external_userid == customer(2);
        let outcome = if is_second { Outcome::Resolved(pending(2)) } else { Outcome::Missed };
        to.settle(vec![(work, outcome)], T0).await.unwrap();
    }
    assert_eq!(to.counts().feed_head, 2);
    assert_eq!(to.audit().await, Ok(Vec::new()));
    let again = move_store(&**from, &*to, |_, _| ()).await;
    assert!(matches!(again, Err(MoveError::NotEmpty)), "{again:?}");
}

async fn a_store_is_copied_into_another_of_any_kind_and_goes_on_there(place: &dyn Place) {
    let store = place.open().await;
    fill(&store).await;
    goes_on_in(&store, &Memory::default()).await;
    if let Some(schema) = Schema::new() {
        goes_on_in(&store, &schema).await;
    }
}

async fn an_empty_store_is_copied_too(place: &dyn Place) {
    let (store, target) = (place.open().await, Memory::default());
    let to = target.open().await;
    assert_eq!(move_store(&*store, &*to, |_, _| ()).await.unwrap().rows, std::collections::BTreeMap::new());
    let to = reopen(&target, to).await;
    to.append(added(1, 1)).await.unwrap();
}

contract!(a_store_is_copied_into_another_of_any_kind_and_goes_on_there, an_empty_store_is_copied_too);

#[tokio::test]
async fn a_store_into_which_one_was_not_copied_to_the_end_does_not_open() {
    let memory = Memory::default();
    let store = memory.open().await;
    store.mark(None).await.unwrap();
    store.close().await;
    let opened = EmbeddedStore::in_memory(memory, small()).err().unwrap();
    assert!(format!("{opened:?}").contains("was not finished"), "{opened:?}");
    let Some(schema) = Schema::new() else { return };
    let store = schema.open().await;
    store.mark(None).await.unwrap();
    store.close().await;
    let settings =
        postgres::Settings { allow_unsafe: true, ..postgres::Settings::of(schema.url, &schema.name) };
    let opened = SharedStore::open(&settings).await.err().unwrap();
    assert!(format!("{opened:?}").contains("was not finished"), "{opened:?}");
}
