//! Metric labels: the closed sets of label values, and the label set of each metric.

use prometheus_client::encoding::EncodeLabelSet;
use strum::{IntoStaticStr, VariantArray};

use crate::domain::far_off::FarOff;

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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OffTime {
    pub(super) time: &'static str,
    pub(super) direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reason {
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EventType {
    pub(super) r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Call {
    pub(super) api: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Queue {
    pub(super) api: &'static str,
    pub(super) priority: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Budget {
    pub(super) corp: String,
    pub(super) api: &'static str,
    pub(super) window: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfSink {
    pub(super) sink: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Delivery {
    pub(super) sink: String,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SinkState {
    pub(super) sink: String,
    pub(super) state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct State {
    pub(super) state: &'static str,
}

impl OffTime {
    pub(super) fn of(source: TimestampSource, direction: FarOff) -> Self {
        Self { time: source.into(), direction: direction.into() }
    }
}
