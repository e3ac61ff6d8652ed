//! How far WeCom has verified each dealer (document 95820): the conversions do not work for the customers of
//! one that is not verified.
//!
//! The calls are optional: where the app may not make them, or they fail, nothing else waits for them. They
//! are few at a time, so that those for many dealers are spread over time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::breaker::Scope;
use super::super::directory::DirectoryError;
use super::super::failure::concerns_whole_app;
use super::super::{Context, overdue};
use crate::domain::dealer::{Dealer, Qualification};
use crate::domain::ids::{AppName, CorpId};
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
/// How long no call is made after WeCom has said that the app may not.
const FORBIDDEN_FOR: Duration = Duration::from_hours(24);

/// What was asked about the dealers of one app.
#[derive(Default)]
pub(super) struct Qualifications {
    /// The chains, and when they were read.
    chains: Vec<String>,
    chains_read_at: Option<Instant>,
    /// When WeCom was last asked about each dealer.
    asked: BTreeMap<CorpId, Instant>,
    /// When the next round of calls begins.
    next_at: Option<Instant>,
}

impl Qualifications {
    /// Asks about some of the dealers for which that is due. Returns those that are verified now and were not
    /// before.
    pub(super) async fn refresh(&mut self, context: &Context, app: &AppName) -> Vec<CorpId> {
        let mut verified = Vec::new();
        let scopes = [Scope::App(app.clone()), Scope::Dealers(app.clone())];
        let is_held_back = context.breakers.open(&scopes.each_ref(), context.now()).is_some();
        if is_held_back || self.next_at.is_some_and(|at| Instant::now() < at) {
            return verified;
        }
        let wait = match self.round(context, app, &mut verified).await {
            Ok(()) => ROUND_EVERY,
            Err(DirectoryError::Call(error)) if error.errcode().is_some_and(is_call_forbidden) => {
                tracing::info!(%app, errcode = error.errcode(),
                    "the app may not read the chains (上下游): it is not known whether dealers are verified");
                FORBIDDEN_FOR
            }
            Err(error) => {
                let error = error.to_string();
                tracing::info!(%app, error,
                    "whether dealers are verified could not be read; the next try is in ten minutes");
                RETRY_AFTER
            }
        };
        self.next_at = Some(Instant::now() + wait);
        verified
    }

    async fn round(
        &mut self,
        context: &Context,
        app: &AppName,
        verified: &mut Vec<CorpId>,
    ) -> Result<(), DirectoryError> {
        let mut dealers = context.store.dealers(app).await?;
        dealers.retain(|dealer| dealer.left_at.is_none() && self.is_due(dealer));
        if dealers.is_empty() {
            return Ok(());
        }
        if overdue(self.chains_read_at, ASK_EVERY) {
            self.chains = context.platform.chains(app).await?;
            self.chains_read_at = Some(Instant::now());
        }
        dealers.sort_by_key(|dealer| dealer.qualification.is_some());
        let mut calls = 0;
        for dealer in dealers {
            if calls >= ROUND_CALLS {
                break;
            }
            let qualification = self.ask(context, app, &dealer.corp_id, &mut calls).await?;
            self.asked.insert(dealer.corp_id.clone(), Instant::now());
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

    fn is_due(&self, dealer: &Dealer) -> bool {
        let is_unverified = dealer.qualification == Some(Qualification::Unverified);
        let every = if is_unverified { ASK_UNVERIFIED_EVERY } else { ASK_EVERY };
        overdue(self.asked.get(&dealer.corp_id).copied(), every)
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
    let CallError::Refused { api, errcode, .. } = error else { return false };
    match error.class() {
        Class::Item | Class::Invisible | Class::Configuration | Class::Unknown => {
            !is_call_forbidden(*errcode) && !concerns_whole_app(*api, *errcode)
        }
        Class::Transient | Class::Token | Class::Rate => false,
    }
}
