//! The comparison of a dealer's customers with WeCom's lists: how far it is, and what a complete one means.
//!
//! A dealer's lists are read page by page. The place after each page is stored with what was found on it, so
//! that a restart goes on there. The list of members is not stored, only its digest: the batches of members,
//! to which the cursors belong, follow from the list, so a traversal goes on after a restart if the list is
//! the same, and begins anew otherwise.
//!
//! Deliberately absent: the calls, and what becomes of the customers found.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ids::{ChatId, ExternalUserid, UserId};
use super::time::{HOUR_MS, MINUTE_MS, Timestamp};

/// How long a cursor of `contact_list` can be used (document 99434), with a margin.
pub const CONTACT_LIST_CURSOR_LIFE_MS: i64 = 4 * HOUR_MS - 10 * MINUTE_MS;
/// The most members whose customers are listed in one call (document 92994).
pub const MEMBERS_PER_CALL_MAX: usize = 100;
/// With more lookups than this that a dealer's comparison waits for, no further page is read.
pub const UNRESOLVED_MAX: u64 = 1_000;
/// How long before a traversal a follower must have been confirmed last to be missing: the times of events
/// are by WeCom's clock, the beginning of a traversal is by ours.
pub const CLOCK_MARGIN_MS: i64 = 5 * MINUTE_MS;

/// The comparison of one dealer's customers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileTask {
    /// When the traversal began; `None` before the first page.
    pub begun_at: Option<Timestamp>,
    /// Where it goes on.
    pub place: ReconcilePlace,
    /// Rows seen, with customers in several places counted as often. Counted by the store.
    pub rows_seen: u64,
    /// Customers found who have yet to be looked up for the first time. Counted by the store.
    pub unresolved: u64,
    /// The digest of the list of members whose customers are read; `None` before it is read, and in
    /// `contact_list`.
    pub members: Option<u64>,
    /// Members who could not be listed because they have no licence.
    pub unlicensed: Vec<UserId>,
}

/// The place in a dealer's lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReconcilePlace {
    /// In `externalcontact/contact_list`, which has everything.
    Contacts {
        /// The next page; empty for the first.
        cursor: String,
        /// When the first page was read.
        since: Timestamp,
    },
    /// In `externalcontact/batch/get_by_user`, for 100 members at a time, in the order of their ids.
    Members {
        /// The last member of the batches that are done.
        after: Option<UserId>,
        /// The next page of the batch; empty for the first.
        cursor: String,
    },
    /// In `externalcontact/groupchat/list`.
    Chats {
        /// The page; empty for the first.
        cursor: String,
        /// The last group of the page that is done.
        after: Option<ChatId>,
    },
    /// Everything is read; followers who are missing are to be removed.
    Read {
        /// Whether `contact_list` was read, and so no list of members.
        through_contacts: bool,
    },
}

