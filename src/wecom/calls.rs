//! The calls of [`Platform`]: what each sends and which part of the answer it takes (documents 95813, 97357,
//! 95818).

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{number, parse, rows};
use super::api::{Api, BUSINESS_TYPE_CHAIN};
use super::client::Client;
use super::error::CallError;
use super::platform::{Platform, TokenOf};
use crate::domain::dealer::Dealer;
use crate::domain::ids::{AppName, ChatId, CorpId, ExternalUserid, Openid, PendingId, Unionid};
use crate::domain::quota::Share;

const DEALERS_PER_PAGE: u32 = 100;
const PAGES_MAX: usize = 1_000;

#[async_trait]
impl Platform for Client {
    async fn dealers(&self, app: &AppName, only: Option<&CorpId>) -> Result<Vec<Dealer>, CallError> {
        #[derive(Deserialize)]
        struct Row {
            corpid: CorpId,
            #[serde(default)]
            corp_name: String,
            #[serde(deserialize_with = "number")]
            agentid: i64,
        }
        #[derive(Deserialize)]
        struct Answer {
            corp_list: Option<Vec<Value>>,
            next_cursor: Option<String>,
            ending: Option<Value>,
        }
        let api = Api::ListAppShareInfo;
        let agent_id = self.app(app, api)?.agent_id;
        let mut dealers = Vec::new();
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let mut body =
                json!({"agentid": agent_id, "business_type": BUSINESS_TYPE_CHAIN, "limit": DEALERS_PER_PAGE});
            if let Some(only) = only {
                body["corpid"] = only.as_str().into();
            }
            if !cursor.is_empty() {
                body["cursor"] = cursor.clone().into();
            }
            let page: Answer =
                parse(api, self.call_as(app, &TokenOf::Upstream, api, Share::Whole, &body).await?)?;
            let listed_at = self.clock.now();
            dealers.extend(rows::<Row>(api, page.corp_list).map(|row| Dealer {
                corp_id: row.corpid,
                agent_id: row.agentid,
                name: row.corp_name.chars().take(128).collect(),
                listed_at,
                token: None,
            }));
            let ended = page.ending.is_some_and(|ending| ending == 1 || ending == "1" || ending == true);
            let next = page.next_cursor.unwrap_or_default();
            if ended || next.is_empty() || next == cursor {
                break;
            }
            cursor = next;
        }
        Ok(dealers)
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
        let answer: Answer = parse(api, self.call_as(app, &TokenOf::Upstream, api, share, &body).await?)?;
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
        let answer: Answer = parse(api, self.call_as(app, &TokenOf::Upstream, api, share, &body).await?)?;
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
        let answer: Answer = parse(api, self.call_as(app, token, api, Share::Whole, &body).await?)?;
        // What an unknown customer's row looks like is not documented: none, an empty pending id or none in
        // it.
        let known = |row: Row| {
            let pending_id = PendingId::new(row.pending_id?).ok()?;
            Some((ExternalUserid::new(row.external_userid).ok()?, pending_id))
        };
        Ok(rows::<Row>(api, answer.result).filter_map(known).collect())
    }

    fn forget_failures(&self, app: Option<&AppName>) {
        self.tokens.forget_failures(app);
    }
}
