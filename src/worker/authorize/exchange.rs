//! Exchanges auth codes for permanent codes. A code can be used once, within ten minutes: nothing but the
//! suite's own ticket and access token delays an exchange.
//!
//! A try is recorded before the call, so that after a crash it is known that the code may be used up. A
//! permanent code that WeCom gave is stored, again and again if need be: it cannot be obtained a second time.
//!
//! Deliberately absent: how often a code is tried and what its failures mean (see
//! [`Exchange`](crate::domain::suite::Exchange)).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::failure::failure_reason;
use super::super::suites::SuiteView;
use super::super::{Context, overdue};
use super::report::exchange_ended;
use super::suite_calls::SuiteCalls;
use crate::at_rest::{Nonces, Purpose, Sealer};
use crate::domain::authorization::Granted;
use crate::domain::ids::AppName;
use crate::domain::suite::{CodeId, CodeKind, Exchange, ExchangeEnd, ExchangeFailure, ExchangeNext};
use crate::domain::time::Moment;
use crate::store::StoreError;
use crate::telemetry::metrics::AuthCodeOutcome;
use crate::wecom::{Api, CallError, Class, PermanentCode, Transport};

/// Exchanges in flight at once.
const AT_ONCE: usize = 8;
/// The wait before a permanent code that the store did not take is stored again.
const STORE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long the time of a code has to have passed before it ends: after the clock was set, the stored waits
/// follow seconds later.
const OVERDUE_FOR: Duration = Duration::from_secs(15);

/// The exchanges of all suites.
pub(super) struct Exchanges {
    calls: Arc<SuiteCalls>,
    nonces: Nonces,
    in_flight: Mutex<BTreeSet<(AppName, CodeId)>>,
    /// Since when the time of a code has passed.
    overdue: Mutex<HashMap<(AppName, CodeId), Moment>>,
}

impl Exchanges {
    pub(super) fn new(calls: Arc<SuiteCalls>, nonces: Nonces) -> Self {
        Self { calls, nonces, in_flight: Mutex::default(), overdue: Mutex::default() }
    }

    /// Starts the exchanges of a suite that are due, and ends those that have failed.
    pub(super) async fn start(self: &Arc<Self>, suite: &AppName, view: &SuiteView) {
        let can_call = self.calls.can_call(suite, view);
        let mut exchanges: Vec<_> =
            view.exchanges.iter().filter(|(_, exchange)| exchange.end.is_none()).collect();
        exchanges.sort_by_key(|(_, exchange)| exchange.deadline);
        for (id, exchange) in exchanges {
            let (key, now) = ((suite.clone(), *id), self.calls.context.now());
            if self.in_flight().contains(&key) {
                continue;
            }
            if now < exchange.deadline {
                lock(&self.overdue).remove(&key);
            }
            // What is due here may not be in the store: the clock may have been set since the suites were
            // loaded. The store decides.
            match exchange.next(now) {
                ExchangeNext::Wait(_) => {}
                ExchangeNext::Ask if can_call => {
                    if !self.calls.is_held_back(suite) && self.in_flight().len() < AT_ONCE {
                        self.in_flight().insert(key);
                        self.spawn(suite, *id);
                    }
                }
                ExchangeNext::Ask if now < exchange.deadline => {}
                ExchangeNext::Ask | ExchangeNext::End(_) => {
                    let moment = self.calls.context.clock.moment();
                    let since = *lock(&self.overdue).entry(key.clone()).or_insert(moment);
                    if overdue(Some(since), OVERDUE_FOR, moment) {
                        lock(&self.overdue).remove(&key);
                        self.give_up(suite, id).await;
                    }
                }
            }
        }
    }

