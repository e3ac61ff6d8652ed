//! When lists are read, and what becomes of one that cannot be.

use super::super::breaker::Scope;
use super::super::scripted::{Script, app, chat_id, customer, dealer};
use super::super::world::World;
use super::*;
use crate::domain::chat::{ChatChange, ChatEvent, MemberVersion};
use crate::domain::dealer::Dealer;
use crate::domain::time::DAY_MS;
use crate::store::{FailureReason, Payload};
use crate::worker::parallelism::Purpose;

/// A world in which these groups were created just now, each with two customers.
async fn with_groups(groups: usize) -> (World, Arc<Groups>) {
    let mut script = Script::new(1, 0);
    for n in 0..groups {
        script.chats.insert(chat_id(n), vec![customer(2 * n), customer(2 * n + 1)]);
    }
    let world = World::new(script).await;
    for n in 0..groups {
        receive(&world, n, ChatChange::Created).await;
    }
    let groups = Arc::new(Groups::new(world.context.clone()));
    (world, groups)
}

/// Receives an event of a group.
async fn receive(world: &World, n: usize, change: ChatChange) {
    let (corp_id, now) = (dealer(), world.context.now());
    let event = ChatEvent { corp_id, created_at: now, chat_id: chat_id(n), change };
    world.append(Payload::Chat(event)).await;
}

/// Activates after some time and waits for the calls to end. Returns the calls made.
async fn calls_after(world: &World, groups: &mut Arc<Groups>, time: Duration) -> Vec<String> {
    world.advance(time).await;
    groups.activate().await;
    world.context.calls.close();
    world.context.calls.wait().await;
    world.context.calls.reopen();
    world.take_calls()
}

async fn due_after(world: &World) -> Option<Duration> {
    let due_at = world.context.store.next_chat_due().await.unwrap();
    due_at.map(|due_at| until(world.context.now(), due_at))
}

const LAG: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_new_group_is_read_after_two_seconds_and_its_customers_are_looked_up_with_the_events() {
    let (world, mut groups) = with_groups(1).await;
    assert_eq!(calls_after(&world, &mut groups, LAG.saturating_sub(Duration::from_millis(1))).await, [""; 0]);
    assert_eq!(calls_after(&world, &mut groups, Duration::from_millis(1)).await, ["chat wr000"]);
    let work = world.context.store.lease(world.context.now(), 10, 0).await.unwrap();
    let mut found: Vec<_> = work.into_iter().map(|work| work.contact.external_userid).collect();
    found.sort();
    assert_eq!(found, [customer(0), customer(1)]);
    assert_eq!(due_after(&world).await, None);
    // It has woken the resolver.
    tokio::time::timeout(Duration::from_secs(5), world.context.wake.inbox.notified()).await.unwrap();
}

#[tokio::test]
async fn the_groups_of_one_corp_are_read_one_after_the_other() {
    let (world, mut groups) = with_groups(3).await;
    for n in 0..3 {
        let time = if n == 0 { LAG } else { Duration::ZERO };
        assert_eq!(calls_after(&world, &mut groups, time).await, [format!("chat wr00{n}")]);
    }
    assert_eq!(calls_after(&world, &mut groups, Duration::ZERO).await, [""; 0]);
}

#[tokio::test]
async fn a_group_that_was_read_and_is_dismissed_is_forgotten_at_once() {
    let (world, mut groups) = with_groups(1).await;
    world.wecom.script().version = Some(MemberVersion("v1".to_owned()));
    assert_eq!(calls_after(&world, &mut groups, LAG).await.len(), 1);
    receive(&world, 0, ChatChange::Left { items: Vec::new(), is_complete: false, versions: None }).await;
    world.wecom.script().refused.insert("chat", 49_008);
    assert_eq!(calls_after(&world, &mut groups, LAG).await.len(), 1);
    assert_eq!(due_after(&world).await, None);
}

