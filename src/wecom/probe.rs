//! Single calls to WeCom from outside the service, for `unionlink doctor`: whether an app's id and secret are accepted, our
//! address, its permissions.
//!
//! They are few, and in no ledger: `gettoken` and one page of `list_app_share_info` have no quota of their own; the only one
//! that has, [`Probe::mint_nobody`], is made when somebody asks for it.

use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::answer::success;
use super::api::Api;
use super::client::target;
use super::credentials::Development;
use super::error::{CallError, Transport};
use super::wire::Wire;
use crate::domain::ids::CorpId;

/// Makes single calls for self-built apps.
pub(crate) struct Probe<W>(pub(crate) W);

impl<W: Wire> Probe<W> {
    async fn call(&self, api: Api, query: &[(&str, &str)], body: Option<&Value>) -> Result<Value, CallError> {
        let transport = |cause| CallError::Transport { api, cause };
        let reply = self.0.exchange(&target(api, query), body).await.map_err(transport)?;
        if reply.status != 200 {
            return Err(transport(Transport::Status(reply.status)));
        }
        let answer = serde_json::from_slice(&reply.body).map_err(|_| transport(Transport::NotJson))?;
        success(api, Development::SelfBuilt, answer)
    }

    /// `gettoken` (document 91039).
    pub(crate) async fn token(
        &self,
        corp_id: &CorpId,
        secret: &SecretString,
    ) -> Result<SecretString, CallError> {
        let query = [("corpid", corp_id.as_str()), ("corpsecret", secret.expose_secret())];
        let answer = self.call(Api::GetToken, &query, None).await?;
        let token = answer["access_token"].as_str();
        token
            .map(SecretString::from)
            .ok_or(CallError::Transport { api: Api::GetToken, cause: Transport::Body })
    }

    /// The dealers on one page of `corpgroup/corp/list_app_share_info` (document 95813).
    pub(crate) async fn dealers(&self, token: &SecretString, agent_id: i64) -> Result<usize, CallError> {
        let body = json!({ "agentid": agent_id, "business_type": 1, "limit": 100 });
        let query = [("access_token", token.expose_secret())];
        let answer = self.call(Api::ListAppShareInfo, &query, Some(&body)).await?;
        Ok(answer["corp_list"].as_array().map_or(0, Vec::len))
    }

    /// `unionid_to_pending_id` (document 97357) for somebody who cannot exist. It costs one call of the quota. That WeCom
    /// refuses the ids shows that the app may make the call.
    pub(crate) async fn mint_nobody(&self, token: &SecretString) -> Result<(), CallError> {
        let body = json!({ "unionid": "unionlink-doctor", "openid": "unionlink-doctor" });
        let query = [("access_token", token.expose_secret())];
        self.call(Api::UnionidToPendingId, &query, Some(&body)).await.map(drop)
    }
}
