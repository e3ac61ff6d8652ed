//! SIGKILL at any instant, over and over on one store, under full load and while it opens.
//!
//! Everything runs at once: dealers add, half-add and delete customers, callbacks repeat, the brand registers
//! fans, WeCom is slow and fails now and then, three sinks deliver and a reader follows the feed.
//! `UNIONLINK_KILLS` is the number of rounds (default 12), `UNIONLINK_SEED` repeats the choices of an earlier
//! run.

#![expect(clippy::print_stdout, reason = "the seed, and what the kills hit")]

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;
use unionlink::simulator::{Fault, Options, Person, Target};

use crate::harness::{PATIENCE, Setup, World, number_in_environment};
use crate::ledger::{Ledger, Reader, rows};
use crate::process::Process;
use crate::receivers::{Nats, Webhook, check_received, file, lines_in, nats, webhook};

/// Callbacks in flight at once.
const CALLERS: u64 = 8;
const PEOPLE_A_ROUND: usize = 120;

/// The load during the life of one process.
struct Load<'a> {
    world: &'a World,
    people: Vec<Person>,
    ledger: &'a Mutex<Ledger>,
    dead: CancellationToken,
}

impl Load<'_> {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    async fn call(&self, mut rng: StdRng) {
        while !self.dead.is_cancelled() {
            let (nth, event) = self.ledger().random_change(self.world, &self.people, &mut rng);
            if self.world.wecom.deliver_once(&event).await.acknowledged {
                self.ledger().acknowledged(nth);
            }
        }
    }

    async fn register(&self) {
        for fans in self.people.chunks(20) {
            let sent =
                self.world.http.post(format!("{}/v1/fans", self.world.admin)).json(&rows(fans)).send().await;
            if sent.is_ok_and(|answer| answer.status() == 202) {
                self.ledger().accepted(fans);
            }
        }
    }

    async fn read(&self, reader: &mut Reader) {
        while !self.dead.is_cancelled() {
            if !reader.read_on(self.world).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Kills the process once it has acknowledged callbacks, however slow the machine is.
    async fn kill(&self, process: &Process, after: Duration) {
        let (before, give_up) = (self.ledger().counts().0, Instant::now() + PATIENCE);
        while self.ledger().counts().0 < before + 10 {
            assert!(Instant::now() < give_up, "nothing is acknowledged");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(after).await;
        process.signal("KILL").await;
        self.dead.cancel();
    }
}

/// Counts of what the kills hit.
#[derive(Debug, Default)]
struct Kills {
    under_load: u32,
    while_opening: u32,
    once_ready: u32,
    snapshots_unfinished: usize,
}

fn unfinished_snapshots(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("snap.") && name.ends_with(".generating")).count()
}

/// Starts the process and kills it at a random instant during opening, or as soon as it writes a snapshot.
async fn kill_while_opening(process: &mut Process, opening: Duration, rng: &mut StdRng, kills: &mut Kills) {
    process.launch(&[]);
    let folder = process.world.folder.path().join("data/index");
    let (at_snapshot, after) = (rng.random(), opening.mul_f64(rng.random()));
    let instant = async {
        let until = Instant::now() + after;
        while Instant::now() < until && !(at_snapshot && unfinished_snapshots(&folder) > 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = instant => kills.while_opening += 1,
        ended = process.ready_or_ended() => {
            assert!(ended.is_none(), "it does not start: {ended:?}");
            kills.once_ready += 1;
        }
    }
    process.kill().await;
    kills.snapshots_unfinished += unfinished_snapshots(&folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_it_loses_nothing_it_acknowledged_and_links_nothing_twice() {
    let rounds = number_in_environment("UNIONLINK_KILLS").unwrap_or(12);
    let seed = number_in_environment("UNIONLINK_SEED").unwrap_or_else(rand::random);
    println!("UNIONLINK_KILLS={rounds} UNIONLINK_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (hooks, bus, archive) = (Webhook::start().await, Nats::start().await, tempfile::tempdir().unwrap());
    let folder = archive.path().join("links");
    let bus_section = bus.as_ref().map(|bus| nats(&bus.url)).unwrap_or_default();
    let app = webhook("crm", &hooks.url) + &bus_section + &file(&folder);
    let options =
        Options { base_per_minute: 10_000_000, base_per_hour: 10_000_000, ..Setup::default().options };
    let mut process = Process::with(Setup { options, app, dealers: 3, ..Setup::default() }).await;
    let (ledger, mut reader, mut kills) = (Mutex::<Ledger>::default(), Reader::default(), Kills::default());
    process.world.wecom.inject(Target::Every, Fault::Latency(15), None);
    for round in 0..rounds {
        let started = Instant::now();
        process.start().await;
        let opening = started.elapsed();
        if round % 3 == 2 {
            process.kill().await;
            for _ in 0..rng.random_range(1..=5) {
                kill_while_opening(&mut process, opening, &mut rng, &mut kills).await;
            }
            process.start().await;
        }
        let world = &process.world;
        for fault in [Fault::Reset, Fault::ApplyThenDrop, Fault::HttpStatus(502), Fault::Errcode(-1)] {
            world.wecom.inject(Target::Every, fault, Some(rng.random_range(0..2)));
        }
        let people = world.wecom.add_people(PEOPLE_A_ROUND);
        let load = Load { world, people, ledger: &ledger, dead: CancellationToken::new() };
        let calling =
            join_all((0..CALLERS).map(|n| load.call(StdRng::seed_from_u64(seed ^ (round << 8) ^ n))));
        let life = Duration::from_millis(rng.random_range(0..1_000));
        tokio::join!(calling, load.register(), load.read(&mut reader), load.kill(&process, life));
        kills.under_load += 1;
        process.kill().await;
    }
    println!("{kills:?}; {:?} callbacks and fans acknowledged", ledger.lock().unwrap().counts());
    assert!(rounds < 3 || kills.while_opening > 0, "no kill came during opening");

    process.world.wecom.clear_faults();
    process.start().await;
    let world = &process.world;
    ledger.into_inner().unwrap().check(world, &mut reader).await;
    for (name, received) in [("webhook", hooks.received()), ("file", lines_in(&folder))] {
        check_received(name, &received, &reader.read);
    }
    if let Some(bus) = bus {
        check_received("nats", &bus.received().await, &reader.read);
    }
    let counters = world.wecom.counters();
    assert_eq!((counters.quota_violations, counters.base_violations), (0, 0));
}
