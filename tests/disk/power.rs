//! Power cuts: the power is cut at a random write while the service is under load, and everything it
//! acknowledged must be on what is left of the disk.
//!
//! `UNIONLINK_CUTS` is the number of cuts, `UNIONLINK_CUTS_SEED` the seed, which every run prints. The same
//! seed gives the same kinds of cut in the same order; their instants also depend on the machine.
//!
//! A second test shows that the cuts can detect data loss: a preloaded library replaces the service's own
//! sync (`durable_sync`), turning every `fdatasync` into the weaker `sync_file_range` of libc.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use crate::load::run_load;
use crate::machine::{Kind, machine, run, say};
use crate::power_disk::Cut;
use crate::service::PATIENCE;
use crate::world::{DISK_MIB, World};

const CUTS: usize = 24;
/// Cuts before a disk is checked for the last time and replaced by a new one.
const CUTS_A_DISK: usize = 8;
/// Events acknowledged by a process before the power is cut.
const ACKNOWLEDGED: std::ops::Range<usize> = 5..60;

impl World {
    /// Cuts the power of a running service, restarts it on what is left of the disk, and checks it.
    async fn cut_and_check(&mut self, cut: Cut, rng: &mut StdRng) -> Result<(), String> {
        // Sometimes the power is cut while the store is being opened.
        let is_cut = rng.random_ratio(1, 6) && self.cut_while_opening(cut, rng).await?;
        if !is_cut {
            self.cut_under_load(cut, rng).await?;
        }
        self.service.kill().await;
        self.ledger.truncate_at_cut();
        self.disk.power_on()?;
        self.start().await?;
        let checked = self.ledger.check(&self.service).await;
        if checked.is_err() && self.service.has_ended() {
            return Err(format!("it ended while it was checked: {}", self.service.ended().await));
        }
        checked
    }

    /// Restarts with a planned cut. Returns whether it happened before the service was ready.
    async fn cut_while_opening(&mut self, cut: Cut, rng: &mut StdRng) -> Result<bool, String> {
        self.service.kill().await;
        let happened = self.plan_cut(rng.random_range(0..16), cut, rng);
        self.service.spawn();
        tokio::select! {
            _ = happened => Ok(true),
            ready = self.service.ready() => ready.map(|()| false).map_err(|ended| format!("it does not start: {ended}")),
        }
    }

    /// Cuts the power after some acknowledgements under load.
    async fn cut_under_load(&mut self, cut: Cut, rng: &mut StdRng) -> Result<(), String> {
        let stop = CancellationToken::new();
        let cutting = async {
            let enough = self.ledger.acknowledgements() + rng.random_range(ACKNOWLEDGED);
            let give_up = Instant::now() + PATIENCE;
            while self.ledger.acknowledgements() < enough && Instant::now() < give_up {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
            let happened = self.plan_cut(rng.random_range(0..40), cut, rng);
            let happened = tokio::time::timeout(PATIENCE, happened).await;
            stop.cancel();
            happened.map(drop).map_err(|_| "no write came, so the power was not cut".to_owned())
        };
        let ((), happened) = tokio::join!(run_load(&self.service, &self.ledger, &stop), cutting);
        happened
    }

    fn plan_cut(&self, writes: u32, cut: Cut, rng: &mut StdRng) -> tokio::sync::oneshot::Receiver<()> {
        let ledger = self.ledger.clone();
        self.disk.device.plan_cut(writes, cut, rng.random(), move || ledger.power_cut())
    }
}

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the service")]
fn number_in_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

/// Chooses and prints the seed.
fn seed(purpose: &str) -> u64 {
    let seed = number_in_environment("UNIONLINK_CUTS_SEED").unwrap_or_else(rand::random);
    say(&format!("{purpose}: UNIONLINK_CUTS_SEED={seed}"));
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_lose_nothing_that_was_acknowledged() {
    let Some(machine) = machine("power cuts").await else { return };
    let cuts = number_in_environment("UNIONLINK_CUTS").map_or(CUTS, |cuts| usize::try_from(cuts).unwrap());
    let seed = seed("power cuts");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut outcomes: BTreeMap<(Kind, Cut), (usize, usize)> = BTreeMap::new();
    let (mut failures, mut done, mut acknowledged, begun) = (Vec::new(), 0, 0, Instant::now());
    for kind in machine.kinds.iter().cycle() {
        let left = cuts - done;
        if left == 0 {
            break;
        }
        let mut world = World::new(*kind, DISK_MIB, rng.random()).await;
        world.start().await.unwrap();
        let mut kinds_of_cut = [Cut::ALL, Cut::ALL].concat();
        kinds_of_cut.shuffle(&mut rng);
        let mut failure = None;
        for cut in kinds_of_cut.into_iter().take(left.min(CUTS_A_DISK)) {
            done += 1;
            let checked = world.cut_and_check(cut, &mut rng).await;
            let (well, all) = outcomes.entry((*kind, cut)).or_default();
            *all += 1;
            match checked {
                Ok(()) => *well += 1,
                Err(error) => {
                    failure = Some(format!("{kind}, {cut:?}: {error}"));
                    break;
                }
            }
        }
        acknowledged += world.ledger.acknowledgements();
        if failure.is_none() {
            failure = world.finish().await.err().map(|error| format!("{kind}, at the end: {error}"));
        }
        failures.extend(failure.inspect(|failure| say(failure)));
        say(&format!("power cuts: {done} of {cuts}, {} failed", failures.len()));
    }
    for ((kind, cut), (well, all)) in &outcomes {
        say(&format!("power cuts: {kind}, {cut:?}: {well} of {all} ok"));
    }
    let took = begun.elapsed().as_secs();
    say(&format!("power cuts: {done} in {took} s, {acknowledged} events acknowledged"));
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
    assert!(acknowledged >= done);
}

/// Compiles the library that weakens `fdatasync`. Returns its path, or why it could not be compiled.
fn weak_sync(folder: &tempfile::TempDir) -> Result<PathBuf, String> {
    let library = folder.path().join("weak_sync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/weak_sync.c");
    run("cc", &["-shared", "-fPIC", "-O1", "-o", library.to_str().unwrap(), source])?;
    Ok(library)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fdatasync_power_cuts_are_detected_to_lose_what_was_acknowledged() {
    const CUTS_MAX: usize = 12;
    let purpose = "power cuts without fdatasync";
    let Some(machine) = machine(purpose).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let library = match weak_sync(&folder) {
        Ok(library) => library,
        Err(reason) => return say(&format!("SKIPPED: {purpose}: {reason}")),
    };
    let mut rng = StdRng::seed_from_u64(seed(purpose));
    // One loss is enough, unless a number of cuts is given to measure the rate.
    let cuts =
        number_in_environment("UNIONLINK_CUTS").map(|cuts| usize::try_from(cuts / 10).unwrap().max(CUTS_MAX));
    let (mut done, mut found) = (0, 0);
    while done < cuts.unwrap_or(CUTS_MAX) && (cuts.is_some() || found == 0) {
        let mut world = World::new(machine.kinds[0], DISK_MIB, rng.random()).await;
        world.service.preload = Some(library.clone());
        world.start().await.unwrap();
        done += 1;
        if let Err(error) = world.cut_and_check(Cut::Drop, &mut rng).await {
            found += 1;
            say(&format!("{purpose}: detected: {}", error.lines().next().unwrap_or_default()));
        }
    }
    say(&format!("{purpose}: {found} of {done} cuts lost what was acknowledged"));
    assert!(found > 0, "no cut was detected to lose anything");
}
