//! Keeps each app's dealers up to date and watches them.
//!
//! | part | does |
//! | --- | --- |
//! | here | reads the list of dealers; resumes the work of new ones; records activity, errors and silence |
//! | `qualifications` | asks how far WeCom has verified each dealer, where the app may |
//! | `visibility` | repeats lookups at dealers where the app may see other customers than before |
//! | `alarms` | logs WeCom's alarms about the use of an app |
//!
//! The list is read at the start, once a day, and when WeCom reports a change, but then at most once a
//! minute. All intervals are measured on the monotonic clock.
//!
//! Deliberately absent: what a new list means ([`diff`](crate::domain::dealer::diff)), the calls of a dealer,
//! which stop once it has left, and the comparison of its customers with WeCom's lists.

mod alarms;
mod qualifications;
mod visibility;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::breaker::Scope;
use super::directory::{DirectoryError, Refreshed};
use super::failure::{failure_reason, limit_ends_at};
use super::{Activation, AppRules, Context, overdue, overdue_since};
use crate::domain::backoff::Backoff;
use crate::domain::dealer::DealerState;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{Moment, Timestamp};
use crate::store::FailureReason;
use crate::wecom::Class;
use alarms::Alarms;
use qualifications::Qualifications;
use visibility::Visibility;

/// How often the list of dealers is read without a reason.
const READ_EVERY: Duration = Duration::from_hours(24);
/// The shortest time between two readings, so that several changes in a row cause only one.
const READ_APART: Duration = Duration::from_mins(1);
/// The time until a list that lost too many dealers is read again.
const DOUBT_FOR: Duration = Duration::from_secs(10);
/// How often activity is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(5);
/// How often dealers are checked for silence; the first time this long after the start, because callbacks may
/// have been missed until then.
const REVIEW_EVERY: Duration = Duration::from_hours(1);

/// Runs until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let wake = context.wake.clone();
    let mut dealers = Dealers::new(context);
    super::run(&wake.dealers, stop, &mut dealers).await;
    dealers.record_activity().await;
}

struct Dealers {
    context: Context,
    started_at: Instant,
    apps: BTreeMap<AppName, AppDealers>,
    visibility: Visibility,
    alarms: Alarms,
    /// The dealers' breakers opened by failures at the last activation, and how many failures there were.
    failures: BTreeMap<(AppName, CorpId), (Timestamp, u32)>,
    recorded_at: Option<Instant>,
}

/// When each thing was last done for the dealers of one app.
#[derive(Default)]
struct AppDealers {
    read_at: Option<Moment>,
    /// Whether the dealers have changed since, according to WeCom.
    is_changed: bool,
    /// Dealers missing from the list that was read last, which lost too many to be believed.
    doubted: Vec<CorpId>,
    qualifications: Qualifications,
    /// When the dealers were last checked for silence and counted.
    reviewed_at: Option<Instant>,
}

impl Activation for &mut Dealers {
    async fn activate(&mut self) -> Duration {
        self.look().await;
        super::LOOK_EVERY
    }
}

impl Dealers {
    fn new(context: Context) -> Self {
        let apps = context.apps.keys().map(|app| (app.clone(), AppDealers::default())).collect();
        Self {
            context,
            started_at: Instant::now(),
            apps,
            visibility: Visibility::default(),
            alarms: Alarms::default(),
            failures: BTreeMap::new(),
            recorded_at: None,
        }
    }

    /// Does what is due.
    async fn look(&mut self) {
        let context = &self.context;
        for app in context.wake.take_changed() {
            self.apps.entry(app).or_default().is_changed = true;
        }
        let may_fall_silent = self.started_at.elapsed() >= REVIEW_EVERY;
        for (app, dealers) in &mut self.apps {
            let Some(rules) = context.apps.get(app) else { continue };
            dealers.read(context, app).await;
            let verified = dealers.qualifications.refresh(context, app).await;
            if !verified.is_empty() {
                dealers.reviewed_at = None;
                resume(context, app, &verified).await;
            }
            dealers.review(context, app, rules, may_fall_silent).await;
        }
        self.resume_arrived().await;
        self.visibility.look_again(&self.context).await;
        self.alarms.look(&self.context).await;
        self.note_failures();
        if overdue(self.recorded_at, RECORD_EVERY) {
            self.record_activity().await;
        }
    }

