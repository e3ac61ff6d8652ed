//! The brand's side: fans are registered, queued by priority, minted, renewed and expired, also across
//! restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::fan::{Existing, FanState, Mint, QuotaClass, Renew};

async fn the_fan(store: &Tested, n: u8) -> Fan {
    store.fans(&fan_key(n).unionid).await.unwrap().pop().expect("the fan is registered").1
}

fn bulk(n: u8) -> NewFan {
    NewFan { priority: Priority::Bulk, ..new_fan(n) }
}

fn with_id(n: u8, minted_at: Timestamp) -> NewFan {
    NewFan { minted: Some(Minted::new(pending(n), minted_at)), ..bulk(n) }
}

async fn review_all(store: &Tested, now: Timestamp) {
    while store.review_fans(&app(), Renew::All, now).await.unwrap() > 0 {}
}

async fn a_fan_is_registered_once_minted_and_then_asked_about(place: &dyn Place) {
    let store = place.open().await;
    let asking = NewFan { ask_existing: true, ..new_fan(1) };
    let twice = store.put_fans(vec![asking.clone(), asking.clone()], T0).await.unwrap();
    assert_eq!(twice, [Registered::New, Registered::Known]);
    let store = reopen(place, store).await;
    assert_eq!(store.put_fans(vec![asking], T0).await.unwrap(), [Registered::Known]);
    let work = lease_fans(&store, FanStep::Mint, T0, 9).await;
    assert_eq!(work.len(), 1);
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 9).await.len(), 0);
    assert_eq!(lease_fans(&store, FanStep::AskExisting, T0, 9).await.len(), 0);
    let retry = FanOutcome::Retry { due_at: T0.plus_ms(500), spent: true };
    store.settle_fans(vec![(work[0].clone(), retry)], T0).await.unwrap();
    let later = T0.plus_ms(500);
    assert_eq!(store.next_fan_due(&app(), FanStep::Mint, &Priority::ALL).await, Ok(Some(later)));
    let work = lease_fans(&store, FanStep::Mint, later, 9).await.pop().unwrap();
    assert_eq!(work.fan.attempts, 1);
    let outcome = minted(1, later);
    store.settle_fans(vec![(work.clone(), outcome.clone()), (work, outcome)], later).await.unwrap();
    let work = lease_fans(&store, FanStep::AskExisting, later, 9).await.pop().unwrap();
    let found = FanOutcome::Existing(vec![(corp(1), customer(1)), (corp(2), customer(2))]);
    store.settle_fans(vec![(work, found)], later).await.unwrap();

    let (key, fan) = store.fans(&fan_key(1).unionid).await.unwrap().pop().unwrap();
    assert_eq!(key, fan_key(1));
    assert_eq!(fan.newest().unwrap().expires_at(), later.plus_ms(90 * DAY_MS));
    assert_eq!(fan.existing, Existing::Asked { at: later, found: 2 });
    let links = links_of(&store, LinkBy::Unionid(key.unionid)).await;
    assert_eq!(
        links.iter().map(|l| l.source).collect::<Vec<_>>(),
        [crate::domain::link::Source::Existing; 2]
    );
    let Tally { registered, queued, minted, .. } = tally(&store).await;
    assert_eq!((registered, queued, minted), (1, 0, 1));
}

async fn existing_customers_are_asked_for_again_if_another_pending_id_was_added_during_the_call(
    place: &dyn Place,
) {
    let store = place.open().await;
    let asking = NewFan { ask_existing: true, ..with_id(1, T0) };
    store.put_fans(vec![asking], T0).await.unwrap();
    let first = lease_fans(&store, FanStep::AskExisting, T0, 9).await.pop().unwrap();
    let now = T0.plus_ms(MINUTE_MS);
    let another = NewFan { minted: Some(Minted::new(pending(2), now)), ..bulk(1) };
    store.put_fans(vec![another], now).await.unwrap();
    // The customers found are linked at once, but those that were added under the other id may be missing.
    let found = FanOutcome::Existing(vec![(corp(1), customer(1))]);
    store.settle_fans(vec![(first, found.clone())], now).await.unwrap();
    assert_eq!(links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.len(), 1);
    assert!(matches!(the_fan(&store, 1).await.existing, Existing::Due(_)));
    let store = reopen(place, store).await;
    let again =
        lease_fans(&store, FanStep::AskExisting, now, 9).await.pop().expect("the call is queued again");
    store.settle_fans(vec![(again, found)], now).await.unwrap();
    assert_eq!(the_fan(&store, 1).await.existing, Existing::Asked { at: now, found: 1 });
    assert_eq!(lease_fans(&store, FanStep::AskExisting, now, 9).await, []);
}

