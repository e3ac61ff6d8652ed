//! The start of a simulated process: its store, its parts and its tasks.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unionlink::app::{Assembled, Parts, SinkPart, StartError, assemble, share_work};
use unionlink::at_rest::Nonces;
use unionlink::clock::{Clock, ServiceClock};
use unionlink::domain::backoff::Jitter;
use unionlink::http::public;
use unionlink::lifecycle::Lifecycle;
use unionlink::store::embedded::{EmbeddedStore, ManualWriter, Settings};
use unionlink::store::shared::memory;
use unionlink::store::{Replicas, Start, Store, StoreError};
use unionlink::worker::deliver;

use crate::receiver::Receiver;
use crate::replicas::{DatabaseWay, Opened, Stored};
use crate::service::{Disk, Fate, Machine, Service};
use crate::time::{Dice, Trace};
use crate::wire::InProcessWire;

impl Machine {
    /// Starts a process, if its store can be opened.
    pub async fn start_one(&self) -> Option<Service> {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        self.trace.note(format!("start {start}"));
        self.clock.start_process();
        let fate = Fate::default();
        let opened = tokio::select! {
            biased;
            () = fate.dead.cancelled() => return None,
            opened = self.open_store(start, &fate) => opened,
        };
        let failed = |error: &dyn std::error::Error| self.trace.note(format!("start {start}: {error}"));
        let opened = opened.inspect_err(|error| failed(error)).ok()?;
        let parts = self.parts(start, &fate, opened.store());
        let (store, clock, is_alone) = (parts.store.clone(), parts.clock.clone(), self.setup.replicas == 1);
        let assembled = tokio::select! {
            biased;
            () = fate.dead.cancelled() => return None,
            assembled = async {
                let assembled = assemble(&self.setup.config, parts, fate.stop.clone()).await?;
                // Replicas begin with their lease.
                let begun = if is_alone {
                    assembled.workers.begin(&fate.stop).await.map_err(StartError::Clocks)?
                } else {
                    Vec::new()
                };
                Ok((assembled, begun))
            } => assembled,
        };
        let (assembled, begun) = match assembled {
            Ok(assembled) => assembled,
            // The disk does not answer: the process ends, and is started again later.
            Err(error @ (StartError::Suites(_) | StartError::Clocks(_))) => {
                failed(&error);
                fate.dead.cancel();
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        self.clock.noted();
        let tasks = TaskTracker::new();
        let Assembled { context, callbacks, tasks: of_each, sinks, workers, .. } = assembled;
        let lifecycle = (!is_alone).then(|| Lifecycle::new(fate.stop.clone()));
        let working = if let Some(lifecycle) = &lifecycle {
            share_work(workers, &context, sinks, self.clock.clone(), lifecycle)
        } else {
            for SinkPart { name, start, sink, .. } in sinks {
                let delivering = deliver::run(context.clone(), name, sink, start, fate.stop.clone());
                self.run(&fate, &tasks, async { drop(delivering.await) });
            }
            begun
        };
        for (_, worker) in working.into_iter().chain(of_each) {
            self.run(&fate, &tasks, worker);
        }
        let (doors, apps) = (callbacks.doors.clone(), callbacks.apps.clone());
        let public = TowerToHyperService::new(public::router(callbacks));
        let (wake, sinks, calls) = (context.wake, context.sinks, context.calls);
        self.watch(&fate, store.clone());
        Some(Service {
            store,
            opened,
            doors,
            apps,
            wake,
            sinks,
            clock,
            public,
            tasks,
            calls,
            fate,
            lifecycle,
        })
    }

    /// What a process is assembled from.
    fn parts(&self, start: u64, fate: &Fate, store: Arc<dyn Store>) -> Parts {
        let sink_part = |receiver: &Receiver| SinkPart {
            name: receiver.name.clone(),
            kind: "webhook",
            start: Start::Beginning,
            sink: receiver.sink(fate.dead.clone(), fate.pause.clone()),
            takes: Duration::from_secs(5),
        };
        let machine: Arc<dyn Clock> = self.clock.clone();
        let clock = store.replicas().map_or(machine, Replicas::clock);
        Parts {
            nonces: nonces(Dice::new(self.seed, 2_000_000 + start)),
            store,
            wire: Arc::new(InProcessWire {
                api: self.sim.in_process(),
                dead: fate.dead.clone(),
                pause: fate.pause.clone(),
                exchanges: self.exchanges.clone(),
                process: start,
            }),
            clock: Arc::new(ServiceClock::new(clock)),
            jitter: Jitter::new(self.seed ^ start),
            sinks: self.receivers.iter().map(sink_part).collect(),
            metrics: Arc::default(),
            panicked: self.panicked.clone(),
        }
    }

    /// Notes that a process ends by itself.
    fn watch(&self, fate: &Fate, store: Arc<dyn Store>) {
        let (of_store, died) = (self.panicked.clone(), fate.dead.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = died.cancelled() => {}
                // A task of it has panicked.
                _ = store.failed() => of_store.cancel(),
            }
        });
        let (fate, panicked) = (fate.clone(), self.panicked.clone());
        tokio::spawn(async move {
            fate.stop.cancelled().await;
            if !fate.dead.is_cancelled() && !fate.is_stopping.load(Ordering::Relaxed) {
                panicked.cancel();
            }
        });
    }

