//! How far WeCom has verified each dealer (document 95820): the conversions do not work for the customers of
//! one that is not verified.
//!
//! The calls are optional ([`OptionalCall::Chains`]): where the app may not make them, or they fail, nothing
//! else waits for them. They are few at a time, so that those for many dealers are spread over time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::breaker::Scope;
use super::super::directory::DirectoryError;
use super::super::failure::concerns_whole_app;
use super::super::optional_calls::OptionalCall;
use super::super::{Context, overdue};
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Moment;
use crate::wecom::{CallError, Class, is_call_forbidden};

/// How often WeCom is asked about a dealer, and for the chains.
const ASK_EVERY: Duration = Duration::from_hours(24);
/// How often WeCom is asked about a dealer that is not verified.
const ASK_UNVERIFIED_EVERY: Duration = Duration::from_hours(1);
/// The time from one round of calls to the next.
const ROUND_EVERY: Duration = Duration::from_mins(1);
/// The number of calls in a round after which no further dealer is asked about.
const ROUND_CALLS: usize = 20;
/// The time until the next round after a failure.
const RETRY_AFTER: Duration = Duration::from_mins(10);

/// What was asked about the dealers of one app.
#[derive(Default)]
pub(super) struct Qualifications {
    /// The chains, and when they were read.
    chains: Vec<String>,
    chains_read_at: Option<Moment>,
    /// When WeCom was last asked about each dealer.
    asked: BTreeMap<CorpId, Moment>,
    /// When the last round of calls ended, and the time from then to the next.
    round_at: Option<Moment>,
    wait: Duration,
}

impl Qualifications {
    /// Asks about some of the dealers for which that is due. Returns those that are verified now and were not
    /// before.
    pub(super) async fn refresh(&mut self, context: &Context, app: &AppName, brand: &CorpId) -> Vec<CorpId> {
        let mut verified = Vec::new();
        let scopes = [Scope::App(app.clone()), Scope::Dealers(app.clone())];
        if !overdue(self.round_at, self.wait, context.clock.moment())
            || context.optional_calls.is_forbidden(app, brand, OptionalCall::Chains)
            || context.breakers.open(&scopes.each_ref(), context.now()).is_some()
        {
            return verified;
        }
        self.wait = match self.round(context, app, &mut verified).await {
            Ok(()) => ROUND_EVERY,
            Err(DirectoryError::Call(error)) if error.errcode().is_some_and(is_call_forbidden) => {
                tracing::info!(%app, errcode = error.errcode(),
                    "the app may not read the chains (上下游): it is not known whether dealers are verified; \
                     the next try is in a day");
                context.optional_calls.forbid(app, brand, OptionalCall::Chains);
                Duration::ZERO
            }
            Err(error) => {
                let error = error.to_string();
                tracing::info!(%app, error,
                    "whether dealers are verified could not be read; the next try is in ten minutes");
                RETRY_AFTER
            }
        };
        self.round_at = Some(context.clock.moment());
        verified
    }

    async fn round(
        &mut self,
        context: &Context,
        app: &AppName,
        verified: &mut Vec<CorpId>,
    ) -> Result<(), DirectoryError> {
        let mut dealers = context.store.dealers(app).await?;
        let now = context.clock.moment();
        dealers.retain(|dealer| dealer.left_at.is_none() && self.is_due(dealer, now));
        if dealers.is_empty() {
            return Ok(());
        }
        if overdue(self.chains_read_at, ASK_EVERY, now) {
            self.chains = context.platform.chains(app).await?;
            self.chains_read_at = Some(context.clock.moment());
        }
        dealers.sort_by_key(|dealer| dealer.qualification.is_some());
        let mut calls = 0;
        for dealer in dealers {
            if calls >= ROUND_CALLS {
                break;
            }
            let qualification = self.ask(context, app, &dealer.corp_id, &mut calls).await?;
            self.asked.insert(dealer.corp_id.clone(), context.clock.moment());
            let Some(qualification) = qualification.filter(|now| dealer.qualification != Some(*now)) else {
                continue;
            };
            context.store.set_qualification(app, &dealer.corp_id, qualification).await?;
            let shown = context.dealer_names.shown(app, &dealer.corp_id);
            if qualification == Qualification::Unverified {
                tracing::warn!(%app, dealer = shown,
                    "WeCom has not verified this dealer and does not convert its customers: have its \
                     administrator complete 企业验证 or 企业认证 in the admin console");
            } else if dealer.qualification == Some(Qualification::Unverified) {
                tracing::info!(%app, dealer = shown, "WeCom has verified this dealer");
                verified.push(dealer.corp_id);
            }
        }
        Ok(())
    }

    fn is_due(&self, dealer: &Dealer, now: Moment) -> bool {
        let is_unverified = dealer.qualification == Some(Qualification::Unverified);
        let every = if is_unverified { ASK_UNVERIFIED_EVERY } else { ASK_EVERY };
        overdue(self.asked.get(&dealer.corp_id).copied(), every, now)
    }

    /// Asks about a dealer in each chain until one knows it.
    async fn ask(
        &self,
        context: &Context,
        app: &AppName,
        corp_id: &CorpId,
        calls: &mut usize,
    ) -> Result<Option<Qualification>, CallError> {
        for chain_id in &self.chains {
            *calls += 1;
            match context.platform.qualification(app, chain_id, corp_id).await {
                Ok(Some(qualification)) => return Ok(Some(qualification)),
                Ok(None) => {}
                Err(error) if concerns_dealer(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Whether WeCom refused this dealer in this chain, and may well answer about another.
fn concerns_dealer(error: &CallError) -> bool {
    let CallError::Refused { errcode, .. } = error else { return false };
    match error.class() {
        Class::Item | Class::Invisible | Class::Configuration | Class::Unknown => {
            !is_call_forbidden(*errcode) && !concerns_whole_app(error)
        }
        Class::Transient | Class::Token | Class::Rate => false,
    }
}