/// Leases the first `count` fans and settles them as rejected.
async fn reject(store: &Tested, count: usize, errcode: i64) {
    let work = lease_fans(store, FanStep::Mint, T0, count).await;
    assert_eq!(work.len(), count);
    let outcomes = work.into_iter().map(|work| (work, FanOutcome::Rejected { errcode }));
    store.settle_fans(outcomes.collect(), T0).await.unwrap();
}

async fn a_rejected_fan_is_queued_again_only_with_another_openid_or_on_request(place: &dyn Place) {
    let store = place.open().await;
    store.put_fans(vec![new_fan(1)], T0).await.unwrap();
    let retry = NewFan { retry_rejected: true, ..new_fan(1) };
    let other = NewFan { openid: Openid::new("oANOTHER").unwrap(), ..new_fan(1) };
    for again in [retry, other] {
        reject(&store, 1, 610_018).await;
        assert_eq!(the_fan(&store, 1).await.mint, Mint::Rejected { errcode: 610_018, at: T0 });
        assert_eq!(store.put_fans(vec![new_fan(1)], T0).await.unwrap(), [Registered::Known]);
        let Tally { rejected, queued, .. } = tally(&store).await;
        assert_eq!((rejected, queued), (1, 0));
        assert_eq!(lease_fans(&store, FanStep::Mint, T0, 1).await, []);
        assert_eq!(store.put_fans(vec![again], T0).await.unwrap(), [Registered::Changed]);
        let Tally { rejected, queued, .. } = tally(&store).await;
        assert_eq!((rejected, queued), (0, 1));
    }
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 1).await.len(), 1);
}

/// Reads all pages of a list: the fans on each.
async fn listed(store: &Tested, filter: &FanFilter, limit: usize) -> Vec<Vec<FanKey>> {
    let (mut pages, mut from) = (Vec::new(), Some(0));
    while let Some(position) = from {
        let page = store.list_fans(filter, position, limit, T0).await.unwrap();
        assert!(page.fans.len() <= limit && page.next.is_none_or(|next| next > position), "{page:?}");
        pages.push(page.fans.into_iter().map(|(key, _)| key).collect());
        from = page.next;
    }
    pages
}

async fn fans_are_listed_by_app_state_and_errcode_page_by_page(place: &dyn Place) {
    let store = place.open().await;
    let elsewhere = |n| FanKey { app: AppName::new("other").unwrap(), ..fan_key(n) };
    mint(&store, 50, 50, T0).await;
    store.put_fans((0..40).map(new_fan).collect(), T0).await.unwrap();
    reject(&store, 20, 610_018).await;
    reject(&store, 10, 610_014).await;
    store.put_fans(vec![NewFan { key: elsewhere(0), ..new_fan(0) }], T0).await.unwrap();
    let store = reopen(place, store).await;
    let state = |state| FanFilter { state: Some(state), ..FanFilter::default() };
    let keys = |range: std::ops::Range<u8>| range.map(fan_key).collect::<Vec<_>>();
    let all = listed(&store, &FanFilter::default(), 1_000).await.concat();
    assert_eq!(all.len(), 42);
    assert_eq!(listed(&store, &state(FanState::Rejected), 1_000).await, [keys(0..30)]);
    assert_eq!(listed(&store, &state(FanState::Minted), 1_000).await, [vec![fan_key(50)]]);
    let by_code = FanFilter { errcode: Some(610_014), ..FanFilter::default() };
    assert_eq!(listed(&store, &by_code, 1_000).await, [keys(20..30)]);
    let other = FanFilter { app: Some(AppName::new("other").unwrap()), ..state(FanState::Queued) };
    assert_eq!(listed(&store, &other, 1_000).await, [vec![elsewhere(0)]]);
    assert_eq!(listed(&store, &FanFilter { errcode: Some(610_014), ..other }, 1_000).await, [keys(0..0)]);
    // Fans added between two pages move nobody to another page.
    let first = store.list_fans(&state(FanState::Rejected), 0, 17, T0).await.unwrap();
    store.put_fans((60..90).map(new_fan).collect(), T0).await.unwrap();
    let rest = store.list_fans(&state(FanState::Rejected), first.next.unwrap(), 17, T0).await.unwrap();
    let both: Vec<_> = first.fans.into_iter().chain(rest.fans).map(|(key, _)| key).collect();
    assert_eq!((both, rest.next), (keys(0..30), None));
}

