//! The calls that list customers: the members who may have any (document 92571), the customers of members
//! (document 92994), and everything in one traversal (document 99434).

use serde::Deserialize;
use serde_json::{Value, json};

use super::paging::{next_page, page_body};
use crate::domain::ids::{AppName, ChatId, ExternalUserid, UserId};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::Timestamp;
use crate::wecom::answer::{instant, is_true, rows};
use crate::wecom::api::Api;
use crate::wecom::client::Client;
use crate::wecom::error::CallError;
use crate::wecom::platform::{CustomerPage, TokenOf};

/// The most rows on a page of `batch/get_by_user`; WeCom clips larger values.
const CUSTOMERS_PER_PAGE: u32 = 100;
/// The most rows on a page of `contact_list`.
const CONTACTS_PER_PAGE: u32 = 1_000;
/// The longest `state` kept, in bytes: as in events.
const STATE_BYTES_MAX: usize = 256;

impl Client {
    pub(super) async fn get_follow_user_list(
        &self,
        app: &AppName,
        token: &TokenOf,
    ) -> Result<Vec<UserId>, CallError> {
        #[derive(Default, Deserialize)]
        struct Answer {
            follow_user: Option<Vec<Value>>,
        }
        let api = Api::GetFollowUserList;
        let answer: Answer = self.ask_list(app, token, api, None).await?;
        let mut members: Vec<_> = rows::<UserId>(api, answer.follow_user).collect();
        members.sort_unstable();
        members.dedup();
        Ok(members)
    }

    pub(super) async fn get_by_user(
        &self,
        app: &AppName,
        token: &TokenOf,
        members: &[UserId],
        cursor: &str,
    ) -> Result<CustomerPage, CallError> {
        #[derive(Deserialize)]
        struct Row {
            external_contact: Customer,
            follow_info: Follow,
        }
        #[derive(Deserialize)]
        struct Customer {
            external_userid: ExternalUserid,
        }
        #[derive(Deserialize)]
        struct Follow {
            userid: UserId,
            #[serde(default, deserialize_with = "instant")]
            createtime: Option<Timestamp>,
            state: Option<String>,
        }
        #[derive(Default, Deserialize)]
        struct Answer {
            external_contact_list: Option<Vec<Value>>,
            next_cursor: Option<String>,
            #[serde(default)]
            fail_info: Value,
        }
        let api = Api::GetByUser;
        let members: Vec<_> = members.iter().map(UserId::as_str).collect();
        let body = page_body(json!({"userid_list": members, "limit": CUSTOMERS_PER_PAGE}), cursor);
        let answer: Answer = self.ask_list(app, token, api, Some(&body)).await?;
        let sighting = |row: Row| {
            let state = row.follow_info.state.filter(|state| (1..=STATE_BYTES_MAX).contains(&state.len()));
            Sighting {
                external_userid: row.external_contact.external_userid,
                place: SightingPlace::Follower { user_id: row.follow_info.userid, state },
                since: row.follow_info.createtime,
            }
        };
        let unlicensed = answer.fail_info["unlicensed_userid_list"].as_array().cloned();
        Ok(CustomerPage {
            rows: rows(api, answer.external_contact_list).map(sighting).collect(),
            next_cursor: next_page(api, cursor, answer.next_cursor)?,
            unlicensed: rows::<UserId>(api, unlicensed).collect(),
        })
    }

    pub(super) async fn contact_list(
        &self,
        app: &AppName,
        token: &TokenOf,
        cursor: &str,
    ) -> Result<CustomerPage, CallError> {
        #[derive(Deserialize)]
        struct Row {
            is_customer: Option<Value>,
            external_userid: Option<String>,
            follow_userid: Option<String>,
            chat_id: Option<String>,
            chat_name: Option<String>,
            #[serde(default, deserialize_with = "instant")]
            add_time: Option<Timestamp>,
        }
        #[derive(Default, Deserialize)]
        struct Answer {
            info_list: Option<Vec<Value>>,
            next_cursor: Option<String>,
        }
        let api = Api::ContactList;
        let body = page_body(json!({"limit": CONTACTS_PER_PAGE}), cursor);
        let answer: Answer = self.ask_list(app, token, api, Some(&body)).await?;
        let sighting = |row: Row| {
            if row.is_customer.is_some_and(|is_customer| !is_true(&is_customer)) {
                return None;
            }
            let place = match (row.chat_id, row.chat_name) {
                (Some(chat_id), _) => SightingPlace::Chat(ChatId::new(chat_id).ok()?),
                // A row of a group that is not a customer group; `follow_userid` is its owner.
                (None, Some(_)) => return None,
                (None, None) => {
                    SightingPlace::Follower { user_id: UserId::new(row.follow_userid?).ok()?, state: None }
                }
            };
            let external_userid = ExternalUserid::new(row.external_userid?).ok()?;
            Some(Sighting { external_userid, place, since: row.add_time })
        };
        Ok(CustomerPage {
            rows: rows(api, answer.info_list).filter_map(sighting).collect(),
            next_cursor: next_page(api, cursor, answer.next_cursor)?,
            unlicensed: Vec::new(),
        })
    }
}
