//! One person: everything stored about them, and their erasure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;
use crate::domain::audit::AuditBy;
use crate::domain::link::Source;

/// The encodings in which an id may be stored in a record.
fn forms(id: &str) -> Vec<Vec<u8>> {
    let packed = URL_SAFE_NO_PAD.decode(id).ok();
    [Some(id.as_bytes().to_vec()), packed].into_iter().flatten().collect()
}

/// The kinds of records that contain an id of this person.
fn traces_of(memory: &Memory, n: u8) -> Vec<(char, &'static str)> {
    let ids = [
        ("unionid", fan_key(n).unionid.as_str().to_owned()),
        ("openid", new_fan(n).openid.as_str().to_owned()),
        ("external_userid", customer(n).as_str().to_owned()),
        ("pending_id", pending(n).as_str().to_owned()),
    ];
    let mut found = Vec::new();
    for (key, value) in memory.rows() {
        for (what, id) in &ids {
            let inside = |bytes: &[u8]| {
                forms(id).iter().any(|form| bytes.windows(form.len()).any(|window| window == form))
            };
            if inside(&key) || inside(&value) {
                found.push((key[0] as char, *what));
            }
        }
    }
    found
}

/// A customer is added at `at`, and the event is received at once.
fn added_at(person: u8, dealer: u8, at: Timestamp) -> Arrival {
    let created_secs = at.millis_since(T0) / SECOND_MS;
    let event = event(person, dealer, 1, ContactChange::Added, created_secs);
    Arrival { received_at: at, ..arrival(event) }
}

/// A message to quarantine that names customer `n`.
fn stray(n: u8, created_at: Option<Timestamp>, received_at: Timestamp) -> Arrival {
    let message = format!("<xml><ExternalUserID>{}</ExternalUserID></xml>", customer(n).as_str());
    Arrival {
        app: app(),
        digest: MessageDigest::of(&app(), format!("{created_at:?} {message}").as_bytes()),
        received_at,
        payload: Payload::Quarantine {
            reason: QuarantineReason::ReceiveId,
            receive_id: "wwOTHER".to_owned(),
            created_at,
            message: message.into_bytes(),
            event: None,
        },
    }
}

async fn quarantine(store: &Tested, n: u8) {
    store.append(stray(n, Some(T0), T0)).await.unwrap();
}

#[tokio::test]
async fn an_erasure_removes_everything_about_one_person_and_nothing_else() {
    let memory = Memory::default();
    let store = memory.open().await;
    let reason = || FailureReason { errcode: Some(40_096), text: "no such customer".to_owned() };
    for n in 1..=3 {
        mint(&store, n, n, T0).await;
        for dealer in 1..=2 {
            store.append(added(n, dealer)).await.unwrap();
            settle_next(&store, T0, Outcome::Resolved(pending(n))).await;
        }
        // One of everything: a dead letter, a quarantined message, an event in the inbox.
        store.append(added(n, 3)).await.unwrap();
        settle_next(&store, T0, Outcome::Dead(reason())).await;
        quarantine(&store, n).await;
        store.append(added(n, 4)).await.unwrap();
        let due_at = T0.plus_ms(DAY_MS);
        settle_next(&store, T0, Outcome::Retry { due_at, reason: reason(), spent: true }).await;
    }
    let before = [traces_of(&memory, 1), traces_of(&memory, 3)];
    let request = Some("ticket 4711".to_owned());
    let receipt = store
        .forget(&PersonId::Unionid(fan_key(2).unionid), request.clone(), AuditBy::service(), T0)
        .await
        .unwrap();
    assert_eq!(traces_of(&memory, 2), []);
    assert_eq!([traces_of(&memory, 1), traces_of(&memory, 3)], before);
    let erased = Erased {
        fans: 1,
        contacts: 2,
        links: 2,
        events: 1,
        dead_letters: 1,
        quarantined: 1,
        feed_entries: 2,
    };
    assert_eq!((receipt.erased, &receipt.request), (erased, &request));
    assert_eq!(store.receipt(receipt.id).await.unwrap().as_ref(), Some(&receipt));
    assert_eq!(receipt.id.to_string().parse(), Ok(receipt.id));
    let Counts { inbox, dead, quarantined, contacts, links, feed_head, .. } = store.counts();
    assert_eq!((inbox, dead, quarantined, contacts, links), (2, 2, 2, 4, 4));
    assert_eq!(tally(&store).await.registered, 2);
    // The feed has no gap. The entries of the two links are replaced by `erased` ones, and two more are
    // appended.
    let feed = store.feed(0, 100, T0).await.unwrap();
    assert!(feed.iter().zip(1..).all(|(entry, seq)| entry.seq == seq) && feed.len() as u64 == feed_head);
    let gone: Vec<_> = feed.iter().filter(|entry| entry.change == ChangeType::Erased).collect();
    assert_eq!(gone.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3, 4, 7, 8]);
    assert_eq!(gone[0].data.link_id(), gone[0].id, "the entry keeps its id");
    assert_eq!(gone[2].data.link_id(), gone[0].data.link_id());
    assert!(gone.iter().all(|entry| entry.data.link().is_none()));
    // A repetition finds nothing left to erase.
    let again =
        store.forget(&PersonId::Unionid(fan_key(2).unionid), None, AuditBy::service(), T0).await.unwrap();
    assert_eq!((again.erased, &again.subject), (Erased::default(), &receipt.subject));
}

