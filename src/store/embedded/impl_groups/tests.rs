//! Damaged records of groups, and joins of more customers than one transaction takes.

use std::sync::Arc;

use super::*;
use crate::domain::chat::{CHAT_ITEMS_MAX, CHAT_LAG_MS, ChatChange};
use crate::domain::event::QuarantineReason;
use crate::domain::ids::{ChatId, ExternalUserid};
use crate::domain::sighting::SightingPlace;
use crate::domain::time::HOUR_MS;
use crate::store::embedded::Settings;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::opening::NoDisk;
use crate::store::embedded::rows::keys;
use crate::store::embedded::wal::Limited;
use crate::store::{Appended, Arrival, MessageDigest, Payload, Store as _};

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
    let due = store.due_chats(LAG, 10).await.unwrap();
    assert_eq!(due.iter().map(|group| group.chat.is_due_at(now)).collect::<Vec<_>>(), [true]);
    store.chat_read(&due[0], Vec::new(), None, now).await.unwrap();
    assert_eq!(store.due_chats(LAG, 10).await, Ok(vec![]));
    assert_eq!((store.next_chat_due().await, store.audit()), (Ok(None), Ok(vec![])));
}

#[tokio::test]
async fn a_group_whose_record_is_damaged_is_read_all_the_same() {
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    store.append(arrival(ChatChange::Created, T0)).await.unwrap();
    store.corrupt(&keys::chat(&app(), &corp(), &chat_id()));
    assert_eq!(store.due_chats(LAG, 10).await, Ok(vec![]));
    let due_at = LAG.plus_ms(CHAT_LAG_MS);
    assert_eq!(store.next_chat_due().await, Ok(Some(due_at)));
    assert_eq!(store.due_chats(due_at, 10).await.unwrap().len(), 1);
    assert_eq!(store.audit(), Ok(vec![]));
}

fn open(memory: &Memory, commits_left: usize) -> (EmbeddedStore, Limited) {
    let log = Limited::new(memory, commits_left);
    let store =
        EmbeddedStore::over(memory.clone(), Box::new(log.clone()), Box::new(NoDisk), Settings::default());
    (store.unwrap(), log)
}

#[tokio::test]
async fn a_join_of_many_is_applied_in_small_commits_and_again_after_a_crash_in_between() {
    let customers = (0..CHAT_ITEMS_MAX).map(|n| ExternalUserid::new(format!("wm{n}")).unwrap());
    let join = ChatChange::Joined { items: customers.collect(), is_complete: true, versions: None };
    let quarantine = Payload::Quarantine {
        reason: QuarantineReason::ReceiveId,
        receive_id: "wwOTHER".to_owned(),
        created_at: None,
        message: vec![1],
        event: None,
    };
    for is_redriven in [false, true] {
        let memory = Memory::default();
        let (store, _) = open(&memory, 5);
        let mut id = None;
        if is_redriven {
            let quarantined = Arrival { payload: quarantine.clone(), ..arrival(join.clone(), T0) };
            let Ok(Appended::New(new)) = store.append(quarantined).await else { panic!("not appended") };
            id = Some(new);
        }
        let apply = async |store: &EmbeddedStore| match id {
            Some(id) => {
                let Payload::Chat(event) = arrival(join.clone(), T0).payload else { unreachable!() };
                store.redrive(id, Some(Payload::Chat(event)), T0).await
            }
            None => store.append(arrival(join.clone(), T0)).await.map(|done| done != Appended::Duplicate),
        };
        assert!(apply(&store).await.is_err());
        store.close().await;
        let (store, log) = open(&memory, usize::MAX);
        let waiting = store.counts().waiting;
        assert!((1..100).contains(&waiting), "{waiting}");
        assert_eq!(store.audit(), Ok(vec![]));
        assert_eq!(apply(&store).await, Ok(true));
        assert_eq!((store.counts().contacts, store.counts().waiting), (100, 100));
        assert_eq!(store.lease(T0, 1_000, 0).await.unwrap().len(), 100);
        assert!(log.largest() <= 100, "{}", log.largest());
        assert_eq!(apply(&store).await, Ok(false));
        assert_eq!(chat_members::of_group(&store.view(), &app(), &corp(), &chat_id()).unwrap().len(), 100);
        assert_eq!(store.audit(), Ok(vec![]));
    }
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
            let group = storing.due_chats(LAG, 1).await?.remove(0);
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
