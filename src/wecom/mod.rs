//! WeCom's API, as far as the join needs it.
//!
//! [`Platform`] is what the workers speak to; [`Client`] is the real one over HTTP. It takes a permit from the
//! `limiter` before every call, keeps one token per (app, corp) (`tokens`), and turns every answer into a
//! value or a [`CallError`] whose [`Class`] decides what happens next.
//!
//! Deliberately absent: every other API of WeCom, and any retry beyond the one a stale token earns. When to try
//! again is the workers' business.

mod calls;
mod client;
mod errcode;
mod limiter;
mod tokens;
mod wire;

pub use client::{AppCredentials, Client, ClientError, ClientSettings};
pub use errcode::{Class, class, may_be_wrong_token, remedy, remedy_zh};
pub use limiter::{Ledgers, Limiter};
pub use wire::{Https, Reply, Wire};

use async_trait::async_trait;

use crate::domain::ids::{AppName, ChatId, CorpId, ExternalUserid, Openid, PendingId, Unionid};
use crate::domain::quota::Share;
use crate::domain::time::Timestamp;

/// The calls made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Api {
    /// `GET gettoken` (document 91039).
    GetToken,
    /// `POST corpgroup/corp/list_app_share_info` (95813).
    ListAppShareInfo,
    /// `POST corpgroup/corp/gettoken` (95816).
    CorpGetToken,
    /// `POST corpgroup/unionid_to_pending_id` (97357).
    UnionidToPendingId,
    /// `POST corpgroup/batch/external_userid_to_pending_id` (97357).
    ExternalUseridToPendingId,
    /// `POST corpgroup/unionid_to_external_userid` (95818).
    UnionidToExternalUserid,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::GetToken,
        Self::ListAppShareInfo,
        Self::CorpGetToken,
        Self::UnionidToPendingId,
        Self::ExternalUseridToPendingId,
        Self::UnionidToExternalUserid,
    ];

    /// The last part of its path: the name used in metrics, messages and the quota ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GetToken => "gettoken",
            Self::ListAppShareInfo => "list_app_share_info",
            Self::CorpGetToken => "corp_gettoken",
            Self::UnionidToPendingId => "unionid_to_pending_id",
            Self::ExternalUseridToPendingId => "external_userid_to_pending_id",
            Self::UnionidToExternalUserid => "unionid_to_external_userid",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::GetToken => "/cgi-bin/gettoken",
            Self::ListAppShareInfo => "/cgi-bin/corpgroup/corp/list_app_share_info",
            Self::CorpGetToken => "/cgi-bin/corpgroup/corp/gettoken",
            Self::UnionidToPendingId => "/cgi-bin/corpgroup/unionid_to_pending_id",
            Self::ExternalUseridToPendingId => "/cgi-bin/corpgroup/batch/external_userid_to_pending_id",
            Self::UnionidToExternalUserid => "/cgi-bin/corpgroup/unionid_to_external_userid",
        }
    }

    /// Whether WeCom gives this API a budget of its own per hour, day and month.
    #[must_use]
    pub const fn has_own_quota(self) -> bool {
        matches!(self, Self::UnionidToPendingId | Self::UnionidToExternalUserid)
    }
}

/// How a call failed before WeCom could answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection broke.
    Broken,
    /// An HTTP status other than 200.
    Status(u16),
    /// A 200 whose body is not JSON: somebody in between, most likely.
    NotJson,
    /// JSON that is not what the documents promise.
    Body,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Broken => f.write_str("the connection broke"),
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::NotJson => f.write_str("an answer that is not JSON"),
            Self::Body => f.write_str("an answer that is not the documented JSON"),
        }
    }
}

/// Why a call gave no result. Neither variant holds a token, a secret or a personal id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// WeCom answered with an error code.
    #[error("{} answered {errcode}: {}", api.as_str(), remedy(*errcode))]
    Refused {
        /// Which call.
        api: Api,
        /// WeCom's code.
        errcode: i64,
        /// Our address as WeCom saw it, where it said so; what has to be entered as trusted IP.
        from_ip: Option<String>,
    },
    /// There was no answer.
    #[error("{}: {cause}", api.as_str())]
    Transport {
        /// Which call.
        api: Api,
        /// How it failed.
        cause: Transport,
    },
    /// The budget is used up; no call was made.
    #[error("{}: the quota allows the next call at {retry_at}", api.as_str())]
    NoPermit {
        /// Which call.
        api: Api,
        /// When there will be a permit.
        retry_at: Timestamp,
    },
    /// The ledger of calls could not be written; no call was made.
    #[error("{}: the quota ledger cannot be written: {reason}", api.as_str())]
    Ledger {
        /// Which call.
        api: Api,
        /// What the store said.
        reason: String,
    },
}

impl CallError {
    /// What kind of failure this is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { errcode, .. } => class(*errcode),
            // The platform answered, and will answer the same again: not to be tried without end.
            Self::Transport { cause: Transport::Body, .. } => Class::Unknown,
            Self::Transport { .. } | Self::Ledger { .. } => Class::Transient,
            Self::NoPermit { .. } => Class::Rate,
        }
    }

    /// WeCom's code, if it answered.
    #[must_use]
    pub const fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { errcode, .. } => Some(*errcode),
            Self::Transport { .. } | Self::NoPermit { .. } | Self::Ledger { .. } => None,
        }
    }
}

/// Whose token a conversion is made with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenOf {
    /// The brand's app.
    Upstream,
    /// The shared app at a dealer.
    Dealer {
        /// The dealer.
        corp_id: CorpId,
        /// The app's id there.
        agent_id: i64,
    },
}

/// A dealer as WeCom lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDealer {
    /// The dealer's corp id as this app sees it.
    pub corp_id: CorpId,
    /// The app's id there.
    pub agent_id: i64,
    /// The dealer's name.
    pub name: String,
}

/// WeCom, as the workers see it.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// The dealers that share the app; only the one named, if one is.
    async fn dealers(&self, app: &AppName, only: Option<&CorpId>) -> Result<Vec<ListedDealer>, CallError>;

    /// A pending id for a fan. One unit of `share` of the mint quota.
    async fn unionid_to_pending_id(
        &self,
        app: &AppName,
        unionid: &Unionid,
        openid: &Openid,
        share: Share,
    ) -> Result<PendingId, CallError>;

    /// The customers a fan already is, at all dealers. One unit of `share` of its own quota.
    async fn unionid_to_external_userid(
        &self,
        app: &AppName,
        unionid: &Unionid,
        openid: &Openid,
        share: Share,
    ) -> Result<Vec<(CorpId, ExternalUserid)>, CallError>;

    /// The pending ids of at most 100 customers; those WeCom knows nothing of are missing from the answer.
    async fn external_userid_to_pending_id(
        &self,
        app: &AppName,
        token: &TokenOf,
        chat_id: Option<&ChatId>,
        ids: &[ExternalUserid],
    ) -> Result<Vec<(ExternalUserid, PendingId)>, CallError>;
}