    /// Opens the store of a process.
    async fn open_store(&self, start: u64, fate: &Fate) -> Result<Opened, StoreError> {
        let id = u128::from(self.seed);
        match &self.stored {
            Stored::Alone(memory) => {
                let id = id.to_be_bytes();
                let (store, writer) =
                    EmbeddedStore::with_manual_writer(memory.clone(), self.setup.settings, id).unwrap();
                let store = Arc::new(store);
                let dice = Dice::new(self.seed, 1_000 + start);
                let (disk, dead, trace) = (self.disk.clone(), fate.dead.clone(), self.trace.clone());
                self.run(fate, &TaskTracker::new(), write(writer, dice, disk, dead, trace));
                Ok(Opened::Alone(store))
            }
            Stored::Shared(memory) => {
                let Settings { inbox_events_max, dedupe_days, quarantine_days, .. } = self.setup.settings;
                let settings = memory::Settings {
                    replica: format!("replica{start}"),
                    store_id: id,
                    inbox_events_max,
                    dedupe_days,
                    quarantine_days,
                };
                let way = DatabaseWay::new(self, start, fate.clone());
                let opened = memory.open(&settings, self.clock.clone(), Arc::new(way)).await?;
                Ok(Opened::Shared(Arc::new(opened)))
            }
        }
    }

    /// Runs a task of a process until it ends or the process dies.
    fn run(&self, fate: &Fate, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        let (Fate { dead, pause, .. }, panicked) = (fate.clone(), self.panicked.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = dead.cancelled() => {}
                () = pause.gate(task) => {}
            }
        });
        tasks.spawn(async move {
            if task.await.is_err() {
                panicked.cancel();
            }
        });
    }
}

/// Nonces from the seed.
fn nonces(dice: Dice) -> Nonces {
    let dice = Mutex::new(dice);
    Arc::new(move || {
        let mut nonce = [0; 12];
        dice.lock().unwrap().fill(&mut nonce);
        nonce
    })
}

/// Steps the store's writer, with random delays, and crashes the process at a planned write.
async fn write(
    mut writer: ManualWriter,
    mut dice: Dice,
    disk: Arc<Disk>,
    dead: CancellationToken,
    trace: Trace,
) {
    while writer.has_work().await {
        for _ in 0..=dice.below(3) {
            tokio::task::yield_now().await;
        }
        let wait = match dice.below(100) {
            _ if disk.slow.load(Ordering::Relaxed) => dice.millis(500, 5_000),
            0..70 => Duration::ZERO,
            70..98 => dice.millis(1, 20),
            _ => dice.millis(20, 900),
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let crash = {
            let mut planned = disk.crash.lock().unwrap();
            let (now, later) = match *planned {
                Some((0, after)) => (Some(after), None),
                Some((more, after)) => (None, Some((more - 1, after))),
                None => (None, None),
            };
            *planned = later;
            now
        };
        if crash != Some(false) {
            writer.commit();
        }
        if let Some(after) = crash {
            trace.note(format!("crash {} a write", if after { "after" } else { "before" }));
            dead.cancel();
        }
    }
}