    /// Ends an exchange whose time has passed.
    async fn give_up(&self, suite: &AppName, id: &CodeId) {
        let Context { store, store_failures, wake, .. } = &self.calls.context;
        match store.begin_exchange(suite, id, false, self.calls.context.now()).await {
            Ok(Some((exchange, ExchangeNext::End(end)))) => {
                self.ended(suite, exchange.kind, end, None);
                wake.suites_changed();
            }
            Ok(Some((_, ExchangeNext::Ask | ExchangeNext::Wait(_))) | None) => {}
            Err(error) => store_failures.warn("the end of an exchange could not be stored", &error),
        }
    }

    fn spawn(self: &Arc<Self>, suite: &AppName, id: CodeId) {
        let (this, suite) = (self.clone(), suite.clone());
        self.calls.context.spawn_call(async move {
            let exchanged = this.exchange(&suite, &id).await;
            this.in_flight().remove(&(suite, id));
            let Context { wake, store_failures, .. } = &this.calls.context;
            match exchanged {
                Ok(true) => wake.suites_changed(),
                // What the worker knows is older than the store; it is loaded again in time.
                Ok(false) => {}
                // The next activation, within a second, tries again.
                Err(error) => {
                    let message = "what became of an auth code could not be stored; its exchange goes on";
                    store_failures.warn(message, &error);
                }
            }
        });
    }

    /// Exchanges a code, if that is due in the store. Returns whether it was.
    async fn exchange(&self, suite: &AppName, id: &CodeId) -> Result<bool, StoreError> {
        let Context { store, apps, jitter, .. } = &self.calls.context;
        let Some(settings) = apps.suites().get(suite) else { return Ok(false) };
        let exchange = match store.begin_exchange(suite, id, true, self.calls.context.now()).await? {
            Some((exchange, ExchangeNext::Ask)) => exchange,
            Some((exchange, ExchangeNext::End(end))) => {
                self.ended(suite, exchange.kind, end, None);
                return Ok(true);
            }
            Some((_, ExchangeNext::Wait(_))) | None => return Ok(false),
        };
        let Ok(code) = settings.sealer.open(Purpose::AuthCode, &id.to_string(), &exchange.code) else {
            let end = ExchangeEnd::Unreadable { at: self.calls.context.now() };
            self.end(suite, id, exchange.kind, end).await;
            return Ok(true);
        };
        let answer = self.calls.platform.permanent_code(suite, &code).await;
        self.calls.note(suite, &answer);
        match answer {
            Ok(answer) => {
                self.keep(suite, id, self.granted(&exchange, answer, &settings.sealer)).await;
                Ok(true)
            }
            Err(error) => {
                let (failure, jitter) = (failure(&error), jitter.of(id, exchange.asked));
                let now = self.calls.context.now();
                let next = store.fail_exchange(suite, id, failure, jitter, now).await?;
                let reason = failure_reason(&error).text;
                match next {
                    Some(ExchangeNext::End(end)) => self.ended(suite, exchange.kind, end, Some(&reason)),
                    Some(ExchangeNext::Ask | ExchangeNext::Wait(_)) => {
                        tracing::info!(%suite, errcode = error.errcode(), reason,
                            "an auth code could not be exchanged yet");
                    }
                    None => {}
                }
                Ok(true)
            }
        }
    }

    fn granted(&self, exchange: &Exchange, answer: PermanentCode, sealer: &Sealer) -> Granted {
        let PermanentCode { code, corp_id, corp_name } = answer;
        let code = sealer.seal(Purpose::PermanentCode, corp_id.as_str(), &code, (self.nonces)());
        Granted { corp_id, name: corp_name, code, sent_at: exchange.sent_at }
    }

