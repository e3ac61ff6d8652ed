//! Outcomes of refusals, routing and budgets, and what the tests of lanes and batches share: work, and a
//! context with a scripted platform.

use async_trait::async_trait;

use super::conversion::Fault;
use super::outcome::{UNKNOWN_TRIES_MAX, refused_alone};
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::domain::backoff::Jitter;
use crate::domain::contact::Contact;
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::event::{ContactChange, ContactEvent, Event};
use crate::domain::fan::Renew;
use crate::domain::ids::{
    AppName, ChatId, ContactKey, CorpId, ExternalUserid, Openid, PendingId, Unionid, UserId,
};
use crate::domain::link::Source;
use crate::domain::lookup::Lookup;
use crate::domain::quota::{Limits, Share};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::HOUR_MS;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{EventId, InboxEvent, Store};
use crate::wecom::{Api, CallError, ChatMembers, CustomerPage, DealerList, Platform, TokenOf};
use crate::worker::breaker::{Breakers, Scope};
use crate::worker::directory::Directory;
use crate::worker::{AppRules, ConversionToken};

pub(super) const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

pub(super) fn app() -> AppName {
    AppName::new("brand").unwrap()
}

pub(super) fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn contact(customer: usize) -> ContactKey {
    let external_userid = ExternalUserid::new(format!("wm{customer}")).unwrap();
    ContactKey { app: app(), corp_id: corp("wpDEALER"), external_userid }
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
            contact: ContactEvent {
                change,
                user_id: UserId::new("member").unwrap(),
                external_userid: contact.external_userid.clone(),
                state: None,
                welcome_code: None,
            },
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

/// The pending ids of these customers, or WeCom's code.
type Converted = Result<Vec<(ExternalUserid, PendingId)>, i64>;

/// A platform that converts as a function says, and has no other call.
pub(super) struct Scripted<F> {
    convert: F,
    /// The token and the number of ids of each conversion.
    pub(super) calls: Mutex<Vec<(TokenOf, usize)>>,
}

impl<F: Fn(&TokenOf, &[ExternalUserid]) -> Converted + Send + Sync + 'static> Scripted<F> {
    pub(super) fn new(convert: F) -> Arc<Self> {
        Arc::new(Self { convert, calls: Mutex::default() })
    }

    /// The number of calls with the brand's token, and of those with a dealer's.
    pub(super) fn counts(&self) -> [usize; 2] {
        let calls = self.calls.lock().unwrap();
        let brand = calls.iter().filter(|(token, _)| *token == TokenOf::Upstream).count();
        [brand, calls.len() - brand]
    }
}

#[async_trait]
impl<F: Fn(&TokenOf, &[ExternalUserid]) -> Converted + Send + Sync + 'static> Platform for Scripted<F> {
    async fn external_userid_to_pending_id(
        &self,
        _: &AppName,
        token: &TokenOf,
        _: Option<&ChatId>,
        ids: &[ExternalUserid],
    ) -> Result<Vec<(ExternalUserid, PendingId)>, CallError> {
        self.calls.lock().unwrap().push((token.clone(), ids.len()));
        let api = Api::ExternalUseridToPendingId;
        (self.convert)(token, ids).map_err(|errcode| CallError::Refused { api, errcode, from_ip: None })
    }

    async fn dealers(&self, _: &AppName, _: Option<&CorpId>) -> Result<DealerList, CallError> {
        unreachable!()
    }

    async fn chains(&self, _: &AppName) -> Result<Vec<String>, CallError> {
        unreachable!()
    }

    async fn qualification(
        &self,
        _: &AppName,
        _: &str,
        _: &CorpId,
    ) -> Result<Option<Qualification>, CallError> {
        unreachable!()
    }

    async fn unionid_to_pending_id(
        &self,
        _: &AppName,
        _: &Unionid,
        _: &Openid,
        _: Share,
    ) -> Result<PendingId, CallError> {
        unreachable!()
    }

    async fn unionid_to_external_userid(
        &self,
        _: &AppName,
        _: &Unionid,
        _: &Openid,
        _: Share,
    ) -> Result<Vec<(CorpId, ExternalUserid)>, CallError> {
        unreachable!()
    }

    async fn members(&self, _: &AppName, _: &TokenOf) -> Result<Vec<UserId>, CallError> {
        unreachable!()
    }

    async fn customers_of(
        &self,
        _: &AppName,
        _: &TokenOf,
        _: &[UserId],
        _: &str,
    ) -> Result<CustomerPage, CallError> {
        unreachable!()
    }

    async fn contacts(&self, _: &AppName, _: &TokenOf, _: &str) -> Result<CustomerPage, CallError> {
        unreachable!()
    }

    async fn chats(&self, _: &AppName, _: &TokenOf, _: &str) -> Result<(Vec<ChatId>, String), CallError> {
        unreachable!()
    }

    async fn chat(&self, _: &AppName, _: &TokenOf, _: &ChatId) -> Result<ChatMembers, CallError> {
        unreachable!()
    }

    fn forget_failures(&self, _: Option<&AppName>) {}
}

