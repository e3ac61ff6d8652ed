//! Fault injection: the n-th call that writes, syncs or renames fails, for every n of a short run.
//!
//! `failing_io.c` is preloaded into the real binary and makes one call fail, or every call from then on.
//! After the fault the process must exit, refuse to start, or work normally; it must not hang. Whatever it
//! acknowledged must be there when it is started again without the fault.
//!
//! `UNIONLINK_IO_POINTS` is the number of (call, fault) pairs to try, out of all of them.

#![expect(clippy::print_stdout, reason = "a table of the outcomes")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use unionlink::simulator::{Options, Person};

use crate::harness::{PATIENCE, Setup, World, number_in_environment};
use crate::ledger::{Ledger, Reader, is_idle, rows};
use crate::process::Process;

/// Runs at a time.
const RUNNERS: usize = 3;
const CALLBACKS: usize = 10;
/// The first calls of a new store, each of which is interrupted.
const FIRST_STEPS: u64 = 16;
/// Calls after SIGTERM, by number.
const LAST_STEPS: [u64; 2] = [1, 4];
/// The exit code of a process that the interposer ended.
const KILLED: i32 = 77;
/// Bytes before the names of the calls in the record; see `struct record` in `failing_io.c`.
const RECORD_HEAD: usize = 24;
const RECORD_BYTES: u64 = RECORD_HEAD as u64 + (1 << 16);

/// A kind of failure: its name, and the settings of the interposer.
struct Fault {
    name: &'static str,
    how: &'static str,
    errno: i32,
    lasts: bool,
}

const FAULTS: [Fault; 6] = [
    Fault { name: "EIO once", how: "error", errno: libc::EIO, lasts: false },
    Fault { name: "EIO from then on", how: "error", errno: libc::EIO, lasts: true },
    Fault { name: "ENOSPC once", how: "error", errno: libc::ENOSPC, lasts: false },
    Fault { name: "ENOSPC from then on", how: "error", errno: libc::ENOSPC, lasts: true },
    Fault { name: "half, then exit", how: "torn", errno: 0, lasts: false },
    Fault { name: "exit before", how: "gone", errno: 0, lasts: false },
];

const LASTING: [&Fault; 2] = [&FAULTS[1], &FAULTS[3]];
const TORN: &Fault = &FAULTS[4];

/// The phase of a run in which the fault came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Opening,
    Serving,
    Closing,
}

/// The outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The interposer ended the process.
    Killed,
    RefusedToOpen,
    /// Exited by itself with a failure.
    Exited,
    /// Exited with a failure after SIGTERM.
    StoppedFailing,
    /// Worked on, and exited with 0 after SIGTERM.
    Worked,
    /// This run made fewer calls, so none failed.
    NoFault,
}

/// One run to try: which fault at which call.
#[derive(Clone, Copy)]
struct Point {
    /// Whether the run begins with a store in use.
    existing: bool,
    fault: &'static Fault,
    /// The number of the call, from 1, counted from `since`.
    at: u64,
    since: Since,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Launch,
    /// SIGTERM.
    Stop,
}

/// Prints the point at which a test failed.
struct PrintOnPanic(Point);

impl Drop for PrintOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Point { existing, fault, at, since } = self.0;
            println!("{} at call {at} since {since:?}, existing store: {existing}", fault.name);
        }
    }
}

/// The record of a run's calls.
struct Calls(Vec<u8>);

impl Calls {
    fn number(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn count(&self) -> u64 {
        self.number(8)
    }

    /// The first call that failed, from 1, and its letter.
    fn failed(&self) -> Option<(u64, char)> {
        let nth = self.number(16);
        (nth > 0).then(|| (nth, self.0[RECORD_HEAD + usize::try_from(nth).unwrap() - 1].into()))
    }
}

/// A service, its platform and a store to begin with, for one run after the other.
struct Runner {
    process: Process,
    library: PathBuf,
    record: PathBuf,
    store: PathBuf,
    /// A copy of a store in use, and the ledger of what it holds.
    existing: PathBuf,
    known: Ledger,
    /// The number of calls of the last run until it was ready.
    ready_after: u64,
    /// Whether the last run's index did not open, and was built anew.
    index_rebuilt: bool,
}

impl Runner {
    async fn with(library: &Path) -> Self {
        let options =
            Options { base_per_minute: 10_000_000, base_per_hour: 10_000_000, ..Setup::default().options };
        let mut process = Process::with(Setup { options, ..Setup::default() }).await;
        let folder = process.world.folder.path().canonicalize().unwrap();
        let (record, store, existing) = (folder.join("record"), folder.join("data"), folder.join("existing"));
        fs::remove_dir_all(&store).unwrap();
        process.start().await;
        let (world, mut known) = (&process.world, Ledger::default());
        load(world, &mut known, &world.wecom.add_people(20), 40, 0).await;
        known.check(world, &mut Reader::default()).await;
        // Killed, sled has no snapshot that covers its log, so the next start reads all of it.
        process.kill().await;
        copy(&store, &existing);
        Self {
            process,
            library: library.to_owned(),
            record,
            store,
            existing,
            known,
            ready_after: 0,
            index_rebuilt: false,
        }
    }

