//! Redriving, without an operator, what was quarantined because no app served the corp that it is about, at a
//! suite's URL or at that of an app without a brand: an app may serve it by now, or WeCom may list it as a
//! dealer.
//!
//! Deliberately absent: how one message is redriven (see `redrive`), and every other reason
//! for a quarantine, which is an operator's to end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::callback_log::CallbackLog;
use super::callbacks::CallbackState;
use super::doors::{Door, Doors};
use super::redrive::{Redrive, RedriveError};
use crate::domain::event::QuarantineReason;
use crate::domain::ids::{AppName, CorpId};
use crate::intake::AgeLimit;
use crate::store::{EventId, EventRow, EventState, Quarantined, StoreError};

/// The longest time between two activations.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Messages read at once.
const PAGE: usize = 100;

/// Redrives messages whose corp an app serves by now, until `stop`.
pub async fn run(state: Arc<CallbackState>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match state.redrive_routed().await {
            Ok(redriven) => {
                for (suite, messages) in redriven {
                    CallbackLog::routed(&suite, messages);
                }
            }
            Err(error) => state.log.not_routed(&error),
        }
        tokio::select! {
            // A fixed order, so that a simulated run can be repeated exactly.
            biased;
            () = stop.cancelled() => {}
            () = state.wake.unrouted.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

impl CallbackState {
    /// Redrives the messages whose corp an app serves by now. Returns how many, by suite.
    async fn redrive_routed(&self) -> Result<BTreeMap<AppName, u64>, StoreError> {
        let (mut redriven, doors) = (BTreeMap::new(), self.doors.current());
        // Where many wait for one corp, it is looked for once.
        let mut unserved: BTreeSet<(AppName, CorpId, String)> = BTreeSet::new();
        let mut left: BTreeMap<(AppName, CorpId), u64> = BTreeMap::new();
        let mut after = EventId(0);
        while self.store.counts().quarantined > 0 {
            let page = self.store.events(EventState::Quarantined, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id();
            for row in page {
                let EventRow::Quarantined(waiting) = row else { continue };
                let QuarantineReason::Unrouted { corp_id } = &waiting.reason else { continue };
                let key = (waiting.app.clone(), corp_id.clone(), waiting.receive_id.clone());
                let is_routed = !unserved.contains(&key)
                    && match doors.get(&waiting.app) {
                        Some(door) => self.is_routed(door, corp_id, &waiting.receive_id).await?,
                        None => false,
                    };
                if is_routed && self.redrive_one(&doors, &waiting).await? {
                    *redriven.entry(waiting.app).or_default() += 1;
                    continue;
                }
                *left.entry((waiting.app, corp_id.clone())).or_default() += 1;
                if !is_routed {
                    unserved.insert(key);
                }
            }
            tokio::task::yield_now().await;
        }
        self.unserved.counted(left);
        Ok(redriven)
    }

    async fn is_routed(&self, door: &Door, about: &CorpId, receive_id: &str) -> Result<bool, StoreError> {
        let (store, receive_id) = (&*self.store, receive_id.as_bytes());
        match door {
            Door::App(door) => door.is_routed(store, &self.apps, receive_id, about).await,
            Door::Suite(door) => {
                let found = door.route(store, &self.apps, receive_id, about).await?;
                Ok(found.is_some_and(|apps| !apps.is_empty()))
            }
        }
    }

    async fn redrive_one(&self, doors: &Doors, waiting: &Quarantined) -> Result<bool, StoreError> {
        let redrive = Redrive { store: &*self.store, doors, apps: &self.apps, wake: &self.wake };
        // The age that it had when it arrived counts.
        let age_limit = AgeLimit { days_max: self.event_days_max, now: waiting.received_at };
        match redrive.message(waiting, Some(age_limit), self.clock.now()).await {
            Ok(redriven) => Ok(redriven),
            Err(RedriveError::Store(error)) => Err(error),
            // It stays, and an operator sees why when trying.
            Err(
                RedriveError::UnknownApp
                | RedriveError::ReceiveId
                | RedriveError::NotUnderstood(_)
                | RedriveError::Unrouted,
            ) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests;
