//! The record of one member that follows, or used to follow, a customer.

use serde::{Deserialize, Serialize};

use crate::domain::ids::UserId;
use crate::domain::reconcile::CLOCK_MARGIN_MS;
use crate::domain::sighting::Listed;
use crate::domain::time::Timestamp;

/// A member's relation to the customer after one event. The derived `Ord` decides which of two events about
/// the same member wins, so the order of the fields is the order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Relation {
    /// The event's `CreateTime`, in whole seconds.
    pub(super) at: Timestamp,
    // Within one second an add beats a removal: a follower shown too long does less harm than one lost.
    pub(super) present: bool,
    pub(super) state: Option<String>,
}

/// The record of one member. Each field is a maximum of its own; [`Follower::now`] derives the present
/// relation from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Follower {
    pub(super) user_id: UserId,
    /// The newest event.
    pub(super) relation: Option<Relation>,
    /// `CreateTime` of the newest half add: until the member confirms, no list has the customer.
    pub(super) half_added_at: Option<Timestamp>,
    /// `CreateTime` of the newest removal by the member: lists read afterwards do not have the customer,
    /// unless the relation began again.
    pub(super) deleted_at: Option<Timestamp>,
    /// The row of the newest list that had this member as a follower.
    pub(super) listed: Option<Listed>,
    /// The beginning of the newest complete traversal of the lists in which this member was missing, by our
    /// clock.
    pub(super) missed_at: Option<Timestamp>,
}

/// The relation of a member that follows the customer now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    /// When the member was added, by WeCom's clock.
    pub(super) since: Timestamp,
    pub(super) state: Option<String>,
}

impl Follower {
    pub(super) const fn new(user_id: UserId) -> Self {
        Self { user_id, relation: None, half_added_at: None, deleted_at: None, listed: None, missed_at: None }
    }

    /// When the relation was last confirmed, by an event that added it or by a list.
    pub(super) fn confirmed_at(&self) -> Option<Timestamp> {
        let added_at = self.relation.as_ref().filter(|relation| relation.present).map(|relation| relation.at);
        added_at.max(self.listed.as_ref().map(|listed| listed.seen_at))
    }

    /// Whether the member has yet to confirm: the newest event is a half add, and no list read since had the
    /// relation.
    pub(super) fn is_half(&self) -> bool {
        let added_at = self.relation.as_ref().map(|relation| relation.at);
        let is_newer = |at| self.listed.as_ref().is_none_or(|listed| listed.seen_at < at);
        self.half_added_at.is_some_and(is_newer) && self.half_added_at == added_at
    }

    /// The instant of the newest event, or since when a list has the relation if that is later. Decides which
    /// member is dropped first.
    pub(super) fn newest_at(&self) -> Timestamp {
        let at = self.relation.as_ref().map(|relation| relation.at);
        at.max(self.listed.as_ref().map(|listed| listed.since)).unwrap_or(Timestamp::EPOCH)
    }

    /// Whether the member ended the relation at `at`, and a list that was read later has it again. A relation
    /// that the customer ended stays in the lists, and `contact_list` gives the time of the first add only.
    fn is_listed_after_deletion(&self, at: Timestamp) -> bool {
        let read_after = |listed: &Listed| listed.seen_at >= at.plus_ms(CLOCK_MARGIN_MS);
        self.deleted_at == Some(at) && self.listed.as_ref().is_some_and(read_after)
    }

    /// The relation now; `None` if the member does not follow the customer.
    pub(super) fn now(&self) -> Option<Present> {
        if self.missed_at >= self.confirmed_at() && self.missed_at.is_some() {
            return None;
        }
        let listed = self.listed.as_ref();
        match &self.relation {
            Some(Relation { at, present: true, state }) => {
                let state = state.clone().or_else(|| listed.and_then(Listed::state));
                Some(Present { since: *at, state })
            }
            // A list has the relation although an event ended it: it began again since.
            Some(Relation { at, present: false, .. }) => {
                let again = listed.filter(|listed| *at < listed.since || self.is_listed_after_deletion(*at));
                again.map(|listed| Present { since: listed.since.max(*at), state: listed.state() })
            }
            None => listed.map(|listed| Present { since: listed.since, state: listed.state() }),
        }
    }
}
