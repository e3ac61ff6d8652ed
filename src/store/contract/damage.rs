//! A damaged record is skipped and counted, and delays nothing but itself: its neighbours are found, listed,
//! exported and erased.

use super::*;
use crate::domain::audit::{AuditAction, AuditBy, AuditEntry};
use crate::store::embedded::row_keys as keys;

async fn dead_letter(store: &Tested, person: u8) -> EventId {
    store.append(added(person, 1)).await.unwrap();
    settle_next(store, T0, Outcome::Dead(FailureReason { errcode: None, text: String::new() })).await;
    EventId(store.counts().event_head)
}

async fn quarantined(store: &Tested, n: u8, message: Vec<u8>) -> EventId {
    let payload = Payload::Quarantine {
        reason: QuarantineReason::ReceiveId,
        receive_id: "wwOTHER".to_owned(),
        created_at: None,
        message,
        event: None,
    };
    let arrival = Arrival { app: app(), digest: MessageDigest([n; 16]), received_at: T0, payload };
    let Ok(Appended::New(id)) = store.append(arrival).await else { panic!("not quarantined") };
    id
}

fn number_of(row: &EventRow) -> EventId {
    match row {
        EventRow::Inbox(event) | EventRow::Dead { event, .. } => event.id,
        EventRow::Quarantined(quarantined) => quarantined.id,
    }
}

async fn listed(store: &Tested, state: EventState) -> Vec<EventId> {
    store.events(state, EventId(0), 9).await.unwrap().iter().map(number_of).collect()
}

async fn a_damaged_event_hides_none_of_the_others_in_the_inbox(place: &dyn Place) {
    let store = place.open().await;
    for person in 1..=3 {
        let received_at = T0.plus_ms(i64::from(person));
        store.append(Arrival { received_at, ..added(person, 1) }).await.unwrap();
    }
    store.corrupt(&keys::inbox(T0.plus_ms(1), EventId(1))).await;
    assert_eq!(store.oldest_event().await, Ok(Some(T0.plus_ms(2))));
    assert_eq!(listed(&store, EventState::Waiting).await, [EventId(2), EventId(3)]);
    assert_eq!(store.lease(T0.plus_ms(9), 9, 9).await.unwrap().len(), 2);
    store.corrupt(&keys::inbox(T0.plus_ms(2), EventId(2))).await;
    assert_eq!(listed(&store, EventState::Leased).await, [EventId(3)]);
    assert_eq!(store.damaged_records(), 2);
}

async fn a_damaged_event_hides_none_of_the_others_that_are_kept_for_an_operator(place: &dyn Place) {
    let store = place.open().await;
    let (mut dead, mut aside) = (Vec::new(), Vec::new());
    for n in 1..=3 {
        dead.push(dead_letter(&store, n).await);
        aside.push(quarantined(&store, n, vec![n; 7_000]).await);
    }
    for id in [dead[0], aside[1]] {
        store.corrupt(&keys::set_aside(id)).await;
    }
    assert_eq!(listed(&store, EventState::Dead).await, dead[1..]);
    assert_eq!(listed(&store, EventState::Quarantined).await, [aside[0], aside[2]]);
    assert_eq!(store.damaged_records(), 2);
    assert_eq!(store.quarantined_message(aside[0]).await, Ok(Some(vec![1; 7_000])));
    assert_eq!(store.sweep_quarantine(T0.plus_ms(31 * DAY_MS)).await, (2, Ok(())));
}

async fn a_damaged_customer_hides_none_of_the_persons_other_links(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    for dealer in 1..=3 {
        store.append(added(1, dealer)).await.unwrap();
        settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    }
    store.corrupt(&keys::contact(&contact_key(1, 2))).await;
    let by = [
        LinkBy::Unionid(fan_key(1).unionid),
        LinkBy::ExternalUserid(customer(1)),
        LinkBy::PendingId(pending(1)),
    ];
    for by in by {
        let corps: Vec<_> = links_of(&store, by).await.into_iter().map(|link| link.corp_id).collect();
        assert_eq!(corps, [corp(1), corp(3)]);
    }
    let contacts = store.person_data(fan_key(1).unionid.as_str()).await.unwrap().contacts;
    assert_eq!(contacts.into_iter().map(|(key, _)| key.corp_id).collect::<Vec<_>>(), [corp(1), corp(3)]);
    let mut scan = store.scan_links().await.unwrap();
    let mut exported = 0;
    while let Some(page) = scan.next(T0).await.unwrap() {
        exported += page.len();
    }
    assert_eq!((exported, store.damaged_records()), (2, 1));
}

