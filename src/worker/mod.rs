//! The background loops that turn queued work into links and deliver them.
//!
//! | worker | input | does |
//! | --- | --- | --- |
//! | [`resolve`] | due events, customers without a pending id | obtains pending ids, up to 100 a call |
//! | [`mint`] | queued fans | obtains their pending ids, and asks which dealers have them already |
//! | [`renew`] | fans whose review is due | queues them for renewal, expires and prunes pending ids |
//! | [`groups`] | customer groups whose member list is due | reads it, queues lookups of the customers |
//! | [`reconcile`] | dealers to be compared | compares their customers with WeCom's lists, queues lookups |
//! | [`deliver`] | feed entries | delivers them to a sink |
//! | [`dealers`] | a timer, WeCom's reports | keeps the dealers up to date, and watches them |
//! | [`authorize`] | suites' events, a timer | obtains the authorisations of suites, and follows them |
//! | [`callback_ips`] | a timer, callbacks from other addresses | reads the addresses WeCom calls from |
//! | [`sweep`] | a timer | deletes expired records |
//! | [`clock_watch`] | a timer | moves every wait along when the wall clock is set |
//!
//! All have one shape: an idempotent *activation* without arguments looks at the store and does what is due.
//! It is woken by a signal **and** by a timer, so a lost signal costs a second, not an event. After a crash
//! it simply runs again.
//!
//! When WeCom or a setting is at fault, work is not retried item by item: a circuit breaker ([`breaker`])
//! holds back the calls of its scope (an app, a dealer, an API), the work waits in the store, and an
//! occasional call probes.

pub mod activity;
pub mod apps;
pub mod authorize;
pub mod breaker;
pub mod callback_ips;
pub mod clock_watch;
mod corp;
pub mod dealer_names;
pub mod dealers;
pub mod deliver;
pub mod directory;
mod failure;
pub mod groups;
pub mod history;
pub mod mint;
pub mod optional_calls;
pub mod parallelism;
pub mod reconcile;
pub mod renew;
pub mod resolve;
pub mod resume;
pub mod sink_status;
pub mod suites;
pub mod sweep;

#[cfg(test)]
mod scripted;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::domain::backoff::Jitter;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{Moment, Timestamp};
use crate::store::{Signal, Store};
use crate::telemetry::metrics::Metrics;
use crate::wecom::Platform;
use activity::Activity;
use apps::Apps;
use breaker::Breakers;
use dealer_names::DealerNames;
use directory::Directory;
pub use failure::StoreFailureLog;
pub(crate) use failure::failure_reason;
use history::Notes;
use optional_calls::OptionalCalls;
use parallelism::Parallelism;
use sink_status::SinkRegistry;

/// Wake-up signals of the workers. What another replica's workers have to know is [forwarded](Wake::forward) to it.
#[derive(Debug, Default)]
pub struct Wake {
    /// An event was appended or redriven.
    pub inbox: Notify,
    /// Fans were registered.
    pub fans: Notify,
    /// A change of a customer group was appended.
    pub groups: Notify,
    /// A reconcile run was asked for, or there may be dealers that are due.
    pub reconcile: Notify,
    /// An event of a suite was appended, or what is known of one has changed.
    pub(crate) suites: Notify,
    /// An app may serve a corp, or have a dealer, that it did not: messages about it can be redriven.
    pub unrouted: Notify,
    /// WeCom reported a change of dealers, or at one. Several loops wait for it, and all are to be woken.
    dealers: Notify,
    changed: Mutex<BTreeSet<AppName>>,
    /// Corps that may be dealers.
    unknown: Mutex<BTreeMap<AppName, BTreeSet<CorpId>>>,
    /// Dealers at which the app may see other customers than before.
    visibility: Mutex<BTreeSet<(AppName, CorpId)>>,
    /// Dealers whose comparison is not to be put off any longer.
    resumed: Mutex<BTreeMap<AppName, BTreeSet<CorpId>>>,
    /// Suites whose corps are to be read now, also if failures put that off.
    resumed_suites: Mutex<BTreeSet<AppName>>,
    forward: OnceLock<mpsc::Sender<Signal>>,
}

/// Signals that wait to be forwarded.
const FORWARDED_MAX: usize = 1_024;

impl Wake {
    /// What is to be told to other replicas from now on. Signals beyond a limit are dropped: they look for themselves.
    pub fn forward(&self) -> mpsc::Receiver<Signal> {
        let (sender, receiver) = mpsc::channel(FORWARDED_MAX);
        // Forwarding begins once.
        let _ = self.forward.set(sender);
        receiver
    }

    fn tell(&self, signal: impl FnOnce() -> Signal) {
        if let Some(forward) = self.forward.get() {
            let _ = forward.try_send(signal());
        }
    }

