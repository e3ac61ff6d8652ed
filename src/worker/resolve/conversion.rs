//! The conversions of one batch: which token to use, and what a refusal means.
//!
//! WeCom's documents do not say whose token converts a dealer's customers. `auto` starts with the dealer's.
//! If WeCom refuses it as the wrong one, or converts nothing with it, the brand's is tried, and the one that
//! converted something is remembered for this dealer. Until then the second attempt is made at most once an
//! hour, so that dealers without any fans do not cost twice the calls, and at most once for a batch, however
//! many calls it takes to find the ids because of which it is refused.

use std::collections::{BTreeSet, HashMap};

use super::super::Context;
use super::super::apps::ConversionToken;
use super::super::breaker::Scope;
use super::super::failure::{concerns_whole_app, failure_reason, limit_ends_at};
use super::super::parallelism::ParallelismPermit;
use super::lane::{LaneClass, LaneKey};
use crate::domain::backoff::Backoff;
use crate::domain::batch::Refusal;
use crate::domain::dealer::{Dealer, DealerState, TokenOwner};
use crate::domain::ids::{ChatId, ContactKey, CorpId, ExternalUserid, PendingId};
use crate::domain::time::Timestamp;
use crate::store::{FailureReason, StoreError};
use crate::wecom::{
    Api, CallError, Class, TokenOf, is_chat_gone, is_concurrency, is_not_visible, may_be_wrong_token,
};
use crate::worker::directory::DirectoryError;

/// Why a call gave no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// At least one of its ids is at fault, or may be.
    OneOf(Fault),
    /// Not the fault of an id: a circuit breaker opened; with the instant of its next probe.
    HeldBack(FailureReason, Timestamp),
    /// Too many calls were in flight; fewer will be.
    TooManyCalls(FailureReason),
    /// The customer group no longer exists, or is none.
    ChatGone(ChatId),
}

/// What is wrong with an id.
#[derive(Debug)]
pub(super) enum Fault {
    /// The app cannot see it now.
    NotVisible(FailureReason),
    /// It will never be converted.
    Item(FailureReason),
    /// WeCom answers with an undocumented code, or with one that concerns one of several dealers.
    Unknown(FailureReason),
    /// WeCom answers with a transient code that persists.
    Stuck(FailureReason),
}

impl Fault {
    /// What it says about the ids of a batch.
    pub(super) const fn refusal(&self) -> Refusal {
        match self {
            Self::NotVisible(_) => Refusal::NotVisible,
            Self::Item(_) => Refusal::Invalid,
            Self::Unknown(_) | Self::Stuck(_) => Refusal::Unclear,
        }
    }

    pub(super) const fn reason(&self) -> &FailureReason {
        match self {
            Self::NotVisible(reason) | Self::Item(reason) | Self::Unknown(reason) | Self::Stuck(reason) => {
                reason
            }
        }
    }
}

/// Consecutive failures of a corp after which an undocumented or a transient code is blamed on a single id.
const UNKNOWN_FAILURES: u32 = 2;
const TRANSIENT_FAILURES: u32 = 8;

type PendingIds = HashMap<ExternalUserid, PendingId>;

/// The conversions of the customers of one batch.
pub(super) struct Conversion<'a> {
    context: &'a Context,
    lane: &'a LaneKey,
    permit: &'a mut ParallelismPermit,
    /// The only token for further calls, once both were tried.
    token: Option<TokenOwner>,
}

enum ConversionError {
    Call(CallError),
    Store(StoreError),
    NotShared,
    Left,
}

impl From<CallError> for ConversionError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<DirectoryError> for ConversionError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Call(error) => Self::Call(error),
            DirectoryError::Store(error) => Self::Store(error),
        }
    }
}

impl<'a> Conversion<'a> {
    pub(super) const fn new(
        context: &'a Context,
        lane: &'a LaneKey,
        permit: &'a mut ParallelismPermit,
    ) -> Self {
        Self { context, lane, permit, token: None }
    }

