//! Keeps the suites (代开发应用模版) up to date: obtains the authorisation of each corp that has scanned the QR
//! code, and follows what becomes of it.
//!
//! | part | does |
//! | --- | --- |
//! | here | reloads the suites after each change; resumes the work of apps that can call WeCom again |
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
mod review;
mod suite_calls;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::groups::read_again;
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
        for suite in self.context.apps.suites().keys() {
            if let Some(view) = self.context.apps.suite(suite) {
                self.exchanges.start(suite, &view).await;
                self.reviews.start(suite, &view);
            }
        }
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
        for (app, brand) in &changes.usable {
            self.resume(app, brand).await;
        }
        let others = self.authorized_dealers().into_iter().filter(|(app, now)| dealers.get(app) != Some(now));
        for (app, _) in others {
            wake.dealers_changed(&app);
            wake.unrouted.notify_one();
        }
        Ok(())
    }

    /// The dealers of each agency-developed app that have authorised its suite themselves, and not cancelled.
    fn authorized_dealers(&self) -> BTreeMap<AppName, BTreeSet<CorpId>> {
        let apps = &self.context.apps;
        let of_app = |app: &AppName| {
            let authorized = apps.authorized_dealers(app);
            let active = authorized.iter().filter(|dealer| dealer.state() == AuthorizationState::Active);
            (app.clone(), active.map(|dealer| dealer.corp_id.clone()).collect())
        };
        apps.agency().iter().map(|one| of_app(&one.app)).collect()
    }

    /// Makes everything due now that waits because the calls of an app failed without an authorisation.
    async fn resume(&self, app: &AppName, brand: &CorpId) {
        let Context { store, breakers, directory, wake, store_failures, .. } = &self.context;
        directory.forget_failures(Some(app));
        let now = self.context.now();
        let probes: BTreeSet<_> =
            breakers.resume(|scope| scope.app() == app, now).into_iter().filter(|at| now < *at).collect();
        for due_at in probes {
            if let Err(error) = store.bring_forward(due_at, now).await {
                store_failures.warn("resumed work could not be brought forward", &error);
            }
        }
        if let Err(error) = store.look_up_again(app, brand, false, now).await {
            store_failures.warn("lookups of a brand's customers could not be repeated", &error);
        }
        let dealers = match store.dealers(app).await {
            Ok(dealers) => dealers,
            Err(error) => {
                store_failures.warn("the dealers could not be read", &error);
                Vec::new()
            }
        };
        for corp_id in dealers.iter().map(|dealer| &dealer.corp_id).chain([brand]) {
            read_again(&self.context, app, corp_id).await;
            wake.comparison_resumed(app, corp_id);
        }
        wake.dealers_changed(app);
        wake.calls_resumed();
        // Messages may have come before the corp that they are about was known.
        wake.unrouted.notify_one();
    }
}

#[cfg(test)]
mod tests;
