//! The worker over a [WeCom](wecom) with auth codes, and what the tests of its parts share.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::super::LOOK_EVERY;
use super::super::apps::{AppRules, Apps};
use super::super::breaker::Scope;
use super::super::resume::{AGAIN_AFTER, Resumer};
use super::super::scripted::{Script, T0, app, contact_event, customer, dealer, member};
use super::super::suites::SuiteSettings;
use super::super::world::{World, rules};
use super::review::READ_CUSTOMERS;
use super::*;
use crate::at_rest::{Purpose, Sealer};
use crate::clock::Clock as _;
use crate::domain::authorization::{Authorization, Granted};
use crate::domain::backoff::Backoff;
use crate::domain::bindings::Unserved;
use crate::domain::chat::{ChatChange, ChatEvent};
use crate::domain::dealer::DealerState;
use crate::domain::event::{ContactChange, Event};
use crate::domain::ids::{ChatId, SuiteId};
use crate::domain::suite::{CodeId, CodeKind, Exchange, ExchangeEnd, SuiteChange, SuiteEvent};
use crate::domain::time::{DAY_MS, SECOND_MS, Timestamp};
use crate::store::{Arrival, FailureReason, MessageDigest, Outcome, Payload, SuiteRecords};
use crate::wecom::Api;
use wecom::Wecom;

mod directory;
mod exchanges;
mod kills;
mod reviews;
mod wecom;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

fn suite() -> AppName {
    AppName::new("agency").unwrap()
}

fn brand() -> CorpId {
    CorpId::new("wpBRAND").unwrap()
}

fn other_app() -> AppName {
    AppName::new("other").unwrap()
}

fn other_brand() -> CorpId {
    CorpId::new("wpOTHER").unwrap()
}

fn sealer(secret: &str, previous: Option<&str>) -> Sealer {
    let previous = previous.map(SecretString::from);
    Sealer::new(&SuiteId::new("dkSUITE").unwrap(), &secret.into(), previous.as_ref())
}

fn agency(apps: &[(AppName, Option<CorpId>)], sealer: Sealer) -> Apps {
    let settings = SuiteSettings {
        provider_corp_id: CorpId::new("wwPROVIDER").unwrap(),
        suite_id: SuiteId::new("dkSUITE").unwrap(),
        secret: "secret".into(),
        sealer: Arc::new(sealer),
        waits_since: T0,
    };
    let rules = apps.iter().map(|(app, corp_id)| {
        (app.clone(), AppRules { suite: Some(suite()), corp_id: corp_id.clone(), ..rules() })
    });
    Apps::new(rules, BTreeMap::from([(suite(), settings)]))
}

/// One app, for the only brand.
fn one_app() -> Apps {
    agency(&[(app(), None)], sealer("secret", None))
}

/// Two apps, each for its own brand.
fn two_apps() -> Apps {
    agency(&[(app(), Some(brand())), (other_app(), Some(other_brand()))], sealer("secret", None))
}

/// Two apps, of which one is for any brand that is not the other's.
fn one_app_for_any_of_two() -> Apps {
    agency(&[(app(), None), (other_app(), Some(other_brand()))], sealer("secret", None))
}

/// One app, after the suite secret was changed.
fn with_new_secret() -> Apps {
    agency(&[(app(), None)], sealer("new", Some("secret")))
}

/// Nonces that repeat in no process of a test.
fn nonces() -> Nonces {
    let next = AtomicU64::new(1);
    Arc::new(move || {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&next.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        nonce
    })
}

fn ticket_event(n: u64, sent_at: Timestamp) -> SuiteEvent {
    let ticket = SecretString::from(format!("ticket{n}"));
    let sealed = sealer("secret", None).seal(Purpose::Ticket, "", &ticket, [1; 12]);
    SuiteEvent { sent_at, change: SuiteChange::Ticket(sealed) }
}

fn code_event(code: &str, kind: CodeKind, sent_at: Timestamp) -> SuiteEvent {
    let id = CodeId::of(&suite(), code);
    let sealed = sealer("secret", None).seal(Purpose::AuthCode, &id.to_string(), &code.into(), [2; 12]);
    SuiteEvent { sent_at, change: SuiteChange::Code { kind, id, code: sealed } }
}

fn arrival(event: SuiteEvent, received_at: Timestamp) -> Arrival {
    let digest = MessageDigest::of(&suite(), format!("{event:?} {received_at}").as_bytes());
    Arrival { app: suite(), digest, received_at, payload: Payload::Suite(event) }
}

