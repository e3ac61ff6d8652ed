//! The calls about authorisations of a suite (代开发应用模版): the permanent code, the app at the corp, and its
//! permissions. [`SuitePlatform`] is what a worker sees.
//!
//! Deliberately absent: the suite's events, and what follows from an answer.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{integer, parse};
use super::api::Api;
use super::client::Client;
use super::error::{CallError, Transport};
use super::platform::TokenOf;
use super::tokens::TokenKey;
use crate::domain::authorization::SharedFrom;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Share;

/// A permanent code that WeCom gave for an auth code.
#[derive(Debug, Clone)]
pub struct PermanentCode {
    /// The code: the secret of the app at the corp.
    pub code: SecretString,
    /// The corp that authorised.
    pub corp_id: CorpId,
    /// Its name; empty if the answer does not say.
    pub corp_name: String,
}

/// An app at the corp that authorised it. What the answer does not say is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthInfo {
    /// The corp's name.
    pub corp_name: Option<String>,
    /// The app's id there.
    pub agent_id: Option<i64>,
    /// The corp that shared the app, if it was installed that way.
    pub shared_from: Option<SharedFrom>,
    /// Whether WeCom has verified the corp.
    pub is_verified: Option<bool>,
}

/// WeCom, as the worker that looks after authorisations sees it.
///
/// A call fails with [`CallError`] if the suite or app cannot call WeCom, WeCom refuses the call, there is no
/// answer, or the quota is used up.
#[async_trait]
pub trait SuitePlatform: Send + Sync + 'static {
    /// Exchanges an auth code, which can be used once within ten minutes (document 97163).
    async fn permanent_code(
        &self,
        suite: &AppName,
        auth_code: &SecretString,
    ) -> Result<PermanentCode, CallError>;

    /// The app at a corp (document 100795). `code` is the corp's permanent code.
    async fn auth_info(
        &self,
        suite: &AppName,
        corp_id: &CorpId,
        code: &SecretString,
    ) -> Result<AuthInfo, CallError>;

    /// The permissions of an agency-developed app, such as `externalcontact:base:base` (document 99108).
    async fn permissions(&self, app: &AppName) -> Result<Vec<String>, CallError>;

    /// Whether WeCom has refused this ticket of the suite (40085): calls that need it wait for the next one.
    fn has_refused_ticket(&self, suite: &AppName, ticket: &SecretString) -> bool;

    /// Whether the suite has an access token in the cache: its calls need no ticket.
    fn has_suite_token(&self, suite: &AppName) -> bool;
}

#[async_trait]
impl SuitePlatform for Client {
    async fn permanent_code(
        &self,
        suite: &AppName,
        auth_code: &SecretString,
    ) -> Result<PermanentCode, CallError> {
        #[derive(Deserialize)]
        struct Corp {
            corpid: CorpId,
            corp_name: Option<String>,
        }
        #[derive(Deserialize)]
        struct Answer {
            permanent_code: String,
            auth_corp_info: Corp,
        }
        let api = Api::GetPermanentCode;
        let body = json!({"auth_code": auth_code.expose_secret()});
        let key = TokenKey::Suite(suite.clone());
        let answer: Answer = parse(api, self.call_with(&key, api, Share::Whole, Some(&body)).await?)?;
        if answer.permanent_code.is_empty() {
            return Err(CallError::Transport { api, cause: Transport::Body });
        }
        let Corp { corpid: corp_id, corp_name } = answer.auth_corp_info;
        let corp_name = corp_name.unwrap_or_default();
        Ok(PermanentCode { code: answer.permanent_code.into(), corp_id, corp_name })
    }

    async fn auth_info(
        &self,
        suite: &AppName,
        corp_id: &CorpId,
        code: &SecretString,
    ) -> Result<AuthInfo, CallError> {
        let api = Api::GetAuthInfo;
        let body = json!({"auth_corpid": corp_id.as_str(), "permanent_code": code.expose_secret()});
        let key = TokenKey::Suite(suite.clone());
        let answer = self.call_with(&key, api, Share::Whole, Some(&body)).await?;
        let (corp, agent) = (&answer["auth_corp_info"], &answer["auth_info"]["agent"][0]);
        Ok(AuthInfo {
            corp_name: corp["corp_name"].as_str().map(str::to_owned),
            agent_id: integer(&agent["agentid"]),
            shared_from: shared_from(&agent["shared_from"], corp_id),
            is_verified: match corp["corp_type"].as_str() {
                Some("verified") => Some(true),
                Some("unverified") => Some(false),
                Some(_) | None => None,
            },
        })
    }

    async fn permissions(&self, app: &AppName) -> Result<Vec<String>, CallError> {
        // Required, because an empty list means that the app may do nothing.
        #[derive(Deserialize)]
        struct Answer {
            app_permissions: Vec<String>,
        }
        let (api, body) = (Api::GetPermissions, json!({}));
        let answer: Answer = self.ask(app, &TokenOf::Upstream, api, Share::Whole, Some(&body)).await?;
        Ok(answer.app_permissions)
    }

    fn has_refused_ticket(&self, suite: &AppName, ticket: &SecretString) -> bool {
        self.tokens.has_refused_ticket(suite, ticket)
    }

    fn has_suite_token(&self, suite: &AppName) -> bool {
        self.tokens.has(&TokenKey::Suite(suite.clone()), self.clock.now())
    }
}

/// The corp that shared an app with `with`; `None` if the answer names neither a corp nor a `share_type`.
/// Without a `share_type` it is taken as 0 (企业互联): not the brand of a dealer.
fn shared_from(value: &Value, with: &CorpId) -> Option<SharedFrom> {
    let (corp_id, share_type) = (value["corpid"].as_str().unwrap_or_default(), &value["share_type"]);
    if corp_id.is_empty() && share_type.is_null() {
        return None;
    }
    let corp_id = CorpId::new(corp_id).unwrap_or_else(|_| with.clone());
    Some(SharedFrom { corp_id, share_type: integer(share_type).unwrap_or(0) })
}

#[cfg(test)]
mod tests;
