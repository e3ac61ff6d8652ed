//! The lists of one corp, a dealer's or the brand's own: with which token they are read, when they are not
//! read, and what a refusal means.
//!
//! Each call takes one of the corp's permits for concurrent calls, for which conversions of live work go
//! first, and for which it waits for a bounded time.
//!
//! Deliberately absent: what to do about an [`Obstacle`]. None of these calls opens or closes a circuit
//! breaker: the breakers of a corp are for the conversions of its customers.

use super::Context;
use super::breaker::{Breaker, Scope};
use super::directory::DirectoryError;
use super::failure::failure_reason;
use super::optional_calls::OptionalCall;
use super::parallelism::{ParallelismPermit, Purpose};
use crate::domain::ids::{AppName, ChatId, CorpId, UserId};
use crate::domain::time::SECOND_MS;
use crate::store::StoreError;
use crate::wecom::{
    Api, CallError, ChatMembers, CustomerPage, TokenOf, is_call_forbidden, is_concurrency, is_dealer_gone,
};

/// How long after [`Obstacle::Busy`] a call may be tried again, in milliseconds.
pub(super) const BUSY_WAIT_MS: i64 = 2 * SECOND_MS;

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
    /// There was no permit: other calls of the corp went first. No call was made: this is no failure.
    Busy,
    /// WeCom does not list the corp as sharing the app.
    NotShared,
    /// WeCom no longer lists the corp: no call is made for it until WeCom lists it again.
    Left,
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

/// A call with its token and permit.
struct ListCall<'a> {
    corp: &'a CorpLists,
    /// If WeCom may forbid it.
    optional: Option<OptionalCall>,
    token: TokenOf,
    permit: ParallelismPermit,
}

impl CorpLists {
    /// The members who may have customers, in the order of their ids.
    pub(super) async fn members(&self) -> Result<Vec<UserId>, Obstacle> {
        let call = self.begin(None).await?;
        let answer = self.context.platform.members(&self.app, &call.token).await;
        let mut members = call.end(answer)?;
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
        let call = self.begin(None).await?;
        let answer = self.context.platform.customers_of(&self.app, &call.token, members, cursor).await;
        call.end(answer)
    }

    /// A page of all customers.
    pub(super) async fn contacts(&self, cursor: &str) -> Result<CustomerPage, Obstacle> {
        let call = self.begin(Some(OptionalCall::ContactList)).await?;
        let answer = self.context.platform.contacts(&self.app, &call.token, cursor).await;
        call.end(answer)
    }

    /// A page of the customer groups, in the order of their ids, and the cursor of the next one.
    pub(super) async fn chats(&self, cursor: &str) -> Result<(Vec<ChatId>, String), Obstacle> {
        let call = self.begin(Some(OptionalCall::GroupChat)).await?;
        let answer = self.context.platform.chats(&self.app, &call.token, cursor).await;
        let (mut chats, next_cursor) = call.end(answer)?;
        chats.sort();
        chats.dedup();
        Ok((chats, next_cursor))
    }

    /// The customers in a group.
    pub(super) async fn chat(&self, chat_id: &ChatId) -> Result<ChatMembers, Obstacle> {
        let call = self.begin(Some(OptionalCall::GroupChat)).await?;
        let answer = self.context.platform.chat(&self.app, &call.token, chat_id).await;
        call.end(answer)
    }

    /// The name of the corp, for people.
    pub(super) fn shown(&self) -> String {
        self.context.dealer_names.shown(&self.app, &self.corp_id)
    }

