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
    /// The dealers read from the store so far.
    dealers: HashMap<(AppName, CorpId), KnownDealer>,
}

/// Where a work item goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) lane: LaneKey,
    pub(super) held_back: Option<HeldBack>,
}

/// Until when a circuit breaker holds back calls, and why.
pub(super) type HeldBack = (Timestamp, FailureReason);

/// What decides about a dealer's lane.
#[derive(Debug, Clone, Copy, Default)]
struct KnownDealer {
    token: Option<TokenOwner>,
    has_left: bool,
}

impl<'a> Router<'a> {
    pub(super) fn new(context: &'a Context, now: Timestamp) -> Self {
        Self { context, now, dealers: HashMap::new() }
    }

    /// The lane of a work item, or its outcome if it needs no call.
    pub(super) async fn destination(&mut self, work: &Work) -> Result<Destination, Outcome> {
        let (context, now) = (self.context, self.now);
        let is_removal = work.event.as_ref().is_some_and(|event| !event.event.contact.change.is_add());
        if is_removal || work.known.as_ref().is_some_and(Contact::is_identified) {
            return Err(Outcome::Applied);
        }
        let ContactKey { app, corp_id, .. } = &work.contact;
        let Some(rules) = context.apps.get(app) else {
            let text = format!("app {app} is not in the configuration; add it again");
            return Err(defer(now.plus_ms(5 * MINUTE_MS), FailureReason { errcode: None, text }));
        };
        let dealer = self.dealer(app, corp_id).await;
        let with_brand_token = match rules.conversion_token {
            ConversionToken::Upstream => true,
            ConversionToken::Downstream => false,
            ConversionToken::Auto => dealer.token == Some(TokenOwner::Upstream),
        };
        // An app that serves no corp makes no call: which token does not matter.
        let brand = rules.corp_id.as_ref().filter(|_| with_brand_token);
        let owner = brand.unwrap_or(corp_id);
        // An event is about somebody whom a member has added.
        let known = work.known.as_ref().filter(|_| work.event.is_none());
        let lane = LaneKey {
            app: app.clone(),
            owner: owner.clone(),
            chat_id: known.and_then(Contact::lookup_chat).cloned(),
            class: LaneClass::of(work),
        };
        if let Some(breaker) = open_breaker(context, app, [corp_id, owner], now) {
            return Ok(Destination { lane, held_back: Some((breaker.probe_at, breaker.reason)) });
        }
        if dealer.has_left {
            let (scope, reason) = (Scope::Corp(app.clone(), corp_id.clone()), has_left());
            let probe_at = context.breakers.failed(&scope, reason.clone(), Backoff::CONFIGURATION, now);
            return Ok(Destination { lane, held_back: Some((probe_at, reason)) });
        }
        Ok(Destination { lane, held_back: None })
    }

    /// The dealer as the store knows it. If it cannot be read now, the call of the lane reads it again.
    async fn dealer(&mut self, app: &AppName, corp_id: &CorpId) -> KnownDealer {
        let key = (app.clone(), corp_id.clone());
        if let Some(dealer) = self.dealers.get(&key) {
            return *dealer;
        }
        let dealer = match self.context.store.dealer(app, corp_id).await {
            Ok(Some(dealer)) => {
                KnownDealer { token: dealer.token, has_left: dealer.state() == DealerState::Left }
            }
            Ok(None) | Err(_) => KnownDealer::default(),
        };
        self.dealers.insert(key, dealer);
        dealer
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
