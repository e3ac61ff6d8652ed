//! The conversion of one batch: which token to use, and what a refusal means.
//!
//! WeCom's documents do not say whose token converts a dealer's customers. `auto` starts with the dealer's.
//! If WeCom refuses it as the wrong one, or converts nothing with it, the brand's is tried, and the one that
//! converted something is remembered for this dealer. Until then the second attempt is made at most once an
//! hour, so that dealers without any fans do not cost twice the calls.

use std::collections::{BTreeSet, HashMap};

use super::super::breaker::Scope;
use super::super::failure::{concerns_whole_app, failure_reason, limit_ends_at};
use super::super::{Context, ConversionToken};
use crate::domain::backoff::Backoff;
use crate::domain::dealer::{Dealer, TokenOwner};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, PendingId};
use crate::domain::time::Timestamp;
use crate::store::{FailureReason, StoreError, Work};
use crate::wecom::{Api, CallError, Class, TokenOf, may_be_wrong_token};
use crate::worker::directory::DirectoryError;

/// Why a batch has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// At least one of its ids is at fault, or may be.
    OneOf(Fault),
    /// Not the fault of an id: a circuit breaker opened; with the instant of its next probe.
    HeldBack(FailureReason, Timestamp),
}

/// What is wrong with an id.
#[derive(Debug)]
pub(super) enum Fault {
    /// It will never be converted.
    Item(FailureReason),
    /// The app cannot see it now.
    Invisible,
    /// WeCom answers with an undocumented code.
    Unknown(FailureReason),
    /// WeCom answers with a transient code that persists.
    Stuck(FailureReason),
}

impl Fault {
    /// Whether it may be a general outage instead.
    pub(super) const fn may_be_outage(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::Stuck(_) => true,
            Self::Item(_) | Self::Invisible => false,
        }
    }
}

/// Consecutive failures of a corp after which an undocumented or a transient code is blamed on a single id.
const UNKNOWN_FAILURES: u32 = 2;
const TRANSIENT_FAILURES: u32 = 8;

type PendingIds = HashMap<ExternalUserid, PendingId>;

/// Converts the customers of a batch. While `bisecting`, a failure that would otherwise open a breaker is
/// blamed on the batch.
pub(super) async fn convert(
    context: &Context,
    app: &AppName,
    owner: &CorpId,
    batch: &[Work],
    bisecting: bool,
) -> Result<PendingIds, Failure> {
    let mut ids: Vec<_> = batch.iter().map(|work| work.contact.external_userid.clone()).collect();
    ids.sort();
    ids.dedup();
    let conversion = Conversion { context, app, owner, ids: &ids };
    match conversion.run().await {
        Ok(found) => {
            context.breakers.succeeded(&Scope::App(app.clone()));
            context.breakers.succeeded(&Scope::Corp(app.clone(), owner.clone()));
            for corp_id in corps(batch) {
                context.breakers.succeeded(&Scope::Corp(app.clone(), corp_id.clone()));
            }
            Ok(found)
        }
        Err(error) => Err(conversion.failure(error, &corps(batch), bisecting)),
    }
}

/// The corps whose customers are in a batch.
fn corps(batch: &[Work]) -> BTreeSet<&CorpId> {
    batch.iter().map(|work| &work.contact.corp_id).collect()
}

struct Conversion<'a> {
    context: &'a Context,
    app: &'a AppName,
    owner: &'a CorpId,
    ids: &'a [ExternalUserid],
}

enum ConversionError {
    Call(CallError),
    Store(StoreError),
    NotShared,
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

impl Conversion<'_> {
    async fn run(&self) -> Result<PendingIds, ConversionError> {
        let rules = self.context.apps.get(self.app).ok_or(ConversionError::NotShared)?;
        if rules.corp_id.same_corp(self.owner.as_str()) {
            return Ok(self.ask(&TokenOf::Upstream).await?);
        }
        let auto = rules.conversion_token == ConversionToken::Auto;
        let Some(dealer) = self.context.directory.find(self.app, self.owner).await? else {
            // Not listed as sharing the app. The brand's token may still work.
            let asked = if auto { Some(self.ask(&TokenOf::Upstream).await) } else { None };
            return match asked {
                Some(Err(error)) if error.class() != Class::Configuration => Err(error.into()),
                Some(Ok(found)) => Ok(found),
                Some(Err(_)) | None => Err(ConversionError::NotShared),
            };
        };
        // The work may have been routed before the brand's token turned out to be the right one.
        if auto && dealer.token == Some(TokenOwner::Upstream) {
            return Ok(self.ask(&TokenOf::Upstream).await?);
        }
        let first = self.ask_as(&dealer).await;
        if !auto || dealer.token == Some(TokenOwner::Downstream) && first.is_ok() {
            return Ok(first?);
        }
        match &first {
            Ok(found) if !found.is_empty() => {
                self.remember(TokenOwner::Downstream).await;
                return Ok(first?);
            }
            Ok(_) => {}
            Err(error) if error.errcode().is_some_and(may_be_wrong_token) || error.class() == Class::Item => {
            }
            Err(_) => return Ok(first?),
        }
        if self.context.directory.upstream_missed_recently(self.app, self.owner) {
            return Ok(first?);
        }
        match self.ask(&TokenOf::Upstream).await {
            Ok(found) if !found.is_empty() => {
                self.remember(TokenOwner::Upstream).await;
                Ok(found)
            }
            // An empty answer with the right token is better than a refusal of the wrong one.
            Ok(found) if first.as_ref().is_err_and(|error| error.class() != Class::Item) => Ok(found),
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
            Err(error) if first.is_err() && error.class() == Class::Transient => Err(error.into()),
            _ => {
                self.context.directory.record_upstream_miss(self.app, self.owner);
                Ok(first?)
            }
        }
    }

