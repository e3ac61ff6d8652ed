//! Routing: which lane a work item goes to, whether it can only wait for now, or its outcome if it needs no call.

use std::collections::HashMap;

use super::super::Context;
use super::super::apps::ConversionToken;
use super::super::breaker::{Breaker, Scope};
use super::conversion::has_left;
use super::lane::{LaneClass, LaneKey};
use super::outcome::defer;
use crate::domain::backoff::Backoff;
use crate::domain::contact::Contact;
use crate::domain::dealer::{DealerState, TokenOwner};
use crate::domain::ids::{AppName, ContactKey, CorpId};
use crate::domain::time::{MINUTE_MS, Timestamp};
use crate::store::{FailureReason, Outcome, Work};

/// The routing of the work of one activation.
pub(super) struct Router<'a> {
    context: &'a Context,
    now: Timestamp,
    /// The routes of the dealers so far.
    routes: HashMap<AppName, HashMap<CorpId, Route>>,
}

/// Where a work item goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination<'r> {
    pub(super) lane: LaneKey,
    pub(super) held_back: Option<&'r HeldBack>,
}

/// Until when a circuit breaker holds back calls, and why.
pub(super) type HeldBack = (Timestamp, FailureReason);

/// What the work about all customers of a dealer has in common.
struct Route {
    /// Whose token converts them.
    owner: CorpId,
    held_back: Option<HeldBack>,
}

impl<'a> Router<'a> {
    pub(super) fn new(context: &'a Context, now: Timestamp) -> Self {
        Self { context, now, routes: HashMap::new() }
    }

    /// The lane of a work item, or its outcome if it needs no call.
    pub(super) async fn destination(&mut self, work: &Work) -> Result<Destination<'_>, Outcome> {
        let is_removal = work.event.as_ref().is_some_and(|event| !event.event.contact.change.is_add());
        if is_removal || work.known.as_ref().is_some_and(Contact::is_identified) {
            return Err(Outcome::Applied);
        }
        let ContactKey { app, corp_id, .. } = &work.contact;
        if !self.routes.get(app).is_some_and(|routes| routes.contains_key(corp_id)) {
            let route = self.route(app, corp_id).await?;
            self.routes.entry(app.clone()).or_default().insert(corp_id.clone(), route);
        }
        let Route { owner, held_back } = &self.routes[app][corp_id];
        // An event is about somebody whom a member has added.
        let known = work.known.as_ref().filter(|_| work.event.is_none());
        let lane = LaneKey {
            app: app.clone(),
            owner: owner.clone(),
            chat_id: known.and_then(Contact::lookup_chat).cloned(),
            class: LaneClass::of(work),
        };
        Ok(Destination { lane, held_back: held_back.as_ref() })
    }

    /// The route of a dealer, or the outcome of work about its customers if there is none.
    async fn route(&self, app: &AppName, corp_id: &CorpId) -> Result<Route, Outcome> {
        let Self { context, now, .. } = *self;
        let Some(rules) = context.apps.get(app) else {
            let text = format!("app {app} is not in the configuration; add it again");
            return Err(defer(now.plus_ms(5 * MINUTE_MS), FailureReason { errcode: None, text }));
        };
        // If the dealer cannot be read now, the call of the lane reads it again.
        let dealer = context.store.dealer(app, corp_id).await.ok().flatten();
        let token = dealer.as_ref().and_then(|dealer| dealer.token);
        let with_brand_token = match rules.conversion_token {
            ConversionToken::Upstream => true,
            ConversionToken::Downstream => false,
            ConversionToken::Auto => token == Some(TokenOwner::Upstream),
        };
        // An app that serves no corp makes no call: which token does not matter.
        let brand = rules.corp_id.as_ref().filter(|_| with_brand_token);
        let owner = brand.unwrap_or(corp_id).clone();
        let held_back = if let Some(breaker) = open_breaker(context, app, [corp_id, &owner], now) {
            Some((breaker.probe_at, breaker.reason))
        } else if dealer.is_some_and(|dealer| dealer.state() == DealerState::Left) {
            let (scope, reason) = (Scope::Corp(app.clone(), corp_id.clone()), has_left());
            let probe_at = context.breakers.failed(&scope, reason.clone(), Backoff::CONFIGURATION, now);
            Some((probe_at, reason))
        } else {
            None
        };
        Ok(Route { owner, held_back })
    }
}

/// The open circuit breaker, if any, that holds back conversions of the customers of one corp with the token
/// of another.
pub(super) fn open_breaker(
    context: &Context,
    app: &AppName,
    [customers, owner]: [&CorpId; 2],
    now: Timestamp,
) -> Option<Breaker> {
    let corp = |corp_id: &CorpId| Scope::Corp(app.clone(), corp_id.clone());
    let scopes = [Scope::App(app.clone()), corp(customers), corp(owner)];
    context.breakers.open(&scopes.each_ref(), now)
}