impl ReconcileTask {
    /// A task that has not begun.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            begun_at: None,
            place: ReconcilePlace::contacts(),
            rows_seen: 0,
            unresolved: 0,
            members: None,
            unlicensed: Vec::new(),
        }
    }

    /// Begins the traversal anew.
    pub fn begin_anew(&mut self, place: ReconcilePlace) {
        *self = Self { rows_seen: self.rows_seen, unresolved: self.unresolved, place, ..Self::new() };
    }

    /// Whether it waits for lookups before it goes on: when there are many of them, and for all of them once
    /// everything is read.
    #[must_use]
    pub const fn waits_for_lookups(&self) -> bool {
        let unresolved_max = if self.is_read() { 0 } else { UNRESOLVED_MAX };
        self.unresolved > unresolved_max
    }

    /// Whether everything is read.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        matches!(self.place, ReconcilePlace::Read { .. })
    }

    /// When a page that is read at `now` counts as read: not before the traversal began, even if the clock
    /// has been set back since.
    #[must_use]
    pub fn read_at(&self, now: Timestamp) -> Timestamp {
        self.begun_at.map_or(now, |begun_at| begun_at.max(now))
    }

    /// The task after a page of `contact_list` that was read at `read_at`.
    #[must_use]
    pub fn after_contacts(&self, next_cursor: String, read_at: Timestamp) -> Self {
        let begun_at = self.begun_at.unwrap_or(read_at);
        let place = if next_cursor.is_empty() {
            ReconcilePlace::Read { through_contacts: true }
        } else {
            ReconcilePlace::Contacts { cursor: next_cursor, since: begun_at }
        };
        Self { begun_at: Some(begun_at), place, ..self.clone() }
    }

    /// Whether the list of members is another one than that of which some customers have been read.
    #[must_use]
    pub fn members_changed(&self, members: &[UserId]) -> bool {
        self.members.is_some_and(|digest| digest != members_digest(members))
    }

    /// The task after a page of the customers of a batch of `members` that was read at `read_at`, or without
    /// a call if no members are left. `with_chats` says whether groups are read afterwards.
    #[must_use]
    pub fn after_customers(
        &self,
        members: &[UserId],
        next_cursor: String,
        mut unlicensed: Vec<UserId>,
        read_at: Timestamp,
        with_chats: bool,
    ) -> Self {
        let after = match &self.place {
            ReconcilePlace::Members { after, .. } => after.as_ref(),
            ReconcilePlace::Contacts { .. } | ReconcilePlace::Chats { .. } | ReconcilePlace::Read { .. } => {
                None
            }
        };
        let place = if next_cursor.is_empty() {
            match batch_after(members, after).last() {
                Some(last) if members.last() != Some(last) => {
                    ReconcilePlace::Members { after: Some(last.clone()), cursor: next_cursor }
                }
                Some(_) | None if with_chats => ReconcilePlace::Chats { cursor: next_cursor, after: None },
                Some(_) | None => ReconcilePlace::Read { through_contacts: false },
            }
        } else {
            ReconcilePlace::Members { after: after.cloned(), cursor: next_cursor }
        };
        unlicensed.extend_from_slice(&self.unlicensed);
        unlicensed.sort();
        unlicensed.dedup();
        Self {
            begun_at: Some(self.begun_at.unwrap_or(read_at)),
            place,
            members: Some(members_digest(members)),
            unlicensed,
            ..self.clone()
        }
    }

    /// The task after `chat_id` of a page of groups in the order of their ids, or after a page without
    /// another group.
    #[must_use]
    pub fn after_chat(&self, page: &[ChatId], chat_id: Option<&ChatId>, next_cursor: &str) -> Self {
        let place = match (&self.place, chat_id) {
            (ReconcilePlace::Chats { cursor, .. }, Some(chat_id)) if page.last() != Some(chat_id) => {
                ReconcilePlace::Chats { cursor: cursor.clone(), after: Some(chat_id.clone()) }
            }
            _ if next_cursor.is_empty() => ReconcilePlace::Read { through_contacts: false },
            _ => ReconcilePlace::Chats { cursor: next_cursor.to_owned(), after: None },
        };
        Self { place, ..self.clone() }
    }

    /// The task without the groups that are still to be read.
    #[must_use]
    pub fn without_chats(&self) -> Self {
        Self { place: ReconcilePlace::Read { through_contacts: false }, ..self.clone() }
    }

    /// The instant since when a follower must have been confirmed not to be missing; `None` if it is not
    /// known, because the clock has been set back since the traversal began.
    #[must_use]
    pub fn confirmed_since(&self, now: Timestamp) -> Option<Timestamp> {
        let begun_at = self.begun_at.filter(|begun_at| *begun_at <= now)?;
        Some(begun_at.plus_ms(-CLOCK_MARGIN_MS))
    }

    /// Those of the missing followers who have left: the member is listed now, was so when the customers were
    /// read, and has a licence. Of any other member WeCom lists no customers, whether they follow or not.
    /// `listed` are the members listed now, `read` those whose customers were read, if this process knows
    /// them.
    #[must_use]
    pub fn removable(
        &self,
        missing: Vec<(ExternalUserid, UserId)>,
        listed: &[UserId],
        read: Option<&[UserId]>,
    ) -> Vec<(ExternalUserid, UserId)> {
        let read: &[UserId] = match (&self.place, read) {
            (ReconcilePlace::Read { through_contacts: true }, _) => listed,
            (_, Some(read)) => read,
            (_, None) if self.members_changed(listed) => &[],
            (_, None) => listed,
        };
        let [listed, read, unlicensed] =
            [listed, read, self.unlicensed.as_slice()].map(|members| members.iter().collect::<BTreeSet<_>>());
        let has_left = |member: &UserId| {
            listed.contains(member) && read.contains(member) && !unlicensed.contains(member)
        };
        missing.into_iter().filter(|(_, member)| has_left(member)).collect()
    }
}

