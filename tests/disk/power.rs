//! Power cuts: the power goes at a random write while the service lives, and what it acknowledged is looked for on what
//! is left of the disk.
//!
//! `UNIONLINK_CUTS` says how many cuts, `UNIONLINK_CUTS_SEED` with which seed; the seed of a run is printed. With the
//! same seed the same kinds of cut come in the same order; the instant also depends on the machine.
//!
//! That the cuts are able to find something is shown by taking away the program's own sync (`durable_sync`): a library
//! loaded before libc turns every `fdatasync` into what libc's `sync_file_range` would have done.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use crate::load::live;
use crate::machine::{Kind, machine, run, say};
use crate::power_disk::Cut;
use crate::service::PATIENCE;
use crate::world::{DISK_MIB, World};

const CUTS: usize = 24;
/// A disk lives through so many cuts; then it is judged whether everything sent again is linked, and a new one comes.
const CUTS_A_DISK: usize = 8;
/// Events acknowledged in a life before the power goes.
const ACKNOWLEDGED: std::ops::Range<usize> = 5..60;

impl World {
    /// A running service lives until the power goes; then it is judged by what is left. It runs again afterwards.
    async fn life(&mut self, cut: Cut, rng: &mut StdRng) -> Result<(), String> {
        // Now and then the power goes while the store is being opened.
        let is_over = rng.random_ratio(1, 6) && self.opening(cut, rng).await?;
        if !is_over {
            self.loaded(cut, rng).await?;
        }
        self.service.kill().await;
        self.ledger.close_at_cut();
        self.disk.power_on()?;
        self.start().await?;
        let judged = self.ledger.judge(&self.service).await;
        if judged.is_err() && self.service.has_ended() {
            return Err(format!("it ended while it was judged: {}", self.service.ended().await));
        }
        judged
    }

    /// Restarts with a cut to come. Whether it came before the service was ready.
    async fn opening(&mut self, cut: Cut, rng: &mut StdRng) -> Result<bool, String> {
        self.service.kill().await;
        let happened = self.plan_cut(rng.random_range(0..16), cut, rng);
        self.service.spawn();
        tokio::select! {
            _ = happened => Ok(true),
            ready = self.service.ready() => ready.map(|()| false).map_err(|ended| format!("it does not open: {ended}")),
        }
    }

    async fn loaded(&mut self, cut: Cut, rng: &mut StdRng) -> Result<(), String> {
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
            happened.map(drop).map_err(|_| "nothing is written any more".to_owned())
        };
        let ((), happened) = tokio::join!(live(&self.service, &self.ledger, &stop), cutting);
        happened
    }

    fn plan_cut(&self, writes: u32, cut: Cut, rng: &mut StdRng) -> tokio::sync::oneshot::Receiver<()> {
        let ledger = self.ledger.clone();
        self.disk.device.plan_cut(writes, cut, rng.random(), move || ledger.power_goes())
    }
}

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a knob of this test, not of the program")]
fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

/// The seed to use, printed.
fn seed(purpose: &str) -> u64 {
    let seed = asked_for("UNIONLINK_CUTS_SEED").unwrap_or_else(rand::random);
    say(&format!("{purpose}: UNIONLINK_CUTS_SEED={seed}"));
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_lose_nothing_that_was_acknowledged() {
    let Some(machine) = machine("power cuts").await else { return };
    let cuts = asked_for("UNIONLINK_CUTS").map_or(CUTS, |cuts| usize::try_from(cuts).unwrap());
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
            let judged = world.life(cut, &mut rng).await;
            let (well, all) = outcomes.entry((*kind, cut)).or_default();
            *all += 1;
            match judged {
                Ok(()) => *well += 1,
                Err(error) => {
                    failure = Some(format!("{kind}, {cut:?}: {error}"));
                    break;
                }
            }
        }
        acknowledged += world.ledger.acknowledgements();
        if failure.is_none() {
            failure = world.end().await.err().map(|error| format!("{kind}, at the end: {error}"));
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

/// Where the library that takes the sync away was compiled to; why it could not be.
fn untrue_sync(folder: &tempfile::TempDir) -> Result<PathBuf, String> {
    let library = folder.path().join("untrue_sync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/untrue_sync.c");
    run("cc", &["-shared", "-fPIC", "-O1", "-o", library.to_str().unwrap(), source])?;
    Ok(library)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_true_sync_power_cuts_are_found_to_lose_what_was_acknowledged() {
    const CUTS_MAX: usize = 12;
    let purpose = "power cuts without the true sync";
    let Some(machine) = machine(purpose).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let library = match untrue_sync(&folder) {
        Ok(library) => library,
        Err(reason) => return say(&format!("SKIPPED: {purpose}: {reason}")),
    };
    let mut rng = StdRng::seed_from_u64(seed(purpose));
    // Found once is found; with a number of cuts given, the rate is of interest.
    let cuts = asked_for("UNIONLINK_CUTS").map(|cuts| usize::try_from(cuts / 10).unwrap().max(CUTS_MAX));
    let (mut done, mut found) = (0, 0);
    while done < cuts.unwrap_or(CUTS_MAX) && (cuts.is_some() || found == 0) {
        let mut world = World::new(machine.kinds[0], DISK_MIB, rng.random()).await;
        world.service.preload = Some(library.clone());
        world.start().await.unwrap();
        done += 1;
        if let Err(error) = world.life(Cut::Drop, &mut rng).await {
            found += 1;
            say(&format!("{purpose}: found: {}", error.lines().next().unwrap_or_default()));
        }
    }
    say(&format!("{purpose}: {found} of {done} cuts lost what was acknowledged"));
    assert!(found > 0, "the cuts of this test find nothing");
}
