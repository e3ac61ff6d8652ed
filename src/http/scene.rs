//! The callback URLs of a provider, for tests: the suite `agency` with the apps `brand` and `second`, of which
//! `second` has a URL of its own; the suite `other` with the app `third`; the self-built app `own`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;

use super::callback_log::CallbackLog;
use super::callbacks::CallbackState;
use super::door_set::DoorSet;
use super::doors::{AppDoor, AppRecipients, Door, Doors, SuiteDoor, SuiteRecipients};
use super::public;
use super::unserved::UnservedCorps;
use crate::at_rest::{Purpose, Sealer};
use crate::callback::properties::request;
use crate::callback::{AesKey, Keys};
use crate::clock::ManualClock;
use crate::domain::authorization::{Agent, Authorization, Granted, SharedFrom};
use crate::domain::bindings::bind;
use crate::domain::dealer::Dealer;
use crate::domain::ids::{AppName, CorpId, SuiteId};
use crate::domain::time::Timestamp;
use crate::intake::Recipients;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, Settings};
use crate::store::{EventId, EventRow, EventState, Quarantined, Store as _, SuiteRecords};
use crate::telemetry::metrics::{CallbackOutcome, Metrics};
use crate::worker::Wake;
use crate::worker::apps::{AppRules, Apps};
use crate::worker::suites::{SuiteSettings, SuiteView};

/// When everything happens, and when WeCom sends what it sends.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_403_610_520);
/// Of the suite `agency`; `dkOTHER` is the other one's.
pub(super) const SUITE_ID: &str = "dkSUITE";
/// In `accept_receive_ids` at the URL of `agency`.
pub(super) const FURTHER_ID: &str = "further";

pub(super) struct Scene {
    pub(super) state: Arc<CallbackState>,
    pub(super) store: Arc<EmbeddedStore>,
    pub(super) clock: Arc<ManualClock>,
}

