//! The calls of suites: when a suite can call WeCom, and what a failure says about its other calls.
//!
//! Deliberately absent: what a failure means for the auth code or corp that the call was about.

use std::sync::Arc;

use super::super::Context;
use super::super::breaker::Scope;
use super::super::failure::failure_reason;
use super::super::suites::SuiteView;
use crate::domain::backoff::Backoff;
use crate::domain::ids::AppName;
use crate::wecom::{Api, CallError, Class, INVALID_TICKET, SuitePlatform, Unavailable};

/// What calls of suites share.
pub(super) struct SuiteCalls {
    pub(super) context: Context,
    pub(super) platform: Arc<dyn SuitePlatform>,
}

impl SuiteCalls {
    pub(super) fn new(context: Context, platform: Arc<dyn SuitePlatform>) -> Self {
        Self { context, platform }
    }

    /// Whether the suite has an access token, or a ticket to obtain one with; it waits for the next ticket
    /// otherwise. Whether a ticket is too old is for WeCom to say: our clock may have been set since.
    pub(super) fn can_call(&self, suite: &AppName, view: &SuiteView) -> bool {
        let ticket = view.ticket.as_ref().and_then(|ticket| ticket.value.as_ref());
        ticket.is_some_and(|ticket| !self.platform.has_refused_ticket(suite, ticket))
            || self.platform.has_suite_token(suite)
    }

    /// Whether a call failed for want of a valid ticket.
    pub(super) const fn needs_ticket(error: &CallError) -> bool {
        matches!(
            error,
            CallError::Refused { api: Api::GetSuiteToken, errcode: INVALID_TICKET, .. }
                | CallError::NotAuthorized { why: Unavailable::NoTicket { .. }, .. }
        )
    }

    /// Whether the suite's calls are held back because they fail.
    pub(super) fn is_held_back(&self, suite: &AppName) -> bool {
        self.context.breakers.open(&[&Scope::Suite(suite.clone())], self.context.now()).is_some()
    }

    /// Takes note of what the result of a call says about all calls of the suite.
    pub(super) fn note<T>(&self, suite: &AppName, result: &Result<T, CallError>) {
        let (breakers, scope) = (&self.context.breakers, Scope::Suite(suite.clone()));
        match result {
            Err(CallError::Refused { api: Api::GetSuiteToken, errcode: INVALID_TICKET, .. }) => {
                tracing::warn!(%suite, "WeCom refused the suite's ticket; the suite waits for the next one");
            }
            Err(error) => match suite_backoff(error) {
                Some(backoff) => {
                    breakers.failed(&scope, failure_reason(error), backoff, self.context.now());
                }
                // An answer to a call with a valid access token. One of `get_suite_token`, such as -1, does not
                // say whether the suite can call.
                None if !matches!(error, CallError::Refused { api: Api::GetSuiteToken, .. }) => {
                    if matches!(error, CallError::Refused { .. }) {
                        breakers.succeeded(&scope);
                    }
                }
                None => {}
            },
            Ok(_) => breakers.succeeded(&scope),
        }
    }
}

/// When the suite is tried again after a refusal of all its calls, which lasts until an operator corrects a
/// setting; `None` for any other error.
///
/// A secret or id of the suite that is wrong is tried slowly: WeCom bans an IP address for an hour after
/// repeated wrong secrets (document 90313), and another one takes a restart. An IP address can be trusted
/// while the service runs, and the auth codes that wait for it live for ten minutes only.
fn suite_backoff(error: &CallError) -> Option<Backoff> {
    let CallError::Refused { api, errcode, .. } = error else { return None };
    let is_temporary = matches!(error.class(), Class::Transient | Class::Token | Class::Rate);
    match (api, errcode) {
        (_, 60_020 | 301_042) => Some(Backoff::AUTH_CODE),
        (Api::GetSuiteToken, _) if !is_temporary => Some(Backoff::CONFIGURATION),
        _ => None,
    }
}
