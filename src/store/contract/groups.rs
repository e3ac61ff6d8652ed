//! Customer groups: events applied as they arrive, readings of member lists, lookups through a group.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::audit::AuditBy;
use crate::domain::backoff::REASK_AFTER_MS;
use crate::domain::chat::{CHAT_LAG_MS, ChatChange, ChatEvent, MemberVersion, Versions};
use crate::domain::contact::CHATS_MAX;
use crate::domain::ids::ChatId;
use crate::domain::link::Source;
use crate::domain::reconcile::ReconcileTask;
use crate::domain::sighting::{Sighting, SightingPlace};

fn chat_id(n: u8) -> ChatId {
    ChatId::new(format!("wrCHAT{n}")).unwrap()
}

fn version(n: u8) -> MemberVersion {
    MemberVersion(format!("{n:032x}"))
}

fn chat_arrival(chat: u8, change: ChatChange) -> Arrival {
    let event = ChatEvent { corp_id: corp(1), created_at: T0, chat_id: chat_id(chat), change };
    let digest = MessageDigest::of(&app(), format!("{event:?}").as_bytes());
    Arrival { app: app(), digest, received_at: T0, payload: Payload::Chat(event) }
}

fn joined(people: &[u8], before: u8) -> ChatChange {
    ChatChange::Joined {
        items: people.iter().map(|n| customer(*n)).collect(),
        is_complete: true,
        versions: Some(Versions { before: version(before), after: version(before + 1) }),
    }
}

fn left(people: &[u8], before: u8) -> ChatChange {
    ChatChange::Left {
        items: people.iter().map(|n| customer(*n)).collect(),
        is_complete: true,
        versions: Some(Versions { before: version(before), after: version(before + 1) }),
    }
}

/// The groups that a customer is held to be in.
async fn chats_of(store: &Tested, person: u8) -> Vec<ChatId> {
    let data = store.person_data(customer(person).as_str()).await.unwrap();
    data.contacts.iter().flat_map(|(_, contact)| contact.chats().to_vec()).collect()
}

fn in_chat(person: u8, chat: u8) -> Sighting {
    let place = SightingPlace::Chat(chat_id(chat));
    Sighting { external_userid: customer(person), place, since: Some(T0) }
}

/// Reads the one group that is due at `now`.
async fn read_chat(store: &Tested, people: &[u8], read: Option<MemberVersion>, now: Timestamp) -> PageFound {
    let group = store.due_chats(&BTreeSet::new(), now, 10).await.unwrap().pop().expect("a group is due");
    let customers = people.iter().map(|n| in_chat(*n, 1)).collect();
    store.chat_read(&group, customers, read, now).await.unwrap()
}

