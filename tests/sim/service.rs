//! The simulated processes: the service as `app::assemble` builds it, without listeners, over a store in memory that
//! survives a crash. One with a store of its own, or two or three replicas that share one. They are started, stopped,
//! suspended, killed and started again.

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
use unionlink::clock::ServiceClock;
use unionlink::config::Config;
use unionlink::domain::ids::AppName;
use unionlink::http::DoorSet;
use unionlink::lifecycle::Lifecycle;
use unionlink::simulator::{Event, SealedCallback, Sending, Simulator};
use unionlink::store::embedded::Settings;
use unionlink::store::embedded::engine::Memory;
use unionlink::store::shared::memory::SharedMemory;
use unionlink::store::{Duty, Store};
use unionlink::worker::Wake;
use unionlink::worker::apps::Apps;
use unionlink::worker::sink_status::SinkRegistry;

use crate::receiver::Receiver;
use crate::replicas::{Opened, Pause, Stored};
use crate::time::{Dice, MachineClock, Trace};
use crate::wire::ExchangeLog;

/// How long WeCom waits for the answer to a callback.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits for that of a suite's event, except a ticket.
const URGENT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a process that is stopped waits for what it has begun.
const GRACE: Duration = Duration::from_secs(10);

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
    /// The number of processes.
    pub replicas: usize,
}

/// Faults of the disk.
#[derive(Default)]
pub struct Disk {
    pub slow: AtomicBool,
    /// Nothing between a replica and the database is lost.
    pub is_reliable: AtomicBool,
    /// A planned crash: the number of writes before the one it happens at, and whether it happens after that
    /// write.
    pub crash: Mutex<Option<(u64, bool)>>,
}

/// The machines that the service runs on.
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
    pub stored: Stored,
    pub starts: AtomicU64,
    running: Mutex<Vec<Option<Arc<Service>>>>,
    /// Which replica something happens to.
    pub lots: Mutex<Dice>,
    /// A task of some process panicked.
    pub panicked: CancellationToken,
}

/// A running process.
pub struct Service {
    pub store: Arc<dyn Store>,
    pub opened: Opened,
    pub doors: Arc<DoorSet>,
    pub apps: Arc<Apps>,
    pub wake: Arc<Wake>,
    pub sinks: Arc<SinkRegistry>,
    /// The clock of its waits and records.
    pub clock: Arc<ServiceClock>,
    pub public: TowerToHyperService<Router>,
    pub tasks: TaskTracker,
    pub calls: TaskTracker,
    pub fate: Fate,
    /// Of a replica.
    pub lifecycle: Option<Lifecycle>,
}

/// What happens to a process.
#[derive(Clone, Default)]
pub struct Fate {
    pub dead: CancellationToken,
    pub stop: CancellationToken,
    /// It is stopped by its supervisor.
    pub is_stopping: Arc<AtomicBool>,
    pub pause: Pause,
    cut_off: Arc<AtomicBool>,
}

impl Fate {
    /// Whether it does not reach the database.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }
}

