//! Deterministic simulation: the real domain, store, workers, client and callback handler on one thread in
//! virtual time, against the simulated platform in process, through random schedules, each generated from one
//! seed.
//!
//! A schedule is a sequence of callbacks about customers and their groups (repeated, late, out of order,
//! lost), registrations, faults of WeCom and of receivers, dealers that leave or are not verified, members
//! outside the visible range, crashes of the process at any await point and around commits, sleeps of hours
//! and months, changes of the wall clock by hours, and requests by operators and to forget people. One in
//! two has two or three replicas that share a database, which are suspended for longer than their leases last, and lose
//! connections, answers and notifications (`replicas`). One in
//! six has one or two brands with agency-developed apps of one suite (`agency`), whose authorisations are
//! obtained, interrupted, cancelled and obtained again meanwhile. Then every fault is repaired and time
//! passes until nothing is left to do. `check` compares the store with what was acknowledged, `listed` with
//! everything that WeCom's lists show, `followers` and `memberships` with the relations and groups of each
//! customer, `isolation` judges brands, auth codes and secrets, and `prompt` bounds the time to a link. A run
//! fails, too, if it gave one of these too little to judge.
//!
//! Time is tokio's paused clock, one thread runs everything, the simulation steps the store's writer, and
//! random waits come from the seed: the same seed gives the same schedule and the same trace.
//!
//! ```text
//! cargo test --test sim                                             1,000 schedules
//! UNIONLINK_SIM_SCHEDULES=100000 cargo test --test sim              more; from UNIONLINK_SIM_FIRST=0 on
//! UNIONLINK_SIM_SEED=42 cargo test --test sim -- --nocapture        one, with its trace; with
//!                                                                   UNIONLINK_SIM_LOG=1 the service's log
//! ```

#![expect(unreachable_pub, reason = "modules of a test binary")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that panics has failed, and prints why"
)]

mod agency;
mod authorizations;
mod cast;
mod check;
mod followers;
mod groups;
mod isolation;
mod listed;
mod memberships;
mod people;
mod process;
mod prompt;
mod receiver;
mod repair;
mod replicas;
mod scene;
mod schedule;
mod service;
mod story;
mod time;
mod trouble;
mod wire;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use check::{Checker, Judged};
use schedule::Schedule;

/// The number of schedules by default.
const SCHEDULES: u64 = 1_000;
/// The failures after which a run stops: enough to see whether they have one cause.
const FAILURES_MAX: usize = 10;

/// The outcome of one schedule.
struct Outcome {
    violations: Vec<String>,
    digest: u64,
    judged: Judged,
    trace: Vec<(i64, String)>,
}

fn in_virtual_time<T>(what: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(what)
}

fn run(seed: u64) -> Outcome {
    in_virtual_time(async {
        let mut schedule = Schedule::new(seed);
        schedule.play().await;
        finish(schedule).await
    })
}

/// Brings a schedule to its end and checks it.
async fn finish(mut schedule: Schedule) -> Outcome {
    let left = schedule.come_to_rest().await;
    let (mut violations, mut judged) = match schedule.machine.running() {
        Some(service) => Checker::new(&schedule, &service).check().await,
        None => (vec!["no process runs".to_owned()], Judged::default()),
    };
    violations.append(&mut schedule.late);
    judged += schedule.judged;
    violations.extend(left.map(|left| format!("still to do: {left}")));
    for call in schedule.machine.sim.calls() {
        schedule.note(format!("{call:?}"));
    }
    let trace = &schedule.machine.trace;
    Outcome { violations, digest: trace.digest(), judged, trace: trace.lines() }
}

fn say(seed: u64, outcome: &Outcome) {
    eprintln!("--- seed {seed}, trace {:016x}", outcome.digest);
    for (at_ms, line) in &outcome.trace {
        eprintln!("{:>12}.{:03} {line}", at_ms / 1_000, at_ms % 1_000);
    }
    for violation in &outcome.violations {
        eprintln!("!!! {violation}");
    }
    eprintln!("--- again: UNIONLINK_SIM_SEED={seed} cargo test --test sim -- --nocapture");
}

