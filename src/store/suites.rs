//! Agency-developed apps: the ticket of each suite, auth codes that are to be exchanged, the corps that have
//! authorised a suite, and which corp each app serves.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::error::StoreError;
use crate::domain::authorization::{Agent, Authorization, Granted};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::sealed::Sealed;
use crate::domain::suite::{CodeId, Exchange, ExchangeEnd, ExchangeFailure, ExchangeNext, Ticket};
use crate::domain::time::Timestamp;

/// The maximum number of exchanges of a suite. At this limit another auth code replaces the exchange that
/// ended first; if none has ended, the code is refused with [`StoreError::AuthCodesFull`].
pub const EXCHANGES_MAX: usize = 1_000;

/// The records of one suite.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SuiteRecords {
    /// Its newest ticket.
    pub ticket: Option<Ticket>,
    /// The auth codes that are to be exchanged, and those whose exchange has failed.
    pub exchanges: Vec<(CodeId, Exchange)>,
    /// The corps that have authorised it, those that have cancelled included.
    pub authorizations: Vec<Authorization>,
}

/// Where a sealed secret is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedPlace {
    /// In the suite's ticket.
    Ticket,
    /// In an exchange.
    Exchange(CodeId),
    /// In the authorisation of a corp.
    Authorization(CorpId),
}

/// A secret that was sealed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Where it is stored.
    pub place: SealedPlace,
    /// What is there, unless it has changed since.
    pub old: Sealed,
    /// What is to be there.
    pub new: Sealed,
}

/// The records of suites. Their events are appended as [`Payload::Suite`](super::Payload::Suite).
#[async_trait]
pub trait Suites: Send + Sync {
    /// The records of a suite. A damaged one is left out.
    async fn suite(&self, suite: &AppName) -> Result<SuiteRecords, StoreError>;

    /// The corp that each app serves.
    async fn bindings(&self) -> Result<BTreeMap<AppName, CorpId>, StoreError>;

    /// Binds an app to a corp, unless it is bound already. Returns the corp that it is bound to.
    async fn bind(&self, app: &AppName, corp_id: &CorpId) -> Result<CorpId, StoreError>;

    /// Decides what to do about an exchange, and records it ([`Exchange::begin`]). The decision is the store's,
    /// because a copy of the exchange may be older than the last step of the clock. To be called before WeCom
    /// is, so that after a crash the store knows of the try. Returns the exchange, and what to do; `None` if it
    /// is gone, or had ended before.
    async fn begin_exchange(
        &self,
        suite: &AppName,
        id: &CodeId,
        can_ask: bool,
        now: Timestamp,
    ) -> Result<Option<(Exchange, ExchangeNext)>, StoreError>;

    /// Records that the present try failed ([`Exchange::failed`]). Returns what follows; `None` if the
    /// exchange is gone.
    async fn fail_exchange(
        &self,
        suite: &AppName,
        id: &CodeId,
        failure: ExchangeFailure,
        jitter: f64,
        now: Timestamp,
    ) -> Result<Option<ExchangeNext>, StoreError>;

    /// Ends an exchange for a reason of our own. Nothing if it is gone or has ended.
    async fn end_exchange(&self, suite: &AppName, id: &CodeId, end: ExchangeEnd) -> Result<(), StoreError>;

    /// Deletes the exchanges that ended before an instant. Returns how many.
    async fn drop_ended_exchanges(&self, suite: &AppName, before: Timestamp) -> Result<u64, StoreError>;

    /// Replaces an exchange by the authorisation that it resulted in, in one transaction; also if the
    /// exchange is gone by now, because a permanent code cannot be obtained again. Returns the authorisation.
    async fn grant(
        &self,
        suite: &AppName,
        id: &CodeId,
        granted: Granted,
        now: Timestamp,
    ) -> Result<Authorization, StoreError>;

    /// Records what `v2/get_auth_info` answered ([`Authorization::read`]); `read` is the authorisation when
    /// the call began. Returns whether it had an effect.
    async fn put_agent(
        &self,
        suite: &AppName,
        read: &Authorization,
        name: String,
        agent: Agent,
    ) -> Result<bool, StoreError>;

    /// Records that WeCom refused a call because the corp has cancelled ([`Authorization::refused`]); `read`
    /// is the authorisation when the call began. Returns whether it had an effect.
    async fn put_cancelled(
        &self,
        suite: &AppName,
        read: &Authorization,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Replaces secrets by what they were sealed to again, except those that have changed since. In several
    /// transactions. Returns how many were replaced.
    async fn reseal(&self, suite: &AppName, fresh: Vec<Resealed>) -> Result<u64, StoreError>;
}
