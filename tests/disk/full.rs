//! A full disk: callbacks are refused before the store runs out of space, and accepted again once there is
//! space.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::machine::{Kind, Machine, machine};
use crate::service::{Ended, PATIENCE};
use crate::world::{DISK_MIB, World, until};

const MIB: u64 = 1 << 20;

/// A file that fills the disk. Deleted when dropped.
struct Filler(PathBuf);

impl Filler {
    /// Fills the disk up to `free_bytes`.
    fn leaving(free_bytes: u64, folder: &Path) -> Self {
        let path = folder.join("filler");
        let file = File::create(&path).unwrap();
        let free = || statvfs(folder).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
        let mut length = 0;
        // The file system may need space for metadata, so the limit is approached step by step.
        let mut step = free().saturating_sub(free_bytes);
        while step >= 4096 {
            if fallocate(&file, FallocateFlags::empty(), length, step).is_ok() {
                length += step;
            } else {
                step /= 2;
            }
            step = step.min(free().saturating_sub(free_bytes));
        }
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn small_disk(purpose: &str, store_lines: &'static str) -> Option<(Machine, World)> {
    let machine = machine(purpose).await?;
    let world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, store_lines).await;
    Some((machine, world))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_nearly_full_disk_callbacks_are_answered_503_until_there_is_space_again() {
    let Some((_machine, world)) = small_disk("a nearly full disk", "free_mb_min = 16").await else { return };
    let filler = Filler::leaving(12 * MIB, &world.disk.path());
    world.not_ready_because("less than 16 MiB free").await;
    let acknowledged = world.ledger.acknowledgements();
    for _ in 0..20 {
        assert_eq!(world.send_callback().await, Some(503));
    }
    assert_eq!(world.ledger.acknowledgements(), acknowledged);
    drop(filler);
    // The same process resumes by itself.
    world.load_until("service again", |world| world.ledger.acknowledgements() > acknowledged + 5).await;
    let log = world.service.log();
    let lines = log.lines().filter(|line| line.contains("callbacks not acknowledged")).count();
    assert!((1..10).contains(&lines), "{lines} lines for 20 callbacks:\n{log}");
    world.finish().await.unwrap();
}

/// Waits until a callback has been answered with 503 (true), or the process has ended by itself (false): on a
/// full disk a write may fail before the free space is checked, which is final.
async fn callback_is_refused(world: &World) -> bool {
    let give_up = Instant::now() + PATIENCE;
    while !world.service.has_ended() {
        if world.send_callback().await == Some(503) {
            return true;
        }
        assert!(Instant::now() < give_up, "no answer\n{}", world.service.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

fn assert_ended_by_full_disk(ended: &Ended) {
    assert_eq!(ended.code, Some(1), "{ended}");
    let reasons = ["error: the store cannot be opened", "error: the store failed: "];
    assert!(reasons.iter().any(|reason| ended.log.contains(reason)), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_to_the_last_byte_under_load_loses_nothing() {
    let Some((_machine, mut world)) = small_disk("a full disk", "free_mb_min = 1").await else { return };
    let filler = std::sync::Mutex::new(None);
    world
        .load_until("the full disk", |world| {
            filler.lock().unwrap().get_or_insert_with(|| Filler::leaving(0, &world.disk.path()));
            let log = world.service.log();
            log.contains("less than 1 MiB free") || world.service.has_ended()
        })
        .await;
    if callback_is_refused(&world).await {
        world.service.kill().await;
    } else {
        assert_ended_by_full_disk(&world.service.ended().await);
    }
    // Started on the full disk, it either answers callbacks with 503, or ends and logs why.
    world.service.spawn();
    let is_refused = callback_is_refused(&world).await;
    drop(filler);
    let ready = if is_refused { world.service.ready().await } else { Err(world.service.ended().await) };
    if let Err(ended) = ready {
        assert_ended_by_full_disk(&ended);
        world.start().await.unwrap();
    }
    world.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ballast_lets_it_start_and_serve_on_a_full_disk() {
    let Some(machine) = machine("a full disk with ballast").await else { return };
    if !machine.kinds.contains(&Kind::Ext4) {
        return;
    }
    let mut world = World::with_something_to_lose(Kind::Ext4, 1400, "free_mb_min = 1").await;
    let ballast = world.disk.path().join("data/ballast");
    until("the ballast", || ballast.exists()).await;
    let _filler = Filler::leaving(0, &world.disk.path());
    world.service.kill().await;
    world.start().await.unwrap();
    assert!(!ballast.exists());
    world.until_acknowledged().await;
    world.finish().await.unwrap();
}
