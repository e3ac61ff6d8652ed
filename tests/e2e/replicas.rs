//! Two replicas, each a process, on one database: one works at a time, both accept callbacks, and either may be killed or
//! restarted at any instant.
//!
//! `UNIONLINK_REPLICA_KILLS` is the number of rounds (default 5), `UNIONLINK_SEED` repeats the choices of an earlier run.

#![expect(clippy::print_stdout, reason = "the seed, and what was measured")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use unionlink::simulator::{Api, Event, Fault, Options, Person, Target};

use crate::harness::{PATIENCE, Setup, World, number_in_environment};
use crate::ledger::{Ledger, Reader, rows};
use crate::postgres_server::Schema;
use crate::process::free_port;
use crate::receivers::{Webhook, check_received, webhook};

const CALLERS: u64 = 8;

/// A replica.
struct Replica {
    public: String,
    admin: String,
    file: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Replica {
    fn launch(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_unionlink"));
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.file)
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        self.child = Some(command.spawn().unwrap());
    }

    async fn get(&self, world: &World, path: &str) -> Option<Value> {
        world.http.get(format!("{}{path}", self.admin)).send().await.ok()?.json().await.ok()
    }

    async fn ready(&mut self, world: &World) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let answer = world.http.get(format!("{}/readyz", self.admin)).send().await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            let has_ended = self.child.as_mut().unwrap().try_wait().unwrap().is_some();
            assert!(!has_ended && Instant::now() < give_up, "{}", self.read_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn start(&mut self, world: &World) {
        self.launch();
        self.ready(world).await;
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().unwrap().to_string();
        assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().await.unwrap().success());
    }

    async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// Stops it as a supervisor does.
    async fn stop(&mut self) {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(PATIENCE, self.child.as_mut().unwrap().wait()).await;
        assert!(ended.expect("it ends").unwrap().success(), "{}", self.read_log());
        self.child = None;
    }

    fn read_log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it holds, as it says itself.
    async fn holds(&self, world: &World) -> Vec<String> {
        let status = self.get(world, "/v1/status").await.unwrap_or_default();
        let this =
            status["replicas"].as_array().into_iter().flatten().find(|replica| replica["this"] == true);
        let holds = this.and_then(|this| this["holds"].as_array()).into_iter().flatten();
        holds.filter_map(|duty| duty.as_str().map(str::to_owned)).collect()
    }