async fn an_erased_person_is_not_linked_until_registered_again(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    let at = T0.plus_ms(HOUR_MS);
    // One event is leased while the person is erased.
    store.append(added(1, 2)).await.unwrap();
    let leased = store.lease(T0, 1, 1).await.unwrap();
    store.forget(&PersonId::ExternalUserid(customer(1)), None, AuditBy::service(), at).await.unwrap();
    store.settle(vec![(leased[0].clone(), Outcome::Resolved(pending(1)))], at).await.unwrap();
    let store = reopen(place, store).await;
    assert_eq!((store.counts().contacts, store.counts().links), (0, 0));
    assert_eq!(store.person_data(fan_key(1).unionid.as_str()).await.unwrap().forgotten_at, Some(at));
    // WeCom repeats an old callback; later a new event arrives.
    assert_eq!(store.append(added(1, 1)).await, Ok(Appended::Duplicate));
    let later = at.plus_ms(HOUR_MS);
    store.append(added_at(1, 3, later)).await.unwrap();
    settle_next(&store, later, Outcome::Resolved(pending(1))).await;
    assert_eq!((store.counts().contacts, store.counts().links), (1, 0));
    mint(&store, 1, 1, later).await;
    assert_eq!(links_of(&store, LinkBy::ExternalUserid(customer(1))).await[0].unionid, fan_key(1).unionid);
    assert_eq!(store.counts().links, 1);
}

async fn an_old_event_that_is_repeated_does_not_restore_an_erased_person(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Missed).await;
    let at = T0.plus_ms(HOUR_MS);
    store.forget(&PersonId::ExternalUserid(customer(1)), None, AuditBy::service(), at).await.unwrap();
    let later = at.plus_ms(30 * DAY_MS);
    assert_eq!(store.sweep(later).await, Ok(1));
    let again = |payload| Arrival { received_at: later, payload, ..added(1, 1) };
    let event = event(1, 1, 1, ContactChange::Added, 0);
    let aside = Payload::Quarantine {
        reason: QuarantineReason::FarOff { created_at: event.created_at },
        receive_id: String::new(),
        created_at: Some(event.created_at),
        message: Vec::new(),
        event: Some(event.clone()),
    };
    for payload in [Payload::Event(event.clone()), aside] {
        assert_eq!(store.append(again(payload)).await, Ok(Appended::Forgotten));
    }
    let Counts { inbox, quarantined, contacts, .. } = store.counts();
    assert_eq!((inbox, quarantined, contacts), (0, 0, 0));
    // Nor does one that an operator redrives from quarantine.
    quarantine(&store, 2).await;
    let EventRow::Quarantined(row) = &store.events(EventState::Quarantined, EventId(0), 1).await.unwrap()[0]
    else {
        panic!("the quarantine is empty")
    };
    store.forget(&PersonId::ExternalUserid(customer(1)), None, AuditBy::service(), T0).await.unwrap();
    assert!(store.redrive(row.id, Some(Payload::Event(event)), later).await.unwrap());
    settle_next(&store, later, Outcome::Missed).await;
    assert_eq!(store.counts().contacts, 0);
    // A customer who is added again is kept, even if WeCom's clock is a little behind ours.
    let back = Arrival { received_at: at.plus_ms(MINUTE_MS), ..added_at(1, 1, at) };
    assert!(matches!(store.append(back).await, Ok(Appended::New(_))));
    settle_next(&store, later, Outcome::Missed).await;
    assert_eq!(store.counts().contacts, 1);
}

