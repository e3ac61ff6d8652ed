//! One damaged record, or key, stops none of its neighbours: it is skipped and counted.
//!
//! Keys have no checksum, but a damaged page can hold one that does not parse.

use std::collections::BTreeSet;

use super::super::embedded::checked;
use super::*;
use crate::domain::chat::{CHAT_LAG_MS, ChatChange, ChatEvent};
use crate::domain::event::{AppAlarm, AppAlarmKind};
use crate::domain::fan::Renew;
use crate::domain::ids::ChatId;
use crate::domain::reconcile::ReconcileTask;
use crate::domain::sealed::Sealed;
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::suite::{CodeId, CodeKind, SuiteChange, SuiteEvent};

/// Flips a bit of the record number `n` of a kind.
async fn damage(store: &Tested, kind: u8, n: usize) {
    let key = store.keys_of(kind).await.swap_remove(n);
    store.corrupt(&key).await;
}

/// Puts a key that does not parse before all that begin with `prefix`.
async fn damage_key(store: &Tested, prefix: &[u8]) {
    store.overwrite(prefix, Some(Vec::new())).await;
}

/// The same with the value of the first record of its kind.
async fn damage_key_alone(store: &Tested, prefix: &[u8]) {
    let mut value = store.value_of(&store.keys_of(prefix[0]).await[0]).await;
    value.truncate(value.len() - 4);
    store.overwrite(prefix, Some(checked(prefix, value))).await;
}

async fn open() -> Tested {
    Memory::default().open().await
}

fn chat_id(n: u8) -> ChatId {
    ChatId::new(format!("wrCHAT{n}")).unwrap()
}

fn chat_arrival(chat: u8, change: ChatChange) -> Arrival {
    let event = ChatEvent { corp_id: corp(1), created_at: T0, chat_id: chat_id(chat), change };
    let digest = MessageDigest::of(&app(), format!("{event:?}").as_bytes());
    Arrival { app: app(), digest, received_at: T0, payload: Payload::Chat(event) }
}

fn joined(people: &[u8]) -> ChatChange {
    let items = people.iter().map(|n| customer(*n)).collect();
    ChatChange::Joined { items, is_complete: true, versions: None }
}

#[tokio::test]
async fn dealers_are_listed_without_a_damaged_one() {
    let store = open().await;
    let listed = (1..=3).map(|n| Dealer::listed(corp(n), 1_000_000, format!("dealer {n}"), T0));
    store.put_dealers(&app(), listed.collect()).await.unwrap();
    damage(&store, b'h', 1).await;
    let corps: Vec<_> = store.dealers(&app()).await.unwrap().into_iter().map(|d| d.corp_id).collect();
    assert_eq!(corps, [corp(1), corp(3)]);
    assert_eq!(store.dealer_rows(&app()).await.unwrap().len(), 2);
    assert_eq!(store.damaged_records(), 1);
}

#[tokio::test]
async fn alarms_reports_and_tasks_are_listed_without_a_damaged_one() {
    let store = open().await;
    for n in 1..=2 {
        let alarm =
            AppAlarm { corp_id: corp(n), kind: AppAlarmKind::InactiveAlert, created_at: T0, effect_at: None };
        let digest = MessageDigest([n; 16]);
        store.append(Arrival { digest, payload: Payload::Alarm(alarm), ..added(n, n) }).await.unwrap();
        let digest = MessageDigest([10 + n; 16]);
        let report = Arrival { digest, payload: Payload::Visibility(corp(n)), ..added(n, n) };
        store.append(report).await.unwrap();
    }
    store.begin_reconcile(vec![(app(), corp(1)), (app(), corp(2))], T0).await.unwrap();
    damage(&store, b'A', 0).await;
    for kind in [b"A", b"v", b"T"] {
        damage_key(&store, kind).await;
    }
    damage_key(&store, b"Tbrand\0").await;
    let alarms = store.alarms().await.unwrap();
    assert_eq!(alarms.into_iter().map(|(_, alarm)| alarm.corp_id).collect::<Vec<_>>(), [corp(2)]);
    assert_eq!(store.visibility_changes().await.unwrap().len(), 2);
    assert_eq!(store.reconcile_tasks(&app()).await.unwrap().len(), 2);
    store.end_tasks_of_others(&[], T0).await.unwrap();
    assert_eq!(store.reconcile_tasks(&app()).await.unwrap(), []);
    assert_eq!(store.damaged_records(), 5);
}