async fn one_page_of_a_list_reads_a_bounded_number_of_records(place: &dyn Place) {
    let store = place.open().await;
    let unionid = |n: u32| Unionid::new(format!("oMANY{n}")).unwrap();
    let many = |n| NewFan { key: FanKey { app: app(), unionid: unionid(n) }, ..bulk(0) };
    store.put_fans((0..5_000).map(many).collect(), T0).await.unwrap();
    store.put_fans(vec![new_fan(1)], T0).await.unwrap();
    // The live fan is the first to be leased and the last to be read.
    reject(&store, 1, 610_018).await;
    let rejected = FanFilter { state: Some(FanState::Rejected), ..FanFilter::default() };
    assert_eq!(listed(&store, &rejected, 10).await, [vec![], vec![fan_key(1)]]);
    let all = listed(&store, &FanFilter::default(), 1_000).await.concat();
    assert_eq!((all.len(), all.first(), all.last()), (5_001, Some(&many(0).key), Some(&fan_key(1))));
}

async fn a_fan_that_registers_is_minted_before_imported_ones(place: &dyn Place) {
    let store = place.open().await;
    store.put_fans((0..200).map(bulk).collect(), T0).await.unwrap();
    store.put_fans(vec![new_fan(250)], T0.plus_ms(1)).await.unwrap();
    // An imported fan registers: it moves to the live queue and leaves a stale position behind.
    assert_eq!(store.put_fans(vec![new_fan(7)], T0.plus_ms(2)).await.unwrap(), [Registered::Known]);
    let store = reopen(place, store).await;
    let waiting = tally(&store).await;
    assert_eq!(waiting.waiting(FanStep::Mint, Priority::Live), 2);
    assert_eq!(waiting.waiting(FanStep::Mint, Priority::Bulk), 199);
    let now = T0.plus_ms(3);
    let work = lease_fans(&store, FanStep::Mint, now, 10).await;
    let keys: Vec<_> = work.iter().map(|work| work.key.clone()).collect();
    let expected = [250, 7, 0, 1, 2, 3, 4, 5, 6, 8].map(fan_key);
    assert_eq!(keys, expected);
    assert_eq!(store.next_fan_due(&app(), FanStep::Mint, QuotaClass::Live.priorities()).await, Ok(None));
    let rest =
        store.lease_fans(&app(), FanStep::Mint, QuotaClass::Bulk.priorities(), now, 500).await.unwrap();
    assert_eq!(rest.len(), 191);
    let all = work.into_iter().chain(rest).map(|work| (work, FanOutcome::Rejected { errcode: 1 }));
    store.settle_fans(all.collect(), now).await.unwrap();
    // A lease that finds the stale position removes it.
    assert_eq!(lease_fans(&store, FanStep::Mint, now, 1).await, []);
    assert_eq!(
        store.next_fan_due(&app(), FanStep::Mint, &Priority::ALL).await,
        Ok(None),
        "the queue is empty"
    );
}

async fn a_fan_put_back_at_its_position_is_the_first_again(place: &dyn Place) {
    let store = place.open().await;
    store.put_fans((1..=3).map(bulk).collect(), T0).await.unwrap();
    let work = lease_fans(&store, FanStep::Mint, T0, 1).await.pop().unwrap();
    let again = FanOutcome::Retry { due_at: work.position.due_at, spent: false };
    store.settle_fans(vec![(work, again)], T0).await.unwrap();
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 1).await[0].key, fan_key(1));
}

async fn an_imported_pending_id_is_not_minted_again_and_links_waiting_customers(place: &dyn Place) {
    let store = place.open().await;
    store.append(added(1, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(1))).await;
    let minted_at = T0.plus_ms(-10 * DAY_MS);
    let registered = store.put_fans(vec![with_id(1, minted_at), with_id(2, minted_at)], T0).await.unwrap();
    assert_eq!(registered, [Registered::New; 2]);
    assert_eq!(store.put_fans(vec![with_id(2, minted_at)], T0).await.unwrap(), [Registered::Known]);
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 9).await, []);
    assert_eq!(links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.len(), 1);
    let store = reopen(place, store).await;
    // The other way round: the customer comes after the fan, and after a restart.
    store.append(added(2, 1)).await.unwrap();
    settle_next(&store, T0, Outcome::Resolved(pending(2))).await;
    assert_eq!(links_of(&store, LinkBy::Unionid(fan_key(2).unionid)).await.len(), 1);
    // A fan queued for minting leaves the queue when a pending id is imported.
    store.put_fans(vec![bulk(3)], T0).await.unwrap();
    assert_eq!(store.put_fans(vec![with_id(3, minted_at)], T0).await.unwrap(), [Registered::Changed]);
    assert_eq!(lease_fans(&store, FanStep::Mint, T0, 9).await, []);
    assert_eq!(tally(&store).await.minted, 3);
}

