//! One batch, one verdict: which token, what a refusal means, what to remember.
//!
//! WeCom's documents do not say whose token converts a dealer's customers. `auto` starts with the dealer's. If
//! WeCom refuses that as the wrong one, or converts nothing with it, the brand's is tried, and whichever gave a
//! result is remembered for this dealer. Until then a fruitless second try is not repeated within the hour, so
//! that dealers without any fans do not cost twice the calls.

use std::collections::{BTreeSet, HashMap};

use super::super::pause::Scope;
use super::super::{Context, ConversionToken};
use super::problem_of;
use crate::domain::backoff::Backoff;
use crate::domain::dealer::{Dealer, TokenOwner};
use crate::domain::ids::{AppName, CorpId, ExternalUserid, PendingId};
use crate::domain::time::{MINUTE_MS, Timestamp};
use crate::store::{Problem, StoreError, Work};
use crate::wecom::{Api, CallError, Class, TokenOf, may_be_wrong_token};
use crate::worker::directory::DirectoryError;

/// Why a batch has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// At least one id in it is at fault, or may be.
    OneOf(Blame),
    /// Not the fault of any id: everything of this kind waits until then.
    Paused(Problem, Timestamp),
}

/// What an id is blamed for.
#[derive(Debug)]
pub(super) enum Blame {
    /// It will never work.
    Item(Problem),
    /// The app may not see it now.
    Invisible,
    /// Nobody documented the code.
    Unknown(Problem),
    /// A code that should pass but does not.
    Stuck(Problem),
}

impl Blame {
    /// Whether it may as well be a general outage.
    pub(super) const fn may_be_everybodys(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::Stuck(_) => true,
            Self::Item(_) | Self::Invisible => false,
        }
    }
}

/// Pauses after which an undocumented code, or one that should pass, is looked for in a single id.
const UNKNOWN_PAUSES: u32 = 2;
const TRANSIENT_PAUSES: u32 = 8;

type Found = HashMap<ExternalUserid, PendingId>;

/// Asks WeCom about the customers of a batch; `searching` for the id that spoils it, a failure that would otherwise
/// be taken for everybody's is blamed on the batch.
pub(super) async fn convert(
    context: &Context,
    app: &AppName,
    owner: &CorpId,
    batch: &[Work],
    searching: bool,
) -> Result<Found, Failure> {
    let mut ids: Vec<_> = batch.iter().map(|work| work.contact.external_userid.clone()).collect();
    ids.sort();
    ids.dedup();
    let conversion = Conversion { context, app, owner, ids: &ids };
    match conversion.run().await {
        Ok(found) => {
            context.pauses.worked(&Scope::App(app.clone()));
            context.pauses.worked(&Scope::Corp(app.clone(), owner.clone()));
            for corp_id in corps(batch) {
                context.pauses.worked(&Scope::Corp(app.clone(), corp_id.clone()));
            }
            Ok(found)
        }
        Err(error) => Err(conversion.failure(error, &corps(batch), searching)),
    }
}

