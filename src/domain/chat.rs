//! A customer group (客户群): what its events mean, and when its member list has to be read (document 92130).
//!
//! Every change of a group's members has a version. An event whose `LastMemVer` is the version that we know can
//! be trusted: the ids in it are the whole change. After any other event, and after the creation of a group,
//! whose event names no version, the list is read with `externalcontact/groupchat/get` (document 92122). Events
//! arrive in any order, more than once or never; reading the list is always right, so it is the answer to every
//! doubt.
//!
//! Deliberately absent: the calls, and what becomes of the customers found (see
//! [`contact`](super::contact)).

use serde::{Deserialize, Serialize};

use super::ids::{ChatId, CorpId, ExternalUserid};
use super::time::{SECOND_MS, Timestamp};

/// How long after an event the list still may be the one of before it, in milliseconds (document 92122).
pub const CHAT_LAG_MS: i64 = 2 * SECOND_MS;
/// The most ids of an event that are kept. With more, the list is read.
pub const CHAT_ITEMS_MAX: usize = 100;

/// The version of a group's member list; opaque.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberVersion(pub String);

impl MemberVersion {
    /// The longest version kept, in bytes.
    pub const BYTES_MAX: usize = 128;
}

/// A change of a customer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatEvent {
    /// The corp whose group it is, a dealer or the brand itself.
    pub corp_id: CorpId,
    /// The message's `CreateTime`, whole seconds.
    pub created_at: Timestamp,
    /// The group.
    pub chat_id: ChatId,
    /// What happened.
    pub change: ChatChange,
}

/// What happened to a group. Changes of its name, notice or owner change no members and are not among these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChatChange {
    /// The group was created. The event names neither members nor a version.
    Created,
    /// Members joined.
    Joined {
        /// The ids in the event, at most [`CHAT_ITEMS_MAX`] of them; an id may be a customer's or a member's.
        items: Vec<ExternalUserid>,
        /// Whether `items` is the whole change: as many as `MemChangeCnt` says, and all of them valid ids.
        is_complete: bool,
        /// The versions before and after.
        versions: Option<Versions>,
    },
    /// Members left.
    Left {
        /// The versions before and after.
        versions: Option<Versions>,
    },
    /// The group was dismissed.
    Dismissed,
}

/// The versions of the member list before and after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// `LastMemVer`.
    pub before: MemberVersion,
    /// `CurMemVer`.
    pub after: MemberVersion,
}

/// What is known about a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chat {
    /// The version of the member list up to which all members are known; `None` if that is not known.
    pub version: Option<MemberVersion>,
    /// The reading of the list that is due, if one is.
    pub reading: Option<Reading>,
}

/// A reading of a group's member list that is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When it is due.
    pub due_at: Timestamp,
    /// When a list is new enough to have every change that was reported; a later one than `due_at` if more was
    /// reported since.
    pub complete_at: Timestamp,
    /// The version that the list had before the change that is looked for. While the list still has it, the
    /// change is not in it yet.
    pub older_than: Option<MemberVersion>,
    /// Readings so far that returned a list without the change, or failed.
    pub tries: u32,
}

/// What an event leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatEffects {
    /// Customers who are to be looked up at once.
    pub joined: Vec<ExternalUserid>,
    /// Whether the group is to be forgotten.
    pub is_gone: bool,
}

impl Chat {
    /// Applies an event that was received at `now`.
    pub fn apply(&mut self, change: &ChatChange, now: Timestamp) -> ChatEffects {
        let mut effects = ChatEffects::default();
        match change {
            ChatChange::Created => self.read_after(None, now),
            ChatChange::Joined { items, is_complete, versions } => {
                let are_customers = items.iter().all(ExternalUserid::cannot_be_member);
                effects.joined = items.iter().filter(|id| id.cannot_be_member()).cloned().collect();
                match versions {
                    Some(versions) if *is_complete && are_customers && self.knows(&versions.before) => {
                        self.version = Some(versions.after.clone());
                    }
                    // The same event again, or one that an earlier reading of the list has covered.
                    Some(versions) if self.knows(&versions.after) && are_customers => {}
                    Some(versions) => self.read_after(Some(&versions.before), now),
                    None => self.read_after(None, now),
                }
            }
            // Nobody to look up; a list of another version is read when somebody joins.
            ChatChange::Left { versions } => {
                if let Some(versions) = versions
                    && self.knows(&versions.before)
                {
                    self.version = Some(versions.after.clone());
                }
            }
            ChatChange::Dismissed => effects.is_gone = true,
        }
        effects
    }

    fn knows(&self, version: &MemberVersion) -> bool {
        self.version.as_ref() == Some(version) && self.reading.is_none()
    }