async fn a_fan_is_renewed_expires_and_is_minted_again_over_200_days(place: &dyn Place) {
    let store = place.open().await;
    mint(&store, 1, 1, T0).await;
    let day = |n: i64| T0.plus_ms(n * DAY_MS);
    review_all(&store, day(84)).await;
    assert_eq!(lease_fans(&store, FanStep::Mint, day(84), 9).await, []);
    let store = reopen(place, store).await;
    // Renewed; customers with the old pending id are linked until it expires.
    review_all(&store, day(86)).await;
    let waiting = tally(&store).await;
    assert_eq!((waiting.minted, waiting.waiting(FanStep::Mint, Priority::RenewUnlinked)), (1, 1));
    let work = lease_fans(&store, FanStep::Mint, day(86), 9).await.pop().unwrap();
    assert_eq!(work.priority, Priority::RenewUnlinked);
    store.settle_fans(vec![(work, minted(2, day(86)))], day(86)).await.unwrap();
    for (n, pending_id, on) in [(1, 1, 89), (2, 2, 89), (3, 2, 120)] {
        store.append(Arrival { received_at: day(on), ..added(n, 1) }).await.unwrap();
        settle_next(&store, day(on), Outcome::Resolved(pending(pending_id))).await;
    }
    let links = links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await;
    assert_eq!(links.len(), 3);
    // The first pending id is deleted some days after it expired, and links nobody any more.
    review_all(&store, day(98)).await;
    let store = reopen(place, store).await;
    let ids: Vec<_> = the_fan(&store, 1).await.ids.into_iter().map(|id| id.pending_id).collect();
    assert_eq!(ids, [pending(2)]);
    store.append(Arrival { received_at: day(121), ..added(4, 1) }).await.unwrap();
    settle_next(&store, day(121), Outcome::Resolved(pending(1))).await;
    assert_eq!(links_of(&store, LinkBy::Unionid(fan_key(1).unionid)).await.len(), 3);
    // The fan is linked now, so its renewal has the lower priority; not renewed in time, it expires.
    review_all(&store, day(172)).await;
    let waiting = tally(&store).await;
    assert_eq!((waiting.minted, waiting.waiting(FanStep::Mint, Priority::Renew)), (1, 1));
    review_all(&store, day(177)).await;
    assert_eq!((tally(&store).await.minted, tally(&store).await.expired), (0, 1));
    assert_eq!(the_fan(&store, 1).await.state(day(177)), FanState::Expired);
    let work = lease_fans(&store, FanStep::Mint, day(200), 9).await.pop().unwrap();
    store.settle_fans(vec![(work, minted(3, day(200)))], day(200)).await.unwrap();
    assert_eq!(tally(&store).await.minted, 1);
}

async fn many_reviews_due_at_one_instant_are_all_done(place: &dyn Place) {
    let store = place.open().await;
    store.put_fans((0..250).map(|n| with_id(n, T0)).collect(), T0).await.unwrap();
    let store = reopen(place, store).await;
    let due = T0.plus_ms(86 * DAY_MS);
    assert_eq!(tally(&store).await.renewals.values().sum::<u64>(), 250);
    review_all(&store, due).await;
    let waiting = tally(&store).await;
    assert_eq!(waiting.waiting(FanStep::Mint, Priority::RenewUnlinked), 250);
    assert_eq!(waiting.renewals, BTreeMap::new());
    assert_eq!(lease_fans(&store, FanStep::Mint, due, 500).await.len(), 250);
}

contract!(
    a_fan_is_registered_once_minted_and_then_asked_about,
    existing_customers_are_asked_for_again_if_another_pending_id_was_added_during_the_call,
    a_rejected_fan_is_queued_again_only_with_another_openid_or_on_request,
    fans_are_listed_by_app_state_and_errcode_page_by_page,
    one_page_of_a_list_reads_a_bounded_number_of_records,
    a_fan_that_registers_is_minted_before_imported_ones,
    a_fan_put_back_at_its_position_is_the_first_again,
    an_imported_pending_id_is_not_minted_again_and_links_waiting_customers,
    a_fan_is_renewed_expires_and_is_minted_again_over_200_days,
    many_reviews_due_at_one_instant_are_all_done,
);