    /// Lets live work that waits for a permit go before the next call. Returns false if there is no permit for
    /// that call any more.
    pub(super) async fn yield_to_live(&mut self) -> bool {
        self.permit.yield_to_live().await
    }

    /// Converts these customers. While `searching` for refused ids, a failure that would otherwise open a
    /// breaker is blamed on the ids.
    pub(super) async fn convert(
        &mut self,
        customers: &[&ContactKey],
        searching: bool,
    ) -> Result<PendingIds, Failure> {
        let mut ids: Vec<_> = customers.iter().map(|customer| customer.external_userid.clone()).collect();
        ids.sort();
        ids.dedup();
        let corps: BTreeSet<_> = customers.iter().map(|customer| &customer.corp_id).collect();
        match self.run(&ids, searching).await {
            Ok(found) => {
                let LaneKey { app, owner, .. } = self.lane;
                self.permit.succeeded();
                self.context.breakers.succeeded(&Scope::App(app.clone()));
                for corp_id in corps.into_iter().chain([owner]) {
                    self.context.breakers.succeeded(&Scope::Corp(app.clone(), corp_id.clone()));
                }
                Ok(found)
            }
            Err(error) => Err(self.failure(error, &corps, searching)),
        }
    }

    async fn run(&mut self, ids: &[ExternalUserid], searching: bool) -> Result<PendingIds, ConversionError> {
        let LaneKey { app, owner, chat_id, .. } = self.lane;
        let rules = self.context.apps.get(app).ok_or(ConversionError::NotShared)?;
        if rules.is_brand(owner) || self.token == Some(TokenOwner::Upstream) {
            return Ok(self.ask(&TokenOf::Upstream, ids).await?);
        }
        let auto = rules.conversion_token == ConversionToken::Auto;
        let Some(dealer) = self.context.directory.find(app, owner).await? else {
            // Not listed as sharing the app. The brand's token may still work.
            let asked = if auto { Some(self.ask(&TokenOf::Upstream, ids).await) } else { None };
            self.token = auto.then_some(TokenOwner::Upstream);
            return match asked {
                Some(Err(error)) if error.class() != Class::Configuration || concerns_whole_app(&error) => {
                    Err(error.into())
                }
                Some(Ok(found)) => Ok(found),
                Some(Err(_)) | None => Err(ConversionError::NotShared),
            };
        };
        if dealer.state() == DealerState::Left {
            return Err(ConversionError::Left);
        }
        // The work may have been routed before the brand's token turned out to be the right one.
        if auto && dealer.token == Some(TokenOwner::Upstream) {
            return Ok(self.ask(&TokenOf::Upstream, ids).await?);
        }
        let first = self.ask_as(&dealer, ids).await;
        let is_known = dealer.token == Some(TokenOwner::Downstream) && first.is_ok();
        if !auto || is_known || self.token == Some(TokenOwner::Downstream) {
            return Ok(first?);
        }
        match &first {
            Ok(found) if !found.is_empty() => {
                self.remember(TokenOwner::Downstream).await;
                return Ok(first?);
            }
            Ok(_) => {}
            Err(error) if error.errcode().is_some_and(is_chat_gone) => return Ok(first?),
            Err(error) if error.errcode().is_some_and(may_be_wrong_token) || concerns_ids(error) => {}
            Err(_) => return Ok(first?),
        }
        if self.context.directory.upstream_missed_recently(app, owner) {
            return Ok(first?);
        }
        let second = self.ask(&TokenOf::Upstream, ids).await;
        self.token = Some(TokenOwner::Upstream);
        match second {
            Ok(found) if !found.is_empty() => {
                self.remember(TokenOwner::Upstream).await;
                Ok(found)
            }
            // An empty answer with the right token is better than a refusal of the wrong one. It says nothing
            // about ids that were refused with the dealer's own.
            Ok(found) if first.as_ref().is_err_and(|error| !concerns_ids(error)) => Ok(found),
            // So is a refusal of the ids: the dealer's token was wrong for any id. Attributed to the dealer,
            // one bad id would hold back all of this dealer's customers.
            Err(error)
                if dealer.token.is_none()
                    && first.as_ref().is_err_and(is_wrong_kind)
                    && concerns_ids(&error) =>
            {
                Err(error.into())
            }
            // The second attempt failed temporarily: its answer is still to come.
            Err(error) if !searching && first.is_err() && error.class() == Class::Transient => {
                Err(error.into())
            }
            _ => {
                self.token = Some(TokenOwner::Downstream);
                // What the brand's token does for one group says nothing about other customers.
                if chat_id.is_none() {
                    self.context.directory.record_upstream_miss(app, owner);
                }
                Ok(first?)
            }
        }
    }

