//! Labels of metrics: the closed sets of values that only metrics use, and the label sets that several
//! metrics share.

use strum::{IntoStaticStr, VariantArray};

use crate::domain::ids::SinkName;
use crate::domain::suite::ExchangeEnd;
use crate::store::EventState;
use crate::wecom::errcode::{Class, class};

/// The names and values of a metric's labels.
pub(super) type Labels<const N: usize, V = &'static str> = [(&'static str, V); N];

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
    /// A suite's message without effect, such as another suite's or a replay; acknowledged.
    Misplaced,
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

/// What became of an auth code of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AuthCodeOutcome {
    /// Exchanged for a permanent code.
    Exchanged,
    /// Used up, or possibly so, by a call without an answer.
    Lost,
    /// Not exchanged in time.
    Expired,
    /// Refused by WeCom.
    Refused,
    /// Sealed with another secret of the suite.
    Unreadable,
}

impl From<ExchangeEnd> for AuthCodeOutcome {
    fn from(end: ExchangeEnd) -> Self {
        match end {
            ExchangeEnd::Lost { .. } => Self::Lost,
            ExchangeEnd::Expired { .. } => Self::Expired,
            ExchangeEnd::Refused { .. } => Self::Refused,
            ExchangeEnd::Unreadable { .. } => Self::Unreadable,
        }
    }
}

/// Why a dead letter or a quarantined message was deleted without being processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Deletion {
    /// It was quarantined for `store.quarantine_days`.
    Expired,
    /// An operator discarded it.
    Discarded,
}

/// Why a request to the admin listener was refused before its handler ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum AdminRefusal {
    /// No token, or a wrong one.
    Token,
    /// The token does not allow the request.
    Scope,
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

/// The value of the label `errcode`. Unknown codes share one value, which bounds the set.
pub(super) fn errcode_label(errcode: Option<i64>) -> String {
    match errcode {
        None => "none".to_owned(),
        Some(errcode) if class(errcode) == Class::Unknown => "other".to_owned(),
        Some(errcode) => errcode.to_string(),
    }
}

/// The labels of events deleted without being processed.
pub(super) fn deletion_labels(state: EventState, why: Deletion) -> Labels<2> {
    [("state", state.into()), ("reason", why.into())]
}

/// The labels of the deliveries to a sink.
pub(super) fn delivery_labels(sink: &SinkName, outcome: DeliveryOutcome) -> Labels<2, String> {
    [("sink", sink.to_string()), ("outcome", <&str>::from(outcome).to_owned())]
}
