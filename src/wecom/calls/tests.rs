//! What each call sends, and what it takes from an answer, over a wire with scripted answers. Here are the
//! conversions and refusals; the calls about dealers are in `directory`, those about customers in `lists`.

mod directory;
mod lists;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::*;
use crate::clock::ManualClock;
use crate::domain::time::Timestamp;
use crate::telemetry::metrics::Metrics;
use crate::wecom::credentials::{AppCredentials, Development};
use crate::wecom::errcode::Class;
use crate::wecom::error::Transport;
use crate::wecom::limiter::Limiter;
use crate::wecom::scripted::{Unlimited, documented_limits};
use crate::wecom::wire::{Reply, Wire};

/// WeCom with scripted answers. Access tokens are always granted: `UPSTREAM` and `DEALER`.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Value>>,
    sent: Mutex<Vec<(String, Option<Value>)>>,
}

#[async_trait]
impl Wire for Script {
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport> {
        let answer = match target.split('?').next().unwrap() {
            "/cgi-bin/gettoken" => json!({"errcode": 0, "access_token": "UPSTREAM", "expires_in": 7_200}),
            "/cgi-bin/corpgroup/corp/gettoken" => json!({"access_token": "DEALER", "expires_in": "7200"}),
            _ => {
                self.sent.lock().unwrap().push((target.to_owned(), body.cloned()));
                self.answers.lock().unwrap().pop_front().expect("an answer for every call")
            }
        };
        Ok(Reply { status: 200, body: serde_json::to_vec(&answer).unwrap(), at: None })
    }
}

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A client over a script with these answers.
fn client(answers: impl IntoIterator<Item = Value>) -> (Client, Arc<Script>) {
    let script = Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), ..Script::default() });
    let clock = Arc::new(ManualClock::new(NOW));
    let credentials = AppCredentials {
        corp_id: corp("wwBRAND"),
        agent_id: 1_000_002,
        secret: "secret".to_owned().into(),
        generation: 0,
        development: Development::SelfBuilt,
    };
    let limiter = Limiter::new(Arc::<Unlimited>::default(), clock.clone(), documented_limits());
    let apps = Arc::new(BTreeMap::from([(app(), credentials)]));
    (Client::over(script.clone(), apps, limiter, clock, Arc::new(Metrics::default())), script)
}

impl Script {
    /// The calls so far: path with query, and body.
    fn sent(&self) -> Vec<(String, Option<Value>)> {
        self.sent.lock().unwrap().clone()
    }
}

fn post(target: &str, body: Value) -> (String, Option<Value>) {
    (format!("/cgi-bin/{target}"), Some(body))
}

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn dealer() -> TokenOf {
    TokenOf::Dealer { corp_id: corp("wpDEALER"), agent_id: 7 }
}

fn chat(id: &str) -> ChatId {
    ChatId::new(id).unwrap()
}

fn customer(id: &str) -> ExternalUserid {
    ExternalUserid::new(id).unwrap()
}

#[tokio::test]
async fn members_of_a_group_are_converted_with_its_id() {
    let (client, script) = client([json!({"errcode": 0, "result": [
        {"external_userid": "wmB", "pending_id": "pB"},
        {"external_userid": "wmA", "pending_id": ""},
        {"external_userid": "wmC"},
        null,
    ]})]);
    let ids = [customer("wmA"), customer("wmB")];
    let found = client.external_userid_to_pending_id(&app(), &dealer(), Some(&chat("wrG")), &ids).await;
    assert_eq!(found.unwrap(), [(customer("wmB"), PendingId::new("pB").unwrap())]);
    let target = "corpgroup/batch/external_userid_to_pending_id?access_token=DEALER";
    let body = json!({"external_userid": ["wmA", "wmB"], "chat_id": "wrG"});
    assert_eq!(script.sent(), [post(target, body)]);
}

#[tokio::test]
async fn fans_are_converted_with_the_brands_token() {
    let (client, script) = client([
        json!({"errcode": 0, "pending_id": "pA"}),
        json!({"errcode": 0, "external_userid_info": [
            {"corpid": "wpA", "external_userid": "wmA"}, {"corpid": "", "external_userid": "wmB"},
        ]}),
    ]);
    let (unionid, openid) = (Unionid::new("oUNION").unwrap(), Openid::new("oOPEN").unwrap());
    let pending_id = client.unionid_to_pending_id(&app(), &unionid, &openid, Share::Whole).await.unwrap();
    assert_eq!(pending_id.as_str(), "pA");
    let found = client.unionid_to_external_userid(&app(), &unionid, &openid, Share::Whole).await.unwrap();
    assert_eq!(found, [(corp("wpA"), customer("wmA"))]);
    let body = json!({"unionid": "oUNION", "openid": "oOPEN"});
    assert_eq!(
        script.sent(),
        [
            post("corpgroup/unionid_to_pending_id?access_token=UPSTREAM", body.clone()),
            post("corpgroup/unionid_to_external_userid?access_token=UPSTREAM", body),
        ]
    );
}

#[tokio::test]
async fn the_addresses_of_callbacks_are_asked_for_with_the_brands_token() {
    let ips = json!(["101.226.103.*", "159.75.144.151"]);
    let (client, script) = client([json!({"errcode": 0, "errmsg": "ok", "ip_list": ips}), json!({})]);
    assert_eq!(client.callback_ips(&app()).await.unwrap(), ["101.226.103.*", "159.75.144.151"]);
    assert_eq!(script.sent(), [("/cgi-bin/getcallbackip?access_token=UPSTREAM".to_owned(), None)]);
    assert!(client.callback_ips(&app()).await.is_err(), "an answer without the list is no empty list");
}

#[tokio::test]
async fn a_refusal_with_the_arrays_of_an_answer_is_a_refusal() {
    let refusal = json!({
        "errcode": 48_002, "errmsg": "api forbidden", "corp_list": [], "chains": [], "follow_user": [],
        "external_contact_list": [], "info_list": [], "group_chat_list": [], "group_chat": {}, "result": [],
    });
    let (client, _) = client(vec![refusal; 8]);
    let (app, dealer) = (app(), dealer());
    let errors = [
        client.dealers(&app, None).await.unwrap_err(),
        client.chains(&app).await.unwrap_err(),
        client.qualification(&app, "Ch1", &corp("wpA")).await.unwrap_err(),
        client.members(&app, &dealer).await.unwrap_err(),
        client.customers_of(&app, &dealer, &[], "").await.unwrap_err(),
        client.contacts(&app, &dealer, "").await.unwrap_err(),
        client.chats(&app, &dealer, "").await.unwrap_err(),
        client.chat(&app, &dealer, &chat("wrG")).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.errcode() == Some(48_002)), "{errors:?}");
}

#[tokio::test]
async fn no_call_is_made_for_an_app_that_is_not_configured() {
    let (client, script) = client([]);
    let error = client.members(&AppName::new("gone").unwrap(), &dealer()).await.unwrap_err();
    assert_eq!((error.class(), error.errcode()), (Class::Configuration, None));
    let text = error.to_string();
    assert!(text.starts_with("get_follow_user_list was not called for gone: add it to"), "{text}");
    assert!(script.sent().is_empty());
}