async fn a_message_about_an_erased_person_is_quarantined_only_if_it_is_from_after_the_erasure(
    place: &dyn Place,
) {
    let store = place.open().await;
    quarantine(&store, 1).await;
    quarantine(&store, 2).await;
    let at = T0.plus_ms(HOUR_MS);
    store.forget(&PersonId::ExternalUserid(customer(1)), None, AuditBy::service(), at).await.unwrap();
    assert_eq!(store.counts().quarantined, 1);
    let store = reopen(place, store).await;
    assert_eq!(store.append(stray(1, Some(T0), at)).await, Ok(Appended::Duplicate));
    let later = at.plus_ms(30 * DAY_MS);
    assert_eq!(store.sweep(later).await, Ok(2), "the deduplication records have expired");
    // It is sent again, arrives late, or does not say when it was sent.
    for (created_at, received_at) in [(Some(T0), later), (Some(at), at.plus_ms(1)), (None, later)] {
        assert_eq!(store.append(stray(1, created_at, received_at)).await, Ok(Appended::Forgotten));
    }
    assert_eq!(store.counts().quarantined, 1);
    // The person has come back, and another one was never erased.
    for arrival in [stray(1, Some(at.plus_ms(1)), later), stray(2, Some(T0), later), stray(2, None, later)] {
        assert!(matches!(store.append(arrival).await, Ok(Appended::New(_))));
    }
    assert_eq!(store.counts().quarantined, 4);
}

async fn a_fan_is_erased_when_it_turns_out_to_be_an_erased_customer(place: &dyn Place) {
    let store = place.open().await;
    // Three fans registered before, each of which turns out to be an erased customer in another way.
    mint(&store, 1, 1, T0).await;
    let asking = NewFan { ask_existing: true, ..new_fan(3) };
    store.put_fans(vec![new_fan(2), asking], T0).await.unwrap();
    let at = T0.plus_ms(HOUR_MS);
    for n in 1..=3 {
        store.forget(&PersonId::ExternalUserid(customer(n)), None, AuditBy::service(), at).await.unwrap();
    }
    let later = at.plus_ms(HOUR_MS);
    for n in 1..=2 {
        store.append(added_at(n, 1, later)).await.unwrap();
        settle_next(&store, later, Outcome::Resolved(pending(n))).await;
    }
    for work in lease_fans(&store, FanStep::Mint, later, 9).await {
        let n = if work.key == fan_key(2) { 2 } else { 3 };
        store.settle_fans(vec![(work, minted(n, later))], later).await.unwrap();
    }
    for work in lease_fans(&store, FanStep::AskExisting, later, 9).await {
        let existing = FanOutcome::Existing(vec![(corp(1), customer(3))]);
        store.settle_fans(vec![(work, existing)], later).await.unwrap();
    }
    assert_eq!((store.counts().links, tally(&store).await.registered), (0, 0));
    // Registered again, they are linked, waiting customers included.
    for n in 1..=2 {
        mint(&store, n, n, later).await;
    }
    assert_eq!(store.counts().links, 2);
}

