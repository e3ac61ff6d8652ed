//! The priorities of calls for fans, and the quota classes these belong to.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// The priority of a call for a fan, the most urgent first. It matters while the quota is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Priority {
    /// The fan is registering now and may meet a dealer within a minute.
    Live,
    /// The pending id of a fan whom no dealer has added yet is about to expire.
    RenewUnlinked,
    /// The pending id of a linked fan is about to expire; other dealers may still add them. Also a repeated
    /// lookup of existing customers.
    Renew,
    /// One fan of a large import.
    Bulk,
}

/// The priorities that have one limit of concurrent calls and one share of the quota in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum QuotaClass {
    /// May use the whole quota.
    Live,
    /// May use all but the reserve, which is for live registrations.
    Renewals,
    /// May use all but the reserve and, of the minting quota, what renewals will need within a month.
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

    /// The priorities of this class, the most urgent first.
    #[must_use]
    pub const fn priorities(self) -> &'static [Priority] {
        match self {
            Self::Live => &[Priority::Live],
            Self::Renewals => &[Priority::RenewUnlinked, Priority::Renew],
            Self::Bulk => &[Priority::Bulk],
        }
    }
}
