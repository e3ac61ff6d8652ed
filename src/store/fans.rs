//! The types of the brand's side: a fan to be registered, a leased call for a fan and its outcome, and the
//! filter and pages of lists of fans.
//!
//! Deliberately absent: the operations on them, which are methods of [`Store`](super::Store), and the record
//! of a fan (see [`fan`](crate::domain::fan)).

use serde::{Deserialize, Serialize};

pub use crate::domain::fan::Registered;
use crate::domain::fan::{Fan, FanState, FanStep, Minted, Priority};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, FanKey, Openid};
use crate::domain::time::Timestamp;

/// A fan to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFan {
    /// App and unionid.
    pub key: FanKey,
    /// The fan's id in the brand's mini program.
    pub openid: Openid,
    /// Whether to ask WeCom which dealers' customer this fan is already.
    pub ask_existing: bool,
    /// The priority in the queue for quota.
    pub priority: Priority,
    /// A pending id that was minted by another system.
    pub minted: Option<Minted>,
    /// Whether WeCom is to be asked again if it refused this fan before, even with the same openid.
    pub retry_rejected: bool,
}

/// A leased call for one fan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanWork {
    /// App and unionid.
    pub key: FanKey,
    /// The call to make.
    pub step: FanStep,
    /// The queue that the fan was leased from.
    pub priority: Priority,
    /// The position in that queue.
    pub position: QueuePosition,
    /// The number of the fan's record in the store. A fan that was erased and registered again has another
    /// one, so that work leased before does not apply to it.
    pub number: u32,
    /// The fan's record as of the lease.
    pub fan: Fan,
}

/// A position in a queue of fans. Fans that were queued together share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueuePosition {
    /// When these fans are due.
    pub due_at: Timestamp,
    /// Distinguishes positions with the same `due_at`.
    pub number: u64,
}

/// The outcome of a call for a fan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FanOutcome {
    /// WeCom returned a pending id.
    Minted {
        /// The pending id, and when it was minted.
        minted: Minted,
        /// Whether minting the same id again before it expires extends it for another 90 days.
        same_id_extends: bool,
    },
    /// WeCom returned the customers that this fan is already; perhaps none.
    Existing(Vec<(CorpId, ExternalUserid)>),
    /// Failed; to be tried again.
    Retry {
        /// When to try again. The `due_at` of the leased position puts the fan back there.
        due_at: Timestamp,
        /// Whether an attempt of the fan is spent.
        spent: bool,
    },
    /// WeCom rejected this fan for good.
    Rejected {
        /// WeCom's code.
        errcode: i64,
    },
}

/// Which fans to list; all conditions have to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FanFilter {
    /// Only fans of this app.
    pub app: Option<AppName>,
    /// Only fans in this state.
    pub state: Option<FanState>,
    /// Only fans that WeCom refused with this code.
    pub errcode: Option<i64>,
}

impl FanFilter {
    /// Whether a fan is to be listed, as of `now`.
    #[must_use]
    pub fn matches(&self, key: &FanKey, fan: &Fan, now: Timestamp) -> bool {
        self.app.as_ref().is_none_or(|app| *app == key.app)
            && self.state.is_none_or(|state| state == fan.state(now))
            && self.errcode.is_none_or(|errcode| Some(errcode) == fan.errcode())
    }
}

/// A part of a list of fans.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FanPage {
    /// The fans, in the order in which they were stored.
    pub fans: Vec<(FanKey, Fan)>,
    /// The position of the next page; `None` after the last one.
    pub next: Option<u64>,
}
