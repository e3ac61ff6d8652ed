//! Which duties this process has: all of them if nobody shares its store, or else those whose leases it holds.
//!
//! A lease is renewed every two seconds and trusted for six and a half from before it was asked for, which the database
//! makes eight, and more by as long as what was begun with it may take. So a process that is cut off, or suspended, begins
//! nothing any more by the time another one may. It gives its leases back when it stops.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, local_ms};
use crate::store::{Duty, Heartbeat, Replicas, Store};

/// How often leases are renewed.
const BEAT_EVERY_MS: i64 = 2_000;
/// How long a lease is held after it was asked for, and by how much longer if what was begun with it takes time.
const HELD_FOR: Duration = Duration::from_secs(8);
/// How long it is trusted.
const TRUSTED_FOR_MS: i64 = 6_500;
/// How often it is looked whether it still is: on the timer, which stands still while the machine is suspended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A term of a duty: cancelled when it ends.
type Term = Option<CancellationToken>;

/// The duties of this process.
pub(super) struct Duties {
    soft: CancellationToken,
    /// The clock that leases are counted on.
    machine: Arc<dyn Clock>,
    is_shared: bool,
    known: Mutex<BTreeMap<Duty, Held>>,
    /// Notified when there is another duty, or one may have become free.
    changed: Notify,
}

struct Held {
    /// How long what is begun with it may take.
    takes: Duration,
    term: watch::Sender<Term>,
    /// The number of the term.
    number: i64,
    /// Until when the lease is trusted, on a clock that nobody can set and that goes on while the machine is suspended.
    trusted_until_ms: i64,
}

impl Held {
    fn is_held(&self) -> bool {
        self.term.borrow().is_some()
    }

    fn end(&self) {
        if let Some(term) = self.term.send_replace(None) {
            term.cancel();
        }
    }
}

impl Duties {
    /// The duties of a process that stops when `soft` is cancelled. Where its store is shared, it has none before it holds
    /// their leases.
    pub(super) fn new(store: &dyn Store, machine: Arc<dyn Clock>, soft: CancellationToken) -> Self {
        let is_shared = store.replicas().is_some();
        Self { soft, machine, is_shared, known: Mutex::default(), changed: Notify::new() }
    }

    fn duties(&self) -> MutexGuard<'_, BTreeMap<Duty, Held>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process has a duty now.
    pub(super) fn has(&self, duty: &Duty) -> bool {
        self.duties().get(duty).is_some_and(Held::is_held)
    }

    /// Looks for a free duty now.
    pub(super) fn look(&self) {
        if self.duties().values().any(|held| !held.is_held()) {
            self.changed.notify_one();
        }
    }

    /// Performs a duty in each term of this process until `stop`, a child of the soft stop. What is begun with its lease
    /// may take so long.
    pub(super) async fn perform<F: Future<Output = ()>>(
        &self,
        duty: Duty,
        takes: Duration,
        stop: &CancellationToken,
        mut perform: impl FnMut(CancellationToken) -> F,
    ) {
        let mut terms = self.terms(duty, takes);
        while !stop.is_cancelled() {
            let term = tokio::select! {
                // In a fixed order, so that a simulation is repeatable.
                biased;
                () = stop.cancelled() => return,
                term = terms.wait_for(Option::is_some) => term.ok().and_then(|term| term.clone()),
            };
            let Some(term) = term else { return };
            let ended = term.child_token();
            let mut performing = std::pin::pin!(perform(ended.clone()));
            tokio::select! {
                biased;
                () = &mut performing => {}
                () = stop.cancelled() => {
                    ended.cancel();
                    performing.await;
                }
            }
            // What ends before its term is not begun again in it.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = term.cancelled() => {}
            }
        }
    }

    fn terms(&self, duty: Duty, takes: Duration) -> watch::Receiver<Term> {
        let mut duties = self.duties();
        let held = duties.entry(duty).or_insert_with(|| {
            let term = (!self.is_shared).then(|| self.soft.child_token());
            Held { takes, term: watch::Sender::new(term), number: 0, trusted_until_ms: 0 }
        });
        held.takes = takes;
        self.changed.notify_one();
        held.term.subscribe()
    }

    /// A duty that this process does not perform any more is for others.
    pub(super) async fn give_up(&self, store: &dyn Store, duty: Duty) {
        let held = self.duties().remove(&duty);
        if let Some(held) = held {
            held.end();
            if let Some(replicas) = store.replicas() {
                // It expires by itself.
                let _ = replicas.release(&[duty]).await;
            }
        }
    }

    /// Holds leases until the soft stop; `status` is what is published with each heartbeat.
    pub(super) async fn hold(
        &self,
        replicas: &dyn Replicas,
        status: impl Fn() -> Option<String> + Send + Sync,
    ) {
        let mut is_failing = false;
        while !self.soft.is_cancelled() {
            let asked_ms = local_ms(&*self.machine);
            let beaten = self.trusting(replicas.beat(&self.wanted(), status())).await;
            match beaten {
                Some(Ok(heartbeat)) => {
                    self.renewed(&heartbeat, asked_ms);
                    is_failing = false;
                }
                Some(Err(error)) if !is_failing => {
                    is_failing = true;
                    let error = error.to_string();
                    tracing::warn!(
                        error,
                        "leases are not renewed; what this replica holds it gives up when they end"
                    );
                }
                Some(Err(_)) => {}
                None => return,
            }
            let next_ms = asked_ms + BEAT_EVERY_MS;
            let due = async {
                while local_ms(&*self.machine) < next_ms {
                    let rest_ms = u64::try_from(next_ms - local_ms(&*self.machine)).unwrap_or(0);
                    tokio::time::sleep(Duration::from_millis(rest_ms).min(LOOK_EVERY)).await;
                }
            };
            let waited = async {
                tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = due => {}
                }
            };
            self.trusting(waited).await;
        }
    }

    /// Waits for something, and meanwhile ends every term whose lease is not trusted any more. `None` at the soft stop.
    async fn trusting<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = std::pin::pin!(wait);
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.soft.cancelled() => return None,
                _ = ticks.tick() => self.end_expired(local_ms(&*self.machine)),
                result = &mut wait => return Some(result),
            }
        }
    }

    /// The duties, each with the time for which its lease is wanted.
    fn wanted(&self) -> BTreeMap<Duty, Duration> {
        self.duties().iter().map(|(duty, held)| (duty.clone(), HELD_FOR + held.takes)).collect()
    }

    /// Takes up the answer to a heartbeat for which was asked at this time.
    fn renewed(&self, heartbeat: &Heartbeat, asked_ms: i64) {
        for (duty, held) in self.duties().iter_mut() {
            let number = heartbeat.held.get(duty).copied();
            if held.is_held() && number != Some(held.number) {
                tracing::warn!(%duty, "another replica has taken over");
                held.end();
            }
            if let Some(number) = number {
                held.trusted_until_ms = asked_ms + TRUSTED_FOR_MS;
                held.number = number;
                if !held.is_held() {
                    tracing::info!(%duty, "this replica has the lease");
                    held.term.send_replace(Some(self.soft.child_token()));
                }
            }
        }
        // The answer may have taken long.
        self.end_expired(local_ms(&*self.machine));
    }

    fn end_expired(&self, now_ms: i64) {
        for (duty, held) in self.duties().iter() {
            if self.is_shared && held.is_held() && now_ms >= held.trusted_until_ms {
                tracing::warn!(%duty, "the lease was not renewed in time");
                held.end();
            }
        }
    }
}

#[cfg(test)]
mod tests;