/// A service with the worker.
struct Agency {
    world: World,
    wecom: Arc<Wecom>,
    worker: Authorizer,
    tickets: u64,
}

impl Agency {
    /// With a valid ticket.
    async fn new(apps: fn() -> Apps) -> Self {
        let mut agency = Self::without_ticket(apps).await;
        agency.ticket().await;
        agency
    }

    async fn without_ticket(apps: fn() -> Apps) -> Self {
        let (world, wecom) = (World::first_with(Script::new(0, 0), apps), Arc::new(Wecom::default()));
        load(&*world.context.store, &world.context.apps, T0).await.unwrap();
        let worker = Authorizer::new(world.context.clone(), wecom::platform(&wecom), nonces());
        Self { world, wecom, worker, tickets: 0 }
    }

    fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    fn context(&self) -> &Context {
        &self.world.context
    }

    async fn receive(&mut self, event: SuiteEvent) {
        self.context().store.append(arrival(event, self.now())).await.unwrap();
        self.context().wake.suites.notify_one();
    }

    /// WeCom sends the next ticket.
    async fn ticket(&mut self) {
        self.tickets += 1;
        self.receive(ticket_event(self.tickets, self.now())).await;
    }

    /// A corp scans the QR code.
    async fn scan(&mut self, code: &str, corp_id: &CorpId) {
        self.wecom.issue(code, corp_id);
        self.receive(code_event(code, CodeKind::Create, self.now())).await;
    }

    /// The provider chooses 重新获取 secret.
    async fn reset(&mut self, code: &str, corp_id: &CorpId) {
        self.wecom.issue(code, corp_id);
        self.receive(code_event(code, CodeKind::Reset, self.now())).await;
    }

    async fn cancel(&mut self, corp_id: &CorpId) {
        self.wecom.state().cancelled.insert(corp_id.clone());
        let change = SuiteChange::Cancelled(corp_id.clone());
        self.receive(SuiteEvent { sent_at: self.now(), change }).await;
    }

    /// Lets the worker do everything that is due now.
    async fn settle(&mut self) {
        for _ in 0..8 {
            self.look().await;
            self.calls_end().await;
        }
    }

    /// The next activation.
    async fn look(&mut self) {
        if self.context().wake.suites.notified().now_or_never().is_some() {
            self.worker.woken();
        }
        assert_eq!(self.worker.activate().await, LOOK_EVERY);
    }

    async fn calls_end(&self) {
        let calls = &self.context().calls;
        calls.close();
        calls.wait().await;
        calls.reopen();
    }

    /// The worker looks every second for this time.
    async fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.world.advance(SECOND).await;
            self.look().await;
            self.calls_end().await;
        }
        self.settle().await;
    }

    async fn records(&self) -> SuiteRecords {
        self.context().store.suite(&suite()).await.unwrap()
    }

    async fn authorization(&self, corp_id: &CorpId) -> Option<Authorization> {
        self.records().await.authorizations.into_iter().find(|one| one.corp_id == *corp_id)
    }

    async fn exchange(&self, code: &str) -> Option<Exchange> {
        let id = CodeId::of(&suite(), code);
        self.records().await.exchanges.into_iter().find(|(of, _)| *of == id).map(|(_, exchange)| exchange)
    }

    async fn end(&self, code: &str) -> Option<ExchangeEnd> {
        self.exchange(code).await.unwrap().end
    }

    /// The permanent code that the service knows of a corp.
    fn permanent_code(&self, corp_id: &CorpId) -> Option<String> {
        let view = self.context().apps.suite(&suite()).unwrap();
        let code = view.authorization(corp_id.as_str())?.code.as_ref()?;
        Some(code.expose_secret().to_owned())
    }

    fn can_call(&self) -> bool {
        self.context().apps.can_call(&app())
    }
}

fn reason() -> FailureReason {
    FailureReason { errcode: None, text: "no authorisation".to_owned() }
}

