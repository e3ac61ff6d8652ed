//! The calls about customer groups: their list (document 92120), and the members of one (document 92122).

use serde::Deserialize;
use serde_json::{Value, json};

use super::paging::{next_page, page_body};
use crate::domain::chat::MemberVersion;
use crate::domain::ids::{AppName, ChatId, ExternalUserid};
use crate::domain::quota::Share;
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;
use crate::wecom::answer::{instant, number, rows};
use crate::wecom::api::Api;
use crate::wecom::client::Client;
use crate::wecom::error::CallError;
use crate::wecom::platform::{ChatMembers, TokenOf};

const CHATS_PER_PAGE: u32 = 1_000;
/// `type` of a customer in a group; that of a member of the corp is 1.
const CUSTOMER: i64 = 2;

impl Client {
    pub(super) async fn groupchat_list(
        &self,
        app: &AppName,
        token: &TokenOf,
        cursor: &str,
    ) -> Result<(Vec<ChatId>, String), CallError> {
        #[derive(Deserialize)]
        struct Row {
            chat_id: ChatId,
        }
        #[derive(Deserialize)]
        struct Answer {
            group_chat_list: Option<Vec<Value>>,
            next_cursor: Option<String>,
        }
        let api = Api::GroupchatList;
        let body = page_body(json!({"status_filter": 0, "limit": CHATS_PER_PAGE}), cursor);
        let answer: Answer = self.ask(app, token, api, Share::Whole, Some(&body)).await?;
        let chats = rows::<Row>(api, answer.group_chat_list).map(|row| row.chat_id).collect();
        Ok((chats, next_page(api, cursor, answer.next_cursor)?))
    }

    pub(super) async fn groupchat_get(
        &self,
        app: &AppName,
        token: &TokenOf,
        chat_id: &ChatId,
    ) -> Result<ChatMembers, CallError> {
        #[derive(Deserialize)]
        struct Row {
            /// An `external_userid` if the type is that of a customer.
            userid: String,
            #[serde(rename = "type", deserialize_with = "number")]
            kind: i64,
            #[serde(default, deserialize_with = "instant")]
            join_time: Option<Timestamp>,
        }
        #[derive(Deserialize)]
        struct Group {
            member_list: Option<Vec<Value>>,
            member_version: Option<String>,
        }
        #[derive(Deserialize)]
        struct Answer {
            group_chat: Group,
        }
        let api = Api::GroupchatGet;
        let body = json!({"chat_id": chat_id.as_str(), "need_name": 0});
        let answer: Answer = self.ask(app, token, api, Share::Whole, Some(&body)).await?;
        let sighting = |row: Row| {
            Some(Sighting {
                external_userid: ExternalUserid::new(row.userid).ok()?,
                place: SightingPlace::Chat(chat_id.clone()),
                since: row.join_time,
            })
        };
        let group = answer.group_chat;
        let version =
            group.member_version.filter(|text| (1..=MemberVersion::BYTES_MAX).contains(&text.len()));
        Ok(ChatMembers {
            customers: rows::<Row>(api, group.member_list)
                .filter(|row| row.kind == CUSTOMER)
                .filter_map(sighting)
                .collect(),
            version: version.map(MemberVersion),
        })
    }
}