    /// Logs the dealers that WeCom newly lists, or lists again, and resumes their work.
    async fn resume_arrived(&mut self) {
        let mut arrived = BTreeMap::<_, Vec<_>>::new();
        for (app, corp_id) in self.context.directory.take_arrived() {
            arrived.entry(app).or_default().push(corp_id);
        }
        for (app, arrived) in arrived {
            let dealers = self.context.dealer_names.all_shown(&app, &arrived);
            tracing::info!(%app, count = arrived.len(), dealers, "WeCom lists new dealers");
            resume(&self.context, &app, &arrived).await;
            self.apps.entry(app).or_default().reviewed_at = None;
        }
    }

    /// Notes the failures that have opened dealers' breakers, or keep them open, since the last activation.
    fn note_failures(&mut self) {
        let (context, now) = (&self.context, self.context.now());
        let mut failures = BTreeMap::new();
        for (scope, breaker) in context.breakers.all(now) {
            let (app, Some(corp_id)) = (scope.app(), scope.corp_id()) else { continue };
            let is_brand =
                context.apps.get(app).is_some_and(|rules| rules.corp_id.same_corp(corp_id.as_str()));
            if is_brand || breaker.is_pacing() {
                continue;
            }
            let (dealer, count) = ((app.clone(), corp_id.clone()), (breaker.since, breaker.failures));
            if self.failures.get(&dealer) != Some(&count) {
                let FailureReason { errcode, text } = breaker.reason;
                context.activity.trouble(app, corp_id, errcode, text, now);
            }
            failures.insert(dealer, count);
        }
        self.failures = failures;
    }

    /// Records the events and errors since the last time.
    async fn record_activity(&mut self) {
        let Context { store, activity, dealer_names, store_failures, .. } = &self.context;
        let (seen, troubles) = activity.take();
        for (app, seen) in seen {
            match store.record_activity(&app, seen.into_iter().collect()).await {
                Ok(back) if back.is_empty() => {}
                Ok(back) => {
                    let dealers = dealer_names.all_shown(&app, &back);
                    tracing::info!(%app, count = back.len(), dealers, "silent dealers send callbacks again");
                    self.apps.entry(app).or_default().reviewed_at = None;
                }
                Err(error) => store_failures.warn("the dealers' activity could not be recorded", &error),
            }
        }
        for (app, troubles) in troubles {
            for (corp_id, trouble) in troubles {
                if let Err(error) = store.set_trouble(&app, &corp_id, trouble).await {
                    store_failures.warn("a dealer's error could not be recorded", &error);
                }
            }
        }
        self.recorded_at = Some(Instant::now());
    }
}

impl AppDealers {
    /// Reads the list of dealers, if that is due.
    async fn read(&mut self, context: &Context, app: &AppName) {
        let every = match (self.doubted.is_empty(), self.is_changed) {
            (false, _) => DOUBT_FOR,
            (true, true) => READ_APART,
            (true, false) => READ_EVERY,
        };
        let (scope, now) = (Scope::Dealers(app.clone()), context.now());
        if !overdue_since(self.read_at, every, context.clock.moment())
            || context.breakers.open(&[&scope], now).is_some()
        {
            return;
        }
        let refreshed = context.directory.refresh(app, &self.doubted).await;
        // The clock may have been set meanwhile.
        let now = context.now();
        match refreshed {
            Ok(refreshed) => {
                context.breakers.succeeded(&scope);
                self.read_at = Some(context.clock.moment());
                self.is_changed = false;
                self.apply(context, app, refreshed);
            }
            Err(DirectoryError::Call(error)) if error.class() == Class::Rate => {
                let until = limit_ends_at(&error, now);
                context.breakers.hold(scope, failure_reason(&error), now, until);
            }
            Err(DirectoryError::Call(error)) => {
                let backoff =
                    if error.class() == Class::Transient { Backoff::CALL } else { Backoff::CONFIGURATION };
                context.breakers.failed(&scope, failure_reason(&error), backoff, now);
            }
            Err(DirectoryError::Store(error)) => {
                let reason = FailureReason { errcode: None, text: error.to_string() };
                context.breakers.failed(&scope, reason, Backoff::CALL, now);
            }
        }
    }

