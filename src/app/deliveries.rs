//! The delivery tasks of the configured sinks, which start and stop when the configuration is reloaded.
//!
//! Of one sink, at most one task delivers at any time: the task with changed settings waits until the one
//! before has finished its delivery in progress and stored the cursor. So the receiver gets every entry in
//! order, and none twice because of the change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use super::assemble::SinkPart;
use super::duties::Duties;
use super::sinks::{self, BuildError};
use crate::clock::Clock;
use crate::config;
use crate::domain::ids::SinkName;
use crate::lifecycle::Lifecycle;
use crate::store::Duty;
use crate::worker::{Context, deliver};

/// A sink, ready to deliver to.
pub(super) fn sink_part(sink: &config::Sink, clock: Arc<dyn Clock>) -> Result<SinkPart, BuildError> {
    let (name, kind) = (sink.name.clone(), sink.target.kind());
    let takes = sinks::longest_delivery(&sink.target);
    Ok(SinkPart { name, kind, start: sink.start, sink: sinks::build(sink, clock)?, takes })
}

/// The delivery tasks.
pub(super) struct Deliveries {
    context: Context,
    lifecycle: Lifecycle,
    duties: Arc<Duties>,
    /// The newest task of each sink that was ever in the configuration.
    newest: Mutex<BTreeMap<SinkName, Delivery>>,
}

/// A delivery task.
struct Delivery {
    stop: CancellationToken,
    /// Held by the task of the sink that delivers.
    turn: Arc<AsyncMutex<()>>,
}

impl Deliveries {
    pub(super) fn new(context: Context, lifecycle: Lifecycle, duties: Arc<Duties>) -> Self {
        Self { context, lifecycle, duties, newest: Mutex::default() }
    }

    /// Delivers to a sink from now on; in place of the one with the same name, if there is one.
    pub(super) fn start(&self, part: SinkPart) {
        let SinkPart { name, kind, start, sink, takes } = part;
        self.context.sinks.insert(name.clone(), kind);
        self.context.metrics.sink_configured(&name);
        let stop = self.lifecycle.soft().child_token();
        let turn = {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            let before = newest.get(&name).inspect(|before| before.stop.cancel());
            let turn = before.map(|before| before.turn.clone()).unwrap_or_default();
            newest.insert(name.clone(), Delivery { stop: stop.clone(), turn: turn.clone() });
            turn
        };
        let (context, duties, ended) = (self.context.clone(), self.duties.clone(), stop.clone());
        self.lifecycle.supervise_until(format!("sink {name}"), ended, async move {
            let Some(_turn) = stop.run_until_cancelled(turn.lock_owned()).await else { return };
            let sink = Mutex::new(Some(sink));
            let kept = || sink.lock().unwrap_or_else(PoisonError::into_inner);
            let deliver = |term| async {
                // It is given back at the end of each term.
                let lent = kept().take();
                if let Some(lent) = lent {
                    let given_back = deliver::run(context.clone(), name.clone(), lent, start, term).await;
                    *kept() = Some(given_back);
                }
            };
            let duty = Duty::Sink(name.clone());
            duties.perform(duty.clone(), takes, &stop, deliver).await;
            if !context.sinks.contains(&name) {
                duties.give_up(&*context.store, duty).await;
            }
            if !context.sinks.contains(&name) {
                // The delivery that was in progress when the sink was removed has been counted.
                context.metrics.sink_removed(&name);
            }
        });
    }

    /// Stops delivering to a sink that is not in the configuration any more. Its cursor stays in the store.
    pub(super) fn stop(&self, name: &SinkName) {
        self.context.sinks.remove(name);
        self.context.metrics.sink_removed(name);
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(delivery) = newest.get(name) {
            delivery.stop.cancel();
        }
    }
}