#[tokio::test]
async fn a_new_group_that_wecom_does_not_find_is_read_twice_more_before_it_is_forgotten() {
    for found_at in [Some(2), Some(3), None] {
        let (world, mut groups) = with_groups(1).await;
        world.wecom.script().refused.insert("chat", 40_050);
        let mut time = LAG;
        for call in 1..=3 {
            if found_at == Some(call) {
                world.wecom.script().refused.clear();
            }
            assert_eq!(calls_after(&world, &mut groups, time).await, ["chat wr000"]);
            if found_at == Some(call) {
                break;
            }
            let again = due_after(&world).await;
            assert_eq!(again, (call < 3).then_some(LAG * call));
            time = again.unwrap_or_default();
        }
        assert_eq!(due_after(&world).await, None);
        let found = world.context.store.lease(world.context.now(), 10, 0).await.unwrap().len();
        assert_eq!(found, if found_at.is_some() { 2 } else { 0 });
    }
}

#[tokio::test]
async fn where_groups_may_not_be_read_no_call_is_made_for_a_day_or_until_an_operator_resumes() {
    let (world, mut groups) = with_groups(2).await;
    world.wecom.script().refused.insert("chat", 48_002);
    assert_eq!(calls_after(&world, &mut groups, LAG).await.len(), 1);
    for _ in 0..20 {
        assert_eq!(calls_after(&world, &mut groups, Duration::from_hours(1)).await, [""; 0]);
    }
    world.context.optional_calls.forget(Some(&app()), Some(&dealer()));
    assert_eq!(calls_after(&world, &mut groups, Duration::from_hours(1)).await.len(), 1);
    assert!(world.context.breakers.all(world.context.now()).is_empty());
}

#[tokio::test]
async fn a_call_that_fails_is_repeated_more_and_more_slowly_and_opens_no_breaker() {
    let (world, mut groups) = with_groups(1).await;
    world.wecom.script().refused.insert("chat", -1);
    let (mut time, mut waits) = (LAG, Vec::new());
    for _ in 0..12 {
        assert_eq!(calls_after(&world, &mut groups, time).await.len(), 1);
        time = due_after(&world).await.unwrap();
        waits.push(time);
    }
    assert!(waits[0] <= Duration::from_millis(500) && waits[11] >= Duration::from_mins(1), "{waits:?}");
    assert!(world.context.breakers.all(world.context.now()).is_empty());
    world.wecom.script().refused.clear();
    assert_eq!(calls_after(&world, &mut groups, time).await.len(), 1);
    assert_eq!(due_after(&world).await, None);
}

#[tokio::test]
async fn no_group_is_read_while_a_breaker_of_its_corp_is_open_or_the_dealer_has_left() {
    let (world, mut groups) = with_groups(1).await;
    let reason = FailureReason { errcode: Some(84_074), text: "no permission".to_owned() };
    let slow = Backoff { first_ms: DAY_MS, max_ms: DAY_MS };
    let (scope, now) = (Scope::Corp(app(), dealer()), world.context.now());
    let probe_at = world.context.breakers.failed(&scope, reason, slow, now);
    assert_eq!(calls_after(&world, &mut groups, LAG).await, [""; 0]);
    assert_eq!(world.context.store.next_chat_due().await, Ok(Some(probe_at)));
    world.context.breakers.succeeded(&scope);
    world.context.store.dealer_left(&app(), &dealer(), now).await.unwrap();
    assert_eq!(calls_after(&world, &mut groups, until(now, probe_at)).await, [""; 0]);
    assert!(due_after(&world).await.unwrap() <= Duration::from_hours(1));
}

#[tokio::test]
async fn without_customer_groups_nothing_is_read() {
    let (mut world, _) = with_groups(1).await;
    world.change_rules(|rules| rules.customer_groups = false);
    let mut groups = Arc::new(Groups::new(world.context.clone()));
    assert_eq!(calls_after(&world, &mut groups, LAG).await, [""; 0]);
    assert_eq!(due_after(&world).await, None);
}