    fn calls(&self) -> Calls {
        Calls(fs::read(&self.record).unwrap())
    }

    /// Makes this call fail.
    fn fail_call(&self, at: u64) {
        let record = fs::File::options().write(true).open(&self.record).unwrap();
        record.write_all_at(&at.to_ne_bytes(), 0).unwrap();
    }

    fn launch(&mut self, Point { fault, at, since, .. }: Point) {
        fs::File::create(&self.record).unwrap().set_len(RECORD_BYTES).unwrap();
        if since == Since::Launch {
            self.fail_call(at);
        }
        let errno = fault.errno.to_string();
        let environment: [(&str, &OsStr); 6] = [
            ("LD_PRELOAD", self.library.as_os_str()),
            ("FAILING_IO_FOLDER", self.store.as_os_str()),
            ("FAILING_IO_RECORD", self.record.as_os_str()),
            ("FAILING_IO_HOW", fault.how.as_ref()),
            ("FAILING_IO_ERRNO", errno.as_ref()),
            ("FAILING_IO_LASTS", if fault.lasts { "1" } else { "0" }.as_ref()),
        ];
        self.process.launch(&environment);
    }

    /// One run with a fault, then one without, in which everything acknowledged must be there.
    async fn run_and_check(&mut self, point: Point) -> (Phase, End, char) {
        let _print = PrintOnPanic(point);
        let _ = fs::remove_dir_all(&self.store);
        let mut ledger = Ledger::default();
        if point.existing {
            copy(&self.existing, &self.store);
            ledger = self.known.clone();
        }
        self.launch(point);
        let (opened, served, code) = self.run(&mut ledger, point).await;
        let Some((nth, call)) = self.calls().failed() else {
            assert_eq!((opened.is_some(), code), (true, Some(0)), "it failed without a fault");
            self.check(&ledger).await;
            return (Phase::Serving, End::NoFault, '-');
        };
        let phase = match (opened, served) {
            (Some(opened), Some(served)) if nth > served.max(opened) => Phase::Closing,
            (Some(opened), _) if nth > opened => Phase::Serving,
            _ => Phase::Opening,
        };
        let end = match code {
            Some(0) => End::Worked,
            Some(KILLED) => End::Killed,
            _ if opened.is_none() => End::RefusedToOpen,
            _ if served.is_none() => End::Exited,
            _ => End::StoppedFailing,
        };
        // A failed `pwrite` or `fdatasync` is never ignored: an index that does not open for it is built anew.
        let is_new_index = phase == Phase::Opening && self.index_rebuilt;
        assert!(end != End::Worked || is_new_index || !['p', 'd'].contains(&call), "{phase:?}");
        self.check(&ledger).await;
        (phase, end, call)
    }

    /// The number of calls until it was ready and until SIGTERM, where it got that far, and its exit code.
    async fn run(&mut self, ledger: &mut Ledger, point: Point) -> (Option<u64>, Option<u64>, Option<i32>) {
        if let Some(ended) = self.process.ready_or_ended().await {
            return (None, None, ended.code());
        }
        let opened = self.calls().count();
        self.ready_after = opened;
        let world = &self.process.world;
        self.index_rebuilt = index_rebuilt(world).await;
        load(world, ledger, &world.wecom.add_people(5), CALLBACKS, point.at).await;
        if !self.is_idle_or_ended().await {
            return (Some(opened), None, self.process.exit_code().await);
        }
        let served = self.calls().count();
        // SIGTERM while there is work to do.
        let world = &self.process.world;
        let people = world.wecom.add_people(5);
        if point.since == Since::Stop {
            self.fail_call(served + point.at);
        }
        tokio::join!(load(world, ledger, &people, CALLBACKS, !point.at), self.process.terminate());
        (Some(opened), Some(served), self.process.exit_code().await)
    }

