//! The client of WeCom: permits, and one retry with a fresh access token.
//!
//! The calls themselves are in `calls` and `suites`, their answers in `answer`, the calls for access tokens
//! in `obtain`, HTTP in `wire`. Access token and secret are part of the URL (document 90664), so no URL is
//! ever logged and none is part of an error.
//!
//! Deliberately absent: any other retry, which the workers decide on.

use std::sync::Arc;

use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::{parse, success};
use super::api::Api;
use super::credentials::{AppCredentials, Credentials, Development, SuiteCredentials};
use super::errcode::Class;
use super::error::{CallError, Transport};
use super::limiter::Limiter;
use super::platform::TokenOf;
use super::tokens::{Token, TokenKey, Tokens};
use super::wire::Wire;
use crate::clock::{Clock, SystemClock};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Share;
use crate::telemetry::metrics::Metrics;

/// 不存在外部联系人的关系: what a list answers if it has no customers.
const NO_CUSTOMERS: i64 = 84_061;

/// The client of WeCom. Its calls are those of `Platform` and `SuitePlatform`.
pub struct Client {
    wire: Arc<dyn Wire>,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) tokens: Tokens,
    limiter: Limiter,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

/// On whose account a call is made.
pub(super) struct Account {
    /// The corp whose quota it counts against.
    pub(super) corp_id: CorpId,
    /// Who develops the app, for the remedies of errors.
    pub(super) development: Development,
}

impl Client {
    /// A client for the apps and suites of `credentials` that reaches WeCom over `wire`.
    #[must_use]
    pub fn over(
        wire: Arc<dyn Wire>,
        credentials: Arc<dyn Credentials>,
        limiter: Limiter,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { wire, credentials, tokens: Tokens::default(), limiter, clock, metrics }
    }

    /// An app's credentials; the error is that of `api`, the call to be made.
    pub(super) fn app(&self, app: &AppName, api: Api) -> Result<AppCredentials, CallError> {
        let of_app = self.credentials.of_app(app);
        of_app.map_err(|why| CallError::NotAuthorized { api, app: app.clone(), why })
    }

    /// A suite's credentials; the error is that of `api`, the call to be made.
    pub(super) fn suite(&self, suite: &AppName, api: Api) -> Result<SuiteCredentials, CallError> {
        let of_suite = self.credentials.of_suite(suite, self.clock.now());
        of_suite.map_err(|why| CallError::NotAuthorized { api, app: suite.clone(), why })
    }

    /// The account of a call with this token.
    fn account(&self, key: &TokenKey, api: Api) -> Result<Account, CallError> {
        Ok(match key {
            // A call counts against the quota of the brand's corp, also with a dealer's token.
            TokenKey::App(app, _) => {
                let AppCredentials { corp_id, development, .. } = self.app(app, api)?;
                Account { corp_id, development }
            }
            TokenKey::Suite(suite) => {
                let corp_id = self.suite(suite, api)?.provider_corp_id;
                Account { corp_id, development: Development::Agency }
            }
        })
    }

    /// Makes one call under a permit of the account. An answer with an error code is an error. `query` and
    /// `body` may contain secrets.
    pub(super) async fn call(
        &self,
        account: &Account,
        api: Api,
        share: Share,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let Account { corp_id, development } = account;
        self.limiter.permit(corp_id, api, share).await?;
        let started = std::time::Instant::now();
        let answer = self.exchange(api, query, body).await;
        let answer = answer.and_then(|answer| success(api, *development, answer));
        self.metrics.wecom_call(api, &answer, started.elapsed());
        let (observed, name) = (&self.metrics.observed, api.as_str());
        match &answer {
            Ok(_) => observed.took("latency", started.elapsed()),
            Err(CallError::Refused { errcode, .. }) => {
                observed.note("errcodes", &format!("{name} {errcode}"));
            }
            Err(_) => {}
        }
        if let Err(error) = &answer {
            tracing::debug!(api = api.as_str(), error = error.to_string(), "a call to WeCom failed");
            if error.class() == Class::Rate {
                self.limiter.rate_limited(corp_id, api).await;
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
        // The machine's clock: that of the service may be the database's.
        let (asked_at, started) = (SystemClock.now(), std::time::Instant::now());
        let reply = self.wire.exchange(&target(api, query), body).await.map_err(transport)?;
        if let Some(at) = reply.at {
            // In the middle of the call, and of the second that the answer names.
            let half_ms = i64::try_from(started.elapsed().as_millis() / 2).unwrap_or(0);
            self.metrics.machine.clock_compared(asked_at.plus_ms(half_ms).millis_since(at.plus_ms(500)));
        }
        if reply.status != 200 {
            return Err(transport(Transport::Status(reply.status)));
        }
        serde_json::from_slice(&reply.body).map_err(|_| transport(Transport::NotJson))
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
        let key = TokenKey::App(app.clone(), of.clone());
        parse(api, self.call_with(&key, api, share, body).await?)
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

    /// A call with the token of this key; if WeCom refuses the token, once more with a fresh one.
    pub(super) async fn call_with(
        &self,
        key: &TokenKey,
        api: Api,
        share: Share,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let account = self.account(key, api)?;
        let token = self.token(key, api).await?;
        let parameter = match key {
            TokenKey::App(..) => "access_token",
            TokenKey::Suite(_) => "suite_access_token",
        };
        let call = async |token: &Token| {
            let query = [(parameter, token.value.expose_secret())];
            self.call(&account, api, share, &query, body).await
        };
        let first = call(&token).await;
        match first {
            Err(error) if error.class() == Class::Token => {
                self.tokens.invalidate(key, &token).await;
                let token = self.token(key, api).await?;
                call(&token).await
            }
            answer => answer,
        }
    }
}

/// Path and query of a request; contains secrets.
pub(super) fn target(api: Api, query: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let encoded =
        |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    let separator = if query.is_empty() { "" } else { "?" };
    format!("{}{separator}{}", api.path(), query.iter().map(encoded).collect::<Vec<_>>().join("&"))
}