pub(super) fn name(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

pub(super) fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

/// The token and the key of a URL.
fn token_and_key(url: &str) -> (String, String) {
    let letter = &url[..1];
    (format!("token of {url}"), letter.repeat(43))
}

fn keys(url: &str) -> Keys {
    let (token, key) = token_and_key(url);
    Keys::new(token.into(), AesKey::decode(&key).unwrap())
}

fn recipients(suite: &str) -> SuiteRecipients {
    SuiteRecipients {
        suite: name(suite),
        suite_id: settings(suite).suite_id,
        provider_corp_id: corp("wwPROVIDER"),
        accept_receive_ids: if suite == "agency" { vec![FURTHER_ID.to_owned()] } else { Vec::new() },
    }
}

fn settings(suite: &str) -> SuiteSettings {
    let suite_id = SuiteId::new(if suite == "agency" { SUITE_ID } else { "dkOTHER" }).unwrap();
    let secret = SecretString::from(format!("CANARY-secret of {suite}"));
    let sealer = Arc::new(Sealer::new(&suite_id, &secret, None));
    let waits_since = Timestamp::EPOCH;
    SuiteSettings { provider_corp_id: corp("wwPROVIDER"), suite_id, secret, sealer, waits_since }
}

fn rules(suite: Option<&str>, corp_id: &str) -> AppRules {
    AppRules::for_tests(suite.map(name), Some(corp(corp_id)))
}

fn doors() -> Doors {
    let app = |app: &str, recipients| {
        let door = AppDoor { name: name(app), keys: keys(app), recipients, customer_groups: true };
        (name(app), Arc::new(Door::App(door)))
    };
    let suite = |suite: &str| {
        let sealer = settings(suite).sealer;
        let door = SuiteDoor { keys: keys(suite), recipients: recipients(suite), sealer };
        (name(suite), Arc::new(Door::Suite(door)))
    };
    let own = Recipients { corp_id: corp("wwOWN"), accept_receive_ids: Vec::new() };
    Doors::from([
        suite("agency"),
        suite("other"),
        app("second", AppRecipients::Agency(recipients("agency"))),
        app("own", AppRecipients::SelfBuilt(own)),
    ])
}

fn authorization(suite: &str, corp_id: &str, shared_from: Option<&str>) -> Authorization {
    let code = settings(suite).sealer.seal(Purpose::PermanentCode, corp_id, &"CANARY-code".into(), [7; 12]);
    let granted = Granted { corp_id: corp(corp_id), name: corp_id.to_owned(), code, sent_at: NOW };
    let mut record = Authorization::granted(None, granted, NOW);
    let shared_from = shared_from.map(|of| SharedFrom { corp_id: corp(of), share_type: 1 });
    let agent = Agent { agent_id: 7, shared_from, is_verified: None, may_read_customers: None, read_at: NOW };
    assert!(record.read(1, 1, String::new(), agent));
    record
}

impl Scene {
    /// Nobody has authorised yet.
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(store: Settings) -> Self {
        let store = Arc::new(EmbeddedStore::in_memory(Memory::default(), store).unwrap());
        let clock = Arc::new(ManualClock::new(NOW));
        let apps = [
            ("brand", rules(Some("agency"), "wpA")),
            ("second", rules(Some("agency"), "wpB")),
            ("third", rules(Some("other"), "wpC")),
            ("own", rules(None, "wwOWN")),
        ];
        let suites = ["agency", "other"].map(|suite| (name(suite), settings(suite)));
        let apps = Apps::new(apps.map(|(app, rules)| (name(app), rules)), BTreeMap::from(suites));
        let nonce = AtomicU8::new(0);
        let state = Arc::new(CallbackState {
            doors: Arc::new(DoorSet::new(doors())),
            apps: Arc::new(apps),
            nonces: Arc::new(move || [nonce.fetch_add(1, Ordering::Relaxed); 12]),
            store: store.clone(),
            clock: clock.clone(),
            metrics: Arc::new(Metrics::default()),
            wake: Arc::new(Wake::default()),
            activity: Arc::default(),
            notes: Arc::default(),
            unserved: UnservedCorps::default(),
            url_checks: Arc::default(),
            log: CallbackLog::default(),
            event_days_max: 7,
            source_check: None,
            body_bytes_max: 64 << 10,
            body_timeout: Duration::from_secs(3),
        });
        Self { state, store, clock }
    }

    /// `brand` and `second` serve `wpA` and `wpB`, `third` serves `wpC`. `wpD1` has authorised as a dealer of
    /// `wpA`; `wpD2` is in the lists of both apps of `agency`.
    pub(super) async fn authorized() -> Self {
        let scene = Self::new();
        scene.authorize(&[
            ("agency", "wpA", None),
            ("agency", "wpB", None),
            ("agency", "wpD1", Some("wpA")),
            ("other", "wpC", None),
        ]);
        for app in ["brand", "second"] {
            scene.list_dealer(app, "wpD2").await;
        }
        scene
    }

    /// These corps have authorised these suites, and no others; with the corp that shared the app.
    pub(super) fn authorize(&self, authorizations: &[(&str, &str, Option<&str>)]) {
        let mut granted: BTreeMap<AppName, Vec<Authorization>> = BTreeMap::new();
        for (suite, corp_id, shared_from) in authorizations {
            let record = authorization(suite, corp_id, *shared_from);
            granted.entry(name(suite)).or_default().push(record);
        }
        let bindings = bind(self.state.apps.agency(), &granted, &BTreeMap::new(), NOW);
        let view = |(suite, authorizations): (AppName, Vec<Authorization>)| {
            let records = SuiteRecords { authorizations, ..SuiteRecords::default() };
            let view = SuiteView::of(records, &settings(suite.as_str()).sealer);
            (suite, view)
        };
        self.state.apps.replace(granted.into_iter().map(view).collect(), &bindings, NOW);
    }

    /// WeCom lists this dealer of the app.
    pub(super) async fn list_dealer(&self, app: &str, corp_id: &str) {
        let dealer = Dealer {
            corp_id: corp(corp_id),
            agent_id: 1,
            name: corp_id.to_owned(),
            listed_at: NOW,
            token: None,
            left_at: None,
            qualification: None,
        };
        self.store.put_dealers(&name(app), vec![dealer]).await.unwrap();
    }

    /// Sends a callback to a URL, with the token and key of `sealed_by`. Returns status and body.
    pub(super) async fn post(
        &self,
        url: &str,
        sealed_by: &str,
        receive_id: &str,
        text: &str,
    ) -> (u16, String) {
        let (token, key) = token_and_key(sealed_by);
        let (query, encrypted) = request(&token, &key, text, receive_id);
        let body = format!("<xml><ToUserName>wwX</ToUserName><Encrypt>{encrypted}</Encrypt></xml>");
        self.answer(Request::post(format!("/callback/{url}?{query}")).body(body.into()).unwrap()).await
    }

    /// As [`post`](Self::post), with the keys of the URL and the answer of every verified message.
    pub(super) async fn receive(&self, url: &str, receive_id: &str, text: &str) {
        let answer = self.post(url, url, receive_id, text).await;
        assert_eq!(answer, (200, "success".to_owned()), "{url} {receive_id}: {text}");
    }

    /// Has a URL checked.
    pub(super) async fn check_url(&self, url: &str, receive_id: &str, echo: &str) -> (u16, String) {
        let (token, key) = token_and_key(url);
        let (query, encrypted) = request(&token, &key, echo, receive_id);
        let echo = encrypted.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let url = format!("/callback/{url}?{query}&echostr={echo}");
        self.answer(Request::get(url).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn answer(&self, request: Request<Body>) -> (u16, String) {
        let service = TowerToHyperService::new(public::router(self.state.clone()));
        let response = service.call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The number of answers with each of these outcomes.
    pub(super) fn outcomes<const N: usize>(&self, outcomes: [CallbackOutcome; N]) -> [u64; N] {
        outcomes.map(|outcome| self.state.metrics.callbacks.answered_with(outcome))
    }

    /// The events in the inbox, each as app and corp.
    pub(super) async fn inbox(&self) -> Vec<(String, String)> {
        let rows = self.store.events(EventState::Waiting, EventId(0), 100).await.unwrap();
        let row = |row| match row {
            EventRow::Inbox(event) => (event.app.to_string(), event.event.corp_id.to_string()),
            other => panic!("{other:?}"),
        };
        let mut rows: Vec<_> = rows.into_iter().map(row).collect();
        rows.sort();
        rows
    }

    /// The messages in quarantine, each as name and reason.
    pub(super) async fn quarantine(&self) -> Vec<(String, &'static str)> {
        let row = |row: Quarantined| (row.app.to_string(), <&'static str>::from(&row.reason));
        self.quarantined().await.into_iter().map(row).collect()
    }

    /// The messages in quarantine.
    pub(super) async fn quarantined(&self) -> Vec<Quarantined> {
        let rows = self.store.events(EventState::Quarantined, EventId(0), 1_000).await.unwrap();
        let row = |row| match row {
            EventRow::Quarantined(row) => row,
            other => panic!("{other:?}"),
        };
        rows.into_iter().map(row).collect()
    }
}

/// A dealer's or brand's add of a customer; `n` tells them apart.
pub(super) fn added(corp_id: &str, n: usize) -> String {
    format!(
        "<xml><ToUserName>{corp_id}</ToUserName><FromUserName>sys</FromUserName>\
         <CreateTime>1403610513</CreateTime><MsgType>event</MsgType><Event>change_external_contact</Event>\
         <ChangeType>add_external_contact</ChangeType><UserID>zhangsan</UserID>\
         <ExternalUserID>wmINVENTED-{n}</ExternalUserID></xml>"
    )
}

/// A suite's message with these further fields.
pub(super) fn own(suite_id: &str, info_type: &str, fields: &str) -> String {
    format!(
        "<xml><SuiteId><![CDATA[{suite_id}]]></SuiteId><InfoType> <![CDATA[{info_type}]]></InfoType>\
         <TimeStamp>1403610513</TimeStamp>{fields}</xml>"
    )
}
