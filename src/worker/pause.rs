//! Who is left alone for now, and why.
//!
//! A failure that is not the fault of one event pauses everything it would hit too. The first success ends the
//! pause; until then each failed probe makes the next wait longer, within bounds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::fan::{FanStep, Lane};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::store::Problem;

/// What is paused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every call for an app.
    App(AppName),
    /// The list of an app's dealers.
    Dealers(AppName),
    /// Conversions for one corp's customers: a dealer's, or the brand's own.
    Corp(AppName, CorpId),
    /// One of the calls made for an app's fans.
    Fans(AppName, FanStep),
    /// The same, for some of them.
    FanLane(AppName, FanStep, Lane),
}

/// Why and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Since the first failure.
    pub since: Timestamp,
    /// Until the next probe.
    pub until: Timestamp,
    /// Failures in a row.
    pub failures: u32,
    /// The last one.
    pub problem: Problem,
}

/// All pauses.
#[derive(Debug, Default)]
pub struct Pauses {
    pauses: Mutex<HashMap<Scope, Pause>>,
    jitter: Jitter,
}

impl Pauses {
    /// No pauses yet; those to come are spread by `jitter`.
    #[must_use]
    pub fn new(jitter: Jitter) -> Self {
        Self { pauses: Mutex::default(), jitter }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Scope, Pause>> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failure. Returns until when the scope is paused.
    pub fn failed(&self, scope: &Scope, problem: Problem, backoff: Backoff, now: Timestamp) -> Timestamp {
        let mut pauses = self.lock();
        let pause = pauses.entry(scope.clone()).or_insert_with(|| Pause {
            since: now,
            until: now,
            failures: 0,
            problem: problem.clone(),
        });
        // Calls that were already under way when the pause began say nothing new.
        if pause.failures > 0 && now < pause.until {
            return pause.until;
        }
        pause.failures += 1;
        let wait_ms = backoff.wait_ms(pause.failures, self.jitter.of(scope, pause.failures));
        pause.until = pause.until.max(now.plus_ms(wait_ms));
        pause.problem = problem;
        let Pause { until, failures, problem, .. } = pause.clone();
        if failures == 1 {
            tracing::warn!(?scope, errcode = problem.errcode, problem = problem.text, %until, "paused");
        }
        until
    }

    /// Pauses until a given instant, without it being a failure: a budget is used up.
    pub fn hold(&self, scope: Scope, problem: Problem, now: Timestamp, until: Timestamp) {
        let mut pauses = self.lock();
        let pause = pauses.entry(scope).or_insert_with(|| Pause {
            since: now,
            until,
            failures: 0,
            problem: problem.clone(),
        });
        pause.until = pause.until.max(until);
        pause.problem = problem;
    }

    /// Notes a success: the pause is over.
    pub fn worked(&self, scope: &Scope) {
        if let Some(pause) = self.lock().remove(scope)
            && pause.failures > 0
        {
            tracing::info!(?scope, failures = pause.failures, "works again");
        }
    }

    /// The pause of the first of these scopes that is paused at `now`.
    #[must_use]
    pub fn of(&self, scopes: &[&Scope], now: Timestamp) -> Option<Pause> {
        let pauses = self.lock();
        scopes.iter().find_map(|scope| pauses.get(scope).filter(|pause| now < pause.until).cloned())
    }

    /// Failures in a row of a scope.
    #[must_use]
    pub fn failures(&self, scope: &Scope) -> u32 {
        self.lock().get(scope).map_or(0, |pause| pause.failures)
    }

    /// All pauses: those that run at `now`, and those whose probe has yet to succeed.
    #[must_use]
    pub fn all(&self, now: Timestamp) -> Vec<(Scope, Pause)> {
        let mut pauses = self.lock();
        pauses.retain(|_, pause| pause.failures > 0 || now < pause.until);
        let mut all: Vec<_> = pauses.iter().map(|(scope, pause)| (scope.clone(), pause.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_with_each_failed_probe_and_ends_with_the_first_success() {
        let pauses = Pauses::default();
        let scope = Scope::App(AppName::new("brand").unwrap());
        let problem = || Problem { errcode: Some(60_020), text: "not trusted".to_owned() };
        let start = Timestamp::from_secs(1_000);
        let first = pauses.failed(&scope, problem(), Backoff::PARKED, start);
        assert!(pauses.of(&[&scope], start).is_some() && pauses.of(&[&scope], first).is_none());
        // Twenty calls under way at once are one failure.
        for _ in 0..20 {
            assert_eq!(pauses.failed(&scope, problem(), Backoff::PARKED, start), first);
        }
        let second = pauses.failed(&scope, problem(), Backoff::PARKED, first);
        assert!(second.millis_since(first) >= 10_000);
        assert_eq!(pauses.all(second)[0].1.failures, 2);
        pauses.worked(&scope);
        assert!(pauses.all(second).is_empty());
    }
}
