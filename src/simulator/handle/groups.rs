//! The methods of [`Simulator`] about customer groups.
//!
//! Deliberately absent: what happens in a group (`groups` of the simulator).

use super::{Simulator, known};
use crate::simulator::event::{ChatChange, Event, Leave};
use crate::simulator::model::{Chat, Person};

/// Customer groups. No event is sent.
impl Simulator {
    /// Creates a customer group, owned by a visible member of its own, and returns its chat id.
    #[must_use]
    pub fn add_chat(&self, corp_id: &str) -> String {
        known(self.world().add_chat(corp_id, None, None))
    }

    /// Creates a customer group and returns its chat id. The owner becomes a member if there is none of that
    /// name.
    #[must_use]
    pub fn add_chat_owned(&self, corp_id: &str, owner: &str) -> String {
        known(self.world().add_chat(corp_id, Some(owner), None))
    }

    /// The event of a group's creation.
    #[must_use]
    pub fn chat_created(&self, chat_id: &str) -> Event {
        let world = self.world();
        world.chat_event(known(world.chat(chat_id)), ChatChange::Created)
    }

    /// People join a group, which makes them customers of its corp, convertible with the chat id: without it
    /// only if a member has added them, too.
    #[must_use]
    pub fn join_chat(&self, chat_id: &str, people: &[Person]) -> Event {
        let unionids: Vec<&str> = people.iter().map(|person| person.unionid.as_str()).collect();
        known(self.world().join_chat(chat_id, &unionids))
    }

    /// Members of the corp are invited to a group.
    #[must_use]
    pub fn join_chat_members(&self, chat_id: &str, user_ids: &[&str]) -> Event {
        known(self.world().join_chat_members(chat_id, user_ids))
    }

    /// A person leaves a group.
    #[must_use]
    pub fn leave_chat(&self, chat_id: &str, person: &Person, how: Leave) -> Event {
        known(self.world().leave_chat(chat_id, &person.unionid, how))
    }

    /// Dismisses a group.
    #[must_use]
    pub fn dismiss_chat(&self, chat_id: &str) -> Event {
        known(self.world().dismiss_chat(chat_id))
    }

    /// Gives a group to another member, who is created if there is none of that name.
    #[must_use]
    pub fn change_chat_owner(&self, chat_id: &str, user_id: &str) -> Event {
        let mut world = self.world();
        let corp = known(world.chat(chat_id).map(|chat| world.chats[chat].corp));
        let user_id = world.user_id(corp, user_id);
        world.corps[corp].members.entry(user_id.clone()).or_default();
        let edit = |chat: &mut Chat| chat.owner = user_id;
        known(world.edit_chat(chat_id, ChatChange::OwnerChanged, edit))
    }

    /// Renames a group.
    #[must_use]
    pub fn rename_chat(&self, chat_id: &str, name: &str) -> Event {
        let mut world = self.world();
        known(world.edit_chat(chat_id, ChatChange::NameChanged, |chat| name.clone_into(&mut chat.name)))
    }

    /// Changes the notice of a group.
    #[must_use]
    pub fn change_chat_notice(&self, chat_id: &str, notice: &str) -> Event {
        let mut world = self.world();
        known(world.edit_chat(chat_id, ChatChange::NoticeChanged, |chat| notice.clone_into(&mut chat.notice)))
    }

    /// Makes reading a group answer `errcode`, 90501 for instance, until it is set to `None`.
    pub fn set_chat_error(&self, chat_id: &str, errcode: Option<i64>) {
        let mut world = self.world();
        let chat = known(world.chat(chat_id));
        world.chats[chat].error = errcode;
    }

    /// The version of a group's member list, whatever `groupchat/get` answers just now.
    #[must_use]
    pub fn chat_version(&self, chat_id: &str) -> String {
        let world = self.world();
        world.chats[known(world.chat(chat_id))].list.version.clone()
    }
}
