//! Random histories: inputs in any order and with repetitions and restarts lead to the same links.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::audit::AuditBy;

/// An input of the store.
#[derive(Debug, Clone)]
enum Input {
    Fan(u8),
    Event(u8, u8, u8, ContactChange, i64),
    /// WeCom has no pending id at first and is asked again on schedule.
    SlowEvent(u8, u8, u8, i64),
    Restart,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let change = proptest::sample::select(vec![
        ContactChange::Added,
        ContactChange::HalfAdded,
        ContactChange::DeletedByMember,
        ContactChange::DeletedByCustomer,
    ]);
    let one = prop_oneof![
        3 => (0_u8..4).prop_map(Input::Fan),
        6 => (0_u8..4, 0_u8..2, 0_u8..2, change, 0_i64..4).prop_map(|(p, d, m, c, at)| Input::Event(p, d, m, c, at)),
        3 => (0_u8..4, 0_u8..2, 0_u8..2, 0_i64..4).prop_map(|(p, d, m, at)| Input::SlowEvent(p, d, m, at)),
        1 => Just(Input::Restart),
    ];
    proptest::collection::vec(one, 0..20)
}

/// The links after these inputs and all the work that follows from them. Person n has pending id n.
async fn final_links(inputs: &[Input]) -> BTreeMap<ContactKey, (Unionid, Vec<String>)> {
    let place = Memory::default();
    let mut store = place.open().await;
    for input in inputs {
        match input {
            Input::Fan(n) => {
                store.put_fans(vec![new_fan(*n)], T0).await.unwrap();
                for work in lease_fans(&store, FanStep::Mint, T0, 9).await {
                    store.settle_fans(vec![(work, minted(*n, T0))], T0).await.unwrap();
                }
            }
            Input::Event(person, dealer, member, change, at) => {
                store.append(arrival(event(*person, *dealer, *member, *change, *at))).await.unwrap();
                for work in store.lease(T0, 9, 9).await.unwrap() {
                    let outcome =
                        if change.is_add() { Outcome::Resolved(pending(*person)) } else { Outcome::Applied };
                    store.settle(vec![(work, outcome)], T0).await.unwrap();
                }
            }
            Input::SlowEvent(person, dealer, member, at) => {
                let added = event(*person, *dealer, *member, ContactChange::Added, *at);
                store.append(arrival(added)).await.unwrap();
                for work in store.lease(T0, 9, 9).await.unwrap() {
                    store.settle(vec![(work, Outcome::Missed)], T0).await.unwrap();
                }
            }
            Input::Restart => store = reopen(&place, store).await,
        }
    }
    // Waiting customers are asked about again, unless their pending id has become known since.
    let later = T0.plus_ms(MINUTE_MS);
    for work in store.lease(later, 99, 99).await.unwrap() {
        let person =
            work.contact.external_userid.as_str().strip_prefix("wmCUSTOMER").unwrap().parse().unwrap();
        let known = work.known.as_ref().is_some_and(|contact| contact.pending_id.is_some());
        let outcome = if known { Outcome::Applied } else { Outcome::Resolved(pending(person)) };
        store.settle(vec![(work, outcome)], later).await.unwrap();
    }
    let Counts { inbox, waiting, .. } = store.counts();
    assert_eq!((inbox, waiting, store.next_due().await), (0, 0, Ok(None)), "no work is left");
    let mut links = BTreeMap::new();
    for person in 0..4 {
        for link in links_of(&store, LinkBy::Unionid(fan_key(person).unionid)).await {
            let key = ContactKey {
                app: link.app.clone(),
                corp_id: link.corp_id.clone(),
                external_userid: link.external_userid.clone(),
            };
            assert_eq!(key, contact_key(person, u8::from(link.corp_id != corp(0))));
            let followers = link.followers.iter().map(|f| format!("{f:?}")).collect();
            links.insert(key, (link.unionid.clone(), followers));
        }
    }
    let feed = store.feed(0, 1_000, T0).await.unwrap();
    assert!(feed.iter().zip(1..).all(|(entry, seq)| entry.seq == seq), "the feed has a gap");
    let created = feed.iter().filter(|e| e.change == ChangeType::Created).count();
    assert_eq!(created, links.len(), "each link is announced once");
    assert_eq!(store.counts().links, links.len() as u64);
    links
}

/// A step in a history, an hour after the one before.
#[derive(Debug, Clone)]
enum Past {
    Fan(u8),
    Event(u8, u8, u8, ContactChange),
    Erased(u8),
}