#[tokio::test]
async fn a_group_of_a_dealer_that_has_left_waits_for_minutes_and_is_read_at_once_when_it_is_back() {
    let (world, mut groups) = with_groups(1).await;
    let now = world.context.now();
    world.context.store.dealer_left(&app(), &dealer(), now).await.unwrap();
    let mut time = LAG;
    for _ in 0..12 {
        assert_eq!(calls_after(&world, &mut groups, time).await, [""; 0]);
        time = due_after(&world).await.unwrap();
        assert!(time <= Duration::from_mins(5), "{time:?}");
    }
    assert!(time > Duration::from_mins(2), "{time:?}");
    let listed = Dealer::listed(dealer(), 7, "Dealer".to_owned(), now);
    world.context.store.put_dealers(&app(), vec![listed]).await.unwrap();
    read_again(&world.context, &app(), &dealer()).await;
    assert_eq!(calls_after(&world, &mut groups, Duration::ZERO).await, ["chat wr000"]);
}

#[tokio::test]
async fn a_reading_that_is_put_off_while_calls_are_resumed_is_repeated() {
    let (world, groups) = with_groups(1).await;
    world.wecom.script().refused.insert("chat", 60_020);
    world.advance(LAG).await;
    let (context, now) = (&world.context, world.context.now());
    let group = context.store.due_chats(&BTreeSet::new(), now, 1).await.unwrap().remove(0);
    // It waits for a permit.
    let live = |_| context.parallelism.try_acquire(&app(), &dealer(), Purpose::Live);
    let permits: Vec<_> = (0..4).filter_map(live).collect();
    let mut reading = Box::pin(groups.read(&group));
    tokio::select! {
        biased;
        _ = &mut reading => panic!("read without a permit"),
        () = std::future::ready(()) => {}
    }
    context.breakers.resume(|_| true, now);
    drop(permits);
    assert!(reading.await);
    assert_eq!(
        (world.take_calls(), due_after(&world).await),
        (vec!["chat wr000".into()], Some(Duration::ZERO))
    );
}

#[tokio::test]
async fn corps_whose_live_work_takes_all_permits_delay_no_group_of_another_corp() {
    let world = World::first(Script::new(1, 0));
    let (context, now) = (&world.context, world.context.now());
    let corps: Vec<_> = (0..9).map(|n| CorpId::new(format!("wpDEALER{n}")).unwrap()).collect();
    let listed = corps.iter().map(|corp_id| Dealer::listed(corp_id.clone(), 7, String::new(), now));
    context.store.put_dealers(&app(), listed.collect()).await.unwrap();
    let (last, busy) = corps.split_last().unwrap();
    let live = |corp_id| {
        let permit = || context.parallelism.try_acquire(&app(), corp_id, Purpose::Live);
        std::iter::from_fn(permit).collect::<Vec<_>>()
    };
    let permits: Vec<_> = busy.iter().map(live).collect();
    for (n, corp_id) in busy.iter().chain(busy).chain([last]).enumerate() {
        let event = ChatEvent {
            corp_id: corp_id.clone(),
            created_at: now,
            chat_id: chat_id(n),
            change: ChatChange::Created,
        };
        world.append(Payload::Chat(event)).await;
        world.advance(Duration::from_millis(1)).await;
    }
    world.advance(LAG).await;
    let mut groups = Arc::new(Groups::new(context.clone()));
    let mut round = async |waiting: usize| {
        groups.activate().await;
        // As many wait for a permit, and the others are stored.
        tokio::task::yield_now().await;
        while context.calls.len() > waiting {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.advance(Duration::from_secs(10)).await;
        context.calls.close();
        context.calls.wait().await;
        context.calls.reopen();
        world.take_calls()
    };
    // Four corps wait for a permit for ten seconds, then the other four.
    assert_eq!([round(4).await, round(4).await], [[""; 0]; 2]);
    assert_eq!(round(3).await, ["chat wr016"]);
    drop(permits);
    world.advance(Duration::from_millis(BUSY_WAIT_MS.unsigned_abs())).await;
    assert_eq!(round(0).await.len(), 4);
    assert!(groups.failures().is_empty());
}
