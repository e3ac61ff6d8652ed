//! A sighting: one customer in one of WeCom's lists (a member's customers, a corp's customers, the members of
//! a group).

use serde::{Deserialize, Serialize};

use super::ids::{ChatId, ExternalUserid, UserId};
use super::time::Timestamp;

/// One row of a list: a relation of a customer to a member or to a customer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The customer.
    pub external_userid: ExternalUserid,
    /// The member or the group.
    pub place: SightingPlace,
    /// When the relation began, by WeCom's clock, to the second: `createtime`, `add_time` or `join_time`.
    /// `None` if the row has no time.
    pub since: Option<Timestamp>,
}

/// The other side of the relation that a row lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SightingPlace {
    /// A member that follows the customer.
    Follower {
        /// The member.
        user_id: UserId,
        /// The `state` of the contact-me code or link through which the customer was added; `None` if the row
        /// has none.
        state: Option<String>,
    },
    /// A customer group that the customer is in.
    Chat(ChatId),
}

/// One follower as all the lists read so far show it: each field is the maximum over their rows, so rows may be
/// applied in any order, and more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// When the last list with this follower was read, by our clock.
    pub seen_at: Timestamp,
    /// When the relation began, by WeCom's clock, to the second.
    pub since: Timestamp,
    /// The `state` of the newest row that had one.
    pub state: Option<ListedState>,
}

impl Listed {
    /// A row of a list that was read at `seen_at`.
    #[must_use]
    pub fn new(since: Timestamp, state: Option<String>, seen_at: Timestamp) -> Self {
        Self { seen_at, since, state: state.map(|state| ListedState { since, state }) }
    }

    /// The combination of these rows and others about the same member.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            seen_at: self.seen_at.max(other.seen_at),
            since: self.since.max(other.since),
            state: self.state.max(other.state),
        }
    }

    /// The `state` of the newest row that had one.
    #[must_use]
    pub fn state(&self) -> Option<String> {
        self.state.as_ref().map(|listed| listed.state.clone())
    }
}

/// A `state` as listed. The derived `Ord` decides between two rows: the newer relation wins; for relations
/// that began in the same second any fixed order will do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListedState {
    /// Since when the member follows the customer according to the row that had it.
    pub since: Timestamp,
    /// The `state`.
    pub state: String,
}