    /// Takes up what another replica tells.
    pub fn hear(&self, signal: Signal) {
        match signal {
            Signal::DealersChanged { app } => self.note_changed(&app),
            Signal::DealerUnknown { app, corp_id } => self.note_unknown(&app, &corp_id),
            Signal::VisibilityChanged { app, corp_id } => self.note_visibility(&app, &corp_id),
            Signal::ComparisonResumed { app, corp_id } => self.note_resumed(&app, &corp_id),
            Signal::SuiteResumed { suite } => self.note_suite_resumed(&suite),
            Signal::SuitesChanged => self.suites.notify_one(),
            Signal::CallsResumed { .. } => self.calls_resumed(),
        }
    }

    /// Signals that an event of a suite was stored, or that what is known of one has changed.
    pub fn suites_changed(&self) {
        self.suites.notify_one();
        self.tell(|| Signal::SuitesChanged);
    }

    /// Tells other replicas that an operator wants paused calls to be tried now.
    pub fn tell_resumed(&self, app: Option<&AppName>, corp_id: Option<&CorpId>) {
        self.tell(|| Signal::CallsResumed { app: app.cloned(), corp_id: corp_id.cloned() });
    }

    /// Signals that WeCom reported a change of this app's dealers.
    pub fn dealers_changed(&self, app: &AppName) {
        self.note_changed(app);
        self.tell(|| Signal::DealersChanged { app: app.clone() });
    }

    fn note_changed(&self, app: &AppName) {
        self.changed().insert(app.clone());
        self.dealers.notify_waiters();
    }

    /// Signals that a message is about a corp that this app does not know as a dealer: WeCom is asked about it
    /// at once, and its list is read again.
    pub fn dealer_unknown(&self, app: &AppName, corp_id: &CorpId) {
        self.note_unknown(app, corp_id);
        self.tell(|| Signal::DealerUnknown { app: app.clone(), corp_id: corp_id.clone() });
    }

    fn note_unknown(&self, app: &AppName, corp_id: &CorpId) {
        // The list has the corps that are one too many.
        const CORPS_MAX: usize = 100;
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let corps = unknown.entry(app.clone()).or_default();
        if corps.len() < CORPS_MAX {
            corps.insert(corp_id.clone());
        }
        drop(unknown);
        self.note_changed(app);
    }

