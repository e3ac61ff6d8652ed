//! Outcomes of refusals, routing and budgets, and what the tests of lanes and batches share: work, and a
//! service with a scripted platform.

use super::conversion::Fault;
use super::outcome::{UNKNOWN_TRIES_MAX, refused_alone};
use super::*;
use crate::domain::backoff::Jitter;
use crate::domain::contact::Contact;
use crate::domain::event::{ContactChange, Event};
use crate::domain::ids::{ChatId, ContactKey, CorpId, ExternalUserid, PendingId};
use crate::domain::link::Source;
use crate::domain::lookup::Lookup;
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::HOUR_MS;
use crate::store::{EventId, EventRow, EventState, InboxEvent, Payload, Store as _};
use crate::worker::apps::ConversionToken;
use crate::worker::breaker::Scope;
pub(super) use crate::worker::scripted::{Scripted, T0, app};
use crate::worker::scripted::{contact_event, dealer, member};
use crate::worker::world::World;

pub(super) fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn contact(customer: usize) -> ContactKey {
    let external_userid = ExternalUserid::new(format!("wm{customer}")).unwrap();
    ContactKey { app: app(), corp_id: dealer(), external_userid }
}

/// An event about a customer.
pub(super) fn work(n: u64, customer: usize, change: ContactChange) -> Work {
    let contact = contact(customer);
    let at = Timestamp::from_secs(1);
    let event = InboxEvent {
        id: EventId(n),
        app: contact.app.clone(),
        received_at: at,
        due_at: at,
        attempts: 0,
        failure: None,
        event: Event {
            corp_id: contact.corp_id.clone(),
            created_at: at,
            contact: contact_event(change, member(0), contact.external_userid.clone()),
        },
    };
    Work { id: WorkId::Event(at, EventId(n)), contact, event: Some(event), known: None }
}

/// A lookup of a customer, who is in this group if one is given.
pub(super) fn lookup(customer: usize, haste: Haste, refused: Option<i64>, chat_id: Option<&ChatId>) -> Work {
    let (contact, at) = (contact(customer), Timestamp::from_secs(1));
    let mut known = Contact::new(Source::Callback, at);
    if let Some(chat_id) = chat_id {
        let external_userid = contact.external_userid.clone();
        let sighting = Sighting { external_userid, place: SightingPlace::Chat(chat_id.clone()), since: None };
        assert_eq!(known.see(&sighting, at), None);
    }
    known.lookup = Some(Lookup { refused, ..Lookup::first(haste, at) });
    Work { id: WorkId::Lookup(haste, at, contact.clone()), contact, event: None, known: Some(known) }
}

/// A service that knows one dealer.
pub(super) async fn context(wecom: Arc<Scripted>, conversion_token: ConversionToken) -> Context {
    let mut world = World::over(wecom).await;
    world.change_rules(|rules| rules.conversion_token = conversion_token);
    world.context
}

fn reason(errcode: i64) -> FailureReason {
    FailureReason { errcode: Some(errcode), text: String::new() }
}

#[test]
fn an_id_refused_just_after_the_add_is_retried_once_and_then_waits() {
    let (jitter, now) = (Jitter::default(), T0);
    for errcode in [84_061, 40_096] {
        let fault = Fault::NotVisible(reason(errcode));
        for mut work in [work(1, 1, ContactChange::Added), lookup(1, Haste::Live, None, None)] {
            let due_at = now.plus_ms(2_500);
            let retry = Outcome::Retry { due_at, reason: reason(errcode), spent: true };
            assert_eq!(refused_alone(&work, &fault, jitter, now), retry);
            // As the store records it.
            if let Some(event) = &mut work.event {
                event.attempts += 1;
            } else {
                work = lookup(1, Haste::Live, Some(errcode), None);
            }
            assert_eq!(refused_alone(&work, &fault, jitter, now), Outcome::NotVisible(errcode));
        }
    }
    let fault = Fault::NotVisible(reason(60_011));
    for work in [work(1, 1, ContactChange::Added), lookup(1, Haste::Background, None, None)] {
        assert_eq!(refused_alone(&work, &fault, jitter, now), Outcome::NotVisible(60_011));
    }
}