#[tokio::test]
async fn a_scanned_qr_code_makes_the_app_usable_and_resumes_its_work() {
    let mut agency = Agency::new(one_app).await;
    let scope = Scope::App(app());
    let now = agency.now();
    agency.context().breakers.failed(&scope, reason(), Backoff::CONFIGURATION, now);
    agency.settle().await;
    assert!(!agency.can_call() && agency.context().breakers.open(&[&scope], now).is_some());
    agency.scan("code", &brand()).await;
    agency.settle().await;
    assert!(agency.can_call());
    assert_eq!(agency.context().apps.corp_of(&app()), Some(brand()));
    assert_eq!(agency.context().store.bindings().await.unwrap(), BTreeMap::from([(app(), brand())]));
    assert_eq!(agency.permanent_code(&brand()).unwrap(), "permanent of code");
    let calls = ["permanent_code code", "auth_info wpBRAND", "permissions brand"];
    assert_eq!(agency.wecom.take_calls(), calls);
    let agent = agency.authorization(&brand()).await.unwrap().agent.unwrap();
    assert_eq!((agent.agent_id, agent.may_read_customers), (7, Some(true)));
    assert_eq!(agency.records().await.exchanges, []);
    assert_eq!(agency.context().breakers.open(&[&scope], now), None, "a probe is due");
    let wake = &agency.context().wake;
    assert!(wake.take_changed(&app()), "the dealers are to be read");
    for worker in [&wake.inbox, &wake.fans, &wake.groups, &wake.reconcile, &wake.unrouted] {
        tokio::time::timeout(MINUTE, worker.notified()).await.expect("woken");
    }
    agency.pass(MINUTE).await;
    assert_eq!(agency.wecom.take_calls(), [""; 0], "nothing is read again");
}

#[tokio::test]
async fn work_that_waited_for_the_authorisation_is_due_at_once() {
    let mut agency = Agency::new(one_app).await;
    let store = agency.context().store.clone();
    let (created_at, later) = (agency.now(), agency.now().plus_ms(DAY_MS));
    let (chat_id, change) = (ChatId::new("wrGROUP").unwrap(), ChatChange::Created);
    let event = ChatEvent { corp_id: brand(), created_at, chat_id, change };
    agency.world.append(Payload::Chat(event)).await;
    for group in store.due_chats(&BTreeSet::new(), later, 9).await.unwrap() {
        store.chat_unread(&group, Some(later)).await.unwrap();
    }
    assert_eq!(store.next_chat_due().await.unwrap(), Some(later));
    agency.world.advance(MINUTE).await;
    let now = agency.now();
    let probe_at = agency.context().breakers.failed(&Scope::App(app()), reason(), Backoff::CALL, now);
    let contact = contact_event(ContactChange::Added, member(0), customer(0));
    agency.world.append(Payload::Event(Event { corp_id: dealer(), created_at, contact })).await;
    let work = store.lease(now, 9, 9).await.unwrap();
    let deferred = Outcome::Retry { due_at: probe_at, reason: reason(), spent: false };
    store.settle(work.into_iter().map(|work| (work, deferred.clone())).collect(), now).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(probe_at));
    agency.scan("code", &brand()).await;
    agency.settle().await;
    assert_eq!(store.next_due().await.unwrap(), Some(now));
    assert_eq!(store.next_chat_due().await.unwrap(), Some(now));
}

#[tokio::test]
async fn what_could_not_be_resumed_is_resumed_later() {
    let mut agency = Agency::new(one_app).await;
    agency.scan("first", &brand()).await;
    agency.settle().await;
    agency.world.advance(MINUTE).await;
    let (store, now) = (agency.context().store.clone(), agency.now());
    let slow = Backoff { first_ms: DAY_MS, max_ms: DAY_MS };
    let probe_at = agency.context().breakers.failed(&Scope::App(app()), reason(), slow, now);
    let contact = contact_event(ContactChange::Added, member(0), customer(0));
    agency.world.append(Payload::Event(Event { corp_id: dealer(), created_at: now, contact })).await;
    let work = store.lease(now, 9, 9).await.unwrap();
    let deferred = Outcome::Retry { due_at: probe_at, reason: reason(), spent: false };
    store.settle(work.into_iter().map(|work| (work, deferred.clone())).collect(), now).await.unwrap();
    agency.reset("second", &brand()).await;
    while agency.authorization(&brand()).await.is_none_or(|one| one.codes < 2 || one.agent.is_none()) {
        agency.look().await;
        agency.calls_end().await;
    }
    agency.world.store.fill_disk(true);
    agency.look().await;
    agency.calls_end().await;
    assert!(agency.can_call());
    agency.world.store.fill_disk(false);
    assert_eq!(store.next_due().await.unwrap(), Some(probe_at));
    agency.pass(AGAIN_AFTER).await;
    assert!(store.next_due().await.unwrap() <= Some(agency.now()));
}

