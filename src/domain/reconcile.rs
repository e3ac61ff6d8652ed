//! The state of a reconcile run: the position in each dealer's lists, and which followers a complete
//! traversal removes.
//!
//! A dealer's lists are read page by page. The position after each page is stored with the customers of the
//! page, so that a restart goes on there. Of the list of members only a digest is stored: a cursor belongs to
//! a batch of members, and the batches follow from the list. So after a restart a traversal goes on if the
//! list is still the same, and begins again otherwise.
//!
//! WeCom lists customers of the members in the app's visible range only. The list of members is read before
//! the customers and after them, and followers are removed only if it is the same: a range that changes
//! meanwhile hides customers in ways that cannot be told from customers who have left.
//!
//! Deliberately absent: the calls (see [`crate::worker`]), and storing the customers found.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ids::{ChatId, ExternalUserid, UserId};
use super::time::{HOUR_MS, MINUTE_MS, Timestamp};

/// How long a cursor of `contact_list` is used: WeCom's four hours (document 99434) less a margin.
pub const CONTACT_LIST_CURSOR_LIFE_MS: i64 = 4 * HOUR_MS - 10 * MINUTE_MS;
/// Maximum number of members in one call of `batch/get_by_user` (document 92994).
pub const MEMBERS_PER_CALL_MAX: usize = 100;
/// Maximum number of outstanding lookups of a task; with more, no further page is read.
pub const UNRESOLVED_MAX: u64 = 1_000;
/// Margin for the difference between WeCom's clock, by which events have their time, and ours, by which a
/// traversal has its beginning: a follower confirmed up to this long before the traversal is not missing.
pub const CLOCK_MARGIN_MS: i64 = 5 * MINUTE_MS;

/// A task: the comparison of one dealer's customers with WeCom's lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileTask {
    /// Distinguishes it from all earlier comparisons. Given by the store.
    pub number: u64,
    /// When the traversal began, by our clock; `None` before the first page.
    pub begun_at: Option<Timestamp>,
    /// The position at which the traversal goes on.
    pub place: ReconcilePlace,
    /// Number of rows read; a customer may be in several. Counted by the store.
    pub rows_seen: u64,
    /// Number of outstanding lookups: customers found that have yet to be looked up for the first time.
    /// Counted by the store.
    pub unresolved: u64,
    /// The digest of the list of members before their customers were read; `None` before it is read, and if
    /// it may not be read.
    pub members: Option<u64>,
    /// Members whose customers WeCom does not list because they have no licence.
    pub unlicensed: Vec<UserId>,
}

/// A position in a dealer's lists: which list, and which page of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReconcilePlace {
    /// In `externalcontact/contact_list`, which has all customers, those in groups included.
    Contacts {
        /// The cursor of the next page; empty for the first.
        cursor: String,
        /// When the first page was read: the cursor expires [`CONTACT_LIST_CURSOR_LIFE_MS`] later.
        since: Timestamp,
    },
    /// In `externalcontact/batch/get_by_user`, for batches of [`MEMBERS_PER_CALL_MAX`] members in the order
    /// of their ids.
    Members {
        /// The last member of the batch before; `None` for the first batch.
        after: Option<UserId>,
        /// The cursor of the next page of the batch; empty for the first.
        cursor: String,
    },
    /// In `externalcontact/groupchat/list`.
    Chats {
        /// The cursor of the current page; empty for the first.
        cursor: String,
        /// The last group of this page that has been read; `None` before the first.
        after: Option<ChatId>,
    },
    /// At the end: everything is read, and missing followers are to be removed.
    Read,
}