#[tokio::test]
async fn customers_are_compared_without_a_damaged_one() {
    let store = open().await;
    let followed = |person: u8| {
        let user_id = UserId::new("member").unwrap();
        let place = SightingPlace::Follower { user_id, state: None };
        Sighting { external_userid: customer(person), place, since: Some(T0) }
    };
    store.begin_reconcile(vec![(app(), corp(1))], T0).await.unwrap();
    store
        .page_read(&app(), &corp(1), (1..=3).map(followed).collect(), ReconcileTask::new(), T0)
        .await
        .unwrap();
    let begun_at = T0.plus_ms(HOUR_MS);
    damage_key(&store, &[&b"obrand\0"[..], corp(1).as_str().as_bytes(), b"\0"].concat()).await;
    let (present, missing) = store.missing_followers(&app(), &corp(1), begun_at).await.unwrap();
    assert_eq!((present, missing.len()), (3, 3));
    // Damaged since.
    damage(&store, b'c', 0).await;
    store.remove_followers(&app(), &corp(1), missing, begun_at, begun_at).await.unwrap();
    assert_eq!(store.missing_followers(&app(), &corp(1), begun_at).await, Ok((0, vec![])));
    assert_eq!(store.look_up_again(&app(), &corp(1), true, T0.plus_ms(-1)).await, Ok(2));
    assert_eq!(store.damaged_records(), 2);
}

#[tokio::test]
async fn groups_are_read_and_left_without_a_damaged_one() {
    let store = open().await;
    store.append(chat_arrival(1, joined(&[1, 2]))).await.unwrap();
    let now = T0.plus_ms(CHAT_LAG_MS);
    damage_key(&store, b"j").await;
    assert_eq!(store.next_chat_due().await, Ok(Some(now)));
    let group = store.due_chats(&BTreeSet::new(), now, 9).await.unwrap().pop().expect("a group is due");
    damage_key(&store, &[&b"M"[..], chat_id(1).as_str().as_bytes(), b"\0"].concat()).await;
    store.chat_not_found(&group, now).await.unwrap();
    store.chat_not_found(&group, now).await.unwrap();
    store.append(chat_arrival(1, ChatChange::Dismissed)).await.unwrap();
    assert!(store.keys_of(b'M').await.len() == 1, "all have left the group");
    store.append(chat_arrival(2, ChatChange::Created)).await.unwrap();
    let group = store.due_chats(&BTreeSet::new(), now, 9).await.unwrap().pop().expect("a group is due");
    store.chat_unread(&group, Some(now.plus_ms(HOUR_MS))).await.unwrap();
    assert_eq!(store.read_chats_again(&app(), &corp(1), now).await, Ok(1));
}

#[tokio::test]
async fn a_suite_is_listed_without_damaged_records() {
    let store = open().await;
    let suite = AppName::new("agency").unwrap();
    for n in 1..=3 {
        let code = Sealed { key: [n; 8], nonce: [n; 12], text: vec![n; 20] };
        let id = CodeId::of(&suite, &format!("code{n}"));
        let change = SuiteChange::Code { kind: CodeKind::Create, id, code };
        let payload = Payload::Suite(SuiteEvent { sent_at: T0, change });
        let digest = MessageDigest([n; 16]);
        store.append(Arrival { app: suite.clone(), digest, received_at: T0, payload }).await.unwrap();
    }
    store.bind(&app(), &corp(1)).await.unwrap();
    damage_key_alone(&store, b"Eagency\0").await;
    damage(&store, b'E', 2).await;
    let records = store.suite(&suite).await.unwrap();
    assert_eq!(records.exchanges.len(), 2);
    damage_key_alone(&store, b"B").await;
    assert_eq!(store.bindings().await.unwrap().into_iter().collect::<Vec<_>>(), [(app(), corp(1))]);
    assert_eq!(store.damaged_records(), 3);
}

