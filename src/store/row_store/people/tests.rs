//! What changes between the search and the transaction, and what the transaction reads.

use super::*;
use crate::domain::event::{ContactChange, ContactEvent, Event, QuarantineReason};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, UserId};
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::rows::records::{decode, encode};
use crate::store::{
    Arrival, Counts, EventId, FailureReason, InboxEvent, MessageDigest, Outcome, Payload, Store,
};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

fn arrival(number: u32, payload: Payload) -> Arrival {
    let app = AppName::new("brand").unwrap();
    let digest = MessageDigest::of(&app, &number.to_be_bytes());
    Arrival { app, digest, received_at: T0, payload }
}

fn customer(name: &str) -> ExternalUserid {
    ExternalUserid::new(name).unwrap()
}

fn event_of(external_userid: ExternalUserid) -> Event {
    let contact = ContactEvent {
        change: ContactChange::Added,
        user_id: UserId::new("member").unwrap(),
        external_userid,
        state: None,
        welcome_code: None,
    };
    Event { corp_id: CorpId::new("wpDEALER").unwrap(), created_at: T0, contact }
}

fn added(number: u32) -> Arrival {
    arrival(number, Payload::Event(event_of(customer("wmCUSTOMER"))))
}

/// An event in the inbox.
fn waiting(id: u64, due_at: Timestamp, external_userid: ExternalUserid) -> (Vec<u8>, Option<Vec<u8>>) {
    let app = AppName::new("brand").unwrap();
    let event = InboxEvent {
        id: EventId(id),
        app,
        received_at: T0,
        due_at,
        attempts: 0,
        failure: None,
        event: event_of(external_userid),
    };
    let key = keys::inbox(due_at, event.id);
    (key.clone(), Some(encode(&key, &event).unwrap()))
}

fn quarantined(number: u32) -> Arrival {
    // The name is in two records.
    let message = [vec![b' '; 3_068], b"<ExternalUserID>wmCUSTOMER</ExternalUserID>".to_vec()].concat();
    let payload = Payload::Quarantine {
        reason: QuarantineReason::ReceiveId,
        receive_id: "wwOTHER".to_owned(),
        created_at: None,
        message,
        event: None,
    };
    arrival(number, payload)
}

fn reason() -> FailureReason {
    FailureReason { errcode: None, text: String::new() }
}

#[tokio::test]
async fn what_comes_in_or_is_given_up_during_the_search_is_found_all_the_same() {
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    store.append(added(1)).await.unwrap();
    let person = PersonId::ExternalUserid(customer("wmCUSTOMER"));
    let Searched { ids, found, watch } = store.search(&person).await.unwrap();
    // Since the search: an event became a dead letter, another arrived and became one, another arrived, and a
    // message was quarantined.
    store.append(added(2)).await.unwrap();
    for work in store.lease(T0, 9, 9).await.unwrap() {
        store.settle(vec![(work, Outcome::Dead(reason()))], T0).await.unwrap();
    }
    store.append(added(3)).await.unwrap();
    store.append(quarantined(4)).await.unwrap();
    let id = ReceiptId([0; 12]);
    let receipt = store
        .backend()
        .run(move |txn| forget::forget(txn, &person, &ids, (found, &watch), (id, None), T0))
        .await;
    let erased = receipt.unwrap().unwrap().erased;
    assert_eq!((erased.events, erased.dead_letters, erased.quarantined), (1, 2, 1));
    let Counts { inbox, dead, quarantined, .. } = store.counts();
    assert_eq!((inbox, dead, quarantined), (0, 0, 0));
}

/// The number of events in the inbox about a customer.
fn waiting_about(memory: &Memory, external_userid: &ExternalUserid) -> usize {
    let rows = memory.rows().into_iter().filter(|(key, _)| key.starts_with(b"i"));
    let rows = rows.map(|(key, value)| decode::<InboxEvent>(&key, &value).unwrap());
    rows.filter(|event| event.event.contact.external_userid == *external_userid).count()
}

#[tokio::test]
async fn events_that_move_in_the_inbox_during_the_search_are_erased() {
    let memory = Memory::default();
    let person = customer("wmCUSTOMER");
    let rows = (1..=3_000)
        .map(|id| waiting(id, T0, if id % 10 == 0 { person.clone() } else { customer(&format!("wm{id}")) }));
    memory.overwrite(&rows.collect::<Vec<_>>());
    let store = EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap();
    let moving = async {
        for minute in 1..=20 {
            // Half of them move far away, and come back to the front of the queue.
            let later = T0.plus_ms(minute * 60_000);
            let work = store.lease(T0, 1_500, 0).await.unwrap();
            let retry = Outcome::Retry { due_at: later, reason: reason(), spent: false };
            store.settle(work.into_iter().map(|work| (work, retry.clone())).collect(), T0).await.unwrap();
            store.bring_forward(later, T0.plus_ms(-60_000 * minute)).await.unwrap();
        }
    };
    let forgetting = async {
        let (by, id) = (AuditBy::service(), PersonId::ExternalUserid(person.clone()));
        let receipt = store.forget(&id, None, by, T0).await.unwrap();
        (receipt.erased.events, waiting_about(&memory, &person))
    };
    let (erased, ()) = tokio::join!(forgetting, moving);
    assert_eq!(erased, (300, 0));
    assert_eq!(waiting_about(&memory, &person), 0, "none of them comes back");
}

#[tokio::test]
async fn an_erasure_with_a_long_inbox_lets_others_run_and_reads_the_persons_own_rows_in_its_transaction() {
    let memory = Memory::default();
    let person = customer("wmCUSTOMER");
    let rows = (1..=20_000).map(|id| {
        let due_at = T0.plus_ms(i64::try_from(id).unwrap());
        waiting(id, due_at, if id % 2_000 == 0 { person.clone() } else { customer(&format!("wm{id}")) })
    });
    memory.overwrite(&rows.collect::<Vec<_>>());
    let store = EmbeddedStore::in_memory(memory.clone(), Settings::default()).unwrap();
    store.append(added(1)).await.unwrap();
    let before = memory.rows_read_by("store-writer");
    let id = PersonId::ExternalUserid(person.clone());
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    let receipt = tokio::select! {
        biased;
        receipt = store.forget(&id, None, AuditBy::service(), T0) => receipt.unwrap(),
        () = others => unreachable!("it never ends"),
    };
    assert!(turns >= 20_000 / 256, "others had {turns} turns");
    let read = memory.rows_read_by("store-writer") - before;
    assert_eq!((receipt.erased.events, waiting_about(&memory, &person)), (11, 0));
    assert!(read < 100, "{read} rows");
}
