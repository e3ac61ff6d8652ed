//! Who goes first where quota is short.

use serde::{Deserialize, Serialize};

/// Who goes first where quota is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Priority {
    /// Somebody registers now, and may meet a dealer in the next minute.
    Live,
    /// The pending id of somebody whom no dealer has added yet is about to end.
    RenewUnlinked,
    /// The pending id of somebody linked is about to end; other dealers may still add them. Or the question about existing
    /// customers is asked again.
    Renew,
    /// One of many, imported.
    Bulk,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Live, Self::RenewUnlinked, Self::Renew, Self::Bulk];

    /// The name that operators see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::RenewUnlinked => "renew_unlinked",
            Self::Renew => "renew",
            Self::Bulk => "bulk",
        }
    }
}

/// Priorities that share calls and a part of the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// What may use the whole quota.
    Live,
    /// What leaves the reserve alone.
    Renewals,
    /// What leaves to renewals what they will need, too.
    Bulk,
}

impl Lane {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Live, Self::Renewals, Self::Bulk];

    /// Who is in it, in their order.
    #[must_use]
    pub const fn priorities(self) -> &'static [Priority] {
        match self {
            Self::Live => &[Priority::Live],
            Self::Renewals => &[Priority::RenewUnlinked, Priority::Renew],
            Self::Bulk => &[Priority::Bulk],
        }
    }

    /// The name that operators see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Renewals => "renewals",
            Self::Bulk => "bulk",
        }
    }
}
