//! The closed sets of label values that only metrics use.

use strum::{IntoStaticStr, VariantArray};

/// The outcome of a request to the public listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum CallbackOutcome {
    /// Appended to the inbox; acknowledged.
    Accepted,
    /// Appended before; acknowledged.
    Duplicate,
    /// Needs no action; acknowledged.
    Ignored,
    /// Quarantined for an operator; acknowledged.
    Quarantined,
    /// Failed verification, or its body could not be read.
    Refused,
    /// For an app that is not configured.
    UnknownApp,
    /// A body over the limit.
    TooLarge,
    /// Could not be made durable; not acknowledged.
    Unavailable,
    /// WeCom's URL verification (GET), answered.
    Verified,
}

/// Why a request to the admin listener was refused before its handler ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AdminRefusal {
    /// No token, or a wrong one.
    Token,
    /// An unknown host name, or none.
    Host,
    /// A change requested by a page of another origin.
    Origin,
}

/// The source of a callback's timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum TimestampSource {
    /// `timestamp` in the query: when the callback was signed.
    Timestamp,
    /// `CreateTime` in the message: when the event happened.
    CreateTime,
}

/// The outcome of a delivery to a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum DeliveryOutcome {
    Ok,
    Failed,
}