/// A step in the life of the brand's fans.
#[derive(Debug, Clone)]
enum Step {
    Register(u8, Priority),
    Import(u8, u8, i64),
    Work(FanStep, usize, u8),
    Pass(i64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let priority = prop_oneof![Just(Priority::Live), Just(Priority::Bulk)];
    let one = prop_oneof![
        4 => (0_u8..40, priority).prop_map(|(n, priority)| Step::Register(n, priority)),
        2 => (0_u8..40, 0_u8..80, 0_i64..95).prop_map(|(n, id, age)| Step::Import(n, id, age)),
        6 => (prop_oneof![Just(FanStep::Mint), Just(FanStep::AskExisting)], 1_usize..20, any::<u8>())
            .prop_map(|(step, limit, answer)| Step::Work(step, limit, answer)),
        3 => (0_i64..40).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(one, 0..60)
}

/// Runs the steps and checks that counters, queues and reviews agree with the fans' own records.
async fn run(steps: Vec<Step>) {
    let place = Memory::default();
    let (mut store, mut now) = (place.open().await, T0);
    for step in steps {
        match step {
            Step::Register(n, priority) => {
                let fan =
                    NewFan { ask_existing: n % 2 == 0, priority, retry_rejected: n % 3 == 0, ..new_fan(n) };
                store.put_fans(vec![fan], now).await.unwrap();
            }
            Step::Import(n, id, age) => {
                let minted = Minted::new(pending(id), now.plus_ms(-age * DAY_MS));
                store.put_fans(vec![NewFan { minted: Some(minted), ..bulk(n) }], now).await.unwrap();
            }
            Step::Work(step, limit, answer) => {
                for work in lease_fans(&store, step, now, limit).await {
                    let outcome = match (answer % 5, step) {
                        (0, _) => FanOutcome::Rejected { errcode: 610_014 },
                        (1, _) => FanOutcome::Retry { due_at: now.plus_ms(DAY_MS), spent: true },
                        (2, _) => FanOutcome::Retry { due_at: work.position.due_at, spent: false },
                        (_, FanStep::Mint) => minted(answer, now),
                        (_, FanStep::AskExisting) => FanOutcome::Existing(vec![(corp(1), customer(answer))]),
                    };
                    store.settle_fans(vec![(work, outcome)], now).await.unwrap();
                }
            }
            Step::Pass(days) => {
                now = now.plus_ms(days * DAY_MS);
                review_all(&store, now.plus_ms(MINUTE_MS)).await;
            }
            Step::Restart => store = reopen(&place, store).await,
        }
    }
    let (mut counted, mut wanted) = (Tally::default(), BTreeMap::<_, u64>::new());
    for n in 0..40 {
        for (_, fan) in store.fans(&fan_key(n).unionid).await.unwrap() {
            counted.replace(None, Some(&fan));
            for step in FanStep::ALL {
                *wanted.entry((step, fan.queued_for(step))).or_default() +=
                    u64::from(fan.queued_for(step).is_some());
            }
        }
    }
    assert_eq!(tally(&store).await, counted, "the counters disagree with the fans");
    // Every queued fan is leased from its queue exactly once.
    let late = now.plus_ms(2 * DAY_MS);
    for step in FanStep::ALL {
        for priority in Priority::ALL {
            let leased = store.lease_fans(&app(), step, &[priority], late, 1_000).await.unwrap();
            let wanted = wanted.get(&(step, Some(priority))).copied().unwrap_or(0);
            assert_eq!(leased.len() as u64, wanted, "{step:?} {priority:?}");
        }
    }
    // Every fan with a pending id is due for review: 200 days later all ids are expired.
    let end = now.plus_ms(200 * DAY_MS);
    review_all(&store, end).await;
    let over = tally(&store).await;
    assert_eq!((over.minted, over.renewals.len()), (0, 0), "a fan was not reviewed");
    for n in 0..40 {
        for (_, fan) in store.fans(&fan_key(n).unionid).await.unwrap() {
            assert!(fan.ids.is_empty() && fan.review_at().is_none(), "{fan:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn counters_queues_and_reviews_agree_with_the_fans_after_any_history(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
