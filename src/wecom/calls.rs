//! The calls themselves: what each sends and how its answer is read. Documents 95813, 95816, 97357, 95818.
//!
//! Answers are read with tolerance: numbers may come as text, lists may be missing or null, and a row that cannot be
//! read does not spoil the others.

use async_trait::async_trait;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::Client;
use super::{Api, CallError, ListedDealer, Platform, TokenOf, Transport};
use crate::domain::ids::{AppName, ChatId, CorpId, ExternalUserid, Openid, PendingId, Unionid};
use crate::domain::quota::Share;

/// 上下游; left out, WeCom assumes 企业互联 and answers with an empty list.
pub(super) const BUSINESS_TYPE_CHAIN: u8 = 1;
const DEALERS_PER_PAGE: u32 = 100;
const PAGES_MAX: usize = 1_000;

pub(super) fn parse<T: DeserializeOwned>(api: Api, answer: Value) -> Result<T, CallError> {
    serde_json::from_value(answer).map_err(|_| CallError::Transport { api, cause: Transport::Body })
}

/// The rows of a list that can be read. One that cannot must not spoil the others.
fn rows<T: DeserializeOwned>(api: Api, list: Option<Vec<Value>>) -> impl Iterator<Item = T> {
    list.unwrap_or_default().into_iter().filter_map(move |row| {
        let read = serde_json::from_value(row);
        if read.is_err() {
            tracing::warn!(api = api.as_str(), "a row of the answer is malformed and was passed over");
        }
        read.ok()
    })
}

/// A number that may come as text.
pub(super) fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    match Value::deserialize(from)? {
        Value::Number(number) => number.as_i64().ok_or_else(|| serde::de::Error::custom("not an integer")),
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        _ => Err(serde::de::Error::custom("not a number")),
    }
}

#[async_trait]
impl Platform for Client {
    async fn dealers(&self, app: &AppName, only: Option<&CorpId>) -> Result<Vec<ListedDealer>, CallError> {
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
            dealers.extend(rows::<Row>(api, page.corp_list).map(|row| ListedDealer {
                corp_id: row.corpid,
                agent_id: row.agentid,
                name: row.corp_name.chars().take(128).collect(),
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
        // A row without a usable pending id says "not known", whatever form that takes.
        let known = |row: Row| {
            let pending_id = PendingId::new(row.pending_id?).ok()?;
            Some((ExternalUserid::new(row.external_userid).ok()?, pending_id))
        };
        Ok(rows::<Row>(api, answer.result).filter_map(known).collect())
    }
}
