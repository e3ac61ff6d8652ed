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

/// One follower as all the lists read so far show it: each field is the maximum of their values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// When the last list with this follower was read, by our clock.
    pub seen_at: Timestamp,
    /// When the relation began, by WeCom's clock, to the second.
    pub since: Timestamp,
    /// The `state` of the contact-me code or link, if any list had one.
    pub state: Option<String>,
}