async fn a_fan_registered_again_after_the_customer_was_erased_is_linked(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    let at = T0.plus_ms(HOUR_MS);
    store.forget(&PersonId::ExternalUserid(customer(1)), None, AuditBy::service(), at).await.unwrap();
    // The fan registers again before it is known to be that customer, and after the clock was set back.
    let later = at.plus_ms(HOUR_MS);
    let set_back = at.plus_ms(-HOUR_MS / 2);
    assert_eq!(store.put_fans(vec![new_fan(1)], set_back).await.unwrap(), [Registered::Known]);
    store.append(added_at(1, 1, later)).await.unwrap();
    settle_next(&store, later, Outcome::Resolved(pending(1))).await;
    assert_eq!((store.counts().links, tally(&store).await.registered), (1, 1));
    let store = reopen(place, store).await;
    assert_eq!(store.finish_forgetting(later).await, Ok(0));
    assert_eq!(links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.len(), 1);
}

async fn a_registration_that_another_replica_commits_late_does_not_undo_an_erasure(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    let begun = T0.plus_ms(HOUR_MS);
    let at = begun.plus_ms(1_000);
    store.forget(&PersonId::Unionid(fan_key(1).unionid), None, AuditBy::service(), at).await.unwrap();
    let late = store.put_fans(vec![new_fan(1), new_fan(2)], begun).await.unwrap();
    // The clock of one machine may have been set back. That of replicas is the database's.
    let expected = if store.replicas().is_some() { Registered::Forgotten } else { Registered::New };
    assert_eq!(late, [expected, Registered::New]);
    let is_there = !store.fans(&fan_key(1).unionid).await.unwrap().is_empty();
    assert_eq!(is_there, expected == Registered::New);
    let again = store.put_fans(vec![new_fan(1)], at.plus_ms(1)).await.unwrap();
    assert_eq!(again, [if is_there { Registered::Known } else { Registered::New }]);
}

async fn finishing_an_erasure_leaves_a_fan_who_registers_meanwhile(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    let at = T0.plus_ms(HOUR_MS);
    store.forget(&PersonId::ExternalUserid(customer(1)), None, AuditBy::service(), at).await.unwrap();
    store.append(added_at(1, 1, at.plus_ms(1))).await.unwrap();
    settle_next(&store, at.plus_ms(1), Outcome::Resolved(pending(1))).await;
    assert_eq!(tally(&store).await.registered, 0, "found to be the customer");
    let later = at.plus_ms(2);
    // Registered after the erasure looked for what it has to do.
    let (finished, registered) =
        tokio::join!(store.finish_forgetting(later), store.put_fans(vec![new_fan(1)], later));
    assert_eq!((finished.is_ok(), registered.unwrap()), (true, vec![Registered::New]));
    assert_eq!(tally(&store).await.registered, 1);
}

async fn finishing_an_erasure_removes_the_links_at_other_dealers_too(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    // Linked at one dealer, erased under the id of another dealer.
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    let at = T0.plus_ms(HOUR_MS);
    store.forget(&PersonId::ExternalUserid(customer(2)), None, AuditBy::service(), at).await.unwrap();
    store.append(added_at(2, 2, at.plus_ms(1))).await.unwrap();
    settle_next(&store, at.plus_ms(1), Outcome::Resolved(pending(1))).await;
    let store = reopen(place, store).await;
    assert_eq!((store.counts().links, tally(&store).await.registered), (1, 0));
    assert_eq!(store.finish_forgetting(at.plus_ms(2)).await, Ok(1));
    assert_eq!(store.counts().links, 0);
    let feed = store.feed(0, 9, T0).await.unwrap();
    assert!(feed.iter().all(|entry| entry.change == ChangeType::Erased), "{feed:?}");
    assert_eq!(store.finish_forgetting(at.plus_ms(3)).await, Ok(0), "only once");
}