/// A context with an empty store, apart from one dealer.
pub(super) async fn context(platform: Arc<dyn Platform>, conversion_token: ConversionToken) -> Context {
    let store = EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let dealer = Dealer::listed(corp("wpDEALER"), 7, String::new(), T0);
    store.put_dealers(&app(), vec![dealer]).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(T0));
    let rules = AppRules {
        corp_id: corp("wwBRAND"),
        conversion_token,
        existing_customers: false,
        customer_groups: true,
        reconcile_hours: 0,
        silent_days: 0,
        renew: Renew::Never,
        same_id_extends: false,
        quota: Limits::DOCUMENTED,
        reserve_percent: 0,
    };
    let directory = Directory::new(store.clone(), platform.clone(), clock.clone(), Arc::default());
    Context {
        store,
        platform,
        clock,
        jitter: Jitter::default(),
        metrics: Arc::default(),
        wake: Arc::default(),
        breakers: Arc::new(Breakers::default()),
        directory: Arc::new(directory),
        dealer_names: Arc::default(),
        apps: Arc::new([(app(), rules)].into()),
        calls: tokio_util::task::TaskTracker::new(),
        panicked: CancellationToken::new(),
        calls_max: 8,
        activity: Arc::default(),
        optional_calls: Arc::default(),
        parallelism: Arc::default(),
        sinks: Arc::default(),
        store_failures: Arc::default(),
        feed_kept_ms: HOUR_MS,
    }
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
    let lane = router.destination(&lookup(1, Haste::Live, None, Some(&chat_id))).await.unwrap();
    assert_eq!((lane.owner, lane.chat_id, lane.class), (corp("wpDEALER"), Some(chat_id), LaneClass::Live));
    let lane = router.destination(&work(1, 1, ContactChange::Added)).await.unwrap();
    assert_eq!((lane.owner, lane.chat_id, lane.class), (corp("wpDEALER"), None, LaneClass::Live));

    assert!(context.store.dealer_left(&app(), &corp("wpDEALER"), T0).await.unwrap());
    let mut router = Router::new(&context, T0);
    let held_back = router.destination(&work(1, 1, ContactChange::Added)).await.unwrap_err();
    let Outcome::Retry { reason, spent: false, .. } = held_back else { panic!("not held back") };
    assert!(reason.text.starts_with("WeCom no longer lists this dealer"), "{}", reason.text);
    assert_eq!(context.breakers.failures(&Scope::Corp(app(), corp("wpDEALER"))), 1);
    // What needs no call is applied all the same.
    let removal = work(2, 1, ContactChange::DeletedByMember);
    assert_eq!(router.destination(&removal).await.unwrap_err(), Outcome::Applied);
}

#[tokio::test]
async fn other_lookups_have_a_small_budget_and_take_nothing_from_live_work() {
    let context = context(Scripted::new(|_, _| Ok(Vec::new())), ConversionToken::Auto).await;
    let resolver = Resolver::new(context, CancellationToken::new());
    let key = |class| LaneKey { app: app(), owner: corp("wpDEALER"), chat_id: None, class };
    let mut deferred = Deferred::default();
    for customer in 0..BACKGROUND_HELD_MAX {
        let work = lookup(customer, Haste::Background, None, None);
        assert_eq!(resolver.lanes().push(key(LaneClass::Background), work, &mut deferred), None);
    }
    assert_eq!(resolver.room(), Held { live: HELD_MAX, background: 0 });
    let mut background = Vec::new();
    for class in [LaneClass::Suspect, LaneClass::Background, LaneClass::Suspect, LaneClass::Background] {
        background.extend(resolver.permits(&key(class)));
    }
    assert_eq!(background.len(), BACKGROUND_CALLS_MAX);
    assert!(resolver.permits(&key(LaneClass::Live)).is_some());
}
