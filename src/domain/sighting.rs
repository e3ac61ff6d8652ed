//! A customer as WeCom lists them: in a member's customers, in a corp's customers, or in a group.

use serde::{Deserialize, Serialize};

use super::ids::{ChatId, ExternalUserid, UserId};
use super::time::Timestamp;

/// One row of a list: a customer as a member's, or as a member of a customer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The customer.
    pub external_userid: ExternalUserid,
    /// Where the row says they are.
    pub place: SightingPlace,
    /// When that began, by WeCom's clock, to the second: `createtime`, `add_time` or `join_time`. `None` if the
    /// row does not say.
    pub since: Option<Timestamp>,
}

/// Where a customer was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SightingPlace {
    /// Followed by a member.
    Follower {
        /// The member.
        user_id: UserId,
        /// The `state` through which they met, where the list has it.
        state: Option<String>,
    },
    /// In a customer group.
    Chat(ChatId),
}

/// A follower as listed, newest first by the derived `Ord`'s fields: when the list was read, since when, and the
/// `state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// When the list was read that had this row, by our clock.
    pub seen_at: Timestamp,
    /// Since when the member follows the customer, by WeCom's clock.
    pub since: Timestamp,
    /// The `state` through which they met, if any list had it.
    pub state: Option<String>,
}