/// The corps whose customers a batch is about.
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
    async fn run(&self) -> Result<Found, ConversionError> {
        let rules = self.context.apps.get(self.app).ok_or(ConversionError::NotShared)?;
        if rules.corp_id.same_corp(self.owner.as_str()) {
            return Ok(self.ask(&TokenOf::Upstream).await?);
        }
        let auto = rules.conversion_token == ConversionToken::Auto;
        let Some(dealer) = self.context.directory.find(self.app, self.owner).await? else {
            // Not listed as sharing the app. The brand's token may still do.
            let asked = if auto { Some(self.ask(&TokenOf::Upstream).await) } else { None };
            return match asked {
                Some(Err(error)) if error.class() != Class::Configuration => Err(error.into()),
                Some(Ok(found)) => Ok(found),
                Some(Err(_)) | None => Err(ConversionError::NotShared),
            };
        };
        // Work may have been put into this lane before the brand's token was found to be the one.
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
        if self.context.directory.tried_in_vain(self.app, self.owner) {
            return Ok(first?);
        }
        match self.ask(&TokenOf::Upstream).await {
            Ok(found) if !found.is_empty() => {
                self.remember(TokenOwner::Upstream).await;
                Ok(found)
            }
            // An empty answer to the right question beats a refusal of the wrong one.
            Ok(found) if first.as_ref().is_err_and(|error| error.class() != Class::Item) => Ok(found),
            // As does a refusal of the ids: with the dealer's token the question was wrong for any id. Taken for the
            // dealer's fault, one bad id would keep all others of this dealer waiting.
            Err(error)
                if dealer.token.is_none() && first.as_ref().is_err_and(wrong_kind) && about_ids(&error) =>
            {
                Err(error.into())
            }
            // Nobody answered the second question yet.
            Err(error) if first.is_err() && error.class() == Class::Transient => Err(error.into()),
            _ => {
                self.context.directory.note_vain_try(self.app, self.owner);
                Ok(first?)
            }
        }
    }

    /// Asks with the dealer's token. Should WeCom not know the dealer as listed, the list is out of date: it is
    /// asked for once more.
    async fn ask_as(&self, dealer: &Dealer) -> Result<Found, CallError> {
        let token =
            |dealer: &Dealer| TokenOf::Dealer { corp_id: dealer.corp_id.clone(), agent_id: dealer.agent_id };
        let first = self.ask(&token(dealer)).await;
        let outdated = matches!(
            &first,
            Err(CallError::Refused { api: Api::CorpGetToken, errcode: 40_013 | 40_056 | 670_001, .. })
        );
        if outdated
            && let Ok(Some(listed)) = self.context.directory.look_up(self.app, self.owner).await
            && listed.agent_id != dealer.agent_id
        {
            return self.ask(&token(&listed)).await;
        }
        first
    }

    async fn ask(&self, token: &TokenOf) -> Result<Found, CallError> {
        self.context.metrics.ids_asked(self.ids.len());
        let rows =
            self.context.platform.external_userid_to_pending_id(self.app, token, None, self.ids).await?;
        Ok(rows.into_iter().collect())
    }

    async fn remember(&self, token: TokenOwner) {
        if let Err(error) = self.context.store.remember_token(self.app, self.owner, token).await {
            tracing::warn!(%error, "which token works was not written down; it is found out again");
        }
    }

    /// What an error means for a batch about these corps, pausing whatever it hits.
    fn failure(&self, error: ConversionError, corps: &BTreeSet<&CorpId>, searching: bool) -> Failure {
        let now = self.context.now();
        let of = |corp_id: &CorpId| Scope::Corp(self.app.clone(), corp_id.clone());
        let pause = |scope: Scope, problem: Problem, backoff| {
            let until = self.context.pauses.failed(&scope, problem.clone(), backoff, now);
            Failure::Paused(problem, until)
        };
        let error = match error {
            ConversionError::Call(error) => error,
            ConversionError::Store(error) => {
                let problem = Problem { errcode: None, text: error.to_string() };
                return pause(of(self.owner), problem, Backoff::CALL);
            }
            ConversionError::NotShared => {
                let text = "WeCom does not list this corp as sharing the app; share it with the dealer in 上下游, \
                            and have the dealer confirm the sensitive permissions";
                return pause(
                    of(self.owner),
                    Problem { errcode: None, text: text.to_owned() },
                    Backoff::PARKED,
                );
            }
        };
        let problem = problem_of(&error);
        let asked = matches!(error, CallError::Refused { api: Api::ExternalUseridToPendingId, .. });
        match error.class() {
            // An answer to another call, for a token say, is never about a customer.
            Class::Item | Class::Invisible if !asked => pause(of(self.owner), problem, Backoff::PARKED),
            Class::Item => Failure::OneOf(Blame::Item(problem)),
            Class::Invisible => Failure::OneOf(Blame::Invisible),
            // Everybody's fault first, somebody's only when it does not pass.
            Class::Unknown
                if !searching && self.context.pauses.failures(&of(self.owner)) < UNKNOWN_PAUSES =>
            {
                pause(of(self.owner), problem, Backoff::UNKNOWN_CODE)
            }
            Class::Unknown => Failure::OneOf(Blame::Unknown(problem)),
            Class::Rate => {
                let until = match error {
                    CallError::NoPermit { retry_at, .. } => retry_at,
                    _ => now.plus_ms(MINUTE_MS),
                };
                self.context.pauses.hold(of(self.owner), problem.clone(), now, until);
                Failure::Paused(problem, until)
            }
            Class::Transient
                if error.errcode().is_some()
                    && (searching || self.context.pauses.failures(&of(self.owner)) >= TRANSIENT_PAUSES) =>
            {
                Failure::OneOf(Blame::Stuck(problem))
            }
            Class::Transient | Class::Token => pause(of(self.owner), problem, Backoff::CALL),
            Class::Configuration => match (&error, corps.first()) {
                (CallError::Refused { api, errcode, .. }, _) if hits_the_whole_app(*api, *errcode) => {
                    pause(Scope::App(self.app.clone()), problem, Backoff::PARKED)
                }
                // Several dealers share the brand's token here: find the one at fault, spare the others.
                (_, Some(_)) if corps.len() > 1 => Failure::OneOf(Blame::Invisible),
                (_, Some(corp_id)) => pause(of(corp_id), problem, Backoff::PARKED),
                (_, None) => pause(of(self.owner), problem, Backoff::PARKED),
            },
        }
    }
}

/// Whether WeCom says that such a token is not for this call at all, whatever else is allowed.
const fn wrong_kind(error: &CallError) -> bool {
    matches!(error, CallError::Refused { errcode: 92_002 | 301_002, .. })
}

/// Whether an id was refused, and not a token or a setting.
fn about_ids(error: &CallError) -> bool {
    let asked = matches!(error, CallError::Refused { api: Api::ExternalUseridToPendingId, .. });
    asked && matches!(error.class(), Class::Item | Class::Invisible)
}

/// Whether a setting of the brand's own app is wrong, and not one of a dealer.
pub(in crate::worker) const fn hits_the_whole_app(api: Api, errcode: i64) -> bool {
    matches!(api, Api::GetToken) || matches!(errcode, 60_020 | 301_042)
}
