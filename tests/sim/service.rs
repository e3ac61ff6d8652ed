//! The simulated process: the service as `app::assemble` builds it, without listeners, over an in-memory
//! store that survives a crash. It is started, stopped, killed and started again.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unionlink::app::{Assembled, Parts, SinkPart, StartError, assemble};
use unionlink::at_rest::Nonces;
use unionlink::clock::ServiceClock;
use unionlink::config::Config;
use unionlink::domain::backoff::Jitter;
use unionlink::domain::ids::AppName;
use unionlink::http::DoorSet;
use unionlink::http::public;
use unionlink::simulator::{Event, SealedCallback, Sending, Simulator};
use unionlink::store::embedded::engine::Memory;
use unionlink::store::embedded::{EmbeddedStore, ManualWriter, Settings};
use unionlink::store::{Start, Store as _};
use unionlink::worker::Wake;
use unionlink::worker::apps::Apps;
use unionlink::worker::deliver;
use unionlink::worker::sink_status::SinkRegistry;

use crate::receiver::Receiver;
use crate::time::{Dice, MachineClock, Trace};
use crate::wire::{ExchangeLog, InProcessWire};

/// How long WeCom waits for the answer to a callback.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits for that of a suite's event, except a ticket.
const URGENT_TIMEOUT: Duration = Duration::from_secs(1);

/// A brand, and the app of the service that is for it.
#[derive(Debug, Clone)]
pub struct Brand {
    pub app: AppName,
    pub corp_id: String,
    pub agent_id: u64,
}

/// The set-up of the service that a schedule chooses.
#[derive(Debug, Clone)]
pub struct Setup {
    pub config: Config,
    /// Dealers are compared with WeCom's lists without being asked to.
    pub reconciles_by_itself: bool,
    /// `contact_list` may be called, which gives the time of the first add only.
    pub lists_first_add: bool,
    /// WeCom's lists keep customers who have deleted the member.
    pub lists_deleted_by_customer: bool,
    /// How long WeCom shows the members of a group from before a change.
    pub chat_lag_ms: i64,
    /// The suite id, if that is what the events of apps are sealed for.
    pub sealed_for: Option<String>,
    /// Settings of the store.
    pub settings: Settings,
}

/// Faults of the disk.
#[derive(Default)]
pub struct Disk {
    pub slow: AtomicBool,
    /// A planned crash: the number of writes before the one it happens at, and whether it happens after that
    /// write.
    pub crash: Mutex<Option<(u64, bool)>>,
}

/// The machine that the service runs on.
pub struct Machine {
    pub seed: u64,
    pub sim: Simulator,
    /// At least one; further ones only as agency-developed apps.
    pub brands: Vec<Brand>,
    pub setup: Setup,
    pub clock: Arc<MachineClock>,
    pub disk: Arc<Disk>,
    pub receivers: Vec<Receiver>,
    pub trace: Trace,
    /// The calls that exchange an auth code.
    pub exchanges: ExchangeLog,
    pub memory: Memory,
    starts: AtomicU64,
    running: Mutex<Option<Arc<Service>>>,
    /// A task of some process panicked.
    pub panicked: CancellationToken,
}

/// A running process.
pub struct Service {
    pub store: Arc<EmbeddedStore>,
    pub doors: Arc<DoorSet>,
    pub apps: Arc<Apps>,
    pub wake: Arc<Wake>,
    pub sinks: Arc<SinkRegistry>,
    /// The clock of its waits and records.
    pub clock: Arc<ServiceClock>,
    public: TowerToHyperService<Router>,
    tasks: TaskTracker,
    calls: TaskTracker,
    stop: CancellationToken,
    dead: CancellationToken,
}

impl Service {
    /// The result of `what`, or `None` if the process dies first.
    pub async fn unless_dead<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.dead.cancelled() => None,
            done = what => Some(done),
        }
    }

    pub fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }
}

impl Machine {
    pub fn new(
        seed: u64,
        sim: Simulator,
        brands: Vec<Brand>,
        setup: Setup,
        clock: Arc<MachineClock>,
        receivers: Vec<Receiver>,
        trace: Trace,
    ) -> Self {
        let (disk, memory, panicked) = (Arc::default(), Memory::default(), CancellationToken::new());
        let (starts, running) = (AtomicU64::new(0), Mutex::default());
        let exchanges = ExchangeLog::default();
        Self {
            seed,
            sim,
            brands,
            setup,
            clock,
            disk,
            receivers,
            trace,
            exchanges,
            memory,
            starts,
            running,
            panicked,
        }
    }

    /// The process that runs, if one does.
    pub fn running(&self) -> Option<Arc<Service>> {
        self.running.lock().unwrap().clone().filter(|service| !service.is_dead())
    }

    /// Kills the process at its current await points.
    pub fn kill(&self) {
        if let Some(service) = self.running.lock().unwrap().take() {
            service.dead.cancel();
        }
    }

