//! Moves every wait along when the wall clock is set.
//!
//! A wait is an instant on the [`ServiceClock`], in the store or in memory. When the wall clock is set, that
//! clock is stepped and every wait is moved by as much, so that none becomes longer or shorter. While that is
//! being done, waits seem longer, so that they do not all end at once:
//!
//! - forward: the reading of the clocks is stored, waits are moved, the clock is stepped;
//! - back: the clock is stepped, stored waits are moved some seconds later, the reading of the clocks is stored.
//!   What was begun before the step and is stored after it (an event that was just received, an attempt that
//!   failed) has its wait from the clock of before, and is moved like the others.
//!
//! If the process or the store fails on the way, some waits end early, which costs calls; none lasts too long.
//! The same is true of waits that begin while a step back is under way.
//!
//! The reading is stored every minute too, so that a wall clock that was set while the service was stopped is
//! noticed at the next start. The last write of the watch, at the soft stop, is the reading together with
//! what happened at the dealers and is not recorded yet.
//!
//! Suites are read again after a step: the worker that exchanges auth codes has their waits in memory too.
//!
//! Deliberately absent: quotas. Their ledgers do not depend on the wall clock (see [`crate::domain::quota`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::breaker::Breakers;
use super::failure::StoreFailureLog;
use super::sink_status::SinkRegistry;
use super::{Context, LOOK_EVERY, Wake, overdue};
use crate::clock::{Clock, ServiceClock};
use crate::domain::clock_step::{is_step, step_since};
use crate::domain::time::{Moment, SECOND_MS};
use crate::store::{Store, StoreError};

/// Looks after a step during which something that was begun before it may still be stored: more seconds than WeCom
/// waits for the answer to a callback. Looks, because no time is long enough if the machine is suspended meanwhile.
const IN_FLIGHT_LOOKS: u32 = 6;
/// How often the reading of the clocks is stored.
const STORE_EVERY: Duration = Duration::from_mins(1);

/// The watch over the wall clock.
pub struct ClockWatch {
    store: Arc<dyn Store>,
    clock: Arc<ServiceClock>,
    breakers: Arc<Breakers>,
    sinks: Arc<SinkRegistry>,
    activity: Arc<Activity>,
    wake: Arc<Wake>,
    store_failures: Arc<StoreFailureLog>,
    /// The steps back that stored waits have yet to follow, the oldest first: after how many looks, and the negative
    /// milliseconds.
    steps_back: VecDeque<(u32, i64)>,
    /// When the reading of the clocks was stored; `None` if that is to be done now.
    stored_at: Option<Moment>,
}

impl ClockWatch {
    /// A watch that has corrected the stored waits, if the wall clock was set while the service was stopped.
    /// To be called before the workers run.
    ///
    /// # Errors
    /// The last reading of the clocks cannot be read. It is not replaced: the next start may be able to.
    pub async fn begin(context: &Context, clock: Arc<ServiceClock>) -> Result<Self, StoreError> {
        let Context { store, breakers, sinks, activity, wake, store_failures, .. } = context.clone();
        let mut watch = Self {
            store,
            clock,
            breakers,
            sinks,
            activity,
            wake,
            store_failures,
            steps_back: VecDeque::new(),
            stored_at: None,
        };
        watch.correct_at_start().await?;
        Ok(watch)
    }

    /// Looks every second until `stop`, and then makes the last write.
    pub async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            self.look().await;
            if overdue(self.stored_at, STORE_EVERY, self.clock.moment()) {
                self.store_reading().await;
            }
        }
        if let Err(error) = self.store.record_activity(self.activity.take(None), Some(self.reading())).await {
            let message = "the clocks and the dealers' activity could not be stored when the service stopped";
            self.store_failures.warn(message, &error);
        }
    }

    async fn correct_at_start(&mut self) -> Result<(), StoreError> {
        let now = self.clock.reading();
        let set_by_ms = self.store.last_moment().await?.map_or(0, |stored| step_since(stored, now));
        if set_by_ms != 0 {
            // Goes on from the clock of the stored waits, as if the wall clock were set only now.
            self.clock.step(-set_by_ms);
            self.look().await;
            // Nothing is in flight yet.
            while self.move_stored_waits_back().await {}
        }
        self.store_reading().await;
        Ok(())
    }

    /// Follows the wall clock.
    async fn look(&mut self) {
        for (looks, _) in &mut self.steps_back {
            *looks = looks.saturating_sub(1);
        }
        match self.clock.pending_step() {
            drift_ms if !is_step(drift_ms) => self.clock.step(drift_ms),
            by_ms => {
                let by = SignedDuration::from_secs(by_ms.saturating_abs() / SECOND_MS);
                let direction = if by_ms > 0 { "forward" } else { "back" };
                tracing::warn!(by_ms, "the wall clock was set {direction} by {by:#}; waits are moved along");
                if by_ms > 0 {
                    self.follow_forward(by_ms).await;
                } else {
                    self.clock.step(by_ms);
                    self.move_waits_in_memory(by_ms);
                    self.steps_back.push_back((IN_FLIGHT_LOOKS, by_ms));
                }
            }
        }
        if self.steps_back.front().is_some_and(|(looks, _)| *looks == 0) {
            self.move_stored_waits_back().await;
        }
    }

    async fn follow_forward(&mut self, by_ms: i64) {
        let before = self.clock.reading();
        // The clock of the stored waits, which have yet to follow an earlier step back.
        let after = Moment { wall: before.wall.plus_ms(by_ms - self.unmoved_ms()), ..before };
        let moved = match self.store.put_moment(after).await {
            Ok(()) => self.store.shift_waits(by_ms, before.wall).await,
            Err(error) => Err(error),
        };
        self.move_waits_in_memory(by_ms);
        self.clock.step(by_ms);
        self.wake.suites.notify_one();
        self.stored_at = moved.is_ok().then_some(after);
        if let Err(error) = moved {
            self.store_failures.warn("waits could not be moved forward; they end early", &error);
        }
    }

    /// Moves the stored waits along with the oldest step back. Returns whether one was followed. After a
    /// failure, waits that were moved already are moved again, and end early.
    async fn move_stored_waits_back(&mut self) -> bool {
        let Some((_, by_ms)) = self.steps_back.front().copied() else { return false };
        match self.store.shift_waits(by_ms, self.clock.now()).await {
            Ok(()) => {
                self.steps_back.pop_front();
                self.wake.suites.notify_one();
                self.store_reading().await;
                true
            }
            Err(error) => {
                self.store_failures.warn("waits could not be moved back yet; they last too long", &error);
                false
            }
        }
    }

    fn move_waits_in_memory(&self, by_ms: i64) {
        self.breakers.shift(by_ms);
        self.sinks.shift(by_ms);
    }

    /// By how many milliseconds stored waits are still to be moved; 0 or negative.
    fn unmoved_ms(&self) -> i64 {
        self.steps_back.iter().map(|(_, by_ms)| by_ms).sum()
    }

    /// The reading of the clocks, with the clock that the stored waits are on.
    fn reading(&self) -> Moment {
        let now = self.clock.reading();
        Moment { wall: now.wall.plus_ms(-self.unmoved_ms()), ..now }
    }

    /// Stores the reading of the clocks.
    async fn store_reading(&mut self) {
        let reading = self.reading();
        let stored = self.store.put_moment(reading).await;
        self.stored_at = stored.is_ok().then_some(reading);
        if let Err(error) = stored {
            self.store_failures.warn("the reading of the clocks could not be stored", &error);
        }
    }
}

#[cfg(test)]
mod tests;
