//! The simulator called over real HTTP, as by a client.
//!
//! Deliberately absent: unionlink's own client and callback handler; the simulator has to work without them.

mod agency;
mod agency_callbacks;
mod api;
mod callbacks;
mod chats;
mod control;
mod conversion;
mod directory;
mod faults;
mod limits;
mod lists;
mod ranges;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, AppSpec, Dealer, Options, Person, Simulator};
use crate::clock::ManualClock;
use crate::domain::time::Timestamp;

/// A platform with one app and a client.
struct Bench {
    sim: Simulator,
    clock: Arc<ManualClock>,
    app: AppSpec,
    http: reqwest::Client,
}

impl Bench {
    async fn start(options: Options) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_795_309_323)));
        let sim =
            Simulator::start(options, Arc::clone(&clock) as Arc<dyn crate::clock::Clock>).await.unwrap();
        let app = sim.invent_app();
        sim.add_app(app.clone());
        Self { sim, clock, app, http: reqwest::Client::new() }
    }

    async fn get(&self, api: Api, query: &str) -> Value {
        let url = format!("{}{}?{query}", self.sim.base_url(), api.path());
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    async fn try_post(&self, api: Api, token: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        let url = format!("{}{}?access_token={token}", self.sim.base_url(), api.path());
        self.http.post(url).json(body).send().await
    }

    async fn post(&self, api: Api, token: &str, body: Value) -> Value {
        self.try_post(api, token, &body).await.unwrap().json().await.unwrap()
    }

    /// The upstream token.
    async fn token(&self) -> String {
        let query = format!("corpid={}&corpsecret={}", self.app.corp_id, self.app.secret);
        let answer = self.get(Api::GetToken, &query).await;
        assert_eq!(answer["errcode"], 0, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn dealer_token(&self, dealer: &Dealer) -> String {
        let body = json!({ "corpid": dealer.corp_id, "agentid": dealer.agent_id, "business_type": 1 });
        let answer = self.post(Api::CorpGetToken, &self.token().await, body).await;
        assert_eq!(answer["errcode"], 0, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    fn dealer(&self) -> Dealer {
        self.sim.add_dealer(&self.app.corp_id, "dealer")
    }

    async fn mint_answer(&self, person: &Person) -> Value {
        let body = json!({ "unionid": person.unionid, "openid": person.openid });
        self.post(Api::UnionidToPendingId, &self.token().await, body).await
    }

    async fn mint(&self, person: &Person) -> String {
        let answer = self.mint_answer(person).await;
        assert_eq!(answer["errcode"], 0, "{answer}");
        answer["pending_id"].as_str().unwrap().to_owned()
    }

    fn befriend(&self, dealer: &Dealer, person: &Person) -> String {
        self.sim.befriend(&dealer.corp_id, person, "zhangsan", None).external_userid
    }

    /// A POST API with the dealer's token.
    async fn ask(&self, dealer: &Dealer, api: Api, body: Value) -> Value {
        let token = self.dealer_token(dealer).await;
        self.post(api, &token, body).await
    }

    /// Resolves with the dealer's token.
    async fn resolve(&self, dealer: &Dealer, ids: &[&str]) -> Value {
        let token = self.dealer_token(dealer).await;
        self.post(Api::ExternalUseridToPendingId, &token, json!({ "external_userid": ids })).await
    }
}

/// The value of an element of an event's inner XML, without its CDATA.
fn element<'a>(inner: &'a str, name: &str) -> Option<&'a str> {
    let text = inner.split_once(&format!("<{name}>"))?.1.split_once(&format!("</{name}>"))?.0;
    let text = text.strip_prefix("<![CDATA[").unwrap_or(text);
    Some(text.strip_suffix("]]>").unwrap_or(text))
}

/// `(external_userid, pending_id)` of every row, sorted.
fn rows(answer: &Value) -> Vec<(String, String)> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let mut rows: Vec<_> = answer["result"]
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"))
        .iter()
        .map(|row| (text(row, "external_userid"), text(row, "pending_id")))
        .collect();
    rows.sort();
    rows
}
