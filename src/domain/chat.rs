//! A customer group (客户群): what its events mean, and when its member list has to be read (document 92130).
//!
//! Each change of the member list gives the list a new version. An event that starts from the version held
//! and has the ids of the whole change is applied directly. After any other event the list is read with
//! `externalcontact/groupchat/get` (document 92122) and replaces what is held: events arrive in any order,
//! more than once or never.
//!
//! A list may be older than the events. It is accepted once it was requested [`CHAT_LAG_MS`] after the last
//! event, and after the last comparison that found another customer in the group, and no event has reported
//! its version as replaced:
//!
//! | input | no reading due | reading due |
//! | --- | --- | --- |
//! | created | reading, unless a version is held | reading |
//! | complete join, or leave of few, from the version held | applied | reading |
//! | join or leave, to the version held | included already | reading |
//! | any other join or leave | reading | reading |
//! | a comparison lists a customer who is not recorded in the group | reading | reading |
//! | dismissed | forgotten | forgotten |
//! | list, requested too early | – | read again once it can be complete |
//! | list of a replaced version | – | read again, twice at most; then accepted, but no version is held |
//! | any other list | – | accepted with its version |
//! | "does not exist" | – | forgotten; if no version is held, read again first, twice at most |
//!
//! The customers named in a join are looked up in every case.
//!
//! Deliberately absent: the calls, and what becomes of the customers found (see
//! [`contact`](super::contact)).

use serde::{Deserialize, Serialize};

use super::ids::{ChatId, CorpId, ExternalUserid};
use super::time::{MINUTE_MS, SECOND_MS, Timestamp};

/// How long after an event the list may lack the change, in milliseconds (document 92122).
pub const CHAT_LAG_MS: i64 = 2 * SECOND_MS;
/// Maximum number of ids kept of an event. With more, the list is read.
pub const CHAT_ITEMS_MAX: usize = 100;
/// Maximum number of ids of a leave that is applied directly, which the store does in one transaction. With
/// more, the list is read.
const LEFT_MAX: usize = 40;
/// Maximum wait until a list can be complete. A longer one dates from before the clock was set back.
const WAIT_MAX_MS: i64 = MINUTE_MS;
/// How often a doubtful answer is asked for again before it is accepted.
const REREADS_MAX: u32 = 2;
/// Maximum number of replaced versions kept for a group; the ones reported last.
const REPLACED_MAX: usize = 32;

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
    /// Members left. The fields are those of a join.
    Left {
        /// The ids in the event.
        items: Vec<ExternalUserid>,
        /// Whether `items` is the whole change.
        is_complete: bool,
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
    /// The version of the member list held; `None` if it is not known.
    pub version: Option<MemberVersion>,
    /// The reading of the list that is due, if one is. Until then the version held is out of date.
    pub reading: Option<Reading>,
    /// Versions that events have reported as replaced, in the order of the reports.
    replaced: Vec<MemberVersion>,
}

/// A reading of a group's member list that is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When it is due.
    pub due_at: Timestamp,
    /// When a list has to be requested to include every change reported; later than `due_at` if more was
    /// reported since.
    pub complete_at: Timestamp,
    /// Doubtful answers since the last event.
    pub tries: u32,
}

/// What an event leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatEffects {
    /// Customers to be looked up at once.
    pub joined: Vec<ExternalUserid>,
    /// Ids that are no longer in the group; an id may be a customer's or a member's.
    pub left: Vec<ExternalUserid>,
    /// Whether the group is to be forgotten.
    pub is_gone: bool,
}

impl ChatChange {
    /// The ids in a join that can only be customers': they are looked up whatever is known of the group.
    #[must_use]
    pub fn customers_joined(&self) -> Vec<ExternalUserid> {
        match self {
            Self::Joined { items, .. } => items.iter().filter(|id| id.cannot_be_member()).cloned().collect(),
            Self::Created | Self::Left { .. } | Self::Dismissed => Vec::new(),
        }
    }
}

impl Chat {
    /// Applies an event that was received at `now`.
    pub fn apply(&mut self, change: &ChatChange, now: Timestamp) -> ChatEffects {
        let mut effects = ChatEffects::default();
        match change {
            // A list that was read is never older than the creation.
            ChatChange::Created if self.version.is_some() => {}
            ChatChange::Created => self.read_after(now),
            ChatChange::Joined { items, is_complete, versions } => {
                effects.joined = change.customers_joined();
                let are_customers = effects.joined.len() == items.len();
                self.advance(versions.as_ref(), *is_complete && are_customers, now);
            }
            ChatChange::Left { items, is_complete, versions } => {
                let is_whole = *is_complete && items.len() <= LEFT_MAX;
                if self.advance(versions.as_ref(), is_whole, now) {
                    effects.left.clone_from(items);
                }
            }
            ChatChange::Dismissed => effects.is_gone = true,
        }
        effects
    }