fn past() -> impl Strategy<Value = Vec<Past>> {
    let change = proptest::sample::select(vec![
        ContactChange::Added,
        ContactChange::HalfAdded,
        ContactChange::DeletedByMember,
        ContactChange::DeletedByCustomer,
    ]);
    let one = prop_oneof![
        2 => (0_u8..3).prop_map(Past::Fan),
        6 => (0_u8..3, 0_u8..2, 0_u8..2, change).prop_map(|(p, d, m, c)| Past::Event(p, d, m, c)),
        1 => (0_u8..3).prop_map(Past::Erased),
    ];
    proptest::collection::vec(one, 0..16)
}

async fn settle_due(store: &Tested, now: Timestamp) {
    for work in store.lease(now, 9, 9).await.unwrap() {
        let known = work.known.as_ref().is_some_and(|contact| contact.pending_id.is_some());
        let removes = work.event.as_ref().is_some_and(|event| !event.event.contact.change.is_add());
        let outcome = match work.contact.external_userid.as_str().strip_prefix("wmCUSTOMER") {
            Some(person) if !known && !removes => Outcome::Resolved(pending(person.parse().unwrap())),
            _ => Outcome::Applied,
        };
        store.settle(vec![(work, outcome)], now).await.unwrap();
    }
}

/// The observable state: feed, customers and counters.
async fn observable(store: &Tested, now: Timestamp) -> String {
    let feed = store.feed(0, 1_000, now).await.unwrap();
    let mut contacts = Vec::new();
    for person in 0..3 {
        for (key, contact) in store.person_data(customer(person).as_str()).await.unwrap().contacts {
            let (followers, link) = (contact.followers_now(), contact.link.clone());
            contacts.push((key, followers, link, contact.pending_id.clone(), contact.lookup.is_some()));
        }
    }
    let Counts { inbox, quarantined, dead, contacts: known, waiting, links, .. } = store.counts();
    format!("{feed:?}\n{contacts:?}\n{:?}", (inbox, quarantined, dead, known, waiting, links))
}

async fn replayed(past: &[Past], order: &[usize]) {
    let store = Memory::default().open().await;
    let (mut now, mut events) = (T0, Vec::new());
    for past in past {
        now = now.plus_ms(HOUR_MS);
        match past {
            Past::Fan(n) => {
                store.put_fans(vec![new_fan(*n)], now).await.unwrap();
                for work in lease_fans(&store, FanStep::Mint, now, 9).await {
                    store.settle_fans(vec![(work, minted(*n, now))], now).await.unwrap();
                }
            }
            Past::Event(person, dealer, member, change) => {
                let at_secs = now.millis_since(T0) / SECOND_MS;
                let arrival = arrival(event(*person, *dealer, *member, *change, at_secs));
                events.push(arrival.clone());
                store.append(Arrival { received_at: now, ..arrival }).await.unwrap();
                settle_due(&store, now).await;
            }
            Past::Erased(n) => {
                drop(
                    store
                        .forget(&PersonId::ExternalUserid(customer(*n)), None, AuditBy::service(), now)
                        .await
                        .unwrap(),
                );
            }
        }
        store.finish_forgetting(now).await.unwrap();
    }
    let later = now.plus_ms(30 * DAY_MS);
    assert_eq!(store.sweep(later).await, Ok(events.len() as u64), "the deduplication records have expired");
    let before = observable(&store, later).await;
    for at in order {
        let Some(arrival) = events.get(at % events.len().max(1)) else { return };
        store.append(Arrival { received_at: later, ..arrival.clone() }).await.unwrap();
        settle_due(&store, later).await;
        store.finish_forgetting(later).await.unwrap();
        assert_eq!(observable(&store, later).await, before, "{arrival:?} was repeated");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_event_repeated_at_any_later_time_changes_nothing(
        past in past(), order in proptest::collection::vec(any::<usize>(), 1..24)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(replayed(&past, &order));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_and_repetition_of_the_same_inputs_ends_in_the_same_links(
        inputs in inputs(), swaps in proptest::collection::vec((any::<usize>(), any::<usize>()), 40)
    ) {
        let mut other: Vec<_> = inputs.iter().chain(&inputs).cloned().collect();
        for (a, b) in swaps {
            if !other.is_empty() {
                let len = other.len();
                other.swap(a % len, b % len);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = runtime.block_on(async { (final_links(&inputs).await, final_links(&other).await) });
        prop_assert_eq!(first, second);
    }
}