    /// Stores a permanent code, until that succeeds or the store has failed for good.
    async fn keep(&self, suite: &AppName, id: &CodeId, granted: Granted) {
        let Context { store, store_failures, metrics, .. } = &self.calls.context;
        let mut unstored = Unstored { suite, granted: &granted, is_stored: false };
        loop {
            let now = self.calls.context.now();
            match store.grant(suite, id, granted.clone(), now).await {
                Ok(authorization) => {
                    unstored.is_stored = true;
                    metrics.suites.auth_code(suite, AuthCodeOutcome::Exchanged);
                    if authorization.codes > 1 {
                        tracing::info!(%suite, corp_id = %authorization.corp_id, corp = authorization.name,
                            "the permanent code of a corp has changed");
                    }
                    return;
                }
                Err(StoreError::Failed(_) | StoreError::Closed) => return,
                Err(error) => {
                    let message =
                        "a permanent code could not be stored; it is kept in memory and stored again";
                    store_failures.warn(message, &error);
                }
            }
            tokio::time::sleep(STORE_AGAIN_AFTER).await;
        }
    }

    async fn end(&self, suite: &AppName, id: &CodeId, kind: CodeKind, end: ExchangeEnd) {
        let Context { store, store_failures, wake, .. } = &self.calls.context;
        match store.end_exchange(suite, id, end).await {
            Ok(()) => {
                self.ended(suite, kind, end, None);
                wake.suites_changed();
            }
            Err(error) => store_failures.warn("the end of an exchange could not be stored", &error),
        }
    }

    /// Counts and logs the end of an exchange that was stored.
    fn ended(&self, suite: &AppName, kind: CodeKind, end: ExchangeEnd, reason: Option<&str>) {
        self.calls.context.metrics.suites.auth_code(suite, end.into());
        exchange_ended(suite, kind, end, reason);
    }

    fn in_flight(&self) -> MutexGuard<'_, BTreeSet<(AppName, CodeId)>> {
        lock(&self.in_flight)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A permanent code that is to be stored. If the service stops before that, or the store has failed for good,
/// the log says which corp has to authorise again.
struct Unstored<'a> {
    suite: &'a AppName,
    granted: &'a Granted,
    is_stored: bool,
}

impl Drop for Unstored<'_> {
    fn drop(&mut self) {
        if !self.is_stored {
            let (suite, Granted { corp_id, name, .. }) = (self.suite, self.granted);
            tracing::error!(%suite, %corp_id, corp = name,
                "a permanent code could not be stored and may be lost; if the corp is not listed after a \
                 restart, have it authorise again");
        }
    }
}

/// What a failed call means for the auth code.
fn failure(error: &CallError) -> ExchangeFailure {
    match error {
        CallError::Refused { api: Api::GetPermanentCode, errcode, .. } => {
            ExchangeFailure::Refused { errcode: *errcode, is_permanent: error.class() == Class::Item }
        }
        CallError::Transport { api: Api::GetPermanentCode, cause }
            if !matches!(cause, Transport::Connect | Transport::Unencrypted) =>
        {
            ExchangeFailure::NoAnswer
        }
        // Most likely the call for the suite's access token.
        CallError::Refused { .. }
        | CallError::Transport { .. }
        | CallError::NotAuthorized { .. }
        | CallError::NoPermit { .. }
        | CallError::Ledger { .. } => ExchangeFailure::NotSent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::CorpId;
    use crate::domain::sealed::Sealed;
    use crate::domain::time::Timestamp;
    use crate::telemetry::captured_log::CapturedLog;

    #[test]
    fn the_log_names_the_corp_whose_permanent_code_was_not_stored_when_the_service_stopped() {
        let log = CapturedLog::begin();
        let suite = AppName::new("agency").unwrap();
        let granted = |corp_id: &str| Granted {
            corp_id: CorpId::new(corp_id).unwrap(),
            name: "甲品牌".to_owned(),
            code: Sealed { key: [0; 8], nonce: [0; 12], text: Vec::new() },
            sent_at: Timestamp::EPOCH,
        };
        for (corp_id, is_stored) in [("wpSTORED", true), ("wpLOST", false)] {
            drop(Unstored { suite: &suite, granted: &granted(corp_id), is_stored });
        }
        let log = log.text();
        assert!(log.contains("wpLOST") && log.contains("甲品牌") && !log.contains("wpSTORED"), "{log}");
    }
}
