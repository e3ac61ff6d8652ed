//! The admin API of a provider's service, for tests: the suite `agency` with the apps `brand` (for any brand)
//! and `second` (for `wpB`), and the self-built app `own`. Every secret contains `CANARY`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::late_answers::LateAnswers;
use super::refused_tokens::RefusedTokens;
use super::state::{AdminState, Permits};
use crate::at_rest::{Purpose, Sealer};
use crate::clock::ManualClock;
use crate::domain::authorization::{Agent, Granted, SharedFrom};
use crate::domain::backoff::Backoff;
use crate::domain::event::{ContactChange, ContactEvent, Event};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, SuiteId, UserId};
use crate::domain::quota::{Budget, Grant, Share};
use crate::domain::sealed::Sealed;
use crate::domain::suite::{CodeId, CodeKind, SuiteChange, SuiteEvent};
use crate::domain::time::{DAY_MS, Moment, Timestamp};
use crate::lifecycle::Lifecycle;
use crate::machine::Wanted;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{Arrival, FailureReason, MessageDigest, Outcome, Payload, Store};
use crate::telemetry::metrics::Metrics;
use crate::wecom::{
    Api, AuthInfo, CallError, Client, Credentials as _, Ledgers, Limiter, PermanentCode, Reply,
    SuitePlatform, Transport, Wire,
};
use crate::worker::apps::{AppRules, Apps};
use crate::worker::authorize;
use crate::worker::breaker::Scope;
use crate::worker::directory::Directory;
use crate::worker::suites::SuiteSettings;

/// When everything begins.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);

