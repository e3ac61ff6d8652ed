//! Keeps each app's dealers up to date and watches them.
//!
//! | part | does |
//! | --- | --- |
//! | here | reads the list of dealers; resumes the work of new ones; records activity, errors and silence |
//! | `qualifications` | asks how far WeCom has verified each dealer, where the app may |
//! | `failures` | notes the failures that open dealers' circuit breakers |
//! | `visibility` | repeats lookups at dealers where the app may see other customers than before |
//! | `alarms` | logs WeCom's alarms about the use of an app |
//!
//! The list is read at the start, once a day, and when WeCom reports a change, but then at most once a
//! minute. Each app has a loop of its own, so that slow answers for one app do not delay the others. What is
//! not about one app needs no call to WeCom, and has one loop.
//!
//! Deliberately absent: what a new list means ([`diff`](crate::domain::dealer::diff)), the calls of a dealer,
//! which stop once it has left, and the comparison of its customers with WeCom's lists.

mod alarms;
mod failures;
mod qualifications;
mod visibility;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::breaker::Scope;
use super::directory::{DirectoryError, Refreshed};
use super::failure::{failure_reason, limit_ends_at};
use super::resume::{AGAIN_AFTER, Lookups, Paused, Resumer};
use super::{Activation, Context, overdue};
use crate::domain::backoff::Backoff;
use crate::domain::dealer::DealerState;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Moment;
use crate::store::FailureReason;
use crate::wecom::Class;
use alarms::Alarms;
use failures::Failures;
use qualifications::Qualifications;
use visibility::Visibility;

/// How often the list of dealers is read without a reason.
const READ_EVERY: Duration = Duration::from_hours(24);
/// The shortest time between two readings, so that several changes in a row cause only one.
const READ_APART: Duration = Duration::from_mins(1);
/// How long a list that an agency-developed app may not read is left alone: the brand may confirm a permission.
const UNREAD_FOR: Duration = Duration::from_hours(1);
/// The time until a list that lost too many dealers is read again.
const DOUBT_FOR: Duration = Duration::from_secs(10);
/// How often activity is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(5);
/// How often dealers are checked for silence; the first time this long after the start, because callbacks may
/// have been missed until then.
const REVIEW_EVERY: Duration = Duration::from_hours(1);

/// Runs until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let wake = &context.wake.dealers;
    let of_app = |app: &AppName| super::run(wake, stop.clone(), AppDealers::new(&context, app));
    let apps: Vec<_> = context.apps.names().iter().map(of_app).collect();
    tokio::join!(join_all(apps), super::run(wake, stop.clone(), Watch::new(&context)));
}

/// The loop for what is not about one app.
struct Watch {
    context: Context,
    failures: Failures,
    visibility: Visibility,
    alarms: Alarms,
}

impl Watch {
    fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            failures: Failures::default(),
            visibility: Visibility::default(),
            alarms: Alarms::default(),
        }
    }

    async fn look(&mut self) {
        self.failures.note(&self.context);
        self.visibility.look_again(&self.context).await;
        self.alarms.look(&self.context).await;
    }
}

impl Activation for Watch {
    async fn activate(&mut self) -> Duration {
        self.look().await;
        super::LOOK_EVERY
    }
}

/// The dealers of one app, and when each thing was last done for them.
struct AppDealers {
    context: Context,
    app: AppName,
    started_at: Moment,
    read_at: Option<Moment>,
    /// Whether WeCom's list could not be read then: the dealers are those that have authorised the suite.
    is_unread: bool,
    /// Whether the dealers have changed since, according to WeCom.
    is_changed: bool,
    /// Dealers missing from the list that was read last, which lost too many to be believed.
    doubted: Vec<CorpId>,
    qualifications: Qualifications,
    /// Dealers whose work is to be resumed.
    to_resume: BTreeSet<CorpId>,
    /// When that was last tried, if it failed.
    resumed_at: Option<Moment>,
    recorded_at: Option<Moment>,
    /// When the dealers were last checked for silence and counted.
    reviewed_at: Option<Moment>,
}

impl Activation for AppDealers {
    async fn activate(&mut self) -> Duration {
        self.look().await;
        super::LOOK_EVERY
    }
}

impl AppDealers {
    fn new(context: &Context, app: &AppName) -> Self {
        Self {
            context: context.clone(),
            app: app.clone(),
            started_at: context.clock.moment(),
            read_at: None,
            is_unread: false,
            is_changed: false,
            doubted: Vec::new(),
            qualifications: Qualifications::default(),
            to_resume: BTreeSet::new(),
            resumed_at: None,
            recorded_at: None,
            reviewed_at: None,
        }
    }

    /// Does what is due.
    async fn look(&mut self) {
        self.record_activity().await;
        self.find_unknown().await;
        self.read().await;
        let can_call = self.context.apps.can_call(&self.app);
        if let Some(brand) = self.context.apps.corp_of(&self.app).filter(|_| can_call) {
            let verified = self.qualifications.refresh(&self.context, &self.app, &brand).await;
            self.to_resume.extend(verified);
        }
        self.take_arrived();
        self.resume().await;
        self.review().await;
    }