impl Service {
    /// The result of `what`, or `None` if the process dies first.
    pub async fn unless_dead<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.fate.dead.cancelled() => None,
            done = what => Some(done),
        }
    }

    pub fn is_dead(&self) -> bool {
        self.fate.dead.is_cancelled()
    }

    fn die(&self) {
        self.fate.dead.cancel();
        // What goes on reaches nobody any more.
        self.fate.stop.cancel();
        self.fate.pause.end();
    }

    /// Its id among the replicas, if it is one.
    fn id(&self) -> Option<String> {
        Some(self.store.replicas()?.id().to_owned())
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
        let (disk, panicked) = (Arc::default(), CancellationToken::new());
        let stored = match setup.replicas {
            1 => Stored::Alone(Memory::default()),
            _ => Stored::Shared(SharedMemory::new(Arc::new(clock.true_time()))),
        };
        let (starts, running) = (AtomicU64::new(0), Mutex::new(vec![None; setup.replicas]));
        let lots = Mutex::new(Dice::new(seed, 6));
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
            stored,
            starts,
            running,
            lots,
            panicked,
        }
    }

    /// The replicas that live.
    fn living(&self) -> Vec<Arc<Service>> {
        let running = self.running.lock().unwrap();
        running.iter().flatten().filter(|service| !service.is_dead()).cloned().collect()
    }

    /// One of some replicas.
    fn one_of(&self, mut services: Vec<Arc<Service>>) -> Option<Arc<Service>> {
        match services.len() {
            0 => None,
            1 => services.pop(),
            number => Some(services.swap_remove(self.lots.lock().unwrap().index(number))),
        }
    }

    /// A process that runs, if one does.
    pub fn running(&self) -> Option<Arc<Service>> {
        let mut services = self.living();
        services.retain(|service| !service.fate.pause.is_paused() && !service.fate.is_cut_off());
        self.one_of(services)
    }

    /// Whether every process runs.
    pub fn is_whole(&self) -> bool {
        self.living().len() == self.setup.replicas
    }

    /// Whether a replica has everything to do that one at a time may do. A single process always has.
    pub fn is_led(&self) -> bool {
        let Stored::Shared(memory) = &self.stored else { return true };
        let sinks = self.receivers.iter().map(|receiver| Duty::Sink(receiver.name.clone()));
        let living: Vec<_> = self.living().iter().filter_map(|service| service.id()).collect();
        let is_held = |duty: Duty| memory.holder(&duty).is_some_and(|holder| living.contains(&holder));
        std::iter::once(Duty::Work).chain(sinks).all(is_held)
    }

    /// How often a replica has taken over the work from another one, or again.
    pub fn takeovers(&self) -> u64 {
        match &self.stored {
            Stored::Alone(_) => 0,
            Stored::Shared(memory) => memory.terms(&Duty::Work).saturating_sub(1),
        }
    }

    /// Kills a process at its current await points.
    pub fn kill(&self) {
        if let Some(service) = self.one_of(self.living()) {
            service.die();
        }
    }

    /// Kills all of them.
    pub fn kill_all(&self) {
        self.living().iter().for_each(|service| service.die());
    }

    /// Stops a process as a supervisor does.
    pub async fn stop(&self) {
        let Some(service) = self.running() else { return };
        service.fate.is_stopping.store(true, Ordering::Relaxed);
        service.fate.stop.cancel();
        let ended = async {
            if let Some(lifecycle) = &service.lifecycle {
                let trackers = [&service.tasks, &service.calls];
                if lifecycle.finish(&trackers, GRACE, &CancellationToken::new()).await.is_err() {
                    self.panicked.cancel();
                }
                return;
            }
            for tracker in [&service.tasks, &service.calls] {
                tracker.close();
                tracker.wait().await;
            }
        };
        let _ = service.unless_dead(tokio::time::timeout(GRACE, ended)).await;
        let _ = service.unless_dead(service.store.close()).await;
        service.die();
    }

    /// Suspends a replica for a while.
    pub fn suspend(&self, time: Duration) {
        let Some(service) = self.one_of(self.living()) else { return };
        self.trace.note(format!("a replica is suspended for {} ms", time.as_millis()));
        service.fate.pause.begin();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            service.fate.pause.end();
        });
    }

    /// Cuts a replica off from the database for a while; it goes on with what it knows.
    pub fn cut_off(&self, time: Duration) {
        let Some(service) = self.one_of(self.living()) else { return };
        self.trace.note(format!("a replica is cut off for {} ms", time.as_millis()));
        service.fate.cut_off.store(true, Ordering::Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            service.fate.cut_off.store(false, Ordering::Relaxed);
        });
    }

    /// Ends all suspensions, and reaches the database with all replicas.
    pub fn resume_all(&self) {
        for service in self.living() {
            service.fate.pause.end();
            service.fate.cut_off.store(false, Ordering::Relaxed);
        }
    }

    /// Starts the processes that do not run.
    pub async fn start(&self) {
        for place in 0..self.setup.replicas {
            let is_running =
                self.running.lock().unwrap()[place].as_ref().is_some_and(|service| !service.is_dead());
            if !is_running {
                let started = self.start_one().await;
                self.running.lock().unwrap()[place] = started.map(Arc::new);
            }
        }
    }

    /// Every row that is stored.
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        match &self.stored {
            Stored::Alone(memory) => memory.rows(),
            Stored::Shared(memory) => memory.rows(),
        }
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
        // A suspended one, too: what balances the load does not know that at once.
        let service = self.one_of(self.living())?;
        let request = Request::post(callback.full_url())
            .header("content-type", "text/xml")
            .body(Body::from(callback.body.clone()))
            .unwrap();
        let answered = service.unless_dead(service.fate.pause.gate(service.public.call(request)));
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