    /// Makes a reading due [`CHAT_LAG_MS`] from `now`. If one is due before, that is enough for now: groups in
    /// which somebody joins every second are read too.
    fn read_after(&mut self, older_than: Option<&MemberVersion>, now: Timestamp) {
        let complete_at = now.plus_ms(CHAT_LAG_MS);
        let due_at = self.reading.as_ref().map_or(complete_at, |reading| reading.due_at);
        self.reading = Some(Reading { due_at, complete_at, older_than: older_than.cloned(), tries: 0 });
    }

    /// Records that the list was read at `began_at` and had this version. If it may lack a change, it is read
    /// once more.
    pub fn read(&mut self, version: Option<MemberVersion>, began_at: Timestamp) {
        if let Some(reading) = self.reading.take() {
            let is_old = version.is_some() && version == reading.older_than && reading.tries == 0;
            if is_old {
                let due_at = began_at.plus_ms(CHAT_LAG_MS);
                self.reading = Some(Reading { due_at, complete_at: due_at, tries: 1, ..reading });
            } else if began_at < reading.complete_at {
                self.reading = Some(Reading { due_at: reading.complete_at, ..reading });
            }
        }
        self.version = version;
    }

    /// Moves the instants of a reading: the clock was set.
    pub const fn shift(&mut self, by_ms: i64) {
        if let Some(reading) = &mut self.reading {
            reading.due_at = reading.due_at.plus_ms(by_ms);
            reading.complete_at = reading.complete_at.plus_ms(by_ms);
        }
    }

    /// Puts a reading that failed off until `until`.
    pub const fn put_off(&mut self, until: Timestamp) {
        if let Some(reading) = &mut self.reading {
            reading.due_at = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(n: u32) -> MemberVersion {
        MemberVersion(format!("{n:032x}"))
    }

    fn joined(ids: &[&str], before: u32) -> ChatChange {
        ChatChange::Joined {
            items: ids.iter().map(|id| ExternalUserid::new(id).unwrap()).collect(),
            is_complete: true,
            versions: Some(Versions { before: version(before), after: version(before + 1) }),
        }
    }

    fn known(n: u32) -> Chat {
        Chat { version: Some(version(n)), reading: None }
    }

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    #[test]
    fn an_event_after_the_known_version_is_the_whole_change() {
        let mut chat = known(1);
        let effects = chat.apply(&joined(&["wmA", "wmB"], 1), NOW);
        assert_eq!(effects.joined.len(), 2);
        assert_eq!(chat, known(2));
        // The same event again changes nothing.
        chat.apply(&joined(&["wmA", "wmB"], 1), NOW);
        assert_eq!(chat, known(2));
    }

    #[test]
    fn a_lost_event_a_doubtful_id_or_an_incomplete_list_leads_to_a_reading() {
        let incomplete = ChatChange::Joined { items: vec![], is_complete: false, versions: None };
        for (change, customers) in [
            (joined(&["wmA"], 2), 1),
            (joined(&["wmA", "woB"], 1), 1),
            (incomplete, 0),
            (ChatChange::Created, 0),
        ] {
            let mut chat = known(1);
            assert_eq!(chat.apply(&change, NOW).joined.len(), customers);
            assert_eq!(chat.reading.unwrap().due_at, NOW.plus_ms(CHAT_LAG_MS));
        }
    }

    #[test]
    fn a_list_that_is_still_the_old_one_is_read_once_more() {
        let mut chat = known(1);
        let in_time = NOW.plus_ms(CHAT_LAG_MS);
        chat.apply(&joined(&["woDOUBTFUL"], 1), NOW);
        chat.read(Some(version(1)), in_time);
        assert_eq!(chat.reading.as_ref().unwrap().tries, 1);
        chat.read(Some(version(1)), in_time.plus_ms(CHAT_LAG_MS));
        assert_eq!(chat, known(1));
        // A new one is not.
        chat.apply(&joined(&["woDOUBTFUL"], 1), NOW);
        chat.read(Some(version(2)), in_time);
        assert_eq!(chat, known(2));
    }

    #[test]
    fn a_burst_does_not_put_the_reading_off_and_what_came_after_it_is_read_too() {
        let mut chat = Chat::default();
        for n in 0..10 {
            chat.apply(&ChatChange::Created, NOW.plus_ms(n * 1_000));
        }
        let first = NOW.plus_ms(CHAT_LAG_MS);
        assert_eq!(chat.reading.as_ref().unwrap().due_at, first);
        chat.read(Some(version(1)), first);
        let last = NOW.plus_ms(9_000 + CHAT_LAG_MS);
        assert_eq!(chat.reading.as_ref().unwrap().due_at, last);
        chat.read(Some(version(2)), last);
        assert_eq!(chat, known(2));
    }

    #[test]
    fn one_who_leaves_moves_the_version_along_and_causes_no_reading() {
        let left = |before| ChatChange::Left {
            versions: Some(Versions { before: version(before), after: version(before + 1) }),
        };
        let mut chat = known(1);
        chat.apply(&left(1), NOW);
        assert_eq!(chat, known(2));
        chat.apply(&left(7), NOW);
        assert_eq!(chat, known(2));
    }
}