#[tokio::test]
async fn damaged_records_are_erased_as_far_as_possible() {
    let memory = Memory::default();
    let store = memory.open().await;
    mint(&store, 1, 1, T0).await;
    for dealer in 1..=2 {
        store.append(added(1, dealer)).await.unwrap();
        settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    }
    for n in [1, 2] {
        quarantine(&store, n).await;
    }
    // A customer's record, and a part of a message about another person.
    for kind in [b"c", b"z"] {
        let key = store.keys_of(kind[0]).await.pop().unwrap();
        store.corrupt(&key).await;
    }
    assert!(store.person_data(customer(1).as_str()).await.is_ok());
    let receipt =
        store.forget(&PersonId::Unionid(fan_key(1).unionid), None, AuditBy::service(), T0).await.unwrap();
    assert_eq!((receipt.erased.fans, receipt.erased.contacts, receipt.erased.quarantined), (1, 2, 1));
    assert_eq!(traces_of(&memory, 1), []);
    assert_eq!((store.counts().links, store.counts().contacts), (0, 0));
}

async fn an_outcome_for_a_fan_erased_during_the_call_has_no_effect(place: &dyn Place) {
    let store = place.open().await;
    store.put_fans(vec![new_fan(1)], T0).await.unwrap();
    let before = lease_fans(&store, FanStep::Mint, T0, 9).await;
    store.forget(&PersonId::Unionid(fan_key(1).unionid), None, AuditBy::service(), T0).await.unwrap();
    let later = T0.plus_ms(1);
    store.put_fans(vec![new_fan(1)], later).await.unwrap();
    let after = lease_fans(&store, FanStep::Mint, later, 9).await;
    assert_eq!(after.len(), 1);
    store.settle_fans(vec![(before[0].clone(), minted(1, T0))], later).await.unwrap();
    assert_eq!(tally(&store).await.minted, 0, "it was leased under the earlier registration");
    assert_eq!(lease_fans(&store, FanStep::Mint, later, 9).await.len(), 0, "it is still leased");
    store.settle_fans(vec![(after[0].clone(), minted(1, later))], later).await.unwrap();
    assert_eq!(tally(&store).await.minted, 1);
}

async fn everything_stored_about_an_id_is_found_by_it(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    store.append(added(1, 2)).await.unwrap();
    store.append(added(2, 1)).await.unwrap();
    quarantine(&store, 1).await;
    let (fan, customer_1) = (fan_key(1), customer(1));
    for id in [fan.unionid.as_str(), customer_1.as_str()] {
        let data = store.person_data(id).await.unwrap();
        assert_eq!(data.fans.iter().map(|(key, _)| key).collect::<Vec<_>>(), [&fan], "{id}");
        assert_eq!(data.contacts.len(), 1);
        assert_eq!(data.contacts[0].1.link.as_ref().unwrap().source, Source::Callback);
        let waiting = data.events.iter().filter(|row| matches!(row, EventRow::Inbox(_))).count();
        assert_eq!(waiting, 1);
    }
    assert_eq!(
        store.person_data(customer_1.as_str()).await.unwrap().events.len(),
        2,
        "the quarantined message contains the id"
    );
    let unknown = store.person_data("oNOBODY").await.unwrap();
    assert!(unknown.fans.is_empty() && unknown.contacts.is_empty() && unknown.events.is_empty());
}

contract!(
    an_erased_person_is_not_linked_until_registered_again,
    an_old_event_that_is_repeated_does_not_restore_an_erased_person,
    a_message_about_an_erased_person_is_quarantined_only_if_it_is_from_after_the_erasure,
    a_fan_is_erased_when_it_turns_out_to_be_an_erased_customer,
    a_fan_registered_again_after_the_customer_was_erased_is_linked,
    a_registration_that_another_replica_commits_late_does_not_undo_an_erasure,
    finishing_an_erasure_leaves_a_fan_who_registers_meanwhile,
    finishing_an_erasure_removes_the_links_at_other_dealers_too,
    an_outcome_for_a_fan_erased_during_the_call_has_no_effect,
    everything_stored_about_an_id_is_found_by_it,
);