    /// Waits until it has this duty. Returns how long that took.
    async fn until_it_holds(&self, world: &World, duty: &str) -> Duration {
        let started = Instant::now();
        while !self.holds(world).await.iter().any(|held| held == duty) {
            assert!(started.elapsed() < PATIENCE, "{}", self.read_log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started.elapsed()
    }
}

/// A platform, a database, and two replicas.
struct Pair {
    replicas: [Replica; 2],
    world: World,
    _schema: Schema,
}

impl Pair {
    /// Two replicas that run; `None` where there is no server.
    async fn start(setup: Setup) -> Option<Self> {
        let schema = Schema::new()?;
        let mut store = setup.store.clone();
        // The server of the tests does not sync.
        let (url, name) = (schema.url, &schema.name);
        write!(
            store,
            "\nkind = \"postgres\"\nurl = {{ value = \"{url}\" }}\nschema = \"{name}\"\nallow_unsafe = true"
        )
        .unwrap();
        let mut world = World::with(Setup { store, ..setup }).await;
        world.stop().await.unwrap();
        let replica = |n: usize| {
            let (public, admin) = (free_port(), free_port());
            let file = world.folder.path().join(format!("replica-{n}.toml"));
            std::fs::write(&file, world.configuration(&public, &admin)).unwrap();
            let log = world.folder.path().join(format!("log-{n}"));
            let url = |address: String| format!("http://{address}");
            Replica { public: url(public), admin: url(admin), file, log, child: None }
        };
        let mut replicas = [replica(0), replica(1)];
        replicas.iter_mut().for_each(Replica::launch);
        for replica in &mut replicas {
            replica.ready(&world).await;
        }
        let mut pair = Self { replicas, world, _schema: schema };
        pair.point_at(0);
        Some(pair)
    }

    /// Has the world use this one.
    fn point_at(&mut self, n: usize) {
        self.world.public.clone_from(&self.replicas[n].public);
        self.world.admin.clone_from(&self.replicas[n].admin);
        self.world.point_callbacks();
    }

    /// The number of the replica that works.
    async fn worker(&self) -> usize {
        let give_up = Instant::now() + PATIENCE;
        loop {
            for (n, replica) in self.replicas.iter().enumerate() {
                if replica.holds(&self.world).await.iter().any(|duty| duty == "work") {
                    return n;
                }
            }
            assert!(Instant::now() < give_up, "nobody works");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Callbacks to both replicas, as a load balancer spreads them; one that is not accepted is sent to the other.
struct Load<'a> {
    world: &'a World,
    publics: [String; 2],
    people: Vec<Person>,
    ledger: &'a Mutex<Ledger>,
    next: AtomicUsize,
    /// Callbacks that neither replica has accepted at first.
    refused: AtomicUsize,
    slowest_us: AtomicUsize,
    dead: CancellationToken,
}

impl<'a> Load<'a> {
    fn new(pair: &'a Pair, people: Vec<Person>, ledger: &'a Mutex<Ledger>) -> Self {
        let publics = [0, 1].map(|n| pair.replicas[n].public.clone());
        let (next, refused, slowest_us) = Default::default();
        let dead = CancellationToken::new();
        Self { world: &pair.world, publics, people, ledger, next, refused, slowest_us, dead }
    }

    async fn send(&self, event: &Event) -> bool {
        let mut callback = self.world.wecom.seal(event);
        let first = self.next.fetch_add(1, SeqCst);
        let started = Instant::now();
        for n in [first, first + 1] {
            callback.url = format!("{}/callback/brand", self.publics[n % 2]);
            if self.world.wecom.post(&callback).await.acknowledged {
                let took = usize::try_from(started.elapsed().as_micros()).unwrap();
                self.slowest_us.fetch_max(took, SeqCst);
                return true;
            }
        }
        self.refused.fetch_add(1, SeqCst);
        false
    }

    async fn call(&self, mut rng: StdRng) {
        while !self.dead.is_cancelled() {
            let (nth, event) = self.ledger.lock().unwrap().random_change(self.world, &self.people, &mut rng);
            if self.send(&event).await {
                self.ledger.lock().unwrap().acknowledged(nth);
            }
        }
    }

    async fn calls(&self, seed: u64) {
        join_all((0..CALLERS).map(|n| self.call(StdRng::seed_from_u64(seed ^ n)))).await;
    }

    /// Registers everybody, at whichever replica accepts it.
    async fn register(&self, admins: &[String; 2]) {
        for fans in self.people.chunks(20) {
            for admin in admins {
                let sent = self.world.http.post(format!("{admin}/v1/fans")).json(&rows(fans)).send().await;
                if sent.is_ok_and(|answer| answer.status() == 202) {
                    self.ledger.lock().unwrap().accepted(fans);
                    break;
                }
            }
        }
    }
}

/// Waits until the sink has everything, for as long as it makes progress.
async fn delivered(world: &World) {
    let (mut lag, mut since) = (Value::Null, Instant::now());
    loop {
        let now = world.get("/v1/status").await["sinks"][0]["lag_entries"].clone();
        if now == 0 {
            return;
        }
        if lag != now {
            (lag, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "{lag} entries are not delivered");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn setup(hooks: &Webhook) -> Setup {
    let options =
        Options { base_per_minute: 10_000_000, base_per_hour: 10_000_000, ..Setup::default().options };
    Setup { options, app: webhook("crm", &hooks.url), dealers: 3, ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_replica_accepts_callbacks_one_works_and_the_other_takes_over() {
    let hooks = Webhook::start().await;
    let Some(mut pair) = Pair::start(setup(&hooks)).await else { return };
    let worker = pair.worker().await;
    let other = 1 - worker;
    // What is sent to the one that does not work is linked by the other, and can be read at both.
    pair.point_at(other);
    let fans = pair.world.mint(2).await;
    pair.world.add(0, &fans[0], "zhangsan").await;
    for n in [worker, other] {
        pair.point_at(n);
        pair.world.linked(&fans[0], 1).await;
    }
    let status = pair.replicas[other].get(&pair.world, "/v1/status").await.unwrap();
    assert_eq!(status["replicas"].as_array().unwrap().len(), 2, "{status:#}");
    // An operator asks the replica that does not work.
    pair.point_at(other);
    pair.world.wecom.set_dealer_error(&pair.world.dealers[1].corp_id, Some(48_002));
    pair.world.add(1, &fans[1], "zhangsan").await;
    pair.world
        .until("/v1/status", |status| status["paused"].as_array().is_some_and(|paused| paused.len() == 1))
        .await;
    pair.world.wecom.set_dealer_error(&pair.world.dealers[1].corp_id, None);
    let (code, resumed) = pair.world.post("/v1/resume", &json!({"app": "brand"})).await;
    assert_eq!((code, &resumed["resumed"]), (200, &json!(1)), "{resumed}");
    pair.world.linked(&fans[1], 1).await;
    // One that stops hands over at once, one that is killed once its leases have expired.
    pair.replicas[worker].stop().await;
    let took = pair.replicas[other].until_it_holds(&pair.world, "work").await;
    println!("taken over from one that stopped after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let world = &pair.world;
    pair.replicas[worker].start(world).await;
    pair.replicas[other].until_it_holds(world, "sink/crm").await;
    pair.replicas[other].kill().await;
    let took = pair.replicas[worker].until_it_holds(&pair.world, "work").await;
    println!("taken over from one that was killed after {took:?}");
    pair.point_at(worker);
    let third = pair.world.mint(1).await.remove(0);
    pair.world.add(0, &third, "zhangsan").await;
    pair.world.linked(&third, 1).await;
    let mut reader = Reader::default();
    let give_up = Instant::now() + PATIENCE;
    while hooks.received().last().is_none_or(|entry| entry["seq"] != 3) {
        assert!(Instant::now() < give_up, "{}", pair.replicas[worker].read_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    reader.read_all(&pair.world).await;
    check_received("webhook", &hooks.received(), &reader.read);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_repeats_no_more_than_the_calls_that_were_in_flight() {
    const CUSTOMERS: usize = 1_000;
    const KILLED_AFTER: u64 = 4;
    let hooks = Webhook::start().await;
    let setup = setup(&hooks);
    let wecom = format!("{}\ncalls_max = 1", setup.wecom);
    // Whose token converts is not to be tried out.
    let app = format!("conversion_token = \"downstream\"\n{}", setup.app);
    let Some(mut pair) = Pair::start(Setup { wecom, app, dealers: 1, ..setup }).await else { return };
    pair.world.wecom.inject(Target::Every, Fault::Latency(150), None);
    let people = pair.world.wecom.add_people(CUSTOMERS);
    // A backlog: nobody works before the leases of the one that is killed have expired.
    let first = pair.worker().await;
    let second = 1 - first;
    pair.replicas[first].kill().await;
    pair.point_at(second);
    pair.world.add_all(&people, "zhangsan").await;
    let calls = |pair: &Pair| pair.world.wecom.counters().calls_of(Api::ExternalUseridToPendingId);
    assert_eq!(calls(&pair), 0, "it took too long to add the customers");
    let world = &pair.world;
    pair.replicas[first].start(world).await;
    let worker = pair.worker().await;
    let give_up = Instant::now() + PATIENCE;
    while calls(&pair) < KILLED_AFTER {
        assert!(Instant::now() < give_up, "{}", pair.replicas[worker].read_log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pair.replicas[worker].kill().await;
    pair.point_at(1 - worker);
    pair.world.until("/v1/status", |status| status["inbox"]["waiting"] == 0).await;
    let made = calls(&pair);
    println!("{made} calls for {CUSTOMERS} customers, with a takeover");
    assert!(made <= CUSTOMERS.div_ceil(100) as u64 + 1, "{made} calls for {CUSTOMERS} customers");
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_replica_is_killed_or_restarted_nothing_acknowledged_is_lost_or_linked_twice() {
    let rounds = number_in_environment("UNIONLINK_REPLICA_KILLS").unwrap_or(5);
    let seed = number_in_environment("UNIONLINK_SEED").unwrap_or_else(rand::random);
    println!("UNIONLINK_REPLICA_KILLS={rounds} UNIONLINK_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let hooks = Webhook::start().await;
    let Some(mut pair) = Pair::start(setup(&hooks)).await else { return };
    let (ledger, mut reader) = (Mutex::<Ledger>::default(), Reader::default());
    pair.world.wecom.inject(Target::Every, Fault::Latency(15), None);
    for round in 0..rounds {
        let people = pair.world.wecom.add_people(60);
        let victim = rng.random_range(0..2);
        let is_killed = rng.random_range(0..3) > 0;
        let admins = [0, 1].map(|n| pair.replicas[n].admin.clone());
        // The load borrows the pair, and the process is taken out of it.
        let mut child = pair.replicas[victim].child.take().unwrap();
        let load = Load::new(&pair, people, &ledger);
        let (before, after) = (rng.random_range(50..800), rng.random_range(50..500));
        let killing = async {
            tokio::time::sleep(Duration::from_millis(before)).await;
            if is_killed {
                child.kill().await.unwrap();
            } else {
                let pid = child.id().unwrap().to_string();
                assert!(Command::new("kill").arg("-TERM").arg(pid).status().await.unwrap().success());
                let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
                assert!(ended.expect("it ends").unwrap().success());
            }
            tokio::time::sleep(Duration::from_millis(after)).await;
            load.dead.cancel();
        };
        tokio::join!(load.calls(seed ^ (round << 8)), load.register(&admins), killing);
        if !is_killed {
            let (refused, slowest) = (load.refused.load(SeqCst), load.slowest_us.load(SeqCst));
            assert_eq!(refused, 0, "one of the two always accepts while the other is restarted");
            println!("restart: slowest answer after {slowest} µs");
        }
        let Pair { replicas, world, .. } = &mut pair;
        replicas[victim].start(world).await;
        pair.point_at(1 - victim);
        reader.read_on(&pair.world).await;
    }
    println!("{:?} callbacks and fans acknowledged", ledger.lock().unwrap().counts());
    pair.world.wecom.clear_faults();
    delivered(&pair.world).await;
    ledger.into_inner().unwrap().check(&pair.world, &mut reader).await;
    check_received("webhook", &hooks.received(), &reader.read);
    let counters = pair.world.wecom.counters();
    assert_eq!((counters.quota_violations, counters.base_violations), (0, 0));
}
