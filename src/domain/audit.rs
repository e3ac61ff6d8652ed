//! The audit trail: what operators and clients did through the admin API, without personal ids.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::time::Timestamp;

/// What was done. Stored by position: new ones are appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AuditAction {
    /// A person was erased.
    Erase,
    /// Links were exported.
    Export,
    /// A person was looked up.
    Explain,
    /// Dead letters or quarantined messages were redriven.
    Redrive,
    /// Dead letters or quarantined messages were deleted.
    Discard,
    /// Deliveries to a sink were paused.
    Pause,
    /// Deliveries to a sink, or calls to WeCom, were resumed.
    Resume,
    /// A sink was moved to another position in the feed.
    Rewind,
    /// A comparison with WeCom's lists was started.
    Reconcile,
    /// The configuration was read again.
    Reload,
    /// Requests with a wrong token were refused.
    RefusedTokens,
}

/// The author of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBy {
    /// The name of the token: `admin` for `admin.token`, `open` without any token, `signal` for a signal of the
    /// system, `service` for what the service completed by itself, empty for refused tokens.
    pub token: String,
    /// Where the request came from, if it came from a network.
    pub source: Option<IpAddr>,
}

impl AuditBy {
    /// The service itself.
    #[must_use]
    pub fn service() -> Self {
        Self { token: "service".to_owned(), source: None }
    }
}

/// An entry of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When it was done.
    pub at: Timestamp,
    /// Its author.
    pub by: AuditBy,
    /// What.
    pub action: AuditAction,
    /// How much, by kind of thing.
    pub counts: BTreeMap<String, u64>,
    /// To what: a sink, a receipt, a filter. Never a personal id.
    pub about: BTreeMap<String, String>,
}

impl AuditEntry {
    /// An entry without counts and details.
    #[must_use]
    pub fn new(at: Timestamp, by: AuditBy, action: AuditAction) -> Self {
        Self { at, by, action, counts: BTreeMap::new(), about: BTreeMap::new() }
    }

    /// Adds a count.
    #[must_use]
    pub fn count(mut self, what: &str, count: u64) -> Self {
        self.counts.insert(what.to_owned(), count);
        self
    }

    /// Adds a detail.
    #[must_use]
    pub fn about(mut self, what: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.about.insert(what.to_owned(), value.to_string());
        self
    }

    /// Adds a detail, if there is one.
    #[must_use]
    pub fn about_some(self, what: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.about(what, &value),
            None => self,
        }
    }
}