    /// Converts with the dealer's token. If WeCom does not know the dealer as listed, the list is outdated
    /// and is read again once.
    async fn ask_as(&self, dealer: &Dealer) -> Result<PendingIds, CallError> {
        let token =
            |dealer: &Dealer| TokenOf::Dealer { corp_id: dealer.corp_id.clone(), agent_id: dealer.agent_id };
        let first = self.ask(&token(dealer)).await;
        let is_outdated = matches!(
            &first,
            Err(CallError::Refused { api: Api::CorpGetToken, errcode: 40_013 | 40_056 | 670_001, .. })
        );
        if is_outdated
            && let Ok(Some(listed)) = self.context.directory.refresh_one(self.app, self.owner).await
            && listed.agent_id != dealer.agent_id
        {
            return self.ask(&token(&listed)).await;
        }
        first
    }

    async fn ask(&self, token: &TokenOf) -> Result<PendingIds, CallError> {
        self.context.metrics.ids_sent(self.ids.len());
        let rows =
            self.context.platform.external_userid_to_pending_id(self.app, token, None, self.ids).await?;
        Ok(rows.into_iter().collect())
    }

    async fn remember(&self, token: TokenOwner) {
        if let Err(error) = self.context.store.set_token_owner(self.app, self.owner, token).await {
            let message = "the token that converts a dealer's customers was not stored";
            self.context.store_failures.warn(message, &error);
        }
    }

    /// What an error means for a batch with customers of these corps. Opens the breaker it calls for.
    fn failure(&self, error: ConversionError, corps: &BTreeSet<&CorpId>, bisecting: bool) -> Failure {
        let now = self.context.now();
        let of = |corp_id: &CorpId| Scope::Corp(self.app.clone(), corp_id.clone());
        let hold_back = |scope: Scope, reason: FailureReason, backoff| {
            let probe_at = self.context.breakers.failed(&scope, reason.clone(), backoff, now);
            Failure::HeldBack(reason, probe_at)
        };
        let error = match error {
            ConversionError::Call(error) => error,
            ConversionError::Store(error) => {
                let reason = FailureReason { errcode: None, text: error.to_string() };
                return hold_back(of(self.owner), reason, Backoff::CALL);
            }
            ConversionError::NotShared => {
                let text = "WeCom does not list this corp as sharing the app; share it with the dealer in \
                            上下游, and have the dealer confirm the sensitive permissions";
                return hold_back(
                    of(self.owner),
                    FailureReason { errcode: None, text: text.to_owned() },
                    Backoff::CONFIGURATION,
                );
            }
        };
        let reason = failure_reason(&error);
        let asked = matches!(error, CallError::Refused { api: Api::ExternalUseridToPendingId, .. });
        match error.class() {
            // An error of another call (for a token, say) never concerns a customer.
            Class::Item | Class::Invisible if !asked => {
                hold_back(of(self.owner), reason, Backoff::CONFIGURATION)
            }
            Class::Item => Failure::OneOf(Fault::Item(reason)),
            Class::Invisible => Failure::OneOf(Fault::Invisible),
            // An outage first; one id's fault only if it persists.
            Class::Unknown
                if !bisecting && self.context.breakers.failures(&of(self.owner)) < UNKNOWN_FAILURES =>
            {
                hold_back(of(self.owner), reason, Backoff::UNKNOWN_CODE)
            }
            Class::Unknown => Failure::OneOf(Fault::Unknown(reason)),
            Class::Rate => {
                let until = limit_ends_at(&error, now);
                self.context.breakers.hold(of(self.owner), reason.clone(), now, until);
                Failure::HeldBack(reason, until)
            }
            Class::Transient
                if error.errcode().is_some()
                    && (bisecting
                        || self.context.breakers.failures(&of(self.owner)) >= TRANSIENT_FAILURES) =>
            {
                Failure::OneOf(Fault::Stuck(reason))
            }
            Class::Transient | Class::Token => hold_back(of(self.owner), reason, Backoff::CALL),
            Class::Configuration => match (&error, corps.first()) {
                (CallError::Refused { api, errcode, .. }, _) if concerns_whole_app(*api, *errcode) => {
                    hold_back(Scope::App(self.app.clone()), reason, Backoff::CONFIGURATION)
                }
                // Several dealers share the brand's token: bisect to the one at fault, so that the others go
                // on.
                (_, Some(_)) if corps.len() > 1 => Failure::OneOf(Fault::Invisible),
                (_, Some(corp_id)) => hold_back(of(corp_id), reason, Backoff::CONFIGURATION),
                (_, None) => hold_back(of(self.owner), reason, Backoff::CONFIGURATION),
            },
        }
    }
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
