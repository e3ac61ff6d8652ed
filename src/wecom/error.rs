//! Why a call to WeCom gave no result. No error contains a token, a secret or a personal id.

use super::api::Api;
use super::credentials::{Development, Unavailable};
use super::errcode::{Class, class, remedy_for};
use crate::domain::ids::AppName;
use crate::domain::time::Timestamp;

/// How a call failed without an errcode from WeCom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Transport {
    /// The connection could not be established.
    #[error("no connection")]
    Connect,
    /// No call was made: it would have gone to a public address without TLS.
    #[error("api_base is http:// and not a private address, and nothing is sent without TLS; write https://")]
    Unencrypted,
    /// No complete answer within the time-out.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection broke")]
    Broken,
    /// An HTTP status other than 200; WeCom sends 200 with its error codes too.
    #[error("HTTP status {0}")]
    Status(u16),
    /// Status 200 with a body that is not JSON, most likely sent by a proxy in between.
    #[error("an answer that is not JSON")]
    NotJson,
    /// JSON of another shape than WeCom documents.
    #[error("an answer that is not the documented JSON")]
    Body,
}

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// WeCom answered with an error code.
    #[error("{} answered {errcode}: {}", api.as_str(), remedy_for(*errcode, *development).en)]
    Refused {
        /// The API that was called.
        api: Api,
        /// WeCom's code (document 90313).
        errcode: i64,
        /// The IP address from which WeCom saw the call, if its message named one: the address to add to
        /// 企业可信IP or, for an agency-developed app, to IP白名单.
        from_ip: Option<String>,
        /// Who develops the app that made the call.
        development: Development,
    },
    /// The app or suite cannot call WeCom; no call was made.
    #[error("{} was not called for {app}: {why}", api.as_str())]
    NotAuthorized {
        /// The API to be called.
        api: Api,
        /// The app or suite.
        app: AppName,
        /// Why it cannot call WeCom.
        why: Unavailable,
    },
    /// There was no answer, or none that can be read.
    #[error("{}: {cause}", api.as_str())]
    Transport {
        /// The API that was called.
        api: Api,
        /// How the call failed.
        cause: Transport,
    },
    /// The quota is used up; no call was made.
    #[error("{}: the quota allows the next call at {}", api.as_str(), retry_at.in_china())]
    NoPermit {
        /// The API to be called.
        api: Api,
        /// When the quota allows the next call.
        retry_at: Timestamp,
    },
    /// The quota ledger could not be written; no call was made.
    #[error("{}: the quota ledger cannot be written: {reason}", api.as_str())]
    Ledger {
        /// The API to be called.
        api: Api,
        /// The store's error.
        reason: String,
    },
}

impl CallError {
    /// The class of the failure, which decides what happens next.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { errcode, .. } => class(*errcode),
            // WeCom would give the same answer again: not to be retried without end.
            Self::Transport { cause: Transport::Body, .. } => Class::Unknown,
            Self::Transport { .. } | Self::Ledger { .. } => Class::Transient,
            Self::NoPermit { .. } => Class::Rate,
            Self::NotAuthorized { .. } => Class::Configuration,
        }
    }

    /// WeCom's code, if it answered with one.
    #[must_use]
    pub const fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { errcode, .. } => Some(*errcode),
            Self::NotAuthorized { .. }
            | Self::Transport { .. }
            | Self::NoPermit { .. }
            | Self::Ledger { .. } => None,
        }
    }
}
