//! Priorities of calls for fans, and the quota classes they belong to.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// The priority of a call for a fan where quota is short, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Priority {
    /// A person registers now and may meet a dealer in the next minute.
    Live,
    /// The pending id of a fan whom no dealer has added yet is about to expire.
    RenewUnlinked,
    /// The pending id of a linked fan is about to expire; other dealers may still add them. Also a repeated
    /// lookup of existing customers.
    Renew,
    /// One fan of a large import.
    Bulk,
}

/// Priorities that share concurrent calls and a part of the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum QuotaClass {
    /// May use the whole quota.
    Live,
    /// Leaves the reserve to live registrations.
    Renewals,
    /// Leaves the reserve to live registrations, and to renewals what they will need within a month.
    Bulk,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Live, Self::RenewUnlinked, Self::Renew, Self::Bulk];

    /// The quota class of this priority.
    #[must_use]
    pub const fn class(self) -> QuotaClass {
        match self {
            Self::Live => QuotaClass::Live,
            Self::RenewUnlinked | Self::Renew => QuotaClass::Renewals,
            Self::Bulk => QuotaClass::Bulk,
        }
    }
}

impl QuotaClass {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Live, Self::Renewals, Self::Bulk];

    /// Its priorities, the most urgent first.
    #[must_use]
    pub const fn priorities(self) -> &'static [Priority] {
        match self {
            Self::Live => &[Priority::Live],
            Self::Renewals => &[Priority::RenewUnlinked, Priority::Renew],
            Self::Bulk => &[Priority::Bulk],
        }
    }
}
