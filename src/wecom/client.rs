//! The client of WeCom: permits, access tokens, and one retry with a fresh token.
//!
//! The calls themselves are in `calls`, their answers in `answer`, HTTP in `wire`. Access token and secret
//! are part of the URL (document 90664), so no URL is ever logged and none is part of an error.
//!
//! Deliberately absent: any other retry, which the workers decide on.

use std::collections::HashMap;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::{number, parse, success};
use super::api::{Api, BUSINESS_TYPE_CHAIN};
use super::errcode::Class;
use super::error::{CallError, Transport};
use super::limiter::Limiter;
use super::platform::TokenOf;
use super::tokens::{Token, Tokens};
use super::wire::Wire;
use crate::clock::Clock;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Share;
use crate::telemetry::metrics::Metrics;

/// 不存在外部联系人的关系: what a list answers if it has no customers.
const NO_CUSTOMERS: i64 = 84_061;

/// What an app obtains its access tokens with (document 91039).
#[derive(Debug, Clone)]
pub struct AppCredentials {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// The app's id at the brand.
    pub agent_id: i64,
    /// The app's secret.
    pub secret: SecretString,
}

/// The client of WeCom. Its calls are those of `Platform`.
pub struct Client {
    wire: Arc<dyn Wire>,
    apps: HashMap<AppName, AppCredentials>,
    pub(super) tokens: Tokens,
    limiter: Limiter,
    pub(super) clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Client {
    /// A client for these apps that reaches WeCom over `wire`.
    #[must_use]
    pub fn over(
        wire: Arc<dyn Wire>,
        apps: HashMap<AppName, AppCredentials>,
        limiter: Limiter,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { wire, apps, tokens: Tokens::default(), limiter, clock, metrics }
    }

    /// An app's credentials; the error is that of `api`, the call to be made.
    pub(super) fn app(&self, app: &AppName, api: Api) -> Result<&AppCredentials, CallError> {
        // As if WeCom had answered 40056 (no such agent id), which is a configuration error: work of an app
        // that was removed from the configuration waits until the app is back.
        self.apps.get(app).ok_or(CallError::Refused { api, errcode: 40_056, from_ip: None })
    }

    /// Makes one call under a permit of `corp`. An answer with an error code is an error. `query` contains
    /// secrets.
    async fn call(
        &self,
        corp: &CorpId,
        api: Api,
        share: Share,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        self.limiter.permit(corp, api, share).await?;
        let started = std::time::Instant::now();
        let answer = self.exchange(api, query, body).await.and_then(|answer| success(api, answer));
        self.metrics.wecom_call(api, &answer, started.elapsed());
        if let Err(error) = &answer {
            tracing::debug!(api = api.as_str(), error = error.to_string(), "a call to WeCom failed");
            if error.class() == Class::Rate {
                self.limiter.rate_limited(corp, api).await;
            }
        }
        answer
    }

    /// Sends a request and parses the JSON of the answer, a success or an error.
    async fn exchange(
        &self,
        api: Api,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let transport = |cause| CallError::Transport { api, cause };
        let reply = self.wire.exchange(&target(api, query), body).await.map_err(transport)?;
        if reply.status != 200 {
            return Err(transport(Transport::Status(reply.status)));
        }
        serde_json::from_slice(&reply.body).map_err(|_| transport(Transport::NotJson))
    }

    /// The access token `of`, from the cache or fetched; a dealer's is fetched with the brand's. `api` is the
    /// call that it is for.
    async fn token(&self, app: &AppName, of: &TokenOf, api: Api) -> Result<Token, CallError> {
        let credentials = self.app(app, api)?;
        let fetch = async || match of {
            TokenOf::Upstream => {
                let query = [
                    ("corpid", credentials.corp_id.as_str()),
                    ("corpsecret", credentials.secret.expose_secret()),
                ];
                let api = Api::GetToken;
                let answer = self.call(&credentials.corp_id, api, Share::Whole, &query, None).await?;
                self.parse_token(api, answer)
            }
            TokenOf::Dealer { corp_id, agent_id } => {
                let body = json!({
                    "corpid": corp_id.as_str(), "business_type": BUSINESS_TYPE_CHAIN, "agentid": agent_id,
                });
                let api = Api::CorpGetToken;
                // Boxed: `call_as` calls this function, for the brand's token.
                let answer =
                    Box::pin(self.call_as(app, &TokenOf::Upstream, api, Share::Whole, Some(&body))).await?;
                self.parse_token(api, answer)
            }
        };
        self.tokens.get(app, of, &*self.clock, fetch).await
    }

    fn parse_token(&self, api: Api, answer: Value) -> Result<Token, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            #[serde(deserialize_with = "number", default = "documented_life_secs")]
            expires_in: i64,
        }
        /// For an answer without it (document 91039).
        const fn documented_life_secs() -> i64 {
            7_200
        }
        let answer: Answer = parse(api, answer)?;
        Ok(Token::new(answer.access_token, answer.expires_in, self.clock.now()))
    }

    /// Makes a call with the access token `of`, by GET if there is no body, and reads its answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        app: &AppName,
        of: &TokenOf,
        api: Api,
        share: Share,
        body: Option<&Value>,
    ) -> Result<T, CallError> {
        parse(api, self.call_as(app, of, api, share, body).await?)
    }

    /// As [`ask`](Self::ask), for a list of members or customers. Where WeCom answers 84061 instead of an
    /// empty list, this returns the default, which has to be an empty list.
    pub(super) async fn ask_list<T: DeserializeOwned + Default>(
        &self,
        app: &AppName,
        of: &TokenOf,
        api: Api,
        body: Option<&Value>,
    ) -> Result<T, CallError> {
        match self.ask(app, of, api, Share::Whole, body).await {
            Err(CallError::Refused { api: refused, errcode: NO_CUSTOMERS, .. }) if refused == api => {
                Ok(T::default())
            }
            answer => answer,
        }
    }

    /// A call with the access token `of`; if WeCom refuses the token, once more with a fresh one.
    async fn call_as(
        &self,
        app: &AppName,
        of: &TokenOf,
        api: Api,
        share: Share,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        // A call counts against the quota of the brand's corp, also with a dealer's token.
        let corp = &self.app(app, api)?.corp_id;
        let token = self.token(app, of, api).await?;
        let call = async |token: &Token| {
            let query = [("access_token", token.value.expose_secret())];
            self.call(corp, api, share, &query, body).await
        };
        let first = call(&token).await;
        match first {
            Err(error) if error.class() == Class::Token => {
                self.tokens.invalidate(app, of, &token).await;
                let token = self.token(app, of, api).await?;
                call(&token).await
            }
            answer => answer,
        }
    }
}

/// Path and query of a request; contains secrets.
fn target(api: Api, query: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let encoded =
        |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    format!("{}?{}", api.path(), query.iter().map(encoded).collect::<Vec<_>>().join("&"))
}