pub(super) fn name(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

pub(super) fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn suite_id() -> SuiteId {
    SuiteId::new("dkSUITE").unwrap()
}

fn secret() -> SecretString {
    "CANARY-suite-secret".into()
}

fn rules(suite: Option<&str>, corp_id: Option<&str>) -> AppRules {
    AppRules::for_tests(suite.map(name), corp_id.map(corp))
}

/// WeCom cannot be reached.
struct Offline;

#[async_trait]
impl Wire for Offline {
    async fn exchange(&self, _: &str, _: Option<&Value>) -> Result<Reply, Transport> {
        Err(Transport::Connect)
    }
}

#[async_trait]
impl Ledgers for Offline {
    async fn reserve(
        &self,
        _: &[(String, Budget)],
        _: Api,
        _: Share,
        _: u32,
        _: Moment,
    ) -> Result<Grant, String> {
        Err("no calls are made".to_owned())
    }

    async fn rate_limited(&self, _: &str, _: Budget, _: Api, _: Moment) -> Result<i64, String> {
        Err("no calls are made".to_owned())
    }
}

/// WeCom, which refuses a ticket once [`Scene::refuse_ticket`] says so.
#[derive(Default)]
struct Tickets(Mutex<Option<String>>);

#[async_trait]
impl SuitePlatform for Tickets {
    async fn permanent_code(&self, _: &AppName, _: &SecretString) -> Result<PermanentCode, CallError> {
        unreachable!("no calls are made")
    }

    async fn auth_info(&self, _: &AppName, _: &CorpId, _: &SecretString) -> Result<AuthInfo, CallError> {
        unreachable!("no calls are made")
    }

    async fn permissions(&self, _: &AppName) -> Result<Vec<String>, CallError> {
        unreachable!("no calls are made")
    }

    fn has_refused_ticket(&self, _: &AppName, ticket: &SecretString) -> bool {
        self.0.lock().unwrap().as_deref() == Some(ticket.expose_secret())
    }

    fn has_suite_token(&self, _: &AppName) -> bool {
        false
    }
}

pub(super) struct Scene {
    pub(super) state: Arc<AdminState>,
    pub(super) clock: Arc<ManualClock>,
    tickets: Arc<Tickets>,
    sealer: Sealer,
    /// The number of messages received.
    messages: AtomicU8,
}

impl Scene {
    /// Nobody has authorised yet, and there is no ticket.
    pub(super) fn new() -> Self {
        let store: Arc<dyn Store> =
            Arc::new(EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap());
        let clock = Arc::new(ManualClock::new(NOW));
        let sealer = || Sealer::new(&suite_id(), &secret(), None);
        let settings = SuiteSettings {
            provider_corp_id: corp("wwPROVIDER"),
            suite_id: suite_id(),
            secret: secret(),
            sealer: Arc::new(sealer()),
            waits_since: NOW,
        };
        let rules = [
            ("brand", rules(Some("agency"), None)),
            ("second", rules(Some("agency"), Some("wpB"))),
            ("own", rules(None, Some("wwOWN"))),
        ];
        let rules = rules.map(|(app, rules)| (name(app), rules));
        let apps = Arc::new(Apps::new(rules, BTreeMap::from([(name("agency"), settings)])));
        let metrics = Arc::new(Metrics::default());
        let limiter = Limiter::new(Arc::new(Offline), clock.clone(), apps.clone());
        let client = Client::over(Arc::new(Offline), apps.clone(), limiter, clock.clone(), metrics.clone());
        let directory =
            Directory::new(store.clone(), Arc::new(client), clock.clone(), Arc::default(), apps.clone());
        let (stop, tickets) = (CancellationToken::new(), Arc::<Tickets>::default());
        let state = Arc::new(AdminState {
            store,
            doors: Arc::default(),
            url_checks: Arc::default(),
            clock: clock.clone(),
            metrics,
            wake: Arc::default(),
            breakers: Arc::default(),
            dealer_names: Arc::default(),
            optional_calls: Arc::default(),
            directory: Arc::new(directory),
            suite_platform: tickets.clone(),
            activity: Arc::default(),
            notes: Arc::default(),
            machine: Wanted::default(),
            sinks: Arc::default(),
            pages: Arc::default(),
            imports: Arc::default(),
            permits: Permits::of(64),
            lifecycle: Lifecycle::new(stop.clone()),
            stop,
            apps,
            guard: Arc::new(Guard::new(Vec::new(), Vec::new())),
            reload: None,
            late_answers: LateAnswers::of(64),
            refused_tokens: RefusedTokens::default(),
            started_at: NOW,
            feed_kept_ms: 30 * DAY_MS,
        });
        Self { state, clock, tickets, sealer: sealer(), messages: AtomicU8::new(0) }
    }

    /// With a ticket; `wpA` and `wpB` have authorised, and `wpD` as a dealer of `wpA`.
    pub(super) async fn authorized() -> Self {
        let scene = Self::new();
        scene.ticket().await;
        scene.authorize("wpA", |_| {}).await;
        scene.authorize("wpB", |_| {}).await;
        scene.authorize("wpD", shared_from("wpA")).await;
        scene
    }

    async fn append(&self, app: &str, payload: Payload) {
        let digest = MessageDigest::of(&name(app), &[self.messages.fetch_add(1, Ordering::Relaxed)]);
        let arrival = Arrival { app: name(app), digest, received_at: self.now(), payload };
        self.state.store.append(arrival).await.unwrap();
        authorize::load(&*self.state.store, &self.state.apps, self.now()).await.unwrap();
    }

    async fn suite_event(&self, change: SuiteChange) {
        self.append("agency", Payload::Suite(SuiteEvent { sent_at: self.now(), change })).await;
    }

    fn now(&self) -> Timestamp {
        self.state.clock.now()
    }

    fn seal(&self, purpose: Purpose, owner: &str) -> Sealed {
        let nonce = [self.messages.fetch_add(1, Ordering::Relaxed); 12];
        self.sealer.seal(purpose, owner, &format!("CANARY-{owner}").into(), nonce)
    }

    /// WeCom sends a ticket.
    pub(super) async fn ticket(&self) {
        self.suite_event(SuiteChange::Ticket(self.seal(Purpose::Ticket, ""))).await;
    }

    /// WeCom refuses the present ticket.
    pub(super) fn refuse_ticket(&self) {
        let ticket = self.state.apps.of_suite(&name("agency"), self.now()).unwrap().ticket.unwrap();
        *self.tickets.0.lock().unwrap() = Some(ticket.expose_secret().to_owned());
    }

    /// A corp scans the QR code; the code is to be exchanged.
    pub(super) async fn scan(&self) -> CodeId {
        let code = format!("CANARY-auth-code-{}", self.messages.load(Ordering::Relaxed));
        let id = CodeId::of(&name("agency"), &code);
        let nonce = [self.messages.fetch_add(1, Ordering::Relaxed); 12];
        let code = self.sealer.seal(Purpose::AuthCode, &id.to_string(), &code.into(), nonce);
        self.suite_event(SuiteChange::Code { kind: CodeKind::Create, id, code }).await;
        id
    }

    /// A corp authorises, and its app is read.
    pub(super) async fn authorize(&self, corp_id: &str, change: impl FnOnce(&mut Agent)) {
        let (id, store, suite) = (self.scan().await, &self.state.store, name("agency"));
        let code = self.seal(Purpose::PermanentCode, corp_id);
        let granted =
            Granted { corp_id: corp(corp_id), name: format!("甲{corp_id}"), code, sent_at: self.now() };
        let record = store.grant(&suite, &id, granted, self.now()).await.unwrap();
        let mut agent = Agent {
            agent_id: 1_000_007,
            shared_from: None,
            is_verified: Some(true),
            may_read_customers: Some(true),
            read_at: self.now(),
        };
        change(&mut agent);
        assert!(store.put_agent(&suite, &record, String::new(), agent).await.unwrap());
        authorize::load(&**store, &self.state.apps, self.now()).await.unwrap();
    }

    /// A corp cancels, a second after what came before.
    pub(super) async fn cancel(&self, corp_id: &str) {
        self.clock.advance_ms(1_000);
        self.suite_event(SuiteChange::Cancelled(corp(corp_id))).await;
    }

    /// A member of a corp adds the customer `wmINVENTED`.
    pub(super) async fn customer_added(&self, app: &str, corp_id: &str) {
        let contact = ContactEvent {
            change: ContactChange::Added,
            user_id: UserId::new("zhangsan").unwrap(),
            external_userid: ExternalUserid::new("wmINVENTED").unwrap(),
            state: None,
            welcome_code: None,
        };
        self.append(app, Payload::Event(Event { corp_id: corp(corp_id), created_at: self.now(), contact }))
            .await;
    }

    /// WeCom refuses what is due, for good.
    pub(super) async fn give_up(&self, errcode: i64) {
        let work = self.state.store.lease(self.now(), 10, 10).await.unwrap();
        let dead =
            |work| (work, Outcome::Dead(FailureReason { errcode: Some(errcode), text: "no".to_owned() }));
        let outcomes = work.into_iter().map(dead).collect();
        self.state.store.settle(outcomes, self.now()).await.unwrap();
    }

    /// WeCom refuses the calls of this scope.
    pub(super) fn refuse(&self, scope: &Scope, errcode: i64) {
        let reason = FailureReason { errcode: Some(errcode), text: "no".to_owned() };
        self.state.breakers.failed(scope, reason, Backoff::CONFIGURATION, self.now());
    }

    /// The answer to a request, which is JSON, or else a text; it never contains a secret.
    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        let request = Request::get(path).header("host", "127.0.0.1").body(Body::empty()).unwrap();
        self.answer(request).await
    }

    /// As [`get`](Self::get), for an answer that is a success.
    pub(super) async fn read(&self, path: &str) -> Value {
        let (status, answer) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Registers a fan.
    pub(super) async fn register(&self, app: &str, unionid: &str) {
        let fan = serde_json::json!({"app": app, "unionid": unionid, "openid": "oINVENTED-openid-0001"});
        assert_eq!(self.post("/v1/fans", &fan).await, 202);
    }

    /// The status of a POST with this body.
    pub(super) async fn post(&self, path: &str, body: &Value) -> u16 {
        let request = Request::post(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(body.to_string().into())
            .unwrap();
        self.answer(request).await.0
    }

    async fn answer(&self, request: Request<Body>) -> (u16, Value) {
        let service = TowerToHyperService::new(super::router(self.state.clone()));
        let response = service.call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("CANARY"), "a secret is shown: {text}");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

/// The app is shared by a corp, through 上下游.
pub(super) fn shared_from(corp_id: &str) -> impl FnOnce(&mut Agent) {
    let corp_id = corp(corp_id);
    |agent| agent.shared_from = Some(SharedFrom { corp_id, share_type: 1 })
}
