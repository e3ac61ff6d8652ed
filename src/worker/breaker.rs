//! Circuit breakers per app, dealer and API.
//!
//! A failure that is not the fault of one item opens the breaker of its scope: calls of that scope are held
//! back, and the work waits in the store. After the wait the next calls are probes. The first success closes
//! the breaker; each failed probe makes the next wait longer, up to the bound of its [`Backoff`].
//!
//! A breaker also holds calls back while a quota or another of WeCom's call limits is used up. That is
//! pacing, not a failure.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dealer_names::DealerNames;
use crate::domain::backoff::{Backoff, Jitter};
use crate::domain::fan::{FanStep, QuotaClass};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::store::FailureReason;

/// The calls that one breaker holds back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Every call of an app.
    App(AppName),
    /// The calls of a suite: the exchange of auth codes, and readings of the apps at corps.
    Suite(AppName),
    /// Reading the list of an app's dealers.
    Dealers(AppName),
    /// Conversions of one corp's customers: a dealer's, or the brand's own.
    Corp(AppName, CorpId),
    /// One of the two calls for an app's fans.
    Fans(AppName, FanStep),
    /// The same, for one quota class only.
    FanClass(AppName, FanStep, QuotaClass),
}

impl Scope {
    /// The name of its kind in `/v1/status` and in metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::App(_) => "app",
            Self::Suite(_) => "suite",
            Self::Dealers(_) => "dealers",
            Self::Corp(..) => "corp",
            Self::Fans(..) => "fans",
            Self::FanClass(_, _, class) => class.into(),
        }
    }

    /// Its app or suite.
    #[must_use]
    pub const fn app(&self) -> &AppName {
        match self {
            Self::App(app)
            | Self::Suite(app)
            | Self::Dealers(app)
            | Self::Corp(app, _)
            | Self::Fans(app, _)
            | Self::FanClass(app, _, _) => app,
        }
    }

    /// The corp whose customers it is about, if it is about one corp.
    #[must_use]
    pub const fn corp_id(&self) -> Option<&CorpId> {
        match self {
            Self::Corp(_, corp_id) => Some(corp_id),
            Self::App(_) | Self::Suite(_) | Self::Dealers(_) | Self::Fans(..) | Self::FanClass(..) => None,
        }
    }

    /// The scope for people: a dealer by its name, with the id behind it.
    fn named(&self, names: &DealerNames) -> String {
        if let Self::Corp(app, corp_id) = self
            && names.of(app, corp_id).is_some()
        {
            return format!("dealer {} of app {app}", names.shown(app, corp_id));
        }
        self.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => write!(f, "app {app}"),
            Self::Suite(suite) => write!(f, "suite {suite}"),
            Self::Dealers(app) => write!(f, "dealer list of app {app}"),
            Self::Corp(app, corp_id) => write!(f, "corp {corp_id} of app {app}"),
            Self::Fans(app, step) => write!(f, "{} of app {app}", <&str>::from(step)),
            Self::FanClass(app, step, class) => {
                write!(f, "{} of app {app}, {}", <&str>::from(step), <&str>::from(class))
            }
        }
    }
}

/// A breaker that is not closed: open until `probe_at`, then waiting for the result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// When it opened.
    pub since: Timestamp,
    /// When calls are let through again.
    pub probe_at: Timestamp,
    /// Consecutive failures; 0 if calls only wait for a call limit.
    pub failures: u32,
    /// Why calls are held back: the last failure, or the call limit that is waited for.
    pub reason: FailureReason,
    /// The end of the last call limit that was waited for.
    limit_ends_at: Option<Timestamp>,
}

impl Breaker {
    /// Whether calls wait for the end of a call limit, and not for a probe after failures.
    #[must_use]
    pub fn is_pacing(&self) -> bool {
        self.failures == 0 || self.limit_ends_at == Some(self.probe_at)
    }
}

/// All breakers of the process.
#[derive(Debug, Default)]
pub struct Breakers {
    scopes: Mutex<HashMap<Scope, Breaker>>,
    /// The probes that were brought forward, and the work that waits for them not yet.
    to_bring_forward: Mutex<BTreeSet<Timestamp>>,
    /// Incremented whenever an operator resumes calls.
    generation: AtomicU64,
    jitter: Jitter,
    dealer_names: Arc<DealerNames>,
}