    /// Takes the corps that may be dealers of this app.
    fn take_unknown(&self, app: &AppName) -> BTreeSet<CorpId> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).remove(app).unwrap_or_default()
    }

    /// Signals that the event of a customer group was stored: there may be customers to look up, and a member
    /// list to read.
    pub fn groups_changed(&self) {
        self.inbox.notify_one();
        self.groups.notify_one();
    }

    /// Signals that [`Payload::Visibility`](crate::store::Payload::Visibility) was appended for this dealer.
    pub fn visibility_changed(&self, app: &AppName, corp_id: &CorpId) {
        self.note_visibility(app, corp_id);
        self.tell(|| Signal::VisibilityChanged { app: app.clone(), corp_id: corp_id.clone() });
    }

    fn note_visibility(&self, app: &AppName, corp_id: &CorpId) {
        self.visibility().insert((app.clone(), corp_id.clone()));
        self.dealers.notify_waiters();
    }

    /// Signals that an alarm about an app was stored, or the end of one.
    pub fn alarms_changed(&self) {
        self.dealers.notify_waiters();
    }

    /// Signals that the comparison of a dealer's customers may be tried now, also if failures put it off.
    pub fn comparison_resumed(&self, app: &AppName, corp_id: &CorpId) {
        self.note_resumed(app, corp_id);
        self.tell(|| Signal::ComparisonResumed { app: app.clone(), corp_id: corp_id.clone() });
    }

    fn note_resumed(&self, app: &AppName, corp_id: &CorpId) {
        self.resumed().entry(app.clone()).or_default().insert(corp_id.clone());
        self.reconcile.notify_one();
    }

    /// Signals that what failures put off of a suite may be tried now.
    pub fn suite_resumed(&self, suite: &AppName) {
        self.note_suite_resumed(suite);
        self.tell(|| Signal::SuiteResumed { suite: suite.clone() });
    }

    fn note_suite_resumed(&self, suite: &AppName) {
        self.resumed_suites().insert(suite.clone());
        self.suites.notify_one();
    }

    /// Signals that calls to WeCom that were held back may be tried now.
    pub fn calls_resumed(&self) {
        for worker in [&self.inbox, &self.fans, &self.groups, &self.reconcile] {
            worker.notify_one();
        }
        self.dealers.notify_waiters();
    }

    /// Whether this app's dealers have changed since the last call.
    pub(crate) fn take_changed(&self, app: &AppName) -> bool {
        self.changed().remove(app)
    }

    /// Takes the dealers at which the app may see other customers than before.
    fn take_visibility(&self) -> BTreeSet<(AppName, CorpId)> {
        std::mem::take(&mut *self.visibility())
    }

    /// Takes the dealers of this app whose comparison is not to be put off any longer.
    fn take_resumed(&self, app: &AppName) -> BTreeSet<CorpId> {
        self.resumed().remove(app).unwrap_or_default()
    }

    /// Takes the suites that were resumed.
    fn take_resumed_suites(&self) -> BTreeSet<AppName> {
        std::mem::take(&mut *self.resumed_suites())
    }

    fn resumed_suites(&self) -> MutexGuard<'_, BTreeSet<AppName>> {
        self.resumed_suites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resumed(&self) -> MutexGuard<'_, BTreeMap<AppName, BTreeSet<CorpId>>> {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn visibility(&self) -> MutexGuard<'_, BTreeSet<(AppName, CorpId)>> {
        self.visibility.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<AppName>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every worker shares.
#[derive(Clone)]
pub struct Context {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// WeCom.
    pub platform: Arc<dyn Platform>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Spreads retries over time.
    pub jitter: Jitter,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Wake-up signals.
    pub wake: Arc<Wake>,
    /// The circuit breakers.
    pub breakers: Arc<Breakers>,
    /// Which optional calls WeCom refused.
    pub optional_calls: Arc<OptionalCalls>,
    /// The dealers.
    pub directory: Arc<Directory>,
    /// Their names, for what people read.
    pub dealer_names: Arc<DealerNames>,
    /// What happened at them that is not recorded yet.
    pub activity: Arc<Activity>,
    /// The apps.
    pub apps: Arc<Apps>,
    /// What was counted and noted, and is not recorded yet.
    pub notes: Arc<Notes>,
    /// Calls in flight, waited for at shutdown.
    pub calls: TaskTracker,
    /// Cancelled when one of them panics: a lane whose call vanished would wait for ever.
    pub panicked: CancellationToken,
    /// The limit of concurrent calls to WeCom in `resolve`, and the lowest in each class of `mint`, where the
    /// limit grows with the round trip.
    pub calls_max: usize,
    /// Permits for concurrent calls with one corp's token.
    pub parallelism: Arc<Parallelism>,
    /// The configured sinks; feed entries are kept until all of them have received them.
    pub sinks: Arc<SinkRegistry>,
    /// Limits the log of failed store operations.
    pub store_failures: Arc<StoreFailureLog>,
    /// How long the feed is kept at least, in milliseconds.
    pub feed_kept_ms: i64,
}

impl Context {
    /// Begins anew what the workers know of WeCom and hold of the store: another replica has worked meanwhile. None of
    /// them may run.
    pub async fn begin_again(&self) {
        self.calls.close();
        self.calls.wait().await;
        self.calls.reopen();
        self.store.end_leases();
        self.breakers.forget();
        self.directory.forget_failures(None);
        self.optional_calls.forget(None, None);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn spawn_call(&self, call: impl Future<Output = ()> + Send + 'static) {
        let (call, panicked) = (tokio::spawn(call), self.panicked.clone());
        self.calls.spawn(async move {
            if call.await.is_err() {
                panicked.cancel();
            }
        });
    }
}

/// The longest time between two activations.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One pass over what is due.
trait Activation: Send {
    /// Does what is due. Returns after what time the next activation is due if no signal comes earlier.
    fn activate(&mut self) -> impl Future<Output = Duration> + Send;

    /// Called before an activation that a signal caused, not the timer.
    fn woken(&mut self) {}
}

/// Activates until `stop`, woken by `wake` or after the time the last activation returned.
async fn run(wake: &Notify, stop: CancellationToken, mut task: impl Activation) {
    while !stop.is_cancelled() {
        // Registered before looking, so that a signal between looking and waiting is not lost.
        let woken = wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let idle = task.activate().await.min(LOOK_EVERY);
        tokio::select! {
            // A fixed order, so that a simulated run can be repeated exactly.
            biased;
            () = stop.cancelled() => {}
            () = woken => task.woken(),
            () = tokio::time::sleep(idle) => {}
        }
        // Several tasks often signal at once: let them finish, so that one activation serves them all.
        tokio::task::yield_now().await;
    }
}

/// Whether something that is repeated after `every`, and was last done at `last`, is due. Setting the wall
/// clock has no effect.
fn overdue(last: Option<Moment>, every: Duration, now: Moment) -> bool {
    let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
    last.is_none_or(|at| now.millis_since(at) >= every_ms)
}

/// The time from `now` until `at`; zero if that has passed.
fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(at.millis_since(now)).unwrap_or(0))
}