    fn apply(&mut self, context: &Context, app: &AppName, refreshed: Refreshed) {
        let Refreshed { dealers, left, doubtful } = refreshed;
        tracing::info!(%app, dealers, "dealer list refreshed");
        if !left.is_empty() {
            let (count, dealers) = (left.len(), context.dealer_names.all_shown(app, &left));
            tracing::warn!(%app, count, dealers,
                "dealers have left: WeCom no longer lists them, and no calls are made for them; their links \
                 stay. If that is not intended, share the app with them again in 上下游");
        }
        if !doubtful.is_empty() {
            let (count, dealers) = (doubtful.len(), context.dealer_names.all_shown(app, &doubtful));
            tracing::warn!(%app, count, dealers,
                "half of the dealers or more are missing from WeCom's list: it is read again before that is \
                 believed");
        }
        self.doubted = doubtful;
        self.reviewed_at = None;
    }

    /// Counts the dealers for the metrics and looks for those that have fallen silent, if that is due.
    async fn review(&mut self, context: &Context, app: &AppName, rules: &AppRules, may_fall_silent: bool) {
        if !overdue(self.reviewed_at, REVIEW_EVERY) {
            return;
        }
        let rows = match context.store.dealer_rows(app).await {
            Ok(rows) => rows,
            Err(error) => return context.store_failures.warn("the dealers could not be read", &error),
        };
        let now = context.now();
        let (mut fallen_silent, mut silent) = (Vec::new(), 0);
        for row in rows.iter().filter(|row| row.dealer.state() != DealerState::Left) {
            let falls_silent = may_fall_silent && row.activity.falls_silent(rules.silent_days, now);
            silent += usize::from(falls_silent || row.activity.silent_since.is_some());
            if falls_silent {
                match context.store.set_silent(app, &row.dealer.corp_id, now).await {
                    Ok(()) => fallen_silent.push(row.dealer.corp_id.clone()),
                    Err(error) => context.store_failures.warn("a dealer's silence was not recorded", &error),
                }
            }
        }
        if !fallen_silent.is_empty() {
            let (count, dealers) = (fallen_silent.len(), context.dealer_names.all_shown(app, &fallen_silent));
            let days = rules.silent_days;
            tracing::warn!(%app, count, dealers,
                "dealers have fallen silent, no callback for {days} days: check with them that the app is \
                 enabled, may read customers (企业客户权限), and has the members who add customers in its 可见范围");
        }
        let states: Vec<_> = rows.iter().map(|row| row.dealer.state()).collect();
        context.metrics.dealers(app, &states, silent);
        self.reviewed_at = Some(Instant::now());
    }
}

/// Makes the next probe of dealers' breakers due now, the work that waits for it, and the lookups of their
/// customers that were refused: the cause may be gone.
async fn resume(context: &Context, app: &AppName, dealers: &[CorpId]) {
    let Context { store, platform, breakers, wake, store_failures, .. } = context;
    let now = context.now();
    platform.forget_failures(Some(app));
    let concerns = |scope: &Scope| {
        scope.app() == app && scope.corp_id().is_some_and(|corp_id| dealers.contains(corp_id))
    };
    let probes: BTreeSet<_> = breakers.resume(concerns, now).into_iter().filter(|at| now < *at).collect();
    for due_at in probes {
        if let Err(error) = store.bring_forward(due_at, now).await {
            store_failures.warn("resumed work could not be brought forward", &error);
        }
    }
    for corp_id in dealers {
        if let Err(error) = store.look_up_again(app, corp_id, false, now).await {
            store_failures.warn("lookups of a dealer's customers could not be repeated", &error);
        }
    }
    wake.inbox.notify_one();
    wake.reconcile.notify_one();
}

#[cfg(test)]
mod tests;