impl Breakers {
    /// All breakers closed. `jitter` spreads the probes over time; `dealer_names` are for the log.
    #[must_use]
    pub fn new(jitter: Jitter, dealer_names: Arc<DealerNames>) -> Self {
        Self { jitter, dealer_names, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, Breaker>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a failure, which opens the breaker or keeps it open. Returns when calls are let through again.
    pub fn failed(
        &self,
        scope: &Scope,
        reason: FailureReason,
        backoff: Backoff,
        now: Timestamp,
    ) -> Timestamp {
        let mut breakers = self.lock();
        let breaker = breakers.entry(scope.clone()).or_insert_with(|| Breaker {
            since: now,
            probe_at: now,
            failures: 0,
            reason: reason.clone(),
            limit_ends_at: None,
        });
        // A call that was in flight when the breaker opened: the same failure, counted once.
        if breaker.failures > 0 && now < breaker.probe_at {
            return breaker.probe_at;
        }
        if breaker.failures == 0 {
            // Until now it waited for a call limit.
            breaker.since = now;
        }
        breaker.failures += 1;
        breaker.limit_ends_at = None;
        let wait_ms = backoff.wait_ms(breaker.failures, self.jitter.of(scope, breaker.failures));
        breaker.probe_at = breaker.probe_at.max(now.plus_ms(wait_ms));
        breaker.reason = reason;
        let Breaker { probe_at, failures, reason, .. } = breaker.clone();
        if failures == 1 {
            let scope = scope.named(&self.dealer_names);
            let (errcode, reason) = (reason.errcode, reason.text);
            tracing::warn!(scope, errcode, reason, %probe_at, "circuit breaker opened: calls are paused");
        }
        probe_at
    }

    /// Opens the breaker until a given instant because a call limit is used up. This is no failure; after
    /// failures the longer of the two waits counts.
    pub fn hold(&self, scope: Scope, reason: FailureReason, now: Timestamp, until: Timestamp) {
        let mut breakers = self.lock();
        let breaker = breakers.entry(scope).or_insert_with(|| Breaker {
            since: now,
            probe_at: until,
            failures: 0,
            reason: reason.clone(),
            limit_ends_at: None,
        });
        if breaker.failures == 0 && breaker.probe_at <= now {
            // An earlier limit has ended.
            breaker.since = now;
        }
        if until >= breaker.probe_at {
            breaker.probe_at = until;
            breaker.limit_ends_at = Some(until);
            breaker.reason = reason;
        }
    }

    /// Makes a probe of these scopes due now if failures hold them back. Returns how many there were. The
    /// work that waits for their probes is then to be brought forward, from the instants that
    /// [`to_bring_forward`](Self::to_bring_forward) returns. Waits for a call limit go on.
    pub fn resume(&self, concerns: impl Fn(&Scope) -> bool, now: Timestamp) -> usize {
        // First, so that an outcome that was decided on the state before this is recognised as such.
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut resumed = 0;
        for (scope, breaker) in self.lock().iter_mut() {
            if !breaker.is_pacing() && concerns(scope) {
                resumed += 1;
                if now < breaker.probe_at {
                    self.probes().insert(breaker.probe_at);
                    breaker.probe_at = now;
                }
            }
        }
        resumed
    }

    /// Closes all breakers, as at a start.
    pub fn forget(&self) {
        self.lock().clear();
        self.probes().clear();
    }

    /// Ends the waits of fans for a quota, whose limits were changed. Where one is still needed, it begins
    /// again with the next call.
    pub fn quotas_changed(&self, now: Timestamp) {
        for (scope, breaker) in self.lock().iter_mut() {
            if breaker.is_pacing() && matches!(scope, Scope::Fans(..) | Scope::FanClass(..)) {
                breaker.probe_at = breaker.probe_at.min(now);
                breaker.limit_ends_at = None;
            }
        }
    }

    /// The instants until which work waits for a probe that has been brought forward. They remain until
    /// [`brought_forward`](Self::brought_forward) is called with each.
    #[must_use]
    pub fn to_bring_forward(&self) -> Vec<Timestamp> {
        self.probes().iter().copied().collect()
    }

    /// Records that the work that waited until `due_at` is due now.
    pub fn brought_forward(&self, due_at: Timestamp) {
        self.probes().remove(&due_at);
    }

    fn probes(&self) -> MutexGuard<'_, BTreeSet<Timestamp>> {
        self.to_bring_forward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often calls have been resumed. Work that was deferred to a probe while that number changed may have
    /// to be brought forward.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Records a success: closes the breaker.
    pub fn succeeded(&self, scope: &Scope) {
        if let Some(breaker) = self.lock().remove(scope)
            && breaker.failures > 0
        {
            let (scope, failures) = (scope.named(&self.dealer_names), breaker.failures);
            tracing::info!(scope, failures, "circuit breaker closed: calls succeed again");
        }
    }

    /// A breaker of these scopes that is open at `now`: that of the first such scope.
    #[must_use]
    pub fn open(&self, scopes: &[&Scope], now: Timestamp) -> Option<Breaker> {
        let breakers = self.lock();
        scopes.iter().find_map(|scope| breakers.get(scope).filter(|breaker| now < breaker.probe_at).cloned())
    }

    /// A breaker of these scopes that failures have opened, until a call succeeds: also while its probe is due.
    #[must_use]
    pub fn failing(&self, scopes: &[&Scope]) -> Option<Breaker> {
        let breakers = self.lock();
        scopes.iter().find_map(|scope| breakers.get(scope).filter(|breaker| !breaker.is_pacing()).cloned())
    }

    /// Moves every instant by `by_ms`, back if negative, because the clock is moved by as much.
    pub fn shift(&self, by_ms: i64) {
        for Breaker { since, probe_at, limit_ends_at, .. } in self.lock().values_mut() {
            for at in [since, probe_at].into_iter().chain(limit_ends_at) {
                *at = at.plus_ms(by_ms);
            }
        }
        let mut probes = self.probes();
        *probes = probes.iter().map(|at| at.plus_ms(by_ms)).collect();
    }

    /// Consecutive failures of a scope; 0 when its breaker is closed.
    #[must_use]
    pub fn failures(&self, scope: &Scope) -> u32 {
        self.lock().get(scope).map_or(0, |breaker| breaker.failures)
    }

    /// Every breaker that is not closed at `now`, by scope. One that only a used-up call limit had opened
    /// closes by itself.
    #[must_use]
    pub fn all(&self, now: Timestamp) -> Vec<(Scope, Breaker)> {
        // None is removed here: `now` may be from before the clock was set back.
        let breakers = self.lock();
        let open = breakers.iter().filter(|(_, breaker)| breaker.failures > 0 || now < breaker.probe_at);
        let mut all: Vec<_> = open.map(|(scope, breaker)| (scope.clone(), breaker.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::dealer::Dealer;

    #[test]
    fn a_scope_names_the_dealer_with_the_id_behind_it() {
        let (app, corp_id) = (AppName::new("brand").unwrap(), CorpId::new("wpDEALER").unwrap());
        let (scope, names) = (Scope::Corp(app.clone(), corp_id.clone()), DealerNames::default());
        assert_eq!(scope.named(&names), "corp wpDEALER of app brand");
        names.learn(&app, &[Dealer::listed(corp_id, 7, "上海一店".to_owned(), Timestamp::EPOCH)]);
        assert_eq!(scope.named(&names), "dealer 上海一店 (wpDEALER) of app brand");
    }

    #[test]
    fn waits_grow_with_each_failed_probe_and_the_first_success_closes() {
        let breakers = Breakers::default();
        let scope = Scope::App(AppName::new("brand").unwrap());
        let reason = || FailureReason { errcode: Some(60_020), text: "not trusted".to_owned() };
        let start = Timestamp::from_secs(1_000);
        let first = breakers.failed(&scope, reason(), Backoff::CONFIGURATION, start);
        assert!(breakers.open(&[&scope], start).is_some() && breakers.open(&[&scope], first).is_none());
        // Calls in flight when the breaker opened are no further failures.
        for _ in 0..20 {
            assert_eq!(breakers.failed(&scope, reason(), Backoff::CONFIGURATION, start), first);
        }
        let second = breakers.failed(&scope, reason(), Backoff::CONFIGURATION, first);
        assert!(second.millis_since(first) >= 10_000);
        assert_eq!(breakers.all(second)[0].1.failures, 2);
        breakers.succeeded(&scope);
        assert!(breakers.all(second).is_empty());
    }

    #[test]
    fn a_wait_for_a_call_limit_is_pacing_and_does_not_replace_the_reason_of_a_failure() {
        let breakers = Breakers::default();
        let scope = Scope::Fans(AppName::new("brand").unwrap(), FanStep::Mint);
        let limit = || FailureReason { errcode: None, text: "the quota".to_owned() };
        let (start, hour) = (Timestamp::from_secs(1_000), Timestamp::from_secs(4_600));
        breakers.hold(scope.clone(), limit(), start, hour);
        assert!(breakers.open(&[&scope], start).is_some_and(|breaker| breaker.is_pacing()));
        assert_eq!(breakers.failing(&[&scope]), None);
        let refused = FailureReason { errcode: Some(48_002), text: "no permission".to_owned() };
        breakers.failed(&scope, refused.clone(), Backoff::CONFIGURATION, hour);
        breakers.hold(scope.clone(), limit(), hour, hour.plus_ms(1));
        let failing = breakers.failing(&[&scope]).unwrap();
        assert_eq!((failing.since, failing.reason), (hour, refused));
        // The limit is the longer wait: nobody can shorten it.
        breakers.hold(scope.clone(), limit(), hour, failing.probe_at.plus_ms(1));
        assert!(breakers.open(&[&scope], hour).is_some_and(|breaker| breaker.is_pacing()));
        assert_eq!((breakers.resume(|_| true, hour), breakers.to_bring_forward()), (0, Vec::new()));
        assert_eq!((breakers.failures(&scope), breakers.generation()), (1, 1));
        // Unless its own limits are changed.
        breakers.quotas_changed(hour);
        assert_eq!((breakers.open(&[&scope], hour), breakers.failures(&scope)), (None, 1));
    }

    #[test]
    fn a_wait_that_is_moved_along_with_the_clock_stays_as_long_as_it_was() {
        let breakers = Breakers::default();
        let app = || AppName::new("brand").unwrap();
        let (limited, failing) = (Scope::Fans(app(), FanStep::Mint), Scope::App(app()));
        let reason = || FailureReason { errcode: None, text: "the quota".to_owned() };
        let (set_back, now) = (-28_800_000, Timestamp::from_secs(100_000));
        breakers.failed(&failing, reason(), Backoff::CONFIGURATION, now);
        for scope in [&limited, &failing] {
            breakers.hold(scope.clone(), reason(), now, now.plus_ms(3_600_000));
        }
        breakers.shift(set_back);
        // Read by somebody whose time is from before the step.
        assert!(!breakers.all(now).iter().any(|(scope, _)| *scope == limited));
        let now = now.plus_ms(set_back);
        for scope in [&limited, &failing] {
            let moved = breakers.open(&[scope], now).unwrap();
            assert_eq!((moved.since, moved.probe_at), (now, now.plus_ms(3_600_000)));
            assert!(moved.is_pacing(), "it still waits for a call limit");
        }
    }

    #[test]
    fn resuming_ends_the_wait_after_failures_and_no_wait_for_a_call_limit() {
        let breakers = Breakers::default();
        let app = || AppName::new("brand").unwrap();
        let corp = |id: &str| Scope::Corp(app(), CorpId::new(id).unwrap());
        let reason = || FailureReason { errcode: Some(84_074), text: "no permission".to_owned() };
        let (now, hour) = (Timestamp::from_secs(1_000), Timestamp::from_secs(4_600));
        let probes =
            ["wpA", "wpB"].map(|id| breakers.failed(&corp(id), reason(), Backoff::CONFIGURATION, now));
        let quota = Scope::Fans(app(), FanStep::Mint);
        breakers.hold(quota.clone(), reason(), now, hour);
        assert_eq!(breakers.resume(|scope| *scope == corp("wpA"), now), 1);
        assert_eq!(breakers.to_bring_forward(), [probes[0]]);
        let is_open = |scope: &Scope| breakers.open(&[scope], now).is_some();
        assert_eq!([corp("wpA"), corp("wpB"), quota].each_ref().map(is_open), [false, true, true]);
        assert_eq!(breakers.resume(|_| true, now), 2);
        // Until each is known to be done; a repetition does not lose any.
        assert_eq!(breakers.to_bring_forward().len(), 2);
        breakers.shift(1);
        breakers.brought_forward(probes[0].plus_ms(1));
        assert_eq!(breakers.to_bring_forward(), [probes[1].plus_ms(1)]);
        // The next failure waits longer than the first.
        let now = now.plus_ms(1);
        let again = breakers.failed(&corp("wpA"), reason(), Backoff::CONFIGURATION, now);
        assert!(again.millis_since(now) >= 10_000 && breakers.failures(&corp("wpA")) == 2);
    }
}