    /// Converts with the dealer's token. If WeCom does not know the dealer as listed, the list is outdated
    /// and is read again once.
    async fn ask_as(&self, dealer: &Dealer, ids: &[ExternalUserid]) -> Result<PendingIds, CallError> {
        let LaneKey { app, owner, .. } = self.lane;
        let token =
            |dealer: &Dealer| TokenOf::Dealer { corp_id: dealer.corp_id.clone(), agent_id: dealer.agent_id };
        let first = self.ask(&token(dealer), ids).await;
        let is_outdated = matches!(
            &first,
            Err(CallError::Refused { api: Api::CorpGetToken, errcode: 40_013 | 40_056 | 670_001, .. })
        );
        if is_outdated
            && let Ok(Some(listed)) = self.context.directory.refresh_one(app, owner).await
            && listed.agent_id != dealer.agent_id
        {
            return self.ask(&token(&listed), ids).await;
        }
        first
    }

    async fn ask(&self, token: &TokenOf, ids: &[ExternalUserid]) -> Result<PendingIds, CallError> {
        let LaneKey { app, chat_id, .. } = self.lane;
        self.context.metrics.ids_sent(ids.len());
        let platform = &self.context.platform;
        let rows = platform.external_userid_to_pending_id(app, token, chat_id.as_ref(), ids).await?;
        Ok(rows.into_iter().collect())
    }

    async fn remember(&self, token: TokenOwner) {
        let LaneKey { app, owner, .. } = self.lane;
        if let Err(error) = self.context.store.set_token_owner(app, owner, token).await {
            let message = "the token that converts a dealer's customers was not stored";
            self.context.store_failures.warn(message, &error);
        }
    }

