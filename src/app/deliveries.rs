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
use super::sinks::{self, BuildError};
use crate::clock::Clock;
use crate::config;
use crate::domain::ids::SinkName;
use crate::lifecycle::Lifecycle;
use crate::worker::{Context, deliver};

/// A sink, ready to deliver to.
pub(super) fn sink_part(sink: &config::Sink, clock: Arc<dyn Clock>) -> Result<SinkPart, BuildError> {
    let (name, kind) = (sink.name.clone(), sink.target.kind());
    Ok(SinkPart { name, kind, start: sink.start, sink: sinks::build(sink, clock)? })
}

/// The delivery tasks.
pub(super) struct Deliveries {
    context: Context,
    lifecycle: Lifecycle,
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
    pub(super) fn new(context: Context, lifecycle: Lifecycle) -> Self {
        Self { context, lifecycle, newest: Mutex::default() }
    }

    /// Delivers to a sink from now on; in place of the one with the same name, if there is one.
    pub(super) fn start(&self, part: SinkPart) {
        let SinkPart { name, kind, start, sink } = part;
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
        let (context, ended) = (self.context.clone(), stop.clone());
        self.lifecycle.supervise_until(format!("sink {name}"), ended, async move {
            let Some(_turn) = stop.run_until_cancelled(turn.lock_owned()).await else { return };
            deliver::run(context.clone(), name.clone(), sink, start, stop).await;
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
