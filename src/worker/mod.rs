//! The loops that turn what is queued into links.
//!
//! | worker | takes | does |
//! | --- | --- | --- |
//! | [`resolve`] | due events and waiting customers | asks WeCom for their pending ids, up to 100 a call |
//! | [`mint`] | fans | obtains their pending ids, and asks which dealers have them already |
//! | [`renew`] | fans whom time has changed | puts them where they have to wait next |
//! | [`deliver`] | entries of the feed | hands them to a sink |
//! | [`sweep`] | nothing | deletes what has outlived its use, keeps the list of dealers fresh |
//!
//! All have one shape: an *activation* without arguments looks at the store and does what is due; it is woken by a
//! signal **and** by a timer, so a lost signal costs a second, not an event. Killed at any instruction, an
//! activation is simply repeated.
//!
//! When WeCom or a setting is at fault, work is not retried piece by piece: its scope (an app, a dealer) is
//! paused ([`pause`]), the work waits in the store, and one call in a while finds out whether it is over.

pub mod deliver;
pub mod directory;
pub mod mint;
pub mod pause;
pub mod renew;
pub mod resolve;
pub mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::domain::backoff::Jitter;
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::wecom::Platform;
use deliver::Sinks;
use directory::Directory;
use pause::Pauses;

/// What wakes the workers.
#[derive(Debug, Default)]
pub struct Wake {
    /// An event was appended or redriven.
    pub inbox: Notify,
    /// Fans were registered.
    pub fans: Notify,
    /// WeCom said that an app's dealers have changed.
    dealers: Notify,
    changed: Mutex<BTreeSet<AppName>>,
}

impl Wake {
    /// WeCom says that the dealers of this app have changed.
    pub fn dealers_changed(&self, app: &AppName) {
        self.changed().insert(app.clone());
        self.dealers.notify_one();
    }

    /// The apps whose dealers have changed since this was asked last.
    fn take_changed(&self) -> BTreeSet<AppName> {
        std::mem::take(&mut *self.changed())
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<AppName>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which token converts a dealer's customers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConversionToken {
    /// The dealer's; the brand's if that is refused; whichever worked is remembered per dealer.
    Auto,
    /// The dealer's.
    Downstream,
    /// The brand's.
    Upstream,
}

/// What the workers need to know of an app.
#[derive(Debug, Clone)]
pub struct AppRules {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// Which token converts a dealer's customers.
    pub conversion_token: ConversionToken,
    /// How its fans are minted.
    pub mint: MintRules,
}

/// How the fans of an app are minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MintRules {
    /// Whose pending ids are renewed.
    pub renew: Renew,
    /// Whether WeCom prolongs a pending id that it gives again.
    pub same_id_extends: bool,
    /// Calls an hour that the quota allows.
    pub per_hour: u32,
    /// Percent of every window kept for those who register now.
    pub reserve_percent: u8,
}

/// What every worker is given.
#[derive(Clone)]
pub struct Context {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// WeCom.
    pub platform: Arc<dyn Platform>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What spreads waits.
    pub jitter: Jitter,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What wakes the workers.
    pub wake: Arc<Wake>,
    /// Who is left alone for now.
    pub pauses: Arc<Pauses>,
    /// The dealers.
    pub directory: Arc<Directory>,
    /// The apps.
    pub apps: Arc<BTreeMap<AppName, AppRules>>,
    /// Calls under way, waited for at the end.
    pub calls: TaskTracker,
    /// Cancelled when one of them panics; a lane whose call vanished would wait for ever.
    pub panicked: CancellationToken,
    /// Calls to WeCom under way at once, per worker.
    pub calls_max: usize,
    /// The sinks that are served; the feed is kept until they have it.
    pub sinks: Arc<Sinks>,
    /// How long the feed is kept anyway.
    pub feed_kept_ms: i64,
}

impl Context {
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

/// The longest a worker sleeps without looking.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One look at what is due.
trait Activation: Send {
    /// Does what is due. Returns how long there is nothing to do unless somebody signals.
    fn activate(&mut self) -> impl Future<Output = Duration> + Send;
}

/// Activates until `stop`, woken by `wake` or by the time the last activation gave.
async fn run(wake: &Notify, stop: CancellationToken, mut task: impl Activation) {
    while !stop.is_cancelled() {
        // Registered before looking, so that a signal between look and wait is not lost.
        let woken = wake.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let idle = task.activate().await.min(LOOK_EVERY);
        tokio::select! {
            // In this order: a run can be repeated exactly.
            biased;
            () = stop.cancelled() => {}
            () = woken => {}
            () = tokio::time::sleep(idle) => {}
        }
        // Whoever signals runs in the middle of others who are about to: one look finds what all of them have.
        tokio::task::yield_now().await;
    }
}

/// How long from `now` until `at`.
fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(at.millis_since(now)).unwrap_or(0))
}