    /// What an error means for a batch with customers of these corps. Opens the breaker it calls for.
    fn failure(&self, error: ConversionError, corps: &BTreeSet<&CorpId>, searching: bool) -> Failure {
        let LaneKey { app, owner, chat_id, .. } = self.lane;
        let error = match error {
            ConversionError::Call(error) => error,
            ConversionError::Store(error) => {
                let reason = FailureReason { errcode: None, text: error.to_string() };
                return self.hold_back(owner, reason, Backoff::CALL);
            }
            ConversionError::NotShared => {
                let text = "WeCom does not list this corp as sharing the app; share it with the dealer in \
                            上下游, and have the dealer confirm the sensitive permissions";
                let reason = FailureReason { errcode: None, text: text.to_owned() };
                return self.hold_back(owner, reason, Backoff::CONFIGURATION);
            }
            ConversionError::Left => return self.hold_back(owner, has_left(), Backoff::CONFIGURATION),
        };
        let (reason, errcode) = (failure_reason(&error), error.errcode());
        // What concerns other customers must not hold back those who have just been added.
        let is_live = self.lane.class == LaneClass::Live && chat_id.is_none();
        let asked = matches!(error, CallError::Refused { api: Api::ExternalUseridToPendingId, .. });
        match (error.class(), chat_id) {
            _ if errcode.is_some_and(is_concurrency) => {
                if self.permit.refused() {
                    Failure::TooManyCalls(reason)
                } else {
                    self.hold_back(owner, reason, Backoff::CALL)
                }
            }
            (_, Some(chat_id)) if asked && errcode.is_some_and(is_chat_gone) => {
                Failure::ChatGone(chat_id.clone())
            }
            // The group may be another corp's (document 90313): a matter of this group, not of the dealer.
            (_, Some(_)) if asked && errcode == Some(92_002) => Failure::OneOf(Fault::NotVisible(reason)),
            // An error of another call (for a token, say) never concerns a customer.
            (Class::Item | Class::Invisible, _) if !asked => {
                self.hold_back(owner, reason, Backoff::CONFIGURATION)
            }
            (Class::Item, _) if !errcode.is_some_and(is_not_visible) => Failure::OneOf(Fault::Item(reason)),
            (Class::Item | Class::Invisible, _) => Failure::OneOf(Fault::NotVisible(reason)),
            // An outage first; one id's fault only if it persists.
            (Class::Unknown, _) if is_live && !searching && self.failures() < UNKNOWN_FAILURES => {
                self.hold_back(owner, reason, Backoff::UNKNOWN_CODE)
            }
            (Class::Unknown, _) => Failure::OneOf(Fault::Unknown(reason)),
            (Class::Rate, _) => {
                let now = self.context.now();
                let until = limit_ends_at(&error, now);
                let scope = Scope::Corp(app.clone(), owner.clone());
                self.context.breakers.hold(scope, reason.clone(), now, until);
                Failure::HeldBack(reason, until)
            }
            (Class::Transient, _)
                if errcode.is_some() && (!is_live || searching || self.failures() >= TRANSIENT_FAILURES) =>
            {
                Failure::OneOf(Fault::Stuck(reason))
            }
            (Class::Transient | Class::Token, _) => self.hold_back(owner, reason, Backoff::CALL),
            (Class::Configuration, _) if concerns_whole_app(&error) => {
                self.open(&Scope::App(app.clone()), reason, Backoff::CONFIGURATION)
            }
            // Several dealers share the brand's token: search for those at fault, so that the others go on.
            (Class::Configuration, _) if corps.len() > 1 => Failure::OneOf(Fault::Unknown(reason)),
            (Class::Configuration, _) => {
                let corp_id = corps.first().copied().unwrap_or(owner);
                self.hold_back(corp_id, reason, Backoff::CONFIGURATION)
            }
        }
    }

    /// Consecutive failures of the corp whose token is used.
    fn failures(&self) -> u32 {
        let LaneKey { app, owner, .. } = self.lane;
        self.context.breakers.failures(&Scope::Corp(app.clone(), owner.clone()))
    }

    fn hold_back(&self, corp_id: &CorpId, reason: FailureReason, backoff: Backoff) -> Failure {
        self.open(&Scope::Corp(self.lane.app.clone(), corp_id.clone()), reason, backoff)
    }

    fn open(&self, scope: &Scope, reason: FailureReason, backoff: Backoff) -> Failure {
        let probe_at = self.context.breakers.failed(scope, reason.clone(), backoff, self.context.now());
        Failure::HeldBack(reason, probe_at)
    }
}

/// Why the calls of a dealer that is no longer listed are held back.
pub(super) fn has_left() -> FailureReason {
    let text = "WeCom no longer lists this dealer; to convert its customers again, share the app with it in \
                上下游";
    FailureReason { errcode: None, text: text.to_owned() }
}

/// Whether WeCom says that a token of this kind is not for this call at all.
const fn is_wrong_kind(error: &CallError) -> bool {
    matches!(error, CallError::Refused { errcode: 92_002 | 301_002, .. })
}

/// Whether an id was refused, not a token or a setting.
fn concerns_ids(error: &CallError) -> bool {
    let asked = matches!(error, CallError::Refused { api: Api::ExternalUseridToPendingId, .. });
    asked && matches!(error.class(), Class::Item | Class::Invisible)
}