    /// Stops the process as a supervisor does.
    pub async fn stop(&self) {
        let Some(service) = self.running() else { return };
        service.stop.cancel();
        let ended = async {
            for tracker in [&service.tasks, &service.calls] {
                tracker.close();
                tracker.wait().await;
            }
        };
        let _ = service.unless_dead(tokio::time::timeout(Duration::from_secs(10), ended)).await;
        service.store.close().await;
        self.kill();
    }

    /// Starts a process if none runs.
    pub async fn start(&self) {
        if self.running().is_some() {
            return;
        }
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        self.trace.note(format!("start {start}"));
        self.clock.start_process();
        let (dead, stop, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let id = u128::from(self.seed).to_be_bytes();
        let (store, writer) =
            EmbeddedStore::with_manual_writer(self.memory.clone(), self.setup.settings, id).unwrap();
        let store = Arc::new(store);
        let dice = Dice::new(self.seed, 1_000 + start);
        let writing = write(writer, dice, self.disk.clone(), dead.clone(), self.trace.clone());
        self.run(&dead, &TaskTracker::new(), writing);
        let sink_part = |receiver: &Receiver| SinkPart {
            name: receiver.name.clone(),
            kind: "webhook",
            start: Start::Beginning,
            sink: receiver.sink(dead.clone()),
            takes: Duration::ZERO,
        };
        let clock = Arc::new(ServiceClock::new(self.clock.clone()));
        let parts = Parts {
            nonces: nonces(Dice::new(self.seed, 2_000_000 + start)),
            store: store.clone(),
            wire: Arc::new(InProcessWire {
                api: self.sim.in_process(),
                dead: dead.clone(),
                exchanges: self.exchanges.clone(),
                process: start,
            }),
            clock: clock.clone(),
            jitter: Jitter::new(self.seed ^ start),
            sinks: self.receivers.iter().map(sink_part).collect(),
            metrics: Arc::default(),
            panicked: self.panicked.clone(),
        };
        let assembled = tokio::select! {
            biased;
            () = dead.cancelled() => return,
            assembled = async {
                let assembled = assemble(&self.setup.config, parts, stop.clone()).await?;
                let begun = assembled.workers.begin(&stop).await.map_err(StartError::Clocks)?;
                Ok((assembled, begun))
            } => assembled,
        };
        let (assembled, workers) = match assembled {
            Ok(assembled) => assembled,
            // The disk does not answer: the process ends, and is started again later.
            Err(error @ (StartError::Suites(_) | StartError::Clocks(_))) => {
                self.trace.note(format!("start {start}: {error}"));
                return dead.cancel();
            }
            Err(error) => panic!("{error}"),
        };
        self.clock.noted();
        let Assembled { context, callbacks, tasks: of_each, sinks, .. } = assembled;
        for SinkPart { name, start, sink, .. } in sinks {
            let delivering = deliver::run(context.clone(), name, sink, start, stop.clone());
            self.run(&dead, &tasks, async { drop(delivering.await) });
        }
        for (_, worker) in workers.into_iter().chain(of_each) {
            self.run(&dead, &tasks, worker);
        }
        let (doors, apps) = (callbacks.doors.clone(), callbacks.apps.clone());
        let public = TowerToHyperService::new(public::router(callbacks));
        let (wake, sinks, calls) = (context.wake, context.sinks, context.calls);
        let service = Service { store, doors, apps, wake, sinks, clock, public, tasks, calls, stop, dead };
        *self.running.lock().unwrap() = Some(Arc::new(service));
    }

    /// Runs a task of a process until it ends or the process dies.
    fn run(
        &self,
        dead: &CancellationToken,
        tasks: &TaskTracker,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (dead, panicked) = (dead.clone(), self.panicked.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = dead.cancelled() => {}
                () = task => {}
            }
        });
        tasks.spawn(async move {
            if task.await.is_err() {
                panicked.cancel();
            }
        });
    }

    /// Seals an event, with new random bytes each time.
    pub fn seal(&self, event: &Event) -> SealedCallback {
        match &self.setup.sealed_for {
            Some(suite_id) if event.suite_id.is_none() => self.sim.seal_with(event, suite_id),
            _ => self.sim.seal(event),
        }
    }

    /// Sends the callback of an event to the service. Returns the HTTP status, if it is answered in time.
    pub async fn post(&self, event: &Event, callback: &SealedCallback) -> Option<u16> {
        let timeout = if event.sending == Sending::Urgent { URGENT_TIMEOUT } else { CALLBACK_TIMEOUT };
        let service = self.running()?;
        let request = Request::post(callback.full_url())
            .header("content-type", "text/xml")
            .body(Body::from(callback.body.clone()))
            .unwrap();
        let answered = service.unless_dead(service.public.call(request));
        let Ok(response) = tokio::time::timeout(timeout, answered).await.ok()??;
        Some(response.status().as_u16())
    }

    /// Makes a request to the service. `None` if it fails, if no process runs, or if it dies before it
    /// answers.
    pub async fn ask<T, E, F>(&self, what: impl FnOnce(Arc<Service>) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, E>>,
    {
        let service = self.running()?;
        service.unless_dead(what(service.clone())).await?.ok()
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
