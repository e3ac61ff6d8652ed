//! Lists of fans: which fans, and the pages in which they are read.

use crate::domain::fan::{Fan, FanState};
use crate::domain::ids::{AppName, FanKey};
use crate::domain::time::Timestamp;

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
