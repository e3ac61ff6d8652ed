//! The calls about dealers: the corps with which the app is shared (document 95813), and how far a corp of a
//! chain is verified (document 95820).

use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Share;
use crate::wecom::answer::{integer, is_true, number, rows};
use crate::wecom::api::{Api, BUSINESS_TYPE_CHAIN};
use crate::wecom::client::Client;
use crate::wecom::error::CallError;
use crate::wecom::platform::{DealerList, TokenOf};

const DEALERS_PER_PAGE: u32 = 100;
const PAGES_MAX: usize = 1_000;
const NAME_CHARS_MAX: usize = 128;

impl Client {
    /// All pages of the list. It is complete if WeCom said so and every row could be read.
    pub(super) async fn list_app_share_info(
        &self,
        app: &AppName,
        only: Option<&CorpId>,
    ) -> Result<DealerList, CallError> {
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
        let mut body =
            json!({"agentid": agent_id, "business_type": BUSINESS_TYPE_CHAIN, "limit": DEALERS_PER_PAGE});
        if let Some(only) = only {
            body["corpid"] = only.as_str().into();
        }
        let (mut dealers, mut are_all_read) = (Vec::new(), true);
        for _ in 0..PAGES_MAX {
            let page: Answer = self.ask(app, &TokenOf::Upstream, api, Share::Whole, Some(&body)).await?;
            let listed_at = self.clock.now();
            let list = page.corp_list.unwrap_or_default();
            let count_listed = dealers.len() + list.len();
            dealers.extend(rows::<Row>(api, Some(list)).map(|row| {
                let name = row.corp_name.chars().take(NAME_CHARS_MAX).collect();
                Dealer::listed(row.corpid, row.agentid, name, listed_at)
            }));
            are_all_read &= dealers.len() == count_listed;
            if page.ending.is_some_and(|ending| is_true(&ending)) {
                return Ok(DealerList { dealers, is_complete: are_all_read });
            }
            let next = page.next_cursor.unwrap_or_default();
            if next.is_empty() || body["cursor"] == next {
                break;
            }
            body["cursor"] = next.into();
        }
        Ok(DealerList { dealers, is_complete: false })
    }

    pub(super) async fn get_chain_list(&self, app: &AppName) -> Result<Vec<String>, CallError> {
        #[derive(Deserialize)]
        struct Row {
            chain_id: String,
        }
        #[derive(Deserialize)]
        struct Answer {
            chains: Option<Vec<Value>>,
        }
        let api = Api::GetChainList;
        let answer: Answer = self.ask(app, &TokenOf::Upstream, api, Share::Whole, None).await?;
        let ids = rows::<Row>(api, answer.chains).map(|row| row.chain_id);
        Ok(ids.filter(|id| !id.is_empty()).collect())
    }

    pub(super) async fn get_chain_corpinfo(
        &self,
        app: &AppName,
        chain_id: &str,
        corp_id: &CorpId,
    ) -> Result<Option<Qualification>, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            qualification_status: Option<Value>,
        }
        let api = Api::GetChainCorpinfo;
        let body = json!({"chain_id": chain_id, "corpid": corp_id.as_str()});
        let answer: Answer = self.ask(app, &TokenOf::Upstream, api, Share::Whole, Some(&body)).await?;
        Ok(match answer.qualification_status.as_ref().and_then(integer) {
            Some(1) => Some(Qualification::Unverified),
            Some(2) => Some(Qualification::Verified),
            Some(3) => Some(Qualification::Certified),
            Some(_) | None => None,
        })
    }
}