#[tokio::test]
async fn two_brands_have_an_app_each_and_a_third_has_none() {
    let mut agency = Agency::new(two_apps).await;
    for (code, corp_id) in [("a", other_brand()), ("b", brand()), ("c", dealer())] {
        agency.scan(code, &corp_id).await;
    }
    agency.settle().await;
    let apps = &agency.context().apps;
    assert_eq!((apps.corp_of(&app()), apps.corp_of(&other_app())), (Some(brand()), Some(other_brand())));
    assert_eq!(apps.app_of_brand(&suite(), dealer().as_str()), None);
    assert_eq!(agency.permanent_code(&brand()).unwrap(), "permanent of b");
    assert_eq!(agency.permanent_code(&other_brand()).unwrap(), "permanent of a");
    assert_eq!(agency.wecom.count("permissions"), 2, "of the apps alone");
}

#[tokio::test]
async fn an_app_without_a_corp_does_not_choose_among_brands_and_keeps_the_one_it_has() {
    let mut agency = Agency::new(one_app_for_any_of_two).await;
    for (code, corp_id) in [("a", brand()), ("b", dealer()), ("c", other_brand())] {
        agency.scan(code, &corp_id).await;
    }
    agency.settle().await;
    let Some(Unserved::Several(brands)) = agency.context().apps.unserved(&app()) else { panic!() };
    assert_eq!(brands.len(), 2);
    assert!(!agency.can_call() && agency.context().apps.can_call(&other_app()));

    let mut agency = Agency::new(one_app).await;
    for (code, corp_id) in [("a", brand()), ("b", other_brand())] {
        agency.scan(code, &corp_id).await;
        agency.settle().await;
    }
    assert_eq!(agency.context().apps.corp_of(&app()), Some(brand()));
}

#[tokio::test]
async fn the_next_process_serves_the_same_brand_before_any_worker_runs() {
    let mut agency = Agency::new(one_app).await;
    agency.scan("code", &brand()).await;
    agency.settle().await;
    let Agency { world, worker, .. } = agency;
    drop(worker);
    let context = world.restart().await.context;
    assert!(!context.apps.can_call(&app()));
    let changes = load(&*context.store, &context.apps, T0).await.unwrap();
    assert_eq!(changes.usable, [(app(), brand())]);
    assert!(context.apps.can_call(&app()));
}

#[tokio::test]
async fn secrets_sealed_with_the_previous_suite_secret_are_sealed_with_the_new_one() {
    let mut agency = Agency::new(with_new_secret).await;
    let permanent = SecretString::from("permanent");
    let code =
        sealer("secret", None).seal(Purpose::PermanentCode, other_brand().as_str(), &permanent, [3; 12]);
    let granted = Granted { corp_id: other_brand(), name: String::new(), code, sent_at: agency.now() };
    let store = agency.context().store.clone();
    store.grant(&suite(), &CodeId::of(&suite(), "gone"), granted, T0).await.unwrap();
    // Not exchanged yet, because there is no valid ticket.
    agency.wecom.state().refused.insert(Api::GetSuiteToken, 40_085);
    agency.receive(code_event("code", CodeKind::Create, agency.now())).await;
    agency.settle().await;
    let (records, new) = (agency.records().await, sealer("new", None));
    assert!(new.is_current(&records.ticket.as_ref().unwrap().sealed));
    assert!(new.is_current(&records.exchanges[0].1.code));
    assert!(new.is_current(&records.authorizations[0].code));
    assert_eq!(agency.permanent_code(&other_brand()).unwrap(), "permanent");
    agency.wecom.state().refused.clear();
    agency.wecom.issue("code", &brand());
    agency.pass(SECOND * 10).await;
    agency.ticket().await;
    agency.settle().await;
    assert_eq!(agency.permanent_code(&brand()).unwrap(), "permanent of code");
}

#[tokio::test]
async fn an_exchange_that_ended_is_deleted_after_a_week() {
    let mut agency = Agency::new(one_app).await;
    agency.receive(code_event("unknown", CodeKind::Create, agency.now())).await;
    agency.settle().await;
    assert!(matches!(agency.end("unknown").await, Some(ExchangeEnd::Refused { errcode: 40_078, .. })));
    for is_kept in [true, false] {
        agency.world.advance(if is_kept { DAY * 7 } else { MINUTE * 61 }).await;
        agency.settle().await;
        assert_eq!(agency.exchange("unknown").await.is_some(), is_kept);
    }
}
