//! Keeps the suites (代开发应用模版) up to date: obtains the authorisation of each corp that has scanned the QR
//! code, and follows what becomes of it.
//!
//! | part | does |
//! | --- | --- |
//! | here | reloads the suites after each change |
//! | `resumption` | resumes the work of apps that can call WeCom again |
//! | `registry` | reads the stored suites and bindings into [`Apps`](super::apps::Apps) |
//! | `exchange` | exchanges auth codes for permanent codes |
//! | `review` | reads the app at a corp, and its permissions |
//! | `suite_calls` | decides when a suite can call WeCom |
//! | `upkeep` | seals secrets with the newest suite secret, deletes old exchanges |
//! | `report` | logs what changed |
//!
//! Every step is stored before the next one begins, so that a process that is killed goes on where it was.
//!
//! Deliberately absent: the reception of a suite's events, which the callback handler stores, and the decision
//! which app serves a brand (see [`bindings`](crate::domain::bindings)).

mod exchange;
mod registry;
mod report;
mod resumption;
mod review;
mod suite_calls;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Activation, Context, overdue};
use crate::at_rest::Nonces;
use crate::domain::authorization::AuthorizationState;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Moment;
use crate::store::StoreError;
use crate::wecom::SuitePlatform;
use exchange::Exchanges;
pub use registry::load;
use report::Report;
use resumption::Resumption;
use review::Reviews;
use suite_calls::SuiteCalls;
use upkeep::Upkeep;

/// How often the suites are reloaded without a signal.
const RELOAD_EVERY: Duration = Duration::from_mins(1);

/// Runs until `stop`; calls in flight go on, tracked by the context.
pub async fn run(
    context: Context,
    platform: Arc<dyn SuitePlatform>,
    nonces: Nonces,
    stop: CancellationToken,
) {
    let wake = context.wake.clone();
    super::run(&wake.suites, stop, Authorizer::new(context, platform, nonces)).await;
}

struct Authorizer {
    context: Context,
    exchanges: Arc<Exchanges>,
    reviews: Arc<Reviews>,
    upkeep: Upkeep,
    report: Report,
    resumption: Arc<Resumption>,
    /// Whether something was stored since the suites were loaded.
    is_stale: bool,
    loaded_at: Option<Moment>,
}

impl Activation for Authorizer {
    async fn activate(&mut self) -> Duration {
        if self.is_stale || overdue(self.loaded_at, RELOAD_EVERY, self.context.clock.moment()) {
            match self.reload().await {
                Ok(()) => {
                    self.is_stale = false;
                    self.loaded_at = Some(self.context.clock.moment());
                }
                Err(error) => {
                    self.context.store_failures.warn("the suites could not be read", &error);
                }
            }
        }
        for suite in self.context.wake.take_resumed_suites() {
            self.reviews.forget_waits(&suite);
        }
        for suite in self.context.apps.suites().keys() {
            if let Some(view) = self.context.apps.suite(suite) {
                self.exchanges.start(suite, &view).await;
                self.reviews.start(suite, &view);
            }
        }
        // After the exchanges: an auth code can be used for ten minutes only.
        self.resumption.start();
        self.upkeep.look().await;
        super::LOOK_EVERY
    }

    fn woken(&mut self) {
        self.is_stale = true;
    }
}

impl Authorizer {
    fn new(context: Context, platform: Arc<dyn SuitePlatform>, nonces: Nonces) -> Self {
        let calls = Arc::new(SuiteCalls::new(context.clone(), platform));
        Self {
            exchanges: Arc::new(Exchanges::new(calls.clone(), nonces.clone())),
            reviews: Arc::new(Reviews::new(calls)),
            upkeep: Upkeep::new(context.clone(), nonces),
            report: Report::new(&context),
            resumption: Arc::new(Resumption::new(context.clone())),
            is_stale: true,
            loaded_at: None,
            context,
        }
    }

    /// Reads the suites from the store, and does what follows for the apps.
    async fn reload(&mut self) -> Result<(), StoreError> {
        let Context { store, apps, wake, .. } = &self.context;
        let dealers = self.authorized_dealers();
        let changes = load(&**store, apps, self.context.now()).await?;
        self.report.loaded(&changes);
        for app in &changes.parked {
            self.resumption.unmark(app);
        }
        for (app, brand) in changes.usable.into_iter().chain(changes.read) {
            wake.dealers_changed(&app);
            // Messages may have come before the corp that they are about was known.
            wake.unrouted.notify_one();
            self.resumption.mark(app, brand);
        }
        for (app, now) in self.authorized_dealers() {
            let before = dealers.get(&app);
            if before != Some(&now) {
                wake.dealers_changed(&app);
                wake.unrouted.notify_one();
            }
            let is_new = |dealer: &&(CorpId, u32)| before.is_none_or(|before| !before.contains(*dealer));
            for (corp_id, _) in now.iter().filter(is_new) {
                self.resumption.mark_dealer(app.clone(), corp_id.clone());
            }
        }
        Ok(())
    }

    /// The dealers of each agency-developed app that have authorised its suite themselves, and not cancelled,
    /// with the number of their permanent codes.
    fn authorized_dealers(&self) -> BTreeMap<AppName, BTreeSet<(CorpId, u32)>> {
        let apps = &self.context.apps;
        let of_app = |app: &AppName| {
            let authorized = apps.authorized_dealers(app);
            let active = authorized.iter().filter(|dealer| dealer.state() == AuthorizationState::Active);
            (app.clone(), active.map(|dealer| (dealer.corp_id.clone(), dealer.codes)).collect())
        };
        apps.agency().iter().map(|one| of_app(&one.app)).collect()
    }
}

#[cfg(test)]
mod tests;