async fn a_damaged_record_of_fans_hides_nothing_else_about_a_person(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    store.corrupt(&keys::sheet(0)).await;
    let data = store.person_data(customer(1).as_str()).await.unwrap();
    assert_eq!((data.fans.len(), data.contacts.len(), store.damaged_records()), (0, 1, 1));
}

async fn a_damaged_entry_hides_none_of_the_others_in_the_audit_trail(place: &dyn Place) {
    let store = place.open().await;
    for n in 1..=3 {
        store.record(AuditEntry::new(T0.plus_ms(n), AuditBy::service(), AuditAction::Export)).await.unwrap();
    }
    store.corrupt(&keys::audit_entry(2)).await;
    let numbers: Vec<_> = store.trail(0, 9).await.unwrap().into_iter().map(|(number, _)| number).collect();
    assert_eq!((numbers, store.damaged_records()), (vec![1, 3], 1));
}

async fn a_quarantined_message_is_erased_by_what_is_left_of_its_text(place: &dyn Place) {
    let store = place.open().await;
    let named = [vec![b' '; 4_000], customer(1).as_str().as_bytes().to_vec()].concat();
    let id = quarantined(&store, 1, named).await;
    let other = quarantined(&store, 2, vec![b' '; 4_000]).await;
    for id in [id, other] {
        store.corrupt(&keys::message_part(id, 0)).await;
    }
    let person = PersonId::ExternalUserid(customer(1));
    let receipt = store.forget(&person, None, AuditBy::service(), T0).await.unwrap();
    assert_eq!((receipt.erased.quarantined, store.counts().quarantined), (1, 1));
    assert!(matches!(store.quarantined_message(other).await, Err(StoreError::Damaged(_))));
}

async fn an_erasure_that_damage_prevents_delays_no_other(place: &dyn Place) {
    let store = place.open().await;
    // Fan 1 is in another app too, on a sheet that is full.
    let other = AppName::new("other").unwrap();
    let of_other = |n| NewFan { key: FanKey { app: other.clone(), ..fan_key(n) }, ..new_fan(n) };
    store.put_fans([1].into_iter().chain(100..115).map(of_other).collect(), T0).await.unwrap();
    mint(&store, 1, 1, T0).await;
    mint(&store, 2, 2, T0).await;
    let at = T0.plus_ms(HOUR_MS);
    let erase =
        async |n| store.forget(&PersonId::ExternalUserid(customer(n)), None, AuditBy::service(), at).await;
    for n in 1..=2 {
        erase(n).await.unwrap();
        // Each turns out to be a customer who was forgotten.
        let later = at.plus_ms(1);
        store
            .append(Arrival { received_at: later, ..arrival(event(n, 1, 1, ContactChange::Added, 3_600)) })
            .await
            .unwrap();
        settle_next(&store, later, Outcome::Resolved(pending(n))).await;
    }
    store.corrupt(&keys::sheet(0)).await;
    assert_eq!(store.finish_forgetting(at.plus_ms(2)).await, Ok(1), "that of fan 2");
    assert_eq!(store.damaged_records(), 1);
    assert_eq!(store.finish_forgetting(at.plus_ms(3)).await, Ok(0));
}

contract!(
    a_damaged_event_hides_none_of_the_others_in_the_inbox,
    a_damaged_event_hides_none_of_the_others_that_are_kept_for_an_operator,
    a_damaged_customer_hides_none_of_the_persons_other_links,
    a_damaged_record_of_fans_hides_nothing_else_about_a_person,
    a_damaged_entry_hides_none_of_the_others_in_the_audit_trail,
    a_quarantined_message_is_erased_by_what_is_left_of_its_text,
    an_erasure_that_damage_prevents_delays_no_other,
);
