//! The calls of suites: when a suite can call WeCom, and what a failure says about its other calls.
//!
//! Deliberately absent: what a failure means for the auth code or corp that the call was about.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};

use super::super::Context;
use super::super::breaker::Scope;
use super::super::failure::failure_reason;
use super::super::suites::SuiteView;
use crate::domain::backoff::Backoff;
use crate::domain::ids::AppName;
use crate::wecom::{Api, CallError, Class, INVALID_TICKET, SuitePlatform};

/// What calls of suites share.
pub(super) struct SuiteCalls {
    pub(super) context: Context,
    pub(super) platform: Arc<dyn SuitePlatform>,
    /// The ticket of each suite that WeCom has refused: calls wait for the next one.
    refused_tickets: Mutex<BTreeMap<AppName, SecretString>>,
}

impl SuiteCalls {
    pub(super) fn new(context: Context, platform: Arc<dyn SuitePlatform>) -> Self {
        Self { context, platform, refused_tickets: Mutex::default() }
    }

    /// The ticket with which the suite can call WeCom; `None` while it has to wait for one.
    pub(super) fn ticket(&self, suite: &AppName, view: &SuiteView) -> Option<SecretString> {
        let ticket = view.valid_ticket(self.context.now())?;
        let refused = self.refused_tickets();
        let is_refused =
            refused.get(suite).is_some_and(|refused| refused.expose_secret() == ticket.expose_secret());
        (!is_refused).then(|| ticket.clone())
    }

    /// Whether the suite's calls are held back because they fail.
    pub(super) fn is_held_back(&self, suite: &AppName) -> bool {
        self.context.breakers.open(&[&Scope::Suite(suite.clone())], self.context.now()).is_some()
    }

    /// Takes note of what the result of a call says about all calls of the suite; `ticket` is the one the
    /// call began with.
    pub(super) fn note<T>(&self, suite: &AppName, ticket: SecretString, result: &Result<T, CallError>) {
        let (breakers, scope) = (&self.context.breakers, Scope::Suite(suite.clone()));
        match result {
            Err(CallError::Refused { api: Api::GetSuiteToken, errcode: INVALID_TICKET, .. }) => {
                tracing::warn!(%suite, "WeCom refused the suite's ticket; the suite waits for the next one");
                self.refused_tickets().insert(suite.clone(), ticket);
            }
            Err(error) if concerns_suite(error) => {
                // Short waits: an auth code can be used for ten minutes only.
                breakers.failed(&scope, failure_reason(error), Backoff::AUTH_CODE, self.context.now());
            }
            // Any other answer was to a call with a valid access token.
            Ok(_) | Err(CallError::Refused { .. }) => breakers.succeeded(&scope),
            Err(
                CallError::NotAuthorized { .. }
                | CallError::Transport { .. }
                | CallError::NoPermit { .. }
                | CallError::Ledger { .. },
            ) => {}
        }
    }

    fn refused_tickets(&self) -> MutexGuard<'_, BTreeMap<AppName, SecretString>> {
        self.refused_tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether all calls of the suite are refused until an operator corrects a setting.
fn concerns_suite(error: &CallError) -> bool {
    let CallError::Refused { api, errcode, .. } = error else { return false };
    let is_temporary = matches!(error.class(), Class::Transient | Class::Token | Class::Rate);
    matches!(api, Api::GetSuiteToken) && !is_temporary || matches!(errcode, 60_020 | 301_042)
}
