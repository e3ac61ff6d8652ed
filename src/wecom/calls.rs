//! The calls of [`Platform`]: what each sends and which part of the answer it takes.
//!
//! Here are the conversions (documents 97357 and 95818); `directory` has the calls about dealers, `lists`
//! those that list customers, `chats` those about customer groups, `addresses` the one about WeCom itself.

mod addresses;
mod chats;
mod directory;
mod lists;
mod paging;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::rows;
use super::api::Api;
use super::client::Client;
use super::error::CallError;
use super::platform::{ChatMembers, CustomerPage, DealerList, Platform, TokenOf};
use crate::domain::dealer::Qualification;
use crate::domain::ids::{AppName, ChatId, CorpId, ExternalUserid, Openid, PendingId, Unionid, UserId};
use crate::domain::quota::Share;

#[async_trait]
impl Platform for Client {
    async fn dealers(&self, app: &AppName, only: Option<&CorpId>) -> Result<DealerList, CallError> {
        self.list_app_share_info(app, only).await
    }

    async fn callback_ips(&self, app: &AppName) -> Result<Vec<String>, CallError> {
        self.get_callback_ip(app).await
    }

    async fn chains(&self, app: &AppName) -> Result<Vec<String>, CallError> {
        self.get_chain_list(app).await
    }

    async fn qualification(
        &self,
        app: &AppName,
        chain_id: &str,
        corp_id: &CorpId,
    ) -> Result<Option<Qualification>, CallError> {
        self.get_chain_corpinfo(app, chain_id, corp_id).await
    }

    async fn unionid_to_pending_id(
        &self,
        app: &AppName,
        unionid: &Unionid,
        openid: &Openid,
        share: Share,
    ) -> Result<PendingId, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            pending_id: PendingId,
        }
        let api = Api::UnionidToPendingId;
        let body = json!({"unionid": unionid.as_str(), "openid": openid.as_str()});
        let answer: Answer = self.ask(app, &TokenOf::Upstream, api, share, Some(&body)).await?;
        Ok(answer.pending_id)
    }

    async fn unionid_to_external_userid(
        &self,
        app: &AppName,
        unionid: &Unionid,
        openid: &Openid,
        share: Share,
    ) -> Result<Vec<(CorpId, ExternalUserid)>, CallError> {
        #[derive(Deserialize)]
        struct Row {
            corpid: CorpId,
            external_userid: ExternalUserid,
        }
        #[derive(Deserialize)]
        struct Answer {
            external_userid_info: Option<Vec<Value>>,
        }
        let api = Api::UnionidToExternalUserid;
        let body = json!({"unionid": unionid.as_str(), "openid": openid.as_str()});
        let answer: Answer = self.ask(app, &TokenOf::Upstream, api, share, Some(&body)).await?;
        let found = rows::<Row>(api, answer.external_userid_info);
        Ok(found.map(|row| (row.corpid, row.external_userid)).collect())
    }

    async fn external_userid_to_pending_id(
        &self,
        app: &AppName,
        token: &TokenOf,
        chat_id: Option<&ChatId>,
        ids: &[ExternalUserid],
    ) -> Result<Vec<(ExternalUserid, PendingId)>, CallError> {
        #[derive(Deserialize)]
        struct Row {
            external_userid: String,
            #[serde(default)]
            pending_id: Option<String>,
        }
        #[derive(Deserialize)]
        struct Answer {
            result: Option<Vec<Value>>,
        }
        let api = Api::ExternalUseridToPendingId;
        let mut body = json!({"external_userid": ids.iter().map(ExternalUserid::as_str).collect::<Vec<_>>()});
        if let Some(chat_id) = chat_id {
            body["chat_id"] = chat_id.as_str().into();
        }
        let observed = &self.metrics.observed;
        let whose = if matches!(token, TokenOf::Upstream) { "brand" } else { "dealer" };
        let answer: Answer = match self.ask(app, token, api, Share::Whole, Some(&body)).await {
            Ok(answer) => answer,
            Err(error) => {
                if let Some(errcode) = error.errcode() {
                    observed.note("conversion", &format!("{whose} token: {errcode}"));
                }
                return Err(error);
            }
        };
        observed.note("conversion", &format!("{whose} token: 0"));
        let rows_answered = answer.result.as_ref().map_or(0, Vec::len);
        for _ in rows_answered..ids.len() {
            observed.note("unknown_customer", "no row");
        }
        // WeCom does not document how it answers for an unknown customer: without a row, with an empty
        // pending id, or without the field.
        let known = |row: Row| {
            match row.pending_id.as_deref() {
                None => observed.note("unknown_customer", "row without pending_id"),
                Some("") => observed.note("unknown_customer", "row with an empty pending_id"),
                Some(_) => {}
            }
            let pending_id = PendingId::new(row.pending_id?).ok()?;
            Some((ExternalUserid::new(row.external_userid).ok()?, pending_id))
        };
        Ok(rows::<Row>(api, answer.result).filter_map(known).collect())
    }

    async fn members(&self, app: &AppName, token: &TokenOf) -> Result<Vec<UserId>, CallError> {
        self.get_follow_user_list(app, token).await
    }

    async fn customers_of(
        &self,
        app: &AppName,
        token: &TokenOf,
        members: &[UserId],
        cursor: &str,
    ) -> Result<CustomerPage, CallError> {
        self.get_by_user(app, token, members, cursor).await
    }

    async fn contacts(
        &self,
        app: &AppName,
        token: &TokenOf,
        cursor: &str,
    ) -> Result<CustomerPage, CallError> {
        self.contact_list(app, token, cursor).await
    }

    async fn chats(
        &self,
        app: &AppName,
        token: &TokenOf,
        cursor: &str,
    ) -> Result<(Vec<ChatId>, String), CallError> {
        self.groupchat_list(app, token, cursor).await
    }

    async fn chat(&self, app: &AppName, token: &TokenOf, chat_id: &ChatId) -> Result<ChatMembers, CallError> {
        self.groupchat_get(app, token, chat_id).await
    }

    fn forget_failures(&self, app: Option<&AppName>) {
        self.tokens.forget_failures(app);
    }

    fn forget_refused_codes(&self, app: Option<&AppName>) {
        self.tokens.forget_refused_codes(app);
    }
}

#[cfg(test)]
mod tests;
