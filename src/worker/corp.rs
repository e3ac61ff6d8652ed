//! The lists of one corp, a dealer's or the brand's own: with which token they are read, when they are not
//! read, and what a refusal means.
//!
//! Deliberately absent: what to do about an [`Obstacle`]. None of these calls opens or closes a circuit
//! breaker: the breakers of a corp are for the conversions of its customers.

use super::Context;
use super::breaker::{Breaker, Scope};
use super::directory::DirectoryError;
use super::failure::failure_reason;
use super::optional_calls::OptionalCall;
use crate::domain::ids::{AppName, ChatId, CorpId, UserId};
use crate::store::StoreError;
use crate::wecom::{Api, CallError, ChatMembers, CustomerPage, TokenOf, is_call_forbidden, is_dealer_gone};

/// A corp whose lists are read.
pub(super) struct CorpLists {
    pub(super) context: Context,
    pub(super) app: AppName,
    pub(super) corp_id: CorpId,
}

/// Why a list could not be read.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// WeCom does not allow the app this call at the corp.
    Forbidden,
    /// A circuit breaker is open.
    HeldBack(Breaker),
    /// WeCom does not list the corp as sharing the app, or no longer.
    NotShared,
    /// The call failed.
    Call(CallError),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for Obstacle {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl CorpLists {
    /// The members who may have customers, in the order of their ids.
    pub(super) async fn members(&self) -> Result<Vec<UserId>, Obstacle> {
        let token = self.token(None).await?;
        let answer = self.context.platform.members(&self.app, &token).await;
        let mut members = answer.map_err(|error| self.obstacle(None, error))?;
        members.sort();
        members.dedup();
        Ok(members)
    }

    /// A page of the customers of some members.
    pub(super) async fn customers_of(
        &self,
        members: &[UserId],
        cursor: &str,
    ) -> Result<CustomerPage, Obstacle> {
        let token = self.token(None).await?;
        let answer = self.context.platform.customers_of(&self.app, &token, members, cursor).await;
        answer.map_err(|error| self.obstacle(None, error))
    }

    /// A page of all customers.
    pub(super) async fn contacts(&self, cursor: &str) -> Result<CustomerPage, Obstacle> {
        let call = Some(OptionalCall::ContactList);
        let token = self.token(call).await?;
        let answer = self.context.platform.contacts(&self.app, &token, cursor).await;
        answer.map_err(|error| self.obstacle(call, error))
    }

    /// A page of the customer groups, in the order of their ids, and the cursor of the next one.
    pub(super) async fn chats(&self, cursor: &str) -> Result<(Vec<ChatId>, String), Obstacle> {
        let call = Some(OptionalCall::GroupChat);
        let token = self.token(call).await?;
        let answer = self.context.platform.chats(&self.app, &token, cursor).await;
        let (mut chats, next_cursor) = answer.map_err(|error| self.obstacle(call, error))?;
        chats.sort();
        chats.dedup();
        Ok((chats, next_cursor))
    }

    /// The customers in a group.
    pub(super) async fn chat(&self, chat_id: &ChatId) -> Result<ChatMembers, Obstacle> {
        let call = Some(OptionalCall::GroupChat);
        let token = self.token(call).await?;
        let answer = self.context.platform.chat(&self.app, &token, chat_id).await;
        answer.map_err(|error| self.obstacle(call, error))
    }

    /// The name of the corp, for people.
    pub(super) fn shown(&self) -> String {
        self.context.dealer_names.shown(&self.app, &self.corp_id)
    }

    /// The token for a call that is made now.
    async fn token(&self, call: Option<OptionalCall>) -> Result<TokenOf, Obstacle> {
        let Self { context, app, corp_id } = self;
        let rules = context.apps.get(app).ok_or(Obstacle::NotShared)?;
        if call.is_some_and(|call| context.optional_calls.is_forbidden(app, corp_id, call)) {
            return Err(Obstacle::Forbidden);
        }
        let now = context.now();
        // A call limit is one API's, and the limiter knows it.
        let open =
            |scope: Scope| context.breakers.open(&[&scope], now).filter(|breaker| !breaker.is_pacing());
        let breaker =
            open(Scope::App(app.clone())).or_else(|| open(Scope::Corp(app.clone(), corp_id.clone())));
        if let Some(breaker) = breaker {
            return Err(Obstacle::HeldBack(breaker));
        }
        if rules.corp_id.same_corp(corp_id.as_str()) {
            return Ok(TokenOf::Upstream);
        }
        // One that has left is not asked about again: WeCom will list it.
        let known = context.store.dealer(app, corp_id).await.map_err(Obstacle::Store)?;
        if known.is_some_and(|dealer| dealer.left_at.is_some()) {
            return Err(Obstacle::NotShared);
        }
        match context.directory.find(app, corp_id).await {
            Ok(Some(dealer)) => Ok(TokenOf::Dealer { corp_id: dealer.corp_id, agent_id: dealer.agent_id }),
            Ok(None) => Err(Obstacle::NotShared),
            Err(DirectoryError::Call(error)) => Err(Obstacle::Call(error)),
            Err(DirectoryError::Store(error)) => Err(Obstacle::Store(error)),
        }
    }

    /// What the error of a call means. An optional call that is forbidden is remembered.
    fn obstacle(&self, call: Option<OptionalCall>, error: CallError) -> Obstacle {
        let is_for_token =
            matches!(&error, CallError::Refused { api: Api::GetToken | Api::CorpGetToken, .. });
        match (error.errcode(), call) {
            (Some(errcode), _) if is_dealer_gone(errcode) => Obstacle::NotShared,
            (Some(errcode), Some(call)) if !is_for_token && is_call_forbidden(errcode) => {
                self.context.optional_calls.forbid(&self.app, &self.corp_id, call);
                let (corp, reason) = (self.shown(), failure_reason(&error).text);
                tracing::info!(app = %self.app, corp, errcode, reason,
                    "WeCom does not allow an optional call at this corp; it is left out for a day");
                Obstacle::Forbidden
            }
            (Some(_) | None, _) => Obstacle::Call(error),
        }
    }
}