#[test]
fn an_invalid_id_is_a_dead_letter_unless_it_may_become_valid() {
    let (fault, jitter, now) = (Fault::Item(reason(40_058)), Jitter::default(), T0);
    let outcome = |work: &Work| refused_alone(work, &fault, jitter, now);
    assert_eq!(outcome(&work(1, 1, ContactChange::Added)), Outcome::Dead(reason(40_058)));
    assert_eq!(outcome(&work(1, 1, ContactChange::HalfAdded)), Outcome::Missed);
    let waiting = lookup(1, Haste::Background, None, None);
    assert_eq!(outcome(&waiting), Outcome::Missed, "the schedule bounds the lookups");
    let unanswered = refused_alone(&waiting, &Fault::Unknown(reason(99_999)), jitter, now);
    let later = defer(now.plus_ms(HOUR_MS), reason(99_999));
    assert_eq!(unanswered, later, "a call without an answer is not one of them");
}

#[test]
fn an_undocumented_code_gets_a_few_tries_each_slower_than_the_last() {
    let (fault, now) = (Fault::Unknown(reason(99_999)), T0);
    let mut work = work(1, 1, ContactChange::Added);
    let mut waits = Vec::new();
    for _ in 1..UNKNOWN_TRIES_MAX {
        let Outcome::Retry { spent: true, due_at, .. } = refused_alone(&work, &fault, Jitter::default(), now)
        else {
            panic!()
        };
        waits.push(due_at.millis_since(now));
        let event = work.event.as_mut().unwrap();
        event.attempts += 1;
        event.failure = Some(reason(99_999));
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert_eq!(refused_alone(&work, &fault, Jitter::default(), now), Outcome::Dead(reason(99_999)));
}

#[tokio::test]
async fn work_of_a_group_has_its_lane_and_that_of_a_dealer_who_left_is_held_back() {
    let context = context(Scripted::new(|_, _| Ok(Vec::new())), ConversionToken::Auto).await;
    let chat_id = ChatId::new("wrGROUP").unwrap();
    let mut router = Router::new(&context, T0);
    let Destination { lane, held_back } =
        router.destination(&lookup(1, Haste::Live, None, Some(&chat_id))).await.unwrap();
    assert_eq!((lane.owner, lane.chat_id, lane.class), (dealer(), Some(chat_id), LaneClass::Live));
    assert_eq!(held_back, None);
    let Destination { lane, held_back } =
        router.destination(&work(1, 1, ContactChange::Added)).await.unwrap();
    assert_eq!((lane.owner, lane.chat_id, lane.class), (dealer(), None, LaneClass::Live));
    assert_eq!(held_back, None);

    assert!(context.store.dealer_left(&app(), &dealer(), T0).await.unwrap());
    let mut router = Router::new(&context, T0);
    let destination = router.destination(&work(1, 1, ContactChange::Added)).await.unwrap();
    let (_, reason) = destination.held_back.expect("it is held back");
    assert!(reason.text.starts_with("WeCom no longer lists this dealer"), "{}", reason.text);
    assert_eq!(context.breakers.failures(&Scope::Corp(app(), dealer())), 1);
    // What needs no call is applied all the same.
    let removal = work(2, 1, ContactChange::DeletedByMember);
    assert_eq!(router.destination(&removal).await.unwrap_err(), Outcome::Applied);
}

#[tokio::test]
async fn other_lookups_have_a_small_budget_and_take_nothing_from_live_work() {
    let context = context(Scripted::new(|_, _| Ok(Vec::new())), ConversionToken::Auto).await;
    let resolver = Resolver::new(context, CancellationToken::new());
    let key = |class| LaneKey { app: app(), owner: dealer(), chat_id: None, class };
    for customer in 0..BACKGROUND_HELD_MAX {
        let work = lookup(customer, Haste::Background, None, None);
        assert_eq!(resolver.lanes().push(key(LaneClass::Background), work), None);
    }
    assert_eq!(resolver.room(), Held { live: HELD_MAX, background: 0 });
    let mut background = Vec::new();
    for class in [LaneClass::Suspect, LaneClass::Background, LaneClass::Suspect, LaneClass::Background] {
        background.extend(resolver.permits(&key(class)));
    }
    assert_eq!(background.len(), BACKGROUND_CALLS_MAX);
    assert!(resolver.permits(&key(LaneClass::Live)).is_some());
}

/// Lowers the limit of calls with a corp's token to one. The monotonic clock, by which it is raised, is
/// paused.
pub(super) async fn one_call_at_a_time(context: &Context, owner: &CorpId) {
    tokio::time::pause();
    for _ in 0..2 {
        tokio::time::advance(Duration::from_millis(10)).await;
        let permit = context.parallelism.acquire(&app(), owner, Purpose::Lookup).await;
        assert!(permit.unwrap().refused());
    }
}

/// A resolver at a dealer with one call at a time, with 300 lookups, and the number of customers in each call.
async fn with_lookups() -> (Arc<Resolver>, Arc<Mutex<Vec<usize>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let made = calls.clone();
    let platform = Scripted::new(move |_, ids| {
        made.lock().unwrap().push(ids.len());
        Ok(Vec::new())
    });
    let context = context(platform, ConversionToken::Downstream).await;
    one_call_at_a_time(&context, &dealer()).await;
    let resolver = Arc::new(Resolver::new(context, CancellationToken::new()));
    for customer in 0..300 {
        push(&resolver, LaneClass::Background, lookup(customer, Haste::Background, None, None));
    }
    (resolver, calls)
}

fn push(resolver: &Resolver, class: LaneClass, work: Work) {
    let key = LaneKey { app: app(), owner: dealer(), chat_id: None, class };
    assert_eq!(resolver.lanes().push(key, work), None);
}

async fn calls_end(resolver: &Resolver) {
    let calls = &resolver.context.calls;
    calls.close();
    calls.wait().await;
    calls.reopen();
}

#[tokio::test]
async fn of_one_call_at_a_time_an_event_or_its_retry_has_the_one_after_a_call_for_other_lookups() {
    let event = work(1, 1, ContactChange::Added);
    for class in [LaneClass::Live, LaneClass::Alone(event.contact.external_userid.clone())] {
        let (resolver, calls) = with_lookups().await;
        resolver.start_calls();
        push(&resolver, class, event.clone());
        resolver.start_calls();
        calls_end(&resolver).await;
        assert_eq!(*calls.lock().unwrap(), [100]);
        resolver.start_calls();
        calls_end(&resolver).await;
        assert_eq!(calls.lock().unwrap()[..2], [100, 1]);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn while_wecom_fails_events_wait_without_a_write_and_afterwards_all_are_resolved() {
    const BUSY: i64 = -1;
    let works = Arc::new(AtomicBool::new(false));
    let answers = works.clone();
    let pending = |id: &ExternalUserid| PendingId::new(format!("pend{}", id.as_str())).unwrap();
    let mut world = World::over(Scripted::new(move |_, ids| {
        if !answers.load(Ordering::SeqCst) {
            return Err(BUSY);
        }
        Ok(ids.iter().map(|id| (id.clone(), pending(id))).collect())
    }))
    .await;
    world.change_rules(|rules| rules.conversion_token = ConversionToken::Downstream);
    let event = |customer| work(1, customer, ContactChange::Added).event.unwrap().event;
    for customer in 0..300 {
        world.append(Payload::Event(Event { created_at: T0, ..event(customer) })).await;
    }
    let mut resolver = Arc::new(Resolver::new(world.context.clone(), CancellationToken::new()));
    resolver.activate().await;
    calls_end(&resolver).await;
    for customer in 300..400 {
        world.append(Payload::Event(Event { created_at: T0, ..event(customer) })).await;
    }
    resolver.activate().await;
    resolver.activate().await;
    assert_eq!(
        resolver.room(),
        Held { live: HELD_MAX, background: BACKGROUND_HELD_MAX },
        "none is in memory"
    );
    let waiting = world.store.events(EventState::Waiting, EventId(0), 1_000).await.unwrap();
    let (called, untouched): (Vec<_>, Vec<_>) = waiting.iter().partition(
        |row| matches!(row, EventRow::Inbox(InboxEvent { failure: Some(_), due_at, .. }) if *due_at > T0),
    );
    assert_eq!((called.len(), untouched.len()), (100, 300));
    let is_as_received = |row: &&EventRow| matches!(row, EventRow::Inbox(event) if event.due_at == T0);
    assert!(untouched.iter().all(is_as_received), "{untouched:?}");

    works.store(true, Ordering::SeqCst);
    world.advance(Duration::from_secs(1)).await;
    for _ in 0..20 {
        resolver.activate().await;
        calls_end(&resolver).await;
        world.advance(put_off::LOOK_EVERY).await;
    }
    assert_eq!(world.store.counts().inbox, 0);
    assert!(resolver.put_off().is_empty());
}
