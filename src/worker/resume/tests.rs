//! What goes on when something is resumed, and what is still to be done if the store takes no writes then.

use std::collections::BTreeSet;

use super::super::scripted::{Script, app, contact_event, customer, dealer, member};
use super::super::world::World;
use super::*;
use crate::clock::Clock as _;
use crate::domain::backoff::Backoff;
use crate::domain::chat::{ChatChange, ChatEvent};
use crate::domain::event::{ContactChange, Event};
use crate::domain::ids::ChatId;
use crate::domain::time::DAY_MS;
use crate::store::{FailureReason, Outcome, Payload};

fn reason() -> FailureReason {
    FailureReason { errcode: Some(84_061), text: "as prepared".to_owned() }
}

/// A dealer with an event that waits for the probe of its breaker, a customer whose lookup was refused, and a
/// group whose reading was put off.
async fn paused() -> (World, Timestamp) {
    let world = World::new(Script::new(0, 0)).await;
    let (store, now) = (&world.context.store, world.clock.now());
    let scope = Scope::Corp(app(), dealer());
    let slow = Backoff { first_ms: DAY_MS, max_ms: DAY_MS };
    let probe_at = world.context.breakers.failed(&scope, reason(), slow, now);
    let deferred = Outcome::Retry { due_at: probe_at, reason: reason(), spent: false };
    for (n, outcome) in [(0, deferred), (1, Outcome::NotVisible(60_011))] {
        let contact = contact_event(ContactChange::Added, member(0), customer(n));
        world.append(Payload::Event(Event { corp_id: dealer(), created_at: now, contact })).await;
        let work = store.lease(now, 9, 9).await.unwrap();
        store.settle(work.into_iter().map(|work| (work, outcome.clone())).collect(), now).await.unwrap();
    }
    let (chat_id, change) = (ChatId::new("wrGROUP").unwrap(), ChatChange::Created);
    world.append(Payload::Chat(ChatEvent { corp_id: dealer(), created_at: now, chat_id, change })).await;
    let later = now.plus_ms(DAY_MS);
    for group in store.due_chats(&BTreeSet::new(), later, 9).await.unwrap() {
        store.chat_unread(&group, Some(later)).await.unwrap();
    }
    // A group is not read before its event is a few seconds old.
    world.advance(Duration::from_secs(10)).await;
    (world, probe_at)
}

async fn resume(world: &World) -> Result<Resumed, StoreError> {
    let (app, corps) = (app(), [(app(), dealer())]);
    let paused = Paused { app: Some(&app), corps: &corps, lookups: Lookups::Refused };
    Resumer::of(&world.context).run(paused, |scope| *scope.app() == app).await
}

/// The work that is due now: events and lookups, and groups.
async fn due(world: &World) -> (usize, usize) {
    let (store, now) = (&world.context.store, world.clock.now());
    (
        store.lease(now, 9, 9).await.unwrap().len(),
        store.due_chats(&BTreeSet::new(), now, 9).await.unwrap().len(),
    )
}

#[tokio::test]
async fn what_was_paused_is_due_at_once() {
    let (world, _) = paused().await;
    assert_eq!(due(&world).await, (0, 0));
    let resumed = resume(&world).await.unwrap();
    assert_eq!(resumed, Resumed { breakers: 1, lookups: 1, groups: 1, exchanges: 0 });
    let Context { breakers, wake, .. } = &world.context;
    assert_eq!(breakers.open(&[&Scope::Corp(app(), dealer())], world.clock.now()), None);
    assert!(breakers.to_bring_forward().is_empty());
    assert_eq!(wake.take_resumed(&app()).into_iter().collect::<Vec<_>>(), [dealer()], "compared again");
    for worker in [&wake.inbox, &wake.fans, &wake.groups, &wake.reconcile] {
        tokio::time::timeout(Duration::from_mins(1), worker.notified()).await.expect("woken");
    }
    assert_eq!(due(&world).await, (2, 1));
}

#[tokio::test]
async fn what_the_store_did_not_take_is_resumed_the_next_time() {
    let (world, probe_at) = paused().await;
    world.store.fill_disk(true);
    assert!(matches!(resume(&world).await, Err(StoreError::NoSpace { .. })));
    assert_eq!(world.context.breakers.to_bring_forward(), [probe_at]);
    world.store.fill_disk(false);
    assert_eq!(due(&world).await, (0, 0));
    resume(&world).await.unwrap();
    assert_eq!(due(&world).await, (2, 1));
    assert!(world.context.breakers.to_bring_forward().is_empty());
}