#[tokio::test]
async fn work_is_leased_and_waited_for_without_a_damaged_row() {
    let store = open().await;
    for kind in [b"i", b"y", b"w"] {
        damage_key(&store, kind).await;
    }
    store.append(added(1, 1)).await.unwrap();
    store.append(chat_arrival(1, joined(&[2]))).await.unwrap();
    assert_eq!(store.next_due().await, Ok(Some(T0)));
    assert_eq!(store.lease(T0, 9, 9).await.unwrap().len(), 2);
    assert_eq!(store.next_due().await, Ok(None));
    store.shift_waits(HOUR_MS, T0.plus_ms(-1)).await.unwrap();
    assert_eq!(store.damaged_records(), 3);
}

#[tokio::test]
async fn fans_are_found_counted_and_leased_without_a_damaged_record() {
    let store = open().await;
    let other = AppName::new("other").unwrap();
    let of_other = NewFan { key: FanKey { app: other.clone(), ..fan_key(1) }, ..new_fan(1) };
    let fans: Vec<_> = (1..=20).map(new_fan).collect();
    store.put_fans(fans, T0).await.unwrap();
    store.put_fans(vec![of_other], T0).await.unwrap();
    // The first sheet, with the fans 1 to 16 of the first app.
    damage(&store, b'n', 0).await;
    let found = store.fans(&fan_key(1).unionid).await.unwrap();
    assert_eq!(found.into_iter().map(|(key, _)| key.app).collect::<Vec<_>>(), [other]);
    damage_key(&store, b"l").await;
    assert_eq!(store.fan_tallies().await.unwrap().len(), 2);
    let queue = [FanStep::Mint as u8, Priority::Live as u8];
    damage_key(&store, &[&b"tbrand\0"[..], &queue].concat()).await;
    assert_eq!(store.next_fan_due(&app(), FanStep::Mint, &Priority::ALL).await, Ok(Some(T0)));
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 99).await.len(), 4);
    store.shift_waits(HOUR_MS, T0.plus_ms(-1)).await.unwrap();
    let page = store.list_fans(&FanFilter::default(), 0, 99, T0).await.unwrap();
    assert_eq!(page.fans.len(), 5);
}

#[tokio::test]
async fn fans_are_reviewed_behind_a_damaged_record_of_the_timeline() {
    let store = open().await;
    let fans = |days: i64, ns: std::ops::Range<u8>| {
        let minted = Some(Minted::new(pending(200), T0.plus_ms(days * DAY_MS)));
        ns.map(move |n| NewFan {
            minted: minted.clone().map(|m| Minted { pending_id: pending(n), ..m }),
            ..new_fan(n)
        })
    };
    store.put_fans(fans(-3, 1..3).collect(), T0).await.unwrap();
    store.put_fans(fans(-1, 3..5).collect(), T0).await.unwrap();
    damage(&store, b'r', 0).await;
    assert_eq!(store.review_fans(&app(), Renew::All, T0.plus_ms(89 * DAY_MS)).await, Ok(2));
}

#[tokio::test]
async fn customers_who_were_found_for_a_fan_are_linked_beside_a_damaged_one() {
    let store = open().await;
    for person in 1..=3 {
        store.append(added(person, 1)).await.unwrap();
        settle_next(&store, T0, Outcome::Applied).await;
    }
    let fan = NewFan { ask_existing: true, minted: Some(Minted::new(pending(1), T0)), ..new_fan(1) };
    store.put_fans(vec![fan], T0).await.unwrap();
    damage(&store, b'c', 1).await;
    let work = lease_fans(&store, FanStep::AskExisting, T0, 9).await.pop().unwrap();
    let found = FanOutcome::Existing((1..=3).map(|n| (corp(1), customer(n))).collect());
    store.settle_fans(vec![(work, found)], T0).await.unwrap();
    assert_eq!(store.counts().links, 2);
    let linked: BTreeSet<_> = links_of(&store, LinkBy::Unionid(fan_key(1).unionid))
        .await
        .into_iter()
        .map(|link| link.external_userid)
        .collect();
    assert_eq!(linked, BTreeSet::from([customer(1), customer(3)]));
    assert_eq!(lease_fans(&store, FanStep::AskExisting, T0, 9).await, []);
}