    /// Moves the version held along with a change, or makes a reading due. `is_whole` is whether the event
    /// names the whole change. Returns whether the change is next after the version held.
    fn advance(&mut self, versions: Option<&Versions>, is_whole: bool, now: Timestamp) -> bool {
        let Some(Versions { before, after }) = versions else {
            self.read_after(now);
            return false;
        };
        self.note_replaced(before, after);
        let held = self.version.as_ref().filter(|_| self.reading.is_none());
        // The same event again, or the list that was read includes the change.
        if held == Some(after) {
            return false;
        }
        let is_next = held == Some(before) && is_whole;
        if is_next {
            self.version = Some(after.clone());
        }
        // The event of the next change may have been received before a list that lacked both changes.
        if !is_next || self.replaced.contains(after) {
            self.read_after(now);
        }
        is_next
    }

    fn note_replaced(&mut self, before: &MemberVersion, after: &MemberVersion) {
        if before == after || self.replaced.contains(before) {
            return;
        }
        if self.replaced.len() >= REPLACED_MAX {
            self.replaced.remove(0);
        }
        self.replaced.push(before.clone());
    }

    /// Makes a reading due [`CHAT_LAG_MS`] after `now`. An earlier one that is due already is not put off: a
    /// group with a join every second is read too.
    fn read_after(&mut self, now: Timestamp) {
        let complete_at = now.plus_ms(CHAT_LAG_MS);
        let due_at = self.reading.as_ref().map_or(complete_at, |reading| reading.due_at);
        self.reading = Some(Reading { due_at, complete_at, tries: 0 });
    }

    /// Records that a comparison listed a customer who was not recorded in the group, in a list requested at
    /// `found_at`: either a join was lost, or the customer has left since that list. A reading decides; one
    /// that was due already may have been requested too early. Returns whether that makes a difference.
    pub fn note_found(&mut self, found_at: Timestamp) -> bool {
        let complete_at = found_at.plus_ms(CHAT_LAG_MS);
        match &mut self.reading {
            Some(reading) if reading.complete_at >= complete_at => return false,
            Some(reading) => reading.complete_at = complete_at,
            None => self.read_after(found_at),
        }
        true
    }

    /// Makes the reading due again, after a list that was requested at `began_at` and cannot have everything
    /// that was reported meanwhile.
    pub fn read_again(&mut self, began_at: Timestamp) {
        if let Some(reading) = &mut self.reading {
            reading.complete_at = reading.complete_at.min(began_at.plus_ms(WAIT_MAX_MS));
            reading.due_at = reading.complete_at;
        }
    }

    /// Whether a reading is due at exactly this instant.
    #[must_use]
    pub fn is_due_at(&self, due_at: Timestamp) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.due_at == due_at)
    }

    /// Applies a list with this version, requested at `began_at`. Returns whether it replaces the customers
    /// held; those who are not in it have left. It does not if the list has to be read again, or if the group
    /// was forgotten while it was read.
    pub fn read(&mut self, version: Option<MemberVersion>, began_at: Timestamp) -> bool {
        let is_old = version.as_ref().is_some_and(|version| self.replaced.contains(version));
        let is_accepted = self.end_reading(is_old, began_at);
        if is_accepted {
            self.version = version.filter(|_| !is_old);
        }
        is_accepted
    }

    /// Applies the answer that the group does not exist, requested at `began_at`. Returns whether the group
    /// is to be forgotten. One for which no version is held may be so new that WeCom does not find it yet.
    pub fn not_found(&mut self, began_at: Timestamp) -> bool {
        let may_be_new = self.version.is_none();
        self.end_reading(may_be_new, began_at)
    }

    /// Ends the reading that is due, unless the list was requested too early or the answer is doubtful: then
    /// it is due again. Returns whether it ended.
    fn end_reading(&mut self, is_doubtful: bool, began_at: Timestamp) -> bool {
        let Some(reading) = &mut self.reading else { return false };
        if began_at < reading.complete_at {
            self.read_again(began_at);
            return false;
        }
        if is_doubtful && reading.tries < REREADS_MAX {
            let due_at = began_at.plus_ms(CHAT_LAG_MS << reading.tries);
            *reading = Reading { due_at, complete_at: due_at, tries: reading.tries + 1 };
            return false;
        }
        self.reading = None;
        true
    }

    /// Moves the instants of a reading: the clock was set.
    pub const fn shift(&mut self, by_ms: i64) {
        if let Some(reading) = &mut self.reading {
            reading.due_at = reading.due_at.plus_ms(by_ms);
            reading.complete_at = reading.complete_at.plus_ms(by_ms);
        }
    }

    /// Puts off a reading that failed until `until`.
    pub const fn put_off(&mut self, until: Timestamp) {
        if let Some(reading) = &mut self.reading {
            reading.due_at = until;
        }
    }
}

#[cfg(test)]
mod tests;