impl ReconcilePlace {
    /// The beginning of `contact_list`.
    #[must_use]
    pub const fn contacts() -> Self {
        Self::Contacts { cursor: String::new(), since: Timestamp::EPOCH }
    }

    /// The beginning of the members.
    #[must_use]
    pub const fn members() -> Self {
        Self::Members { after: None, cursor: String::new() }
    }
}

/// The members after `after` whose customers are listed in one call; `members` are in the order of their ids.
#[must_use]
pub fn batch_after<'a>(members: &'a [UserId], after: Option<&UserId>) -> &'a [UserId] {
    let rest = &members[members.partition_point(|member| Some(member) <= after)..];
    &rest[..rest.len().min(MEMBERS_PER_CALL_MAX)]
}

/// The first group after `after`; `chats` are in the order of their ids.
#[must_use]
pub fn chat_after<'a>(chats: &'a [ChatId], after: Option<&ChatId>) -> Option<&'a ChatId> {
    chats.get(chats.partition_point(|chat_id| Some(chat_id) <= after))
}

/// Identifies a list of members.
fn members_digest(members: &[UserId]) -> u64 {
    let mut hasher = Sha256::new();
    for member in members {
        hasher.update(member.as_str());
        hasher.update([0]);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize()[..8]);
    u64::from_be_bytes(first)
}

impl Default for ReconcileTask {
    fn default() -> Self {
        Self::new()
    }
}

/// A run over some dealers, or over all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileRun {
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When the last dealer was done.
    pub finished_at: Option<Timestamp>,
    /// How many dealers it is over.
    pub dealers_total: u64,
    /// How many of them are done, or cannot be compared now.
    pub dealers_done: u64,
    /// Rows seen in WeCom's lists.
    pub customers_seen: u64,
    /// Customers who were not known before.
    pub customers_new: u64,
    /// Links of customers whom the run found.
    pub links_made: u64,
}

impl ReconcileRun {
    /// A run that begins at `now`.
    #[must_use]
    pub const fn new(started_at: Timestamp) -> Self {
        Self {
            started_at,
            finished_at: None,
            dealers_total: 0,
            dealers_done: 0,
            customers_seen: 0,
            customers_new: 0,
            links_made: 0,
        }
    }

    /// Whether it is under way.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.finished_at.is_none()
    }
}

/// Whether followers who are missing in WeCom's lists are to be removed, or so many that something else must
/// be wrong: more than half of a dealer's.
#[must_use]
pub const fn is_plausible(missing: u64, present: u64) -> bool {
    missing * 2 <= present
}

/// Whether a dealer whose customers were last compared completely at `reconciled_at` is to be compared again,
/// with `every_hours` between two comparisons; 0: never by itself. An instant in the future is from before
/// the clock was set.
#[must_use]
pub fn is_due(reconciled_at: Option<Timestamp>, every_hours: u32, now: Timestamp) -> bool {
    let every_ms = i64::from(every_hours) * HOUR_MS;
    every_hours > 0 && reconciled_at.is_none_or(|at| !(0..every_ms).contains(&now.millis_since(at)))
}

#[cfg(test)]
mod tests;