async fn a_group_is_read_after_its_creation_and_its_customers_are_looked_up_through_it(place: &dyn Place) {
    let store = place.open().await;
    assert!(matches!(store.append(chat_arrival(1, ChatChange::Created)).await, Ok(Appended::New(_))));
    assert_eq!(store.append(chat_arrival(1, ChatChange::Created)).await, Ok(Appended::Duplicate));
    assert_eq!(store.counts().inbox, 0, "it is applied at once");
    let store = reopen(place, store).await;
    let due_at = T0.plus_ms(CHAT_LAG_MS);
    assert_eq!(store.next_chat_due().await, Ok(Some(due_at)));
    assert_eq!(store.due_chats(&BTreeSet::new(), due_at.plus_ms(-1), 10).await.unwrap(), []);
    mint(&store, 1, 1, T0).await;
    let found = read_chat(&store, &[1, 2], Some(version(1)), due_at).await;
    assert_eq!(found, PageFound { new: 2, queued: 2 });
    assert_eq!((store.next_chat_due().await, store.counts().waiting), (Ok(None), 2));

    let work = store.lease(due_at, 10, 0).await.unwrap();
    let chats: Vec<_> = work.iter().map(|work| work.known.as_ref().unwrap().lookup_chat().cloned()).collect();
    assert_eq!(chats, [Some(chat_id(1)), Some(chat_id(1))]);
    let outcome = |work: Work| {
        let found = work.contact.external_userid == customer(1);
        let outcome = if found { Outcome::Resolved(pending(1)) } else { Outcome::Missed };
        (work, outcome)
    };
    store.settle(work.into_iter().map(outcome).collect(), due_at).await.unwrap();
    let link = links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.pop().unwrap();
    assert_eq!((link.source, link.chat_id), (Source::Chat, Some(chat_id(1))));
    let entry = store.feed(0, 10, T0).await.unwrap().pop().unwrap();
    assert_eq!(entry.data.link().unwrap().chat_id, Some(chat_id(1)));
    assert_eq!(store.counts().waiting, 1);
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn an_event_after_the_known_version_needs_no_reading(place: &dyn Place) {
    let store = place.open().await;
    store.append(chat_arrival(1, ChatChange::Created)).await.unwrap();
    read_chat(&store, &[], Some(version(1)), T0.plus_ms(CHAT_LAG_MS)).await;
    store.append(chat_arrival(1, joined(&[1, 2], 1))).await.unwrap();
    assert_eq!(store.next_chat_due().await, Ok(None));
    assert_eq!(store.lease(T0, 10, 0).await.unwrap().len(), 2);
    // The event in between was lost.
    store.append(chat_arrival(1, joined(&[3], 5))).await.unwrap();
    assert_eq!(store.next_chat_due().await, Ok(Some(T0.plus_ms(CHAT_LAG_MS))));
    // The customers in the event are still looked up.
    assert_eq!(store.lease(T0, 10, 0).await.unwrap().len(), 1);
    store.append(chat_arrival(1, ChatChange::Dismissed)).await.unwrap();
    assert_eq!(store.next_chat_due().await, Ok(None));
}

async fn one_who_is_friend_and_member_is_one_contact_whichever_comes_first(place: &dyn Place) {
    let store = place.open().await;
    for (person, chat_first) in [(1, true), (2, false)] {
        let events = [chat_arrival(person, joined(&[person], 1)), added(person, 1)];
        for index in if chat_first { [0, 1] } else { [1, 0] } {
            store.append(events[index].clone()).await.unwrap();
        }
        let (mut now, mut rounds) = (T0, 0);
        mint(&store, person, person, T0).await;
        while let Some(work) = store.lease(now, 1, 1).await.unwrap().pop() {
            store.settle(vec![(work, Outcome::Resolved(pending(person)))], now).await.unwrap();
            now = now.plus_ms(1);
            rounds += 1;
        }
        assert!(rounds <= 2);
        let link = links_of(&store, LinkBy::ExternalUserid(customer(person))).await.pop().unwrap();
        assert_eq!(link.followers.len(), 1);
        assert_eq!(link.source, Source::Chat, "the group's event is applied as it arrives");
    }
    assert_eq!((store.counts().contacts, store.counts().links), (2, 2));
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn one_who_is_not_in_the_group_any_more_is_looked_up_as_a_friend(place: &dyn Place) {
    let store = place.open().await;
    store.append(chat_arrival(1, joined(&[1], 1))).await.unwrap();
    let not_in_chat = || Outcome::NotInChat(chat_id(1));
    settle_next(&store, T0, not_in_chat()).await;
    // There is no other way to look the customer up: WeCom is asked again on schedule.
    assert_eq!(store.lease(T0, 10, 10).await.unwrap(), []);
    assert_eq!(store.next_due().await, Ok(Some(T0.plus_ms(MINUTE_MS))));
    store.append(chat_arrival(2, joined(&[2], 1))).await.unwrap();
    let work = store.lease(T0, 10, 10).await.unwrap();
    store
        .settle(work.into_iter().map(|work| (work, Outcome::NotInChat(chat_id(2)))).collect(), T0)
        .await
        .unwrap();
    store.append(added(2, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Missed).await;
    let work = store.lease(T0.plus_ms(MINUTE_MS), 10, 10).await.unwrap();
    let friend = work.iter().find(|work| work.contact.external_userid == customer(2)).unwrap();
    assert_eq!(friend.known.as_ref().unwrap().lookup_chat(), None);
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn a_customer_who_leaves_a_group_keeps_the_link_and_one_who_joins_again_is_looked_up(
    place: &dyn Place,
) {
    let store = place.open().await;
    store.append(chat_arrival(1, ChatChange::Created)).await.unwrap();
    mint(&store, 1, 1, T0).await;
    let mut now = T0.plus_ms(CHAT_LAG_MS);
    read_chat(&store, &[1, 2], Some(version(1)), now).await;
    for work in store.lease(now, 10, 0).await.unwrap() {
        let found = work.contact.external_userid == customer(1);
        let outcome = if found { Outcome::Resolved(pending(1)) } else { Outcome::Missed };
        store.settle(vec![(work, outcome)], now).await.unwrap();
    }
    // The lookups of the other customer end.
    while let Some(due_at) = store.next_due().await.unwrap() {
        now = due_at;
        settle_next(&store, now, Outcome::Missed).await;
    }
    store.append(chat_arrival(1, left(&[1, 2, 3], 1))).await.unwrap();
    let store = reopen(place, store).await;
    assert_eq!((chats_of(&store, 1).await, chats_of(&store, 2).await), (vec![], vec![]));
    let link = links_of(&store, LinkBy::ExternalUserid(customer(1))).await.pop().unwrap();
    assert_eq!(link.chat_id, Some(chat_id(1)), "the link stays");
    assert_eq!((store.next_chat_due().await, store.counts().contacts), (Ok(None), 2));
    assert_eq!(store.lease(now, 10, 10).await.unwrap(), []);
    store.append(chat_arrival(1, joined(&[1, 2], 2))).await.unwrap();
    let work = store.lease(now, 10, 0).await.unwrap();
    assert_eq!(work.iter().map(|work| &work.contact).collect::<Vec<_>>(), [&contact_key(2, 1)]);
    assert_eq!(work[0].known.as_ref().unwrap().lookup_chat(), Some(&chat_id(1)));
    store.settle(work.into_iter().map(|work| (work, Outcome::Missed)).collect(), now).await.unwrap();
    let next_due = store.next_due().await.unwrap().expect("WeCom may need time after a join");
    assert_eq!(next_due.millis_since(now), REASK_AFTER_MS[1]);
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn nobody_is_in_a_group_that_has_ended(place: &dyn Place) {
    let store = place.open().await;
    let due_at = T0.plus_ms(CHAT_LAG_MS);
    let everybody: Vec<u8> = (1..=20).collect();
    // The end of one group is reported; that of the other is found when it is read.
    for chat in [1, 2] {
        store.append(chat_arrival(chat, ChatChange::Created)).await.unwrap();
        let group = store.due_chats(&BTreeSet::new(), due_at, 10).await.unwrap().pop().unwrap();
        let rows = everybody.iter().map(|person| in_chat(*person, chat)).collect();
        store.chat_read(&group, rows, Some(version(1)), due_at).await.unwrap();
    }
    assert_eq!(chats_of(&store, 20).await, [chat_id(1), chat_id(2)]);
    store.append(chat_arrival(1, ChatChange::Dismissed)).await.unwrap();
    for person in &everybody {
        assert_eq!(chats_of(&store, *person).await, [chat_id(2)], "{person}");
    }
    store.append(chat_arrival(2, joined(&[1], 5))).await.unwrap();
    let group = store.due_chats(&BTreeSet::new(), due_at, 10).await.unwrap().pop().unwrap();
    store.chat_not_found(&group, due_at).await.unwrap();
    for person in &everybody {
        assert_eq!(chats_of(&store, *person).await, [], "{person}");
    }
    // A join that comes late has the list read, which finds that there is no group.
    store.append(chat_arrival(1, joined(&[3], 2))).await.unwrap();
    assert_eq!(chats_of(&store, 3).await, [chat_id(1)]);
    while let Some(due_at) = store.next_chat_due().await.unwrap() {
        let group = store.due_chats(&BTreeSet::new(), due_at, 10).await.unwrap().pop().unwrap();
        store.chat_not_found(&group, due_at).await.unwrap();
    }
    assert_eq!(chats_of(&store, 3).await, []);
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn a_list_replaces_the_customers_held_once_it_is_up_to_date(place: &dyn Place) {
    let store = place.open().await;
    store.append(chat_arrival(1, ChatChange::Created)).await.unwrap();
    store.append(chat_arrival(2, joined(&[1], 1))).await.unwrap();
    let first = T0.plus_ms(CHAT_LAG_MS);
    for group in store.due_chats(&BTreeSet::new(), first, 10).await.unwrap() {
        let customers = (1..=25).map(|person| Sighting {
            place: SightingPlace::Chat(group.chat_id.clone()),
            ..in_chat(person, 1)
        });
        store.chat_read(&group, customers.collect(), Some(version(2)), first).await.unwrap();
    }
    // All but two customers leave and a new one joins; only the event of the join arrives.
    store.append(chat_arrival(1, joined(&[26], 3))).await.unwrap();
    let group = store.due_chats(&BTreeSet::new(), first, 10).await.unwrap().pop().unwrap();
    // The list is still the one of before the join.
    let rows = |people: &[u8]| people.iter().map(|person| in_chat(*person, 1)).collect::<Vec<_>>();
    store.chat_read(&group, rows(&[1, 2, 25]), Some(version(3)), first).await.unwrap();
    assert_eq!(chats_of(&store, 26).await, [chat_id(1)]);
    let due_at = store.next_chat_due().await.unwrap().unwrap();
    assert_eq!(due_at, first.plus_ms(CHAT_LAG_MS));
    read_chat(&store, &[1, 25, 26], Some(version(4)), due_at).await;
    assert_eq!(store.next_chat_due().await, Ok(None));
    for person in 1..=26 {
        let is_in = matches!(person, 1 | 25 | 26);
        assert_eq!(chats_of(&store, person).await.contains(&chat_id(1)), is_in, "{person}");
        assert_eq!(chats_of(&store, person).await.contains(&chat_id(2)), person != 26, "{person}");
    }
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn an_event_during_a_reading_makes_its_list_provisional(place: &dyn Place) {
    let store = place.open().await;
    let began_at = T0.plus_ms(CHAT_LAG_MS);
    for chat in [1, 2] {
        store.append(chat_arrival(chat, joined(&[chat], 1))).await.unwrap();
    }
    let groups = store.due_chats(&BTreeSet::new(), began_at, 10).await.unwrap();
    // One group is joined by a second customer while its list is read, the other one is dismissed.
    let mut late = chat_arrival(1, joined(&[3], 2));
    late.received_at = began_at;
    store.append(late).await.unwrap();
    store.append(chat_arrival(2, ChatChange::Dismissed)).await.unwrap();
    for group in &groups {
        let person = if group.chat_id == chat_id(1) { 1 } else { 4 };
        let place = SightingPlace::Chat(group.chat_id.clone());
        let row = Sighting { place, ..in_chat(person, 1) };
        store.chat_read(group, vec![row], Some(version(2)), began_at).await.unwrap();
    }
    assert_eq!(chats_of(&store, 3).await, [chat_id(1)], "this list could not have the second customer");
    assert_eq!(store.next_chat_due().await, Ok(Some(began_at.plus_ms(CHAT_LAG_MS))));
    assert_eq!(store.person_data(customer(4).as_str()).await.unwrap().contacts.len(), 0);
    read_chat(&store, &[1], Some(version(4)), began_at.plus_ms(CHAT_LAG_MS)).await;
    assert_eq!(chats_of(&store, 3).await, [], "the customer has left since");
    assert_eq!((store.next_chat_due().await, store.audit().await), (Ok(None), Ok(vec![])));
}

/// Records a comparison's list, requested at `read_at`, with one customer in these groups.
async fn compare(store: &Tested, person: u8, chats: &[u8], read_at: Timestamp) -> PageFound {
    store.begin_reconcile(vec![(app(), corp(1))], read_at).await.unwrap();
    let page = chats.iter().map(|chat| in_chat(person, *chat)).collect();
    store.page_read(&app(), &corp(1), page, ReconcileTask::new(), read_at).await.unwrap()
}

async fn a_list_requested_before_a_comparison_found_a_customer_does_not_take_the_customer_out(
    place: &dyn Place,
) {
    let store = place.open().await;
    store.append(chat_arrival(1, ChatChange::Created)).await.unwrap();
    let began_at = T0.plus_ms(CHAT_LAG_MS);
    let group = store.due_chats(&BTreeSet::new(), began_at, 1).await.unwrap().pop().unwrap();
    // The second customer joins, and the event is lost.
    let found_at = began_at.plus_ms(300);
    compare(&store, 2, &[1], found_at).await;
    store.chat_read(&group, vec![in_chat(1, 1)], Some(version(1)), began_at).await.unwrap();
    assert_eq!(chats_of(&store, 2).await, [chat_id(1)]);
    let store = reopen(place, store).await;
    let due_at = store.next_chat_due().await.unwrap().unwrap();
    assert_eq!(due_at, found_at.plus_ms(CHAT_LAG_MS));
    // Found again, the customer is no reason to read the list once more.
    compare(&store, 2, &[1], due_at).await;
    read_chat(&store, &[1], Some(version(3)), due_at).await;
    assert_eq!(chats_of(&store, 2).await, [], "the customer has left since");
    assert_eq!((store.next_chat_due().await, store.audit().await), (Ok(None), Ok(vec![])));
}

async fn joining_a_ninth_group_is_a_reason_to_look_a_customer_up_and_being_listed_in_nine_is_none(
    place: &dyn Place,
) {
    let store = place.open().await;
    for chat in 1..=8 {
        store.append(chat_arrival(chat, joined(&[1], 1))).await.unwrap();
    }
    settle_next(&store, T0, Outcome::Missed).await;
    assert_eq!(store.lease(T0, 10, 10).await.unwrap(), []);
    store.append(chat_arrival(9, joined(&[1], 1))).await.unwrap();
    let work = store.lease(T0, 10, 10).await.unwrap().pop().expect("the customer is looked up");
    assert_eq!(work.known.as_ref().unwrap().lookup_chat(), Some(&chat_id(9)));
    store.settle(vec![(work, Outcome::Missed)], T0).await.unwrap();
    let found = compare(&store, 1, &[1, 2, 3, 4, 5, 6, 7, 8, 9], T0).await;
    assert_eq!(found, PageFound::default());
    assert_eq!(chats_of(&store, 1).await.len(), CHATS_MAX);
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn a_group_joined_while_a_lookup_is_in_flight_is_the_way_of_the_next_one(place: &dyn Place) {
    let store = place.open().await;
    let user_id = UserId::new("member1").unwrap();
    let friend = |person: u8| {
        let follower = SightingPlace::Follower { user_id: user_id.clone(), state: None };
        Sighting { place: follower, ..in_chat(person, 1) }
    };
    let through =
        |work: &[Work]| work.iter().map(|work| work.known.as_ref().unwrap().lookup_chat().cloned()).collect();
    let ways = async |now: Timestamp| -> (Vec<Work>, Vec<Option<ChatId>>) {
        let work = store.lease(now, 10, 10).await.unwrap();
        (work.clone(), through(&work))
    };
    // A lookup in the background: that through the group, which goes first, does not wait for it.
    store.page_read(&app(), &corp(1), vec![friend(1)], ReconcileTask::new(), T0).await.unwrap();
    let (in_flight, way) = ways(T0).await;
    assert_eq!(way, [None]);
    store.append(chat_arrival(1, joined(&[1], 1))).await.unwrap();
    let (at_once, way) = ways(T0).await;
    assert_eq!(way, [Some(chat_id(1))]);
    for work in [in_flight, at_once].concat() {
        store.settle(vec![(work, Outcome::Missed)], T0).await.unwrap();
    }
    let (last, way) = ways(T0.plus_ms(90 * DAY_MS)).await;
    assert_eq!(way, [None], "the follower's turn");
    store
        .settle(last.into_iter().map(|work| (work, Outcome::Resolved(pending(9)))).collect(), T0)
        .await
        .unwrap();
    // A live lookup: another one follows its answer.
    store.append(chat_arrival(2, joined(&[2], 1))).await.unwrap();
    let (in_flight, way) = ways(T0).await;
    assert_eq!(way, [Some(chat_id(2))]);
    store.append(chat_arrival(3, joined(&[2], 1))).await.unwrap();
    assert_eq!(ways(T0).await.1, []);
    store.settle(in_flight.into_iter().map(|work| (work, Outcome::Missed)).collect(), T0).await.unwrap();
    let (again, way) = ways(T0).await;
    assert_eq!(way, [Some(chat_id(3))]);
    store.settle(again.into_iter().map(|work| (work, Outcome::Missed)).collect(), T0).await.unwrap();
    assert_eq!((ways(T0).await.1, store.audit().await), (vec![], Ok(vec![])));
}

async fn the_first_follower_in_a_list_is_a_reason_to_look_up_one_who_was_only_in_a_group(place: &dyn Place) {
    let store = place.open().await;
    store.append(chat_arrival(1, joined(&[1], 1))).await.unwrap();
    let mut now = T0;
    while let Some(due_at) = store.next_due().await.unwrap() {
        now = due_at;
        settle_next(&store, now, Outcome::Missed).await;
    }
    assert_eq!(compare(&store, 1, &[1], now).await, PageFound::default(), "the schedule is over");
    let user_id = UserId::new("member1").unwrap();
    let follower = SightingPlace::Follower { user_id, state: None };
    let row = Sighting { place: follower, ..in_chat(1, 1) };
    for queued in [1, 0] {
        let page =
            store.page_read(&app(), &corp(1), vec![row.clone()], ReconcileTask::new(), now).await.unwrap();
        assert_eq!(page.queued, queued);
        for work in store.lease(now, 10, 10).await.unwrap() {
            assert_eq!(work.known.as_ref().unwrap().lookup_chat(), None, "through the follower");
            store.settle(vec![(work, Outcome::Missed)], now).await.unwrap();
        }
    }
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn a_customer_who_is_not_visible_keeps_waiting_and_is_brought_back_by_a_reason(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    store.append(added(2, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::NotVisible(60_011)).await;
    settle_next(&store, T0, Outcome::Missed).await;
    let mut now = T0;
    for _ in 0..120 {
        let Some(due_at) = store.next_due().await.unwrap() else { break };
        now = due_at;
        for work in store.lease(now, 10, 10).await.unwrap() {
            let is_hidden = work.contact == contact_key(1, 1);
            let outcome = if is_hidden { Outcome::NotVisible(60_011) } else { Outcome::Missed };
            store.settle(vec![(work, outcome)], now).await.unwrap();
        }
    }
    assert!(now.millis_since(T0) > 89 * DAY_MS);
    assert_eq!((store.next_due().await, store.counts().waiting), (Ok(None), 1), "it is not forgotten");
    let mut reports = Vec::new();
    for n in [8, 9] {
        let visibility = Arrival { payload: Payload::Visibility(corp(1)), ..added(n, 1) };
        let Appended::New(report) = store.append(visibility).await.unwrap() else { panic!("{n} is new") };
        reports.push(report);
    }
    let store = reopen(place, store).await;
    let last = |report| Ok(BTreeMap::from([((app(), corp(1)), report)]));
    assert_eq!(store.visibility_changes().await, last(reports[1]));
    assert_eq!(store.look_up_again(&app(), &corp(1), false, now).await, Ok(1));
    assert_eq!(store.lease(now, 10, 10).await.unwrap()[0].contact, contact_key(1, 1));
    assert_eq!(store.look_up_again(&app(), &corp(1), true, now).await, Ok(1));
    store.visibility_seen(&app(), &corp(1), reports[0]).await.unwrap();
    assert_eq!(store.visibility_changes().await, last(reports[1]), "there is a newer one");
    store.visibility_seen(&app(), &corp(1), reports[1]).await.unwrap();
    assert_eq!(store.visibility_changes().await, Ok(BTreeMap::new()));
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn an_erased_person_does_not_come_back_with_a_list(place: &dyn Place) {
    let store = place.open().await;
    store.append(chat_arrival(1, ChatChange::Created)).await.unwrap();
    let person = PersonId::ExternalUserid(customer(1));
    store.forget(&person, None, AuditBy::service(), T0.plus_ms(1_000)).await.unwrap();
    let due_at = T0.plus_ms(CHAT_LAG_MS);
    assert_eq!(read_chat(&store, &[1, 2], Some(version(1)), due_at).await.new, 1);
    assert!(store.person_data(customer(1).as_str()).await.unwrap().contacts.is_empty());
    // Erasing a customer who waits for a lookup through a group leaves nothing.
    store.forget(&PersonId::ExternalUserid(customer(2)), None, AuditBy::service(), due_at).await.unwrap();
    assert_eq!((store.counts().contacts, store.counts().waiting), (0, 0));
    assert_eq!(store.audit().await, Ok(vec![]));
}

async fn waits_follow_the_clock_when_it_is_set(place: &dyn Place) {
    const HOURS: i64 = 8 * HOUR_MS;
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    store.append(added(2, 1)).await.unwrap();
    let reason = || FailureReason { errcode: None, text: String::new() };
    let due_at = T0.plus_ms(HOUR_MS);
    settle_next(&store, T0, Outcome::Retry { due_at, reason: reason(), spent: false }).await;
    settle_next(&store, T0, Outcome::Missed).await;
    store.append(chat_arrival(1, joined(&[3], 1))).await.unwrap();
    store.put_fans(vec![new_fan(1)], T0).await.unwrap();
    store.shift_waits(-HOURS, T0.plus_ms(-HOURS)).await.unwrap();
    let store = reopen(place, store).await;
    let now = T0.plus_ms(-HOURS);
    assert_eq!(store.lease(now, 10, 10).await.unwrap().len(), 1, "of the group");
    assert_eq!(store.next_due().await, Ok(Some(now.plus_ms(MINUTE_MS))));
    assert_eq!(store.next_chat_due().await, Ok(Some(now.plus_ms(CHAT_LAG_MS))));
    assert_eq!(lease_fans(&store, FanStep::Mint, now, 10).await.len(), 1);
    assert_eq!(store.lease(now.plus_ms(HOUR_MS), 10, 10).await.unwrap().len(), 2);
    assert_eq!(store.audit().await, Ok(vec![]));
    let first = Moment::on_the_wall(T0, None);
    assert_eq!(store.last_moment().await, Ok(None));
    store.put_moment(first).await.unwrap();
    let store = reopen(place, store).await;
    assert_eq!(store.last_moment().await, Ok(Some(first)));
}

async fn readings_of_one_corp_that_were_put_off_are_brought_forward(place: &dyn Place) {
    let store = place.open().await;
    for chat in 1..=3 {
        store.append(chat_arrival(chat, ChatChange::Created)).await.unwrap();
    }
    let complete_at = T0.plus_ms(CHAT_LAG_MS);
    for (group, hours) in store.due_chats(&BTreeSet::new(), complete_at, 2).await.unwrap().iter().zip([1, 2])
    {
        store.chat_unread(group, Some(T0.plus_ms(hours * HOUR_MS))).await.unwrap();
    }
    let store = reopen(place, store).await;
    assert_eq!(store.read_chats_again(&app(), &corp(2), T0).await, Ok(0), "those of another corp are not");
    let due = async |now: Timestamp| store.due_chats(&BTreeSet::new(), now, 10).await.unwrap().len();
    assert_eq!(due(complete_at).await, 1);
    assert_eq!(store.read_chats_again(&app(), &corp(1), T0).await, Ok(2));
    let too_early = complete_at.plus_ms(-1);
    assert_eq!([due(too_early).await, due(complete_at).await], [0, 3], "but not before a list is complete");
    assert_eq!(store.read_chats_again(&app(), &corp(1), complete_at).await, Ok(0));
    assert_eq!(store.audit().await, Ok(vec![]));
}

contract!(
    a_group_is_read_after_its_creation_and_its_customers_are_looked_up_through_it,
    an_event_after_the_known_version_needs_no_reading,
    one_who_is_friend_and_member_is_one_contact_whichever_comes_first,
    one_who_is_not_in_the_group_any_more_is_looked_up_as_a_friend,
    a_customer_who_leaves_a_group_keeps_the_link_and_one_who_joins_again_is_looked_up,
    nobody_is_in_a_group_that_has_ended,
    a_list_replaces_the_customers_held_once_it_is_up_to_date,
    an_event_during_a_reading_makes_its_list_provisional,
    a_list_requested_before_a_comparison_found_a_customer_does_not_take_the_customer_out,
    joining_a_ninth_group_is_a_reason_to_look_a_customer_up_and_being_listed_in_nine_is_none,
    a_group_joined_while_a_lookup_is_in_flight_is_the_way_of_the_next_one,
    the_first_follower_in_a_list_is_a_reason_to_look_up_one_who_was_only_in_a_group,
    a_customer_who_is_not_visible_keeps_waiting_and_is_brought_back_by_a_reason,
    an_erased_person_does_not_come_back_with_a_list,
    waits_follow_the_clock_when_it_is_set,
    readings_of_one_corp_that_were_put_off_are_brought_forward,
);