    /// Begins a call: waits for a permit.
    async fn begin(&self, optional: Option<OptionalCall>) -> Result<ListCall<'_>, Obstacle> {
        self.check(optional)?;
        let permit = self.context.parallelism.acquire(&self.app, &self.corp_id, Purpose::List).await;
        let permit = permit.ok_or(Obstacle::Busy)?;
        // Again: a breaker may have opened meanwhile.
        self.check(optional)?;
        let token = self.token().await?;
        Ok(ListCall { corp: self, optional, token, permit })
    }

    /// Whether a call may be made now, as far as refusals and circuit breakers are concerned.
    fn check(&self, call: Option<OptionalCall>) -> Result<(), Obstacle> {
        let Self { context, app, corp_id } = self;
        // Not for agency-developed apps (document 99434): not even tried.
        let is_agency = || context.apps.get(app).is_some_and(|rules| rules.suite.is_some());
        if call == Some(OptionalCall::ContactList) && is_agency() {
            return Err(Obstacle::Forbidden);
        }
        if call.is_some_and(|call| context.optional_calls.is_forbidden(app, corp_id, call)) {
            return Err(Obstacle::Forbidden);
        }
        let now = context.now();
        // A call limit is one API's, and the limiter knows it.
        let open =
            |scope: Scope| context.breakers.open(&[&scope], now).filter(|breaker| !breaker.is_pacing());
        let breaker =
            open(Scope::App(app.clone())).or_else(|| open(Scope::Corp(app.clone(), corp_id.clone())));
        breaker.map_or(Ok(()), |breaker| Err(Obstacle::HeldBack(breaker)))
    }

    /// The token for a call.
    async fn token(&self) -> Result<TokenOf, Obstacle> {
        let Self { context, app, corp_id } = self;
        let rules = context.apps.get(app).ok_or(Obstacle::NotShared)?;
        if rules.is_brand(corp_id) {
            return Ok(TokenOf::Upstream);
        }
        // One that has left is not asked about again: WeCom will list it.
        let known = context.store.dealer(app, corp_id).await.map_err(Obstacle::Store)?;
        if known.is_some_and(|dealer| dealer.left_at.is_some()) {
            return Err(Obstacle::Left);
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

impl ListCall<'_> {
    /// Ends the call: what its answer means, also for the limit of concurrent calls.
    fn end<T>(self, answer: Result<T, CallError>) -> Result<T, Obstacle> {
        match answer {
            Ok(answer) => {
                self.permit.succeeded();
                Ok(answer)
            }
            Err(error) => {
                if error.errcode().is_some_and(is_concurrency) {
                    // At the lowest limit too, the call is repeated later.
                    let _is_lower = self.permit.refused();
                }
                Err(self.corp.obstacle(self.optional, error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::scripted::{Script, app, dealer};
    use super::super::world::World;
    use super::*;

    /// Permits for live work until there is none.
    fn take_all(world: &World) -> Vec<ParallelismPermit> {
        let live = || world.context.parallelism.try_acquire(&app(), &dealer(), Purpose::Live);
        std::iter::from_fn(live).collect()
    }

    #[tokio::test]
    async fn a_list_is_read_only_with_a_permit_and_after_the_live_work_that_waits_for_one() {
        let world = World::new(Script::new(1, 1)).await;
        let corp = CorpLists { context: world.context.clone(), app: app(), corp_id: dealer() };
        let mut live = take_all(&world);
        let mut reading = Box::pin(corp.members());
        for permits in [4, 1] {
            live.truncate(permits);
            tokio::select! {
                biased;
                _ = &mut reading => panic!("read before live work, which has {permits} permits"),
                () = std::future::ready(()) => {}
            }
        }
        assert_eq!(world.take_calls(), [""; 0]);
        live.extend(world.context.parallelism.try_acquire(&app(), &dealer(), Purpose::Live));
        assert_eq!((live.len(), reading.await.unwrap().len()), (2, 1));
    }

    #[tokio::test]
    async fn a_list_that_waits_in_vain_for_a_permit_is_put_back_without_a_call() {
        let world = World::new(Script::new(1, 1)).await;
        let corp = CorpLists { context: world.context.clone(), app: app(), corp_id: dealer() };
        let _live = take_all(&world);
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        assert!(matches!(corp.members().await, Err(Obstacle::Busy)));
        assert_eq!((began.elapsed().as_secs(), world.take_calls()), (10, Vec::new()));
    }

    #[tokio::test]
    async fn a_list_call_refused_for_too_many_calls_takes_no_permit_from_live_work() {
        let world = World::new(Script::new(1, 1)).await;
        let corp = CorpLists { context: world.context.clone(), app: app(), corp_id: dealer() };
        world.wecom.script().next_refused.push_back(45_033);
        assert!(matches!(corp.contacts("").await, Err(Obstacle::Call(_))));
        let list = || world.context.parallelism.try_acquire(&app(), &dealer(), Purpose::List);
        let lists = || std::iter::from_fn(list).collect::<Vec<_>>().len();
        assert_eq!((lists(), take_all(&world).len()), (1, 4));
        world.advance(Duration::from_secs(10)).await;
        corp.contacts("").await.unwrap();
        assert_eq!(lists(), 2);
    }

    #[tokio::test]
    async fn contact_list_is_not_even_tried_for_an_agency_developed_app() {
        let mut world = World::new(Script::new(1, 1)).await;
        let corp = CorpLists { context: world.context.clone(), app: app(), corp_id: dealer() };
        corp.contacts("").await.unwrap();
        world.change_rules(|rules| rules.suite = Some(AppName::new("agency").unwrap()));
        world.take_calls();
        assert!(matches!(corp.contacts("").await, Err(Obstacle::Forbidden)));
        assert_eq!(corp.members().await.unwrap().len(), 1);
        assert_eq!(world.take_calls(), ["members"]);
    }
}
