//! The customer group APIs: `groupchat/list` (document 92120) and `groupchat/get` (document 92122).
//!
//! Deliberately absent: what happens in groups (`groups`), and the conversion of their members (`convert`).

use serde_json::{Value, json};

use super::api::{Answer, Errcode, Request, texts};
use super::cursor::Cursor;
use super::model::{Chat, ChatIdx, ChatMember, ChatMemberKind, CorpIdx};
use super::world::World;

/// The documented size limits of an owner filter and of a page.
const OWNERS_MAX: usize = 100;
const PAGE_CHATS_MAX: usize = 1_000;
/// The documented values of `status_filter`; 0 is all.
const STATUS_MAX: u64 = 3;

impl World {
    pub(super) fn groupchat_list(&self, caller: CorpIdx, request: &Request) -> Answer {
        let status = request.optional_number("status_filter")?.unwrap_or(0);
        let owners = match &request.body["owner_filter"] {
            Value::Null => None,
            filter => Some(texts(&filter["userid_list"], OWNERS_MAX)?),
        };
        let limit = request.optional_rows("limit")?.ok_or(Errcode::INVALID_PARAMETER)?;
        if limit > PAGE_CHATS_MAX || status > STATUS_MAX {
            return Err(Errcode::INVALID_PARAMETER);
        }
        let from = match Cursor::requested(request)? {
            None => 0,
            Some(Cursor::Chats { from }) => from,
            Some(_) => return Err(Errcode::INVALID_CURSOR),
        };
        let corp = &self.corps[caller];
        let visible = || corp.members.values().filter(|member| member.is_visible).count();
        if owners.is_none() && visible() > self.options.chat_range_members_max {
            return Err(Errcode::RANGE_TOO_LARGE);
        }
        let is_listed = |chat: &Chat| {
            let has_owner_left = !corp.members.contains_key(&chat.owner);
            let is_asked_for = match &owners {
                None => self.is_in_range(caller, &chat.owner),
                Some(owners) => {
                    owners.contains(&chat.owner.as_str())
                        && (has_owner_left || self.is_in_range(caller, &chat.owner))
                }
            };
            !chat.is_dismissed && is_asked_for && (status == 0 || status == self.chat_status(chat))
        };
        let mut listed = corp
            .chats
            .iter()
            .enumerate()
            .skip(from)
            .map(|(nth, chat)| (nth, &self.chats[*chat]))
            .filter(|(_, chat)| is_listed(chat));
        let page: Vec<Value> = listed
            .by_ref()
            .take(limit)
            .map(|(_, chat)| json!({ "chat_id": chat.id, "status": self.chat_status(chat) }))
            .collect();
        let next = listed.next().map(|(nth, _)| Cursor::Chats { from: nth });
        Ok(json!({
            "group_chat_list": page,
            "next_cursor": next.map_or_else(String::new, Cursor::into_text),
        }))
    }

    /// 0 while the owner is a member of the corp, 1 after the owner has left.
    fn chat_status(&self, chat: &Chat) -> u64 {
        u64::from(!self.corps[chat.corp].members.contains_key(&chat.owner))
    }

    pub(super) fn groupchat_get(&self, caller: CorpIdx, request: &Request) -> Answer {
        let chat_id = request.text("chat_id")?;
        let is_named = request.optional_number("need_name")?.unwrap_or(0) == 1;
        let chat = self.named_chat(chat_id, Errcode::UNKNOWN_CHAT, |corp| corp == caller)?;
        let chat = &self.chats[chat];
        if let Some(code) = chat.error {
            return Err(Errcode(code));
        }
        if !self.is_in_range(caller, &chat.owner) {
            return Err(Errcode::NOT_VISIBLE);
        }
        let list = chat.listed(self.now(), self.options.chat_lag_ms);
        let members: Vec<Value> =
            list.members.iter().map(|(id, member)| member_row(chat, id, member, is_named)).collect();
        Ok(json!({ "group_chat": {
            "chat_id": chat.id,
            "name": chat.name,
            "owner": chat.owner,
            "create_time": chat.created_at.as_secs(),
            "notice": chat.notice,
            "member_list": members,
            "admin_list": [],
            "member_version": list.version,
        }}))
    }

    /// The group with this chat id, which exists still and belongs to a corp in scope.
    pub(super) fn named_chat(
        &self,
        chat_id: &str,
        unknown: Errcode,
        is_in_scope: impl Fn(CorpIdx) -> bool,
    ) -> Result<ChatIdx, Errcode> {
        let index = self.chat(chat_id).map_err(|_| unknown)?;
        let chat = &self.chats[index];
        if !is_in_scope(chat.corp) {
            return Err(Errcode::OTHER_CORP);
        }
        if chat.is_dismissed {
            return Err(Errcode::CHAT_DISMISSED);
        }
        Ok(index)
    }
}

/// An entry of `member_list`, without a unionid: an upstream corp does not get those of a dealer's customers.
fn member_row(chat: &Chat, id: &str, member: &ChatMember, is_named: bool) -> Value {
    let is_internal = member.kind == ChatMemberKind::Internal;
    let mut row = json!({
        "userid": id,
        "type": if is_internal { 1 } else { 2 },
        "join_time": member.joined_at.as_secs(),
        "join_scene": member.join_scene,
        "group_nickname": "",
    });
    if is_internal {
        row["invitor"] = json!({ "userid": chat.owner });
    }
    if is_named {
        row["name"] = json!(if is_internal { "客服" } else { "顾客" });
    }
    row
}
