//! Customer groups: creating, joining, leaving and dismissing them, and the events that report it.
//!
//! Deliberately absent: what an API answers about them (`chats`, `convert`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::error::SimulatorError;
use super::event::{Change, ChatChange, ChatMembers, Event, Leave};
use super::ids;
use super::model::{Chat, ChatIdx, ChatMember, ChatMemberKind, MemberList};
use super::world::World;

/// The owner of a group for which none is named.
const DEFAULT_OWNER: &str = "groupowner";

/// The way in which a person joins a group.
#[derive(Debug, Clone, Copy)]
struct JoinScene {
    /// In an event (document 92130).
    in_event: u8,
    /// In the answer of `groupchat/get` (document 92122).
    in_list: u8,
}

const INVITED: JoinScene = JoinScene { in_event: 0, in_list: 1 };
const QR_CODE: JoinScene = JoinScene { in_event: 3, in_list: 3 };

impl World {
    /// The group with this chat id, dismissed or not.
    pub(super) fn chat(&self, chat_id: &str) -> Result<ChatIdx, SimulatorError> {
        let chat = self.chat_by_id.get(chat_id).copied();
        chat.ok_or_else(|| SimulatorError::UnknownChat(chat_id.to_owned()))
    }

    fn live_chat(&self, chat_id: &str) -> Result<ChatIdx, SimulatorError> {
        let chat = self.chat(chat_id)?;
        if self.chats[chat].is_dismissed {
            return Err(SimulatorError::ChatDismissed(chat_id.to_owned()));
        }
        Ok(chat)
    }

    /// Creates a group and returns its chat id. The owner becomes a member if there is none of that name.
    pub(super) fn add_chat(
        &mut self,
        corp_id: &str,
        owner: Option<&str>,
        name: Option<&str>,
    ) -> Result<String, SimulatorError> {
        let corp = self.corp(corp_id)?;
        let owner = self.user_id(corp, owner.unwrap_or(DEFAULT_OWNER));
        let (id, version) = (ids::chat_id(&mut self.rng), ids::hex(&mut self.noise, 32));
        let (created_at, index) = (self.now(), self.chats.len());
        let founder =
            ChatMember { kind: ChatMemberKind::Internal, joined_at: created_at, join_scene: INVITED.in_list };
        self.corps[corp].members.entry(owner.clone()).or_default();
        self.corps[corp].chats.push(index);
        self.chat_by_id.insert(id.clone(), index);
        self.chats.push(Chat {
            id: id.clone(),
            corp,
            name: name.map_or_else(|| format!("group {}", index + 1), str::to_owned),
            notice: String::new(),
            created_at,
            list: MemberList { members: Arc::new(BTreeMap::from([(owner.clone(), founder)])), version },
            owner,
            past: VecDeque::new(),
            is_dismissed: false,
            error: None,
        });
        Ok(id)
    }

    /// People join a group with a QR code, which makes them customers of its corp.
    pub(super) fn join_chat(&mut self, chat_id: &str, unionids: &[&str]) -> Result<Event, SimulatorError> {
        let chat = self.live_chat(chat_id)?;
        let corp = self.chats[chat].corp;
        let mut joined = Vec::with_capacity(unionids.len());
        for unionid in unionids {
            let person = self.person(unionid)?;
            let at = self.sequenced();
            let index = self.customer(corp, person);
            self.customers[index].since.get_or_insert(at);
            joined.push((self.customers[index].external_userid.clone(), ChatMemberKind::Customer(index)));
        }
        Ok(self.add_to_chat(chat, joined, QR_CODE))
    }