#[expect(clippy::disallowed_methods, reason = "the seed or the number of schedules to run")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn whatever_happens_what_was_acknowledged_is_linked_once_to_the_right_person() {
    if let Some(seed) = number("UNIONLINK_SIM_SEED") {
        if number("UNIONLINK_SIM_LOG").is_some() {
            tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
        }
        let outcome = run(seed);
        say(seed, &outcome);
        return assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    }
    let first = number("UNIONLINK_SIM_FIRST").unwrap_or(0);
    let schedules = number("UNIONLINK_SIM_SCHEDULES").unwrap_or(SCHEDULES);
    let next = AtomicU64::new(first);
    let (failed, passed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + schedules || failed.lock().unwrap().len() >= FAILURES_MAX {
                        break;
                    }
                    let outcome = run(seed);
                    if outcome.violations.is_empty() {
                        passed.lock().unwrap().push(outcome.judged);
                    } else {
                        eprintln!("seed {seed}: {:?}", outcome.violations);
                        failed.lock().unwrap().push((seed, outcome));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, outcome)| (outcome.trace.len(), *seed));
    if let Some((seed, outcome)) = failed.first() {
        say(*seed, outcome);
    }
    let seeds: Vec<_> = failed.iter().map(|(seed, outcome)| (seed, &outcome.violations)).collect();
    assert!(failed.is_empty(), "failed: {seeds:#?}");
    judged_enough(&passed.into_inner().unwrap());
}

/// Asserts that every verdict had something to judge: the least is about a third of what was measured.
fn judged_enough(schedules: &[Judged]) {
    let mut all = Judged::default();
    for judged in schedules {
        all += *judged;
    }
    let with_followers = schedules.iter().filter(|judged| judged.followers > 0).count() as u64;
    for (what, count, least_in_1000) in [
        ("links", all.links, 1_500),
        ("links of people who were forgotten and are back", all.back, 60),
        ("schedules with followers", with_followers, 900),
        ("followers removed because no list had them", all.removed, 15),
        ("memberships in groups", all.memberships, 400),
        ("customers who are in no group of their dealer", all.left, 300),
        ("prompt links", all.prompt, 1_000),
        ("takeovers", all.takeovers, 600),
        ("schedules with agency-developed apps", all.agency.schedules, 60),
        ("links of such apps", all.agency.links, 90),
        ("auth codes that were exchanged", all.agency.granted, 90),
        ("auth codes that were used up in a lost answer", all.agency.lost, 20),
        ("customers of one brand who are fans of another", all.agency.strangers, 10),
    ] {
        let least = schedules.len() as u64 * least_in_1000 / 1_000;
        eprintln!("{what}: {count} in {} schedules, at least {least}", schedules.len());
        assert!(count >= least, "only {count} {what} in {} schedules, not {least}", schedules.len());
    }
}

#[test]
fn a_dealer_that_is_back_and_a_range_that_is_widened_lead_to_links_at_once_however_the_clock_is_set() {
    let only = number("UNIONLINK_SIM_SEED");
    let stories = (number("UNIONLINK_SIM_SCHEDULES").unwrap_or(SCHEDULES) / 100).max(1);
    for seed in only.map_or(0..stories, |seed| seed..seed + 1) {
        let outcome = in_virtual_time(async {
            let mut schedule = Schedule::of_the_story(seed);
            schedule.play_the_story().await;
            finish(schedule).await
        });
        if only.is_some() || !outcome.violations.is_empty() {
            say(seed, &outcome);
        }
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}", outcome.violations);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let (one, other) = (run(seed), run(seed));
        let differs = one.trace.iter().zip(&other.trace).find(|(a, b)| a != b);
        assert_eq!(one.digest, other.digest, "seed {seed} differs at {differs:?}");
    }
}