    fn is_overdue(&self, last: Option<Moment>, every: Duration) -> bool {
        overdue(last, every, self.context.clock.moment())
    }

    /// Records events and errors, if that is due.
    async fn record_activity(&mut self) {
        if !self.is_overdue(self.recorded_at, RECORD_EVERY) {
            return;
        }
        self.recorded_at = Some(self.context.clock.moment());
        let Context { store, activity, dealer_names, store_failures, .. } = &self.context;
        let new = activity.take(Some(&self.app));
        if new.is_empty() {
            return;
        }
        match store.record_activity(new, None).await {
            Ok(back) if back.is_empty() => {}
            Ok(back) => {
                let (app, dealers) = (&self.app, dealer_names.all_shown(&self.app, &back));
                tracing::info!(%app, count = back.len(), dealers, "silent dealers send callbacks again");
                self.reviewed_at = None;
            }
            Err(error) => store_failures.warn("the dealers' activity could not be recorded", &error),
        }
    }

    /// Asks WeCom about the corps of messages that no app serves. What fails is found with the next list.
    async fn find_unknown(&self) {
        let Self { context, app, .. } = self;
        let scope = Scope::Dealers(app.clone());
        for corp_id in context.wake.take_unknown(app) {
            let is_open = context.breakers.open(&[&scope], context.now()).is_some();
            if context.apps.can_call(app)
                && !is_open
                && let Ok(Some(_)) = context.directory.find(app, &corp_id).await
            {
                context.wake.unrouted.notify_one();
            }
        }
    }

    /// Reads the list of dealers, if that is due.
    async fn read(&mut self) {
        let Self { context, app, .. } = self;
        self.is_changed |= context.wake.take_changed(app);
        let every = match (self.doubted.is_empty(), self.is_changed, self.is_unread) {
            (false, ..) => DOUBT_FOR,
            (true, true, _) => READ_APART,
            (true, false, true) => UNREAD_FOR,
            (true, false, false) => READ_EVERY,
        };
        let (scope, now) = (Scope::Dealers(app.clone()), context.now());
        if !context.apps.can_call(app)
            || !overdue(self.read_at, every, context.clock.moment())
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
                self.apply(refreshed);
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

    fn apply(&mut self, Refreshed { dealers, unread, left, doubtful }: Refreshed) {
        let Self { context, app, .. } = self;
        if let Some(error) = unread.as_ref().filter(|_| !self.is_unread) {
            tracing::warn!(%app, %error,
                "WeCom does not let the app read the list of dealers: only those that have authorised the suite \
                 themselves are known; the list is asked for again every hour");
        }
        self.is_unread = unread.is_some();
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

    /// Logs the dealers that WeCom newly lists, or lists again. Their work is to be resumed.
    fn take_arrived(&mut self) {
        let arrived = self.context.directory.take_arrived(&self.app);
        if arrived.is_empty() {
            return;
        }
        let (app, dealers) = (&self.app, self.context.dealer_names.all_shown(&self.app, &arrived));
        tracing::info!(%app, count = arrived.len(), dealers, "WeCom lists new dealers");
        // Messages may have come before they were listed.
        self.context.wake.unrouted.notify_one();
        self.to_resume.extend(arrived);
    }

    /// Counts the dealers for the metrics and looks for those that have fallen silent, if that is due.
    async fn review(&mut self) {
        let Self { context, app, .. } = &*self;
        if !self.is_overdue(self.reviewed_at, REVIEW_EVERY) {
            return;
        }
        let Some(rules) = context.apps.get(app) else { return };
        let may_fall_silent = self.is_overdue(Some(self.started_at), REVIEW_EVERY);
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
        self.reviewed_at = Some(context.clock.moment());
    }

    /// Resumes what is paused at dealers where the cause may be gone, again and again until that succeeds.
    async fn resume(&mut self) {
        if self.to_resume.is_empty() || !self.is_overdue(self.resumed_at, AGAIN_AFTER) {
            return;
        }
        let Self { context, app, to_resume, .. } = &mut *self;
        let corps: Vec<_> = to_resume.iter().map(|corp_id| (app.clone(), corp_id.clone())).collect();
        let paused = Paused { app: Some(app), corps: &corps, lookups: Lookups::Refused };
        let concerns = |scope: &Scope| {
            scope.app() == app && scope.corp_id().is_some_and(|corp_id| to_resume.contains(corp_id))
        };
        match Resumer::of(context).run(paused, concerns).await {
            Ok(_) => {
                to_resume.clear();
                self.resumed_at = None;
            }
            Err(error) => {
                context.store_failures.warn("what was paused at dealers could not be resumed yet", &error);
                self.resumed_at = Some(context.clock.moment());
            }
        }
        self.reviewed_at = None;
    }
}

#[cfg(test)]
mod tests;