    /// Members of the corp are invited to a group. They are created if there are none of these names.
    pub(super) fn join_chat_members(
        &mut self,
        chat_id: &str,
        user_ids: &[&str],
    ) -> Result<Event, SimulatorError> {
        let chat = self.live_chat(chat_id)?;
        let corp = self.chats[chat].corp;
        let user_ids = user_ids.iter().map(|name| self.user_id(corp, name)).collect::<Vec<_>>();
        for user_id in &user_ids {
            self.corps[corp].members.entry(user_id.clone()).or_default();
        }
        let joined = user_ids.into_iter().map(|user_id| (user_id, ChatMemberKind::Internal));
        Ok(self.add_to_chat(chat, joined.collect(), INVITED))
    }

    fn add_to_chat(
        &mut self,
        chat: ChatIdx,
        joined: Vec<(String, ChatMemberKind)>,
        scene: JoinScene,
    ) -> Event {
        let joined_at = self.now();
        let ids = joined.iter().map(|(id, _)| id.clone()).collect();
        let members = self.change_members(chat, ids, |members| {
            for (id, kind) in joined {
                members.entry(id).or_insert(ChatMember { kind, joined_at, join_scene: scene.in_list });
            }
        });
        self.chat_event(chat, ChatChange::Joined { join_scene: scene.in_event, members })
    }

    /// A person leaves a group. They stay a customer in the sense that their id does not change.
    pub(super) fn leave_chat(
        &mut self,
        chat_id: &str,
        unionid: &str,
        how: Leave,
    ) -> Result<Event, SimulatorError> {
        let chat = self.live_chat(chat_id)?;
        let person = self.person(unionid)?;
        let customer = self.customer_of.get(&(self.chats[chat].corp, person));
        let id = customer.map(|index| self.customers[*index].external_userid.clone());
        let id = id.filter(|id| self.chats[chat].list.members.contains_key(id)).ok_or_else(|| {
            SimulatorError::NotInChat { chat_id: chat_id.to_owned(), person: unionid.to_owned() }
        })?;
        let members = self.change_members(chat, vec![id.clone()], |members| {
            members.remove(&id);
        });
        Ok(self.chat_event(chat, ChatChange::Left { how, members }))
    }

    /// Dismisses a group.
    pub(super) fn dismiss_chat(&mut self, chat_id: &str) -> Result<Event, SimulatorError> {
        let chat = self.live_chat(chat_id)?;
        self.chats[chat].is_dismissed = true;
        Ok(self.chat_event(chat, ChatChange::Dismissed))
    }

    /// The event of a change of this group, which is made with `edit`.
    pub(super) fn edit_chat(
        &mut self,
        chat_id: &str,
        change: ChatChange,
        edit: impl FnOnce(&mut Chat),
    ) -> Result<Event, SimulatorError> {
        let chat = self.live_chat(chat_id)?;
        edit(&mut self.chats[chat]);
        Ok(self.chat_event(chat, change))
    }

    pub(super) fn chat_event(&self, chat: ChatIdx, change: ChatChange) -> Event {
        let chat = &self.chats[chat];
        self.event(chat.corp, &Change::Chat { chat_id: chat.id.clone(), change })
    }

    /// Changes a member list, which gets a new version. `ids` are those that the event lists.
    fn change_members(
        &mut self,
        chat: ChatIdx,
        mut ids: Vec<String>,
        change: impl FnOnce(&mut BTreeMap<String, ChatMember>),
    ) -> ChatMembers {
        let (now, lag_ms) = (self.now(), self.options.chat_lag_ms);
        let version = ids::hex(&mut self.noise, 32);
        let chat = &mut self.chats[chat];
        chat.past.retain(|(replaced_at, _)| now.millis_since(*replaced_at) < lag_ms);
        if lag_ms > 0 {
            chat.past.push_back((now, chat.list.clone()));
        }
        change(Arc::make_mut(&mut chat.list.members));
        let last_version = std::mem::replace(&mut chat.list.version, version.clone());
        let count = ids.len();
        ids.truncate(self.options.chat_items_max.unwrap_or(usize::MAX));
        ChatMembers { ids, count, last_version, version }
    }
}
