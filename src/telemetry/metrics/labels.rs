//! What tells the time series of a metric apart: the values a label can have, and the sets of labels.

use prometheus_client::encoding::EncodeLabelSet;

use crate::domain::far_off::FarOff;

/// What became of a request to the callback door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorOutcome {
    /// Stored; acknowledged.
    Accepted,
    /// Stored before; acknowledged.
    Duplicate,
    /// Needs no action; acknowledged.
    Ignored,
    /// Set aside for an operator; acknowledged.
    Quarantined,
    /// Not WeCom's.
    Refused,
    /// No such app.
    UnknownApp,
    /// Body over the limit.
    TooLarge,
    /// Could not be made durable; not acknowledged.
    Unavailable,
    /// A verification request, answered.
    Verified,
}

impl DoorOutcome {
    pub(super) const ALL: [Self; 9] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Ignored,
        Self::Quarantined,
        Self::Refused,
        Self::UnknownApp,
        Self::TooLarge,
        Self::Unavailable,
        Self::Verified,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Quarantined => "quarantined",
            Self::Refused => "refused",
            Self::UnknownApp => "unknown_app",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Verified => "verified",
        }
    }
}

/// Why a request to the private listener was refused before anything looked at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminRefusal {
    /// No token, or a wrong one.
    Token,
    /// A wrong token, after many others.
    Rate,
    /// A name that is not ours, or none.
    Host,
    /// A change that a page of another origin asks for.
    Origin,
}

impl AdminRefusal {
    pub(super) const ALL: [Self; 4] = [Self::Token, Self::Rate, Self::Host, Self::Origin];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Rate => "rate",
            Self::Host => "host",
            Self::Origin => "origin",
        }
    }
}

/// A time that a callback tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// When it was signed: `timestamp` in its query.
    Timestamp,
    /// When its event happened: `CreateTime`.
    CreateTime,
}

impl Told {
    pub(super) const ALL: [Self; 2] = [Self::Timestamp, Self::CreateTime];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::CreateTime => "create_time",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ToldTime {
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

impl ToldTime {
    pub(super) const fn of(told: Told, direction: FarOff) -> Self {
        Self { time: told.as_str(), direction: direction.as_str() }
    }
}
