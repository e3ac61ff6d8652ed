//! The real [`Platform`](super::Platform): permits, tokens, verdicts. What is called is in `calls`, how in `wire`.
//!
//! The access token travels in the query, as WeCom wants it, so no URL is ever printed: errors lose theirs
//! before anybody sees them. Success is decided on `errcode` alone; some calls leave it out when all is well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::calls::{BUSINESS_TYPE_CHAIN, number, parse};
use super::limiter::Limiter;
use super::tokens::{Token, TokenKey, Tokens};
use super::wire::Wire;
use super::{Api, CallError, Class, TokenOf, Transport};
use crate::clock::Clock;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Share;
use crate::telemetry::metrics::Metrics;

/// Where and how WeCom is reached.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Scheme and host, without a slash at the end.
    pub api_base: String,
    /// An HTTP proxy.
    pub proxy: Option<String>,
    /// For connecting.
    pub connect_timeout: Duration,
    /// For a whole call.
    pub timeout: Duration,
}

/// What identifies one app.
#[derive(Debug, Clone)]
pub struct AppCredentials {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// The app's id there.
    pub agent_id: i64,
    /// The app's secret.
    pub secret: SecretString,
}

/// WeCom, spoken to as its documents say.
pub struct Client {
    wire: Arc<dyn Wire>,
    apps: HashMap<AppName, AppCredentials>,
    tokens: Tokens,
    limiter: Limiter,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// Why a client cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for WeCom cannot be built")]
pub struct ClientError(#[source] pub(super) reqwest::Error);

impl Client {
    /// A client that reaches WeCom over `wire`.
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

    pub(super) fn app(&self, app: &AppName, api: Api) -> Result<&AppCredentials, CallError> {
        // Work for an app that was since removed from the configuration waits until it is back.
        self.apps.get(app).ok_or(CallError::Refused { api, errcode: 40_056, from_ip: None })
    }

    /// One call: permit, HTTP, verdict. `query` holds secrets.
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
        let answer = self.exchange(api, query, body).await.and_then(|answer| verdict(api, answer));
        self.metrics.wecom_call(api, &answer, started.elapsed());
        if let Err(error) = &answer {
            tracing::debug!(api = api.as_str(), %error, "call failed");
            if error.class() == Class::Rate {
                self.limiter.refused(corp, api).await;
            }
        }
        answer
    }

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

    async fn token(&self, app: &AppName, of: &TokenOf, api: Api) -> Result<Token, CallError> {
        let credentials = self.app(app, api)?;
        match of {
            TokenOf::Upstream => {
                let fetch = async || {
                    let query = [
                        ("corpid", credentials.corp_id.as_str()),
                        ("corpsecret", credentials.secret.expose_secret()),
                    ];
                    let answer =
                        self.call(&credentials.corp_id, Api::GetToken, Share::Whole, &query, None).await?;
                    self.parse_token(Api::GetToken, answer)
                };
                self.tokens.get(&token_key(app, of), &*self.clock, fetch).await
            }
            TokenOf::Dealer { corp_id, agent_id } => {
                let fetch = async || {
                    let body = json!({
                        "corpid": corp_id.as_str(), "business_type": BUSINESS_TYPE_CHAIN, "agentid": agent_id,
                    });
                    // Boxed: a dealer's token is fetched with the brand's, which is fetched the same way.
                    let answer = Box::pin(self.call_as(
                        app,
                        &TokenOf::Upstream,
                        Api::CorpGetToken,
                        Share::Whole,
                        &body,
                    ))
                    .await?;
                    self.parse_token(Api::CorpGetToken, answer)
                };
                self.tokens.get(&token_key(app, of), &*self.clock, fetch).await
            }
        }
    }

    fn parse_token(&self, api: Api, answer: Value) -> Result<Token, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            #[serde(deserialize_with = "number", default = "documented_life")]
            expires_in: i64,
        }
        /// In seconds (document 91039).
        const fn documented_life() -> i64 {
            7_200
        }
        let answer: Answer = parse(api, answer)?;
        Ok(Token::new(answer.access_token, answer.expires_in, self.clock.now()))
    }

    /// A call with a token, repeated once with a fresh one if WeCom refuses it.
    pub(super) async fn call_as(
        &self,
        app: &AppName,
        of: &TokenOf,
        api: Api,
        share: Share,
        body: &Value,
    ) -> Result<Value, CallError> {
        let corp = &self.app(app, api)?.corp_id;
        let token = self.token(app, of, api).await?;
        let call = async |token: &Token| {
            let query = [("access_token", token.value.expose_secret())];
            self.call(corp, api, share, &query, Some(body)).await
        };
        let first = call(&token).await;
        match first {
            Err(error) if error.class() == Class::Token => {
                self.tokens.refuse(&token_key(app, of), &token).await;
                let token = self.token(app, of, api).await?;
                call(&token).await
            }
            answer => answer,
        }
    }
}

fn token_key(app: &AppName, of: &TokenOf) -> TokenKey {
    let dealer = match of {
        TokenOf::Upstream => None,
        TokenOf::Dealer { corp_id, agent_id } => Some((corp_id.clone(), *agent_id)),
    };
    (app.clone(), dealer)
}

/// Path and query.
fn target(api: Api, query: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let mut target = api.path().to_owned();
    for (n, (name, value)) in query.iter().enumerate() {
        target.push(if n == 0 { '?' } else { '&' });
        target.push_str(name);
        target.push('=');
        target.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    target
}

/// Whether an answer is a success.
fn verdict(api: Api, answer: Value) -> Result<Value, CallError> {
    let errcode = match answer.get("errcode") {
        None if answer.is_object() => 0,
        Some(Value::Number(number)) => number.as_i64().unwrap_or(i64::MAX),
        Some(Value::String(text)) => text.parse().unwrap_or(i64::MAX),
        _ => {
            return Err(CallError::Transport { api, cause: Transport::Body });
        }
    };
    if errcode == 0 {
        return Ok(answer);
    }
    let from_ip = answer.get("errmsg").and_then(Value::as_str).and_then(seen_ip);
    Err(CallError::Refused { api, errcode, from_ip })
}

/// Our address in `… from ip: 9.30.0.138, more info at …`.
fn seen_ip(errmsg: &str) -> Option<String> {
    let (_, rest) = errmsg.split_once("from ip:")?;
    let ip = rest.trim_start().split([',', ' ']).next()?;
    ip.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_decided_on_the_code_alone() {
        let api = Api::GetToken;
        assert!(verdict(api, json!({"errcode": 0, "errmsg": "Warning: wrong json format."})).is_ok());
        assert!(verdict(api, json!({"suite_access_token": "x"})).is_ok());
        assert!(verdict(api, json!({"errcode": "0"})).is_ok());
        assert_eq!(verdict(api, json!({"errcode": 42_001})).unwrap_err().class(), Class::Token);
        assert_eq!(verdict(api, json!([])).unwrap_err().class(), Class::Unknown);
        assert_eq!(verdict(api, json!({"errcode": null})).unwrap_err().class(), Class::Unknown);
    }

    #[test]
    fn the_address_wecom_saw_is_found_in_its_message() {
        let errmsg =
            "not allow to access from your ip, hint: [1], from ip: 9.30.0.138, more info at https://…";
        assert_eq!(seen_ip(errmsg).as_deref(), Some("9.30.0.138"));
        assert_eq!(seen_ip("from ip: secret"), None);
        let error = verdict(Api::GetToken, json!({"errcode": 60_020, "errmsg": errmsg})).unwrap_err();
        assert!(error.to_string().contains("企业可信IP"), "{error}");
    }
}
