//! Damaged records of groups, and changes of many customers.

use std::sync::Arc;

use super::*;
use crate::domain::chat::{CHAT_ITEMS_MAX, CHAT_LAG_MS, ChatChange, ChatEvent};
use crate::domain::ids::{ChatId, ExternalUserid};
use crate::domain::sighting::SightingPlace;
use crate::domain::time::HOUR_MS;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::rows::keys;
use crate::store::{Arrival, MessageDigest, Payload, Store as _};

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);
const LAG: Timestamp = T0.plus_ms(CHAT_LAG_MS);

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn corp() -> CorpId {
    CorpId::new("wpDEALER").unwrap()
}

fn chat_id() -> ChatId {
    ChatId::new("wrCHAT").unwrap()
}

fn arrival(change: ChatChange, received_at: Timestamp) -> Arrival {
    let event = ChatEvent { corp_id: corp(), created_at: T0, chat_id: chat_id(), change };
    let digest = MessageDigest::of(&app(), format!("{event:?}").as_bytes());
    Arrival { app: app(), digest, received_at, payload: Payload::Chat(event) }
}

/// A change of which only the fact is known.
fn unnamed() -> ChatChange {
    ChatChange::Joined { items: Vec::new(), is_complete: false, versions: None }
}

#[tokio::test]
async fn a_group_whose_record_was_damaged_and_replaced_by_an_event_is_read_once() {
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    store.append(arrival(ChatChange::Created, T0)).await.unwrap();
    store.corrupt(&keys::chat(&app(), &corp(), &chat_id()));
    store.append(arrival(unnamed(), T0.plus_ms(1))).await.unwrap();
    // The outdated place in the queue does not move the reading a second time.
    store.shift_waits(-HOUR_MS, T0).await.unwrap();
    let now = LAG.plus_ms(1 - HOUR_MS);
    let due = store.due_chats(&BTreeSet::new(), LAG, 10).await.unwrap();
    assert_eq!(due.iter().map(|group| group.chat.is_due_at(now)).collect::<Vec<_>>(), [true]);
    store.chat_read(&due[0], Vec::new(), None, now).await.unwrap();
    assert_eq!(store.due_chats(&BTreeSet::new(), LAG, 10).await, Ok(vec![]));
    assert_eq!((store.next_chat_due().await, store.audit()), (Ok(None), Ok(vec![])));
}

#[tokio::test]
async fn a_group_whose_record_is_damaged_is_read_all_the_same() {
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    store.append(arrival(ChatChange::Created, T0)).await.unwrap();
    store.corrupt(&keys::chat(&app(), &corp(), &chat_id()));
    assert_eq!(store.due_chats(&BTreeSet::new(), LAG, 10).await, Ok(vec![]));
    let due_at = LAG.plus_ms(CHAT_LAG_MS);
    assert_eq!(store.next_chat_due().await, Ok(Some(due_at)));
    assert_eq!(store.due_chats(&BTreeSet::new(), due_at, 10).await.unwrap().len(), 1);
    assert_eq!(store.audit(), Ok(vec![]));
}

#[tokio::test]
async fn a_group_that_ends_leaves_no_members() {
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    let customers = (0..CHAT_ITEMS_MAX).map(|n| ExternalUserid::new(format!("wm{n}")).unwrap());
    let join = ChatChange::Joined { items: customers.collect(), is_complete: true, versions: None };
    store.append(arrival(join, T0)).await.unwrap();
    let members = || chat_members::of_group(&store.view(), &app(), &corp(), &chat_id()).unwrap().len();
    assert_eq!((members(), store.counts().contacts, store.counts().waiting), (100, 100, 100));
    store.append(arrival(ChatChange::Dismissed, T0)).await.unwrap();
    assert_eq!((members(), store.counts().contacts), (0, 100));
    assert_eq!(store.audit(), Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_customers_of_one_event_or_list_are_leased_together() {
    let customers: Vec<_> = (0..90).map(|n| ExternalUserid::new(format!("wm{n}")).unwrap()).collect();
    for is_list in [false, true] {
        let store = Arc::new(EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap());
        let (storing, customers) = (store.clone(), customers.clone());
        let storing = tokio::spawn(async move {
            if !is_list {
                let join = ChatChange::Joined { items: customers, is_complete: true, versions: None };
                return storing.append(arrival(join, T0)).await.map(drop);
            }
            storing.append(arrival(unnamed(), T0)).await?;
            let group = storing.due_chats(&BTreeSet::new(), LAG, 1).await?.remove(0);
            let place = SightingPlace::Chat(chat_id());
            let rows = customers.into_iter().map(|external_userid| Sighting {
                external_userid,
                place: place.clone(),
                since: Some(T0),
            });
            storing.chat_read(&group, rows.collect(), None, LAG).await.map(drop)
        });
        let mut leases = Vec::new();
        loop {
            let is_stored = storing.is_finished();
            leases.extend(Some(store.lease(LAG, 1_000, 0).await.unwrap().len()).filter(|n| *n > 0));
            if is_stored {
                break;
            }
            tokio::task::yield_now().await;
        }
        storing.await.unwrap().unwrap();
        assert_eq!(leases, [90]);
    }
}
