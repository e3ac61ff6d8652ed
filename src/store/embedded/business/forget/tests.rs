//! What changes between the search and the transaction.

use super::*;
use crate::domain::event::{ContactChange, ContactEvent, Event, QuarantineReason};
use crate::domain::ids::{AppName, CorpId, UserId};
use crate::store::embedded::Settings;
use crate::store::embedded::engine::Memory;
use crate::store::{Arrival, FailureReason, MessageDigest, Outcome, Payload, Store};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

fn arrival(number: u32, payload: Payload) -> Arrival {
    let app = AppName::new("brand").unwrap();
    let digest = MessageDigest::of(&app, &number.to_be_bytes());
    Arrival { app, digest, received_at: T0, payload }
}

fn added(number: u32) -> Arrival {
    let contact = ContactEvent {
        change: ContactChange::Added,
        user_id: UserId::new("member").unwrap(),
        external_userid: ExternalUserid::new("wmCUSTOMER").unwrap(),
        state: None,
        welcome_code: None,
    };
    let corp_id = CorpId::new("wpDEALER").unwrap();
    arrival(number, Payload::Event(Event { corp_id, created_at: T0, contact }))
}

fn quarantined(number: u32) -> Arrival {
    let message = b"<ExternalUserID><![CDATA[wmCUSTOMER]]></ExternalUserID>".to_vec();
    let payload = Payload::Quarantine {
        reason: QuarantineReason::ReceiveId,
        receive_id: "wwOTHER".to_owned(),
        created_at: None,
        message,
        event: None,
    };
    arrival(number, payload)
}

#[tokio::test]
async fn what_comes_in_or_is_given_up_during_the_search_is_found_all_the_same() {
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    store.append(added(1)).await.unwrap();
    let person = PersonId::ExternalUserid(ExternalUserid::new("wmCUSTOMER").unwrap());
    let ids = Ids::of(&store, &person).unwrap();
    let found = search(&store, &ids, T0).await.unwrap();
    assert_eq!((found.inbox.len(), found.aside.len()), (1, 0));
    // Since the search: an event became a dead letter, another arrived and became one, another arrived, and a
    // message was quarantined.
    store.append(added(2)).await.unwrap();
    for work in store.lease(T0, 9, 9).await.unwrap() {
        let reason = FailureReason { errcode: None, text: String::new() };
        store.settle(vec![(work, Outcome::Dead(reason))], T0).await.unwrap();
    }
    store.append(added(3)).await.unwrap();
    store.append(quarantined(4)).await.unwrap();
    let id = ReceiptId([0; 12]);
    let receipt = store.writer.run(move |txn| forget(txn, &person, &ids, found, (id, None), T0)).await;
    let erased = receipt.unwrap().unwrap().erased;
    assert_eq!((erased.events, erased.dead_letters, erased.quarantined), (1, 2, 1));
    let Counts { inbox, dead, quarantined, .. } = store.counts();
    assert_eq!((inbox, dead, quarantined), (0, 0, 0));
}