impl ReconcileTask {
    /// A task whose traversal has not begun.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            number: 0,
            begun_at: None,
            place: ReconcilePlace::contacts(),
            rows_seen: 0,
            unresolved: 0,
            members: None,
            unlicensed: Vec::new(),
        }
    }

    /// Begins the traversal again, at `place`; the counters go on.
    pub fn begin_anew(&mut self, place: ReconcilePlace) {
        let Self { number, rows_seen, unresolved, .. } = *self;
        *self = Self { number, place, rows_seen, unresolved, ..Self::new() };
    }

    /// Records the list of members that is read before the first customer.
    pub fn begin_with(&mut self, members: &[UserId]) {
        self.members = Some(members_digest(members));
    }

    /// Whether the task waits for outstanding lookups before it goes on: with more than [`UNRESOLVED_MAX`]
    /// while it reads, with any once everything is read.
    #[must_use]
    pub const fn waits_for_lookups(&self) -> bool {
        let unresolved_max = if self.is_read() { 0 } else { UNRESOLVED_MAX };
        self.unresolved > unresolved_max
    }

    /// Whether everything is read, so that only missing followers are left to remove.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        matches!(self.place, ReconcilePlace::Read)
    }

    /// The instant at which a page that is read at `now` counts as read: not before the beginning of the
    /// traversal, even if the clock has been set back since.
    #[must_use]
    pub fn read_at(&self, now: Timestamp) -> Timestamp {
        self.begun_at.map_or(now, |begun_at| begun_at.max(now))
    }

    /// The task after a page of `contact_list` that was read at `read_at`; `next_cursor` is empty after the
    /// last page.
    #[must_use]
    pub fn after_contacts(&self, next_cursor: String, read_at: Timestamp) -> Self {
        let begun_at = self.begun_at.unwrap_or(read_at);
        let place = if next_cursor.is_empty() {
            ReconcilePlace::Read
        } else {
            ReconcilePlace::Contacts { cursor: next_cursor, since: begun_at }
        };
        Self { begun_at: Some(begun_at), place, ..self.clone() }
    }

    /// Whether `members` differs from the list of which customers have already been read.
    #[must_use]
    pub fn members_changed(&self, members: &[UserId]) -> bool {
        self.members.is_some_and(|digest| digest != members_digest(members))
    }

    /// The task after a page of the current batch of `members` that was read at `read_at`, or, without a
    /// call, if no members are left. `next_cursor` is empty after the last page of the batch; with
    /// `with_chats` the groups are read after the last batch.
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
            ReconcilePlace::Contacts { .. } | ReconcilePlace::Chats { .. } | ReconcilePlace::Read => None,
        };
        let place = if next_cursor.is_empty() {
            match batch_after(members, after).last() {
                Some(last) if members.last() != Some(last) => {
                    ReconcilePlace::Members { after: Some(last.clone()), cursor: next_cursor }
                }
                Some(_) | None if with_chats => ReconcilePlace::Chats { cursor: next_cursor, after: None },
                Some(_) | None => ReconcilePlace::Read,
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

    /// The task after the group `chat_id` of a page of groups in the order of their ids; `None` for a page
    /// without another group. `next_cursor` is that of the next page, empty after the last.
    #[must_use]
    pub fn after_chat(&self, page: &[ChatId], chat_id: Option<&ChatId>, next_cursor: &str) -> Self {
        let place = match (&self.place, chat_id) {
            (ReconcilePlace::Chats { cursor, .. }, Some(chat_id)) if page.last() != Some(chat_id) => {
                ReconcilePlace::Chats { cursor: cursor.clone(), after: Some(chat_id.clone()) }
            }
            _ if next_cursor.is_empty() => ReconcilePlace::Read,
            _ => ReconcilePlace::Chats { cursor: next_cursor.to_owned(), after: None },
        };
        Self { place, ..self.clone() }
    }

    /// The task if the groups that remain cannot be read: everything else is read.
    #[must_use]
    pub fn without_chats(&self) -> Self {
        Self { place: ReconcilePlace::Read, ..self.clone() }
    }

    /// The instant at or after which a follower must have been confirmed so as not to be missing; `None` if
    /// that is not known, because the clock has been set back since the traversal began.
    #[must_use]
    pub fn confirmed_since(&self, now: Timestamp) -> Option<Timestamp> {
        let begun_at = self.begun_at.filter(|begun_at| *begun_at <= now)?;
        Some(begun_at.plus_ms(-CLOCK_MARGIN_MS))
    }

    /// The missing followers that are to be removed: those whose member is listed and has a licence. Of any
    /// other member WeCom lists no customers at all, so a missing row means nothing. Nobody is removed if
    /// `listed`, the members listed now, are not those of before the customers were read.
    #[must_use]
    pub fn removable(
        &self,
        missing: Vec<(ExternalUserid, UserId)>,
        listed: &[UserId],
    ) -> Vec<(ExternalUserid, UserId)> {
        if self.members != Some(members_digest(listed)) {
            return Vec::new();
        }
        let [listed, unlicensed] =
            [listed, self.unlicensed.as_slice()].map(|members| members.iter().collect::<BTreeSet<_>>());
        let has_left = |member: &UserId| listed.contains(member) && !unlicensed.contains(member);
        missing.into_iter().filter(|(_, member)| has_left(member)).collect()
    }
}

impl ReconcilePlace {
    /// The beginning of `contact_list`, before the first page.
    #[must_use]
    pub const fn contacts() -> Self {
        Self::Contacts { cursor: String::new(), since: Timestamp::EPOCH }
    }

    /// The beginning of the first batch of members.
    #[must_use]
    pub const fn members() -> Self {
        Self::Members { after: None, cursor: String::new() }
    }
}

/// The batch of members after `after`, at most [`MEMBERS_PER_CALL_MAX`]; `members` are in the order of their
/// ids.
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

/// The first 64 bits of the SHA-256 of a list of members.
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

/// A reconcile run over some dealers, or over all: its progress and results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileRun {
    /// When the run was asked for, or began by itself.
    pub started_at: Timestamp,
    /// When the last task ended; `None` while the run is under way.
    pub finished_at: Option<Timestamp>,
    /// Number of dealers to compare.
    pub dealers_total: u64,
    /// Number of dealers that are done, or cannot be compared now.
    pub dealers_done: u64,
    /// Number of rows read in WeCom's lists; a customer may be in several.
    pub customers_seen: u64,
    /// Number of customers found that were not known before.
    pub customers_new: u64,
    /// Number of links made of customers that a run found.
    pub links_made: u64,
    /// How many comparisons of a dealer were begun, in this run and all before it.
    pub tasks_begun: u64,
}

impl ReconcileRun {
    /// A run that begins at `started_at`, without dealers yet.
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
            tasks_begun: 0,
        }
    }

    /// Whether the run is under way.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.finished_at.is_none()
    }
}

/// Whether the number of missing followers is plausible: at most half of a dealer's `present` followers. With
/// more, something else must be wrong, and none is to be removed.
#[must_use]
pub const fn is_plausible(missing: u64, present: u64) -> bool {
    missing * 2 <= present
}

/// Whether a dealer is to be compared again: its last complete comparison was at `reconciled_at`, and
/// `every_hours` hours are to lie between two; 0 means never by itself. An instant in the future dates from
/// before the clock was set, and counts as due.
#[must_use]
pub fn is_due(reconciled_at: Option<Timestamp>, every_hours: u32, now: Timestamp) -> bool {
    let every_ms = i64::from(every_hours) * HOUR_MS;
    every_hours > 0 && reconciled_at.is_none_or(|at| !(0..every_ms).contains(&now.millis_since(at)))
}

#[cfg(test)]
mod tests;