/// A step in a history with an erasure at its end.
#[derive(Debug, Clone)]
enum Step {
    Mint(u8),
    Add(u8, u8),
    /// An event resolved to another pending id than before.
    Another(u8, u8),
    Miss(u8, u8),
    DeadLetter(u8, u8),
    Quarantine(u8),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        3 => (0_u8..3).prop_map(Step::Mint),
        4 => (0_u8..3, 0_u8..2).prop_map(|(n, dealer)| Step::Add(n, dealer)),
        1 => (0_u8..3, 0_u8..2).prop_map(|(n, dealer)| Step::Another(n, dealer)),
        1 => (0_u8..3, 0_u8..2).prop_map(|(n, dealer)| Step::Miss(n, dealer)),
        1 => (0_u8..3, 0_u8..2).prop_map(|(n, dealer)| Step::DeadLetter(n, dealer)),
        1 => (0_u8..3).prop_map(Step::Quarantine),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(one, 0..20)
}

async fn run(steps: &[Step], by_unionid: bool) {
    let memory = Memory::default();
    let mut store = memory.open().await;
    for (step, at) in steps.iter().zip(1..) {
        let outcome = match step {
            Step::Mint(n) => {
                store.put_fans(vec![new_fan(*n)], T0).await.unwrap();
                for work in lease_fans(&store, FanStep::Mint, T0, 1).await {
                    store.settle_fans(vec![(work, minted(*n, T0))], T0).await.unwrap();
                }
                continue;
            }
            Step::Quarantine(n) => {
                quarantine(&store, *n).await;
                continue;
            }
            Step::Restart => {
                store = reopen(&memory, store).await;
                continue;
            }
            Step::Add(n, _) => Outcome::Resolved(pending(*n)),
            Step::Another(n, _) => Outcome::Resolved(PendingId::new(format!("pend{n}-again")).unwrap()),
            Step::Miss(..) => Outcome::Missed,
            Step::DeadLetter(..) => Outcome::Dead(FailureReason { errcode: None, text: String::new() }),
        };
        let (Step::Add(n, dealer)
        | Step::Another(n, dealer)
        | Step::Miss(n, dealer)
        | Step::DeadLetter(n, dealer)) = step
        else {
            continue;
        };
        store.append(arrival(event(*n, *dealer, 1, ContactChange::Added, at))).await.unwrap();
        for work in store.lease(T0, 9, 9).await.unwrap() {
            store.settle(vec![(work, outcome.clone())], T0).await.unwrap();
        }
    }
    let others = [traces_of(&memory, 0), traces_of(&memory, 2)];
    // By both ids: an unlinked customer and a fan are not known to be the same person.
    let (fan, contact) = (PersonId::Unionid(fan_key(1).unionid), PersonId::ExternalUserid(customer(1)));
    for person in if by_unionid { [fan, contact] } else { [contact, fan] } {
        store.forget(&person, None, AuditBy::service(), T0).await.unwrap();
    }
    assert_eq!(traces_of(&memory, 1), []);
    assert_eq!([traces_of(&memory, 0), traces_of(&memory, 2)], others);
    let store = reopen(&memory, store).await;
    let feed = store.feed(0, 1_000, T0).await.unwrap();
    assert!(feed.iter().zip(1..).all(|(entry, seq)| entry.seq == seq), "the feed has a gap");
    let mut links = std::collections::BTreeSet::new();
    for entry in &feed {
        match entry.change {
            ChangeType::Erased => links.remove(entry.data.link_id()),
            _ => links.insert(entry.data.link_id()),
        };
    }
    assert_eq!(links.len() as u64, store.counts().links, "a reader of the feed ends up with the links");
    assert_eq!(all_links(&store).await, store.counts().links);
}

async fn all_links(store: &Tested) -> u64 {
    let mut scan = store.scan_links().await.unwrap();
    let mut all = 0;
    while let Some(some) = scan.next(T0).await.unwrap() {
        all += some.len() as u64;
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn after_any_history_an_erasure_removes_everything_about_one_person_and_nothing_else(
        steps in steps(), by_unionid: bool
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&steps, by_unionid));
    }
}