    /// Waits until it has nothing left to do, or has ended. A process that runs must acknowledge in the end.
    async fn is_idle_or_ended(&mut self) -> bool {
        let (give_up, mut acknowledges) = (Instant::now() + PATIENCE, false);
        loop {
            if self.process.has_ended() {
                return false;
            }
            let world = &self.process.world;
            if !acknowledges && is_ready(world).await {
                let (_, event) = world.befriend(0, &world.wecom.add_person(), "zhangsan");
                acknowledges = world.wecom.deliver_once(&event).await.acknowledged;
            }
            if acknowledges && is_idle(world).await {
                return true;
            }
            assert!(Instant::now() < give_up, "it hangs; it acknowledges: {acknowledges}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn check(&mut self, ledger: &Ledger) {
        self.process.start().await;
        ledger.check(&self.process.world, &mut Reader::default()).await;
        self.process.kill().await;
    }
}

/// The brand registers fans and dealers send callbacks, both at the same time.
async fn load(world: &World, ledger: &mut Ledger, people: &[Person], callbacks: usize, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let events: Vec<_> = (0..callbacks).map(|_| ledger.random_change(world, people, &mut rng)).collect();
    let registering = async {
        let sent = world.http.post(format!("{}/v1/fans", world.admin)).json(&rows(people)).send().await;
        sent.is_ok_and(|answer| answer.status() == 202)
    };
    let calling = async {
        let mut acknowledged = Vec::new();
        for (nth, event) in &events {
            let delivery = world.wecom.deliver_once(event).await;
            assert!(matches!(delivery.status, None | Some(200 | 503)), "{delivery:?}");
            acknowledged.extend(delivery.acknowledged.then_some(*nth));
        }
        acknowledged
    };
    let (registered, acknowledged) = tokio::join!(registering, calling);
    for nth in acknowledged {
        ledger.acknowledged(nth);
    }
    if registered {
        ledger.accepted(people);
    }
}

/// Whether the index was built anew at the start; false if the service does not say.
async fn index_rebuilt(world: &World) -> bool {
    let Ok(answer) = world.http.get(format!("{}/v1/status", world.admin)).send().await else { return false };
    answer.json::<serde_json::Value>().await.is_ok_and(|status| status["store_log"]["index_rebuilt"] == true)
}

async fn is_ready(world: &World) -> bool {
    world.http.get(format!("{}/readyz", world.admin)).send().await.is_ok_and(|answer| answer.status() == 200)
}

/// Copies a folder with everything in it but the ballast.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else if entry.file_name() != "ballast" {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Compiles the interposer.
fn library(folder: &Path) -> PathBuf {
    let library = folder.join("failing_io.so");
    let mut compiler = std::process::Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/failing_io.c");
    assert!(compiler.arg(source).status().expect("there is a C compiler").success());
    library
}

/// The first calls of a new store, the last ones before a store is open and after SIGTERM, and `wanted` of
/// all points, evenly spread.
fn points(wanted: usize, calls: [u64; 2], ready_after: u64) -> Vec<Point> {
    let with_every_fault = |existing: bool, at: u64, since: Since| {
        FAULTS.iter().map(move |fault| Point { existing, fault, at, since })
    };
    let all = [false, true].into_iter().zip(calls).flat_map(|(existing, calls)| {
        (1..=calls).flat_map(move |at| with_every_fault(existing, at, Since::Launch))
    });
    let all: Vec<_> = all.collect();
    // One more than a multiple of the faults, so that each comes in turn.
    let step = if wanted < all.len() {
        (all.len() / wanted.max(1)).div_ceil(FAULTS.len()) * FAULTS.len() + 1
    } else {
        1
    };
    let first = (1..=FIRST_STEPS).map(|at| Point { existing: false, fault: TORN, at, since: Since::Launch });
    let last = LAST_STEPS.into_iter().flat_map(|at| with_every_fault(true, at, Since::Stop));
    let opening = (ready_after - 4..=ready_after)
        .flat_map(|at| LASTING.map(|fault| Point { existing: true, fault, at, since: Since::Launch }));
    first.chain(opening).chain(last).chain(all.into_iter().step_by(step)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_call_fails_nothing_acknowledged_is_lost_and_the_process_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let mut first = Runner::with(&library).await;
    let mut calls = [0; 2];
    for existing in [false, true] {
        let (_, end, _) =
            first.run_and_check(Point { existing, fault: TORN, at: 0, since: Since::Launch }).await;
        assert_eq!(end, End::NoFault);
        calls[usize::from(existing)] = first.calls().count();
    }
    let wanted = number_in_environment("UNIONLINK_IO_POINTS").unwrap_or(40);
    let points = points(usize::try_from(wanted).unwrap(), calls, first.ready_after);
    let mut first = Some(first);
    println!("{} points; a run makes {calls:?} calls on an empty folder and on a store in use", points.len());
    let todo = Arc::new(Mutex::new(points.into_iter()));
    let mut working = JoinSet::new();
    for n in 0..RUNNERS {
        let (todo, library) = (todo.clone(), library.clone());
        let first = (n == 0).then(|| first.take()).flatten();
        working.spawn(async move {
            let mut runner = match first {
                Some(first) => first,
                None => Runner::with(&library).await,
            };
            let mut runs = Vec::new();
            loop {
                let Some(point) = todo.lock().unwrap().next() else { return runs };
                runs.push((point, runner.run_and_check(point).await));
            }
        });
    }
    let runs = working.join_all().await.concat();
    print(&runs);
}

fn print(runs: &[(Point, (Phase, End, char))]) {
    let mut table: BTreeMap<_, BTreeMap<_, Vec<char>>> = BTreeMap::new();
    for (Point { fault, .. }, (phase, end, call)) in runs {
        table.entry((fault.name, *phase)).or_default().entry(*end).or_default().push(*call);
    }
    for ((fault, phase), ends) in table {
        let ends = ends.into_iter().map(|(end, mut calls)| {
            let count = calls.len();
            calls.sort_unstable();
            calls.dedup();
            format!("{end:?} {count} ({})", calls.into_iter().collect::<String>())
        });
        println!("{fault:16} {:8} {}", format!("{phase:?}"), ends.collect::<Vec<_>>().join(", "));
    }
}
