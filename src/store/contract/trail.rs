//! The audit trail.

use super::*;
use crate::domain::audit::{AuditAction, AuditBy, AuditEntry};

fn entry(at: Timestamp) -> AuditEntry {
    let by = AuditBy { token: "reader".to_owned(), source: Some([10, 0, 0, 1].into()) };
    AuditEntry::new(at, by, AuditAction::Export).count("links", 7).about("format", "csv")
}

async fn entries_are_numbered_in_their_order_and_survive_a_restart(place: &dyn Place) {
    let store = place.open().await;
    assert_eq!(store.trail(0, 9).await, Ok(Vec::new()));
    for n in 1..=3 {
        assert_eq!(store.record(entry(T0.plus_ms(n))).await, Ok(n.cast_unsigned()));
    }
    let store = reopen(place, store).await;
    assert_eq!(store.record(entry(T0)).await, Ok(4), "the clock was set back");
    let all = store.trail(0, 9).await.unwrap();
    assert_eq!(all.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(all[1], (2, entry(T0.plus_ms(2))));
    let page = store.trail(1, 2).await.unwrap();
    assert_eq!(page.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(store.trail(4, 9).await, Ok(Vec::new()));
    assert_eq!(store.trail(u64::MAX, 9).await, Ok(Vec::new()));
}

async fn old_entries_are_deleted_and_numbers_go_on(place: &dyn Place) {
    let store = place.open().await;
    for n in 0..200 {
        store.record(entry(T0.plus_ms(n))).await.unwrap();
    }
    assert_eq!(store.prune_trail(T0.plus_ms(190)).await, Ok(190));
    assert_eq!(store.prune_trail(T0.plus_ms(190)).await, Ok(0));
    assert_eq!(store.trail(0, 1).await.unwrap(), [(191, entry(T0.plus_ms(190)))]);
    assert_eq!(store.prune_trail(T0.plus_ms(DAY_MS)).await, Ok(10));
    let store = reopen(place, store).await;
    assert_eq!(store.record(entry(T0)).await, Ok(201));
}

async fn an_erasure_is_in_the_trail_with_its_receipt(place: &dyn Place) {
    let store = place.open().await;
    store.put_fans(vec![new_fan(1)], T0).await.unwrap();
    let by = AuditBy { token: "privacy".to_owned(), source: None };
    let person = PersonId::Unionid(fan_key(1).unionid);
    let receipt = store.forget(&person, None, by.clone(), T0).await.unwrap();
    let [(1, found)] = &store.trail(0, 9).await.unwrap()[..] else { panic!() };
    assert_eq!((found.action, &found.by, found.at), (AuditAction::Erase, &by, T0));
    assert_eq!((found.counts["fans"], &found.about["receipt"]), (1, &receipt.id.to_string()));
    assert!(!format!("{found:?}").contains(fan_key(1).unionid.as_str()));
}

contract!(
    entries_are_numbered_in_their_order_and_survive_a_restart,
    old_entries_are_deleted_and_numbers_go_on,
    an_erasure_is_in_the_trail_with_its_receipt,
);

#[tokio::test]
async fn numbers_go_on_after_the_newest_entry_if_their_record_is_lost() {
    let memory = Memory::default();
    let store = memory.open().await;
    for _ in 0..3 {
        store.record(entry(T0)).await.unwrap();
    }
    store.close().await;
    let head = memory.rows().into_iter().find(|(key, _)| key.starts_with(b"mtrail")).unwrap().0;
    memory.overwrite(&[(head, Some(b"damaged".to_vec()))]);
    let store = memory.open().await;
    assert_eq!(store.record(entry(T0)).await, Ok(4));
}
