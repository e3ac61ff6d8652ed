//! What is done for stored suites now and then: secrets are sealed with the newest suite secret, and exchanges
//! that ended long ago are deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{Context, overdue};
use crate::at_rest::{Nonces, Purpose, Sealer};
use crate::domain::ids::AppName;
use crate::domain::sealed::Sealed;
use crate::domain::time::{DAY_MS, Moment};
use crate::store::{Resealed, SealedPlace, StoreError, SuiteRecords};

/// How often exchanges that ended are looked for.
const DROP_EVERY: Duration = Duration::from_hours(1);
/// How long an exchange that ended is kept, in milliseconds.
const ENDED_KEPT_MS: i64 = 7 * DAY_MS;
/// The wait after the store failed.
const AGAIN_AFTER: Duration = Duration::from_mins(1);

pub(super) struct Upkeep {
    context: Context,
    nonces: Nonces,
    /// The suites whose secrets are sealed with the newest suite secret as far as they can be opened. Another
    /// suite secret takes a restart.
    resealed: BTreeSet<AppName>,
    resealed_at: Option<Moment>,
    dropped_at: Option<Moment>,
}

impl Upkeep {
    pub(super) fn new(context: Context, nonces: Nonces) -> Self {
        Self { context, nonces, resealed: BTreeSet::new(), resealed_at: None, dropped_at: None }
    }

    /// Does what is due.
    pub(super) async fn look(&mut self) {
        let now = self.context.clock.moment();
        let suites: Vec<_> = self.context.apps.suites().keys().cloned().collect();
        if self.resealed.len() < suites.len() && overdue(self.resealed_at, AGAIN_AFTER, now) {
            self.resealed_at = Some(now);
            for suite in &suites {
                match self.reseal(suite).await {
                    Ok(true) => drop(self.resealed.insert(suite.clone())),
                    Ok(false) => {}
                    Err(error) => {
                        let message = "secrets could not be sealed with the newest suite secret yet";
                        self.context.store_failures.warn(message, &error);
                    }
                }
            }
        }
        if overdue(self.dropped_at, DROP_EVERY, now) {
            self.dropped_at = Some(now);
            let before = self.context.now().plus_ms(-ENDED_KEPT_MS);
            for suite in &suites {
                if let Err(error) = self.context.store.drop_ended_exchanges(suite, before).await {
                    self.context.store_failures.warn("ended exchanges could not be deleted", &error);
                }
            }
        }
    }

    /// Seals the secrets of a suite again that were sealed with the previous suite secret. Returns whether
    /// none is left.
    async fn reseal(&self, suite: &AppName) -> Result<bool, StoreError> {
        let Some(settings) = self.context.apps.suites().get(suite) else { return Ok(true) };
        let records = self.context.store.suite(suite).await?;
        let places = places(records).into_iter();
        let fresh: Vec<_> =
            places.filter_map(|(place, old)| self.resealed(&settings.sealer, place, old)).collect();
        let count = fresh.len() as u64;
        let replaced = self.context.store.reseal(suite, fresh).await?;
        if replaced > 0 {
            tracing::info!(%suite, secrets = replaced, "secrets are sealed with the new suite secret");
        }
        Ok(replaced == count)
    }

    fn resealed(&self, sealer: &Sealer, place: SealedPlace, old: Sealed) -> Option<Resealed> {
        if sealer.is_current(&old) {
            return None;
        }
        let (purpose, owner) = match &place {
            SealedPlace::Ticket => (Purpose::Ticket, String::new()),
            SealedPlace::Exchange(id) => (Purpose::AuthCode, id.to_string()),
            SealedPlace::Authorization(corp_id) => (Purpose::PermanentCode, corp_id.as_str().to_owned()),
        };
        let plain = sealer.open(purpose, &owner, &old).ok()?;
        let new = sealer.seal(purpose, &owner, &plain, (self.nonces)());
        Some(Resealed { place, old, new })
    }
}

/// Every sealed secret of a suite.
fn places(records: SuiteRecords) -> Vec<(SealedPlace, Sealed)> {
    let SuiteRecords { ticket, exchanges, authorizations } = records;
    let ticket = ticket.map(|ticket| (SealedPlace::Ticket, ticket.sealed)).into_iter();
    let exchanges = exchanges.into_iter().map(|(id, exchange)| (SealedPlace::Exchange(id), exchange.code));
    let codes = authorizations.into_iter().map(|one| (SealedPlace::Authorization(one.corp_id), one.code));
    ticket.chain(exchanges).chain(codes).collect()
}
