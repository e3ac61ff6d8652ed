//! Device errors and a file system that becomes read-only: the process exits and logs why.
//!
//! How sled 0.34.7 handles them: an error of a write of its log or of the sync after it (`EIO`, `ENOSPC`,
//! `EROFS`) becomes its *global error*, kept for the life of the database (`pagecache/iobuf.rs`,
//! `write_to_log` and `make_stable_inner`); every later `apply_batch` and `flush` returns it, and callers
//! waiting in `flush` are woken to return it. Only a write begun by the last of several writers of one buffer
//! (`exit_reservation` in `pagecache/logger.rs`) sets its error without waking them; `flush` then waits for
//! ever, and the store's watchdog aborts the process. A failed read is returned to its caller and not kept. A
//! database with such an error writes nothing more when it is closed; one whose first error comes while it is
//! closed panics (`Log::drop`) or waits for ever, which is why `serve` ends without closing it.
//!
//! So an error is final for the process, even if the disk works again a moment later: it exits with 1, or by
//! `SIGABRT` if it was stuck, and the next start reads what the disk holds. On a disk that still fails, that
//! start exits with 1 too.

use crate::machine::{Kind, machine, run};
use crate::power_disk::{Cut, Fault};
use crate::service::Ended;
use crate::world::{DISK_MIB, World};

/// Asserts that the process exits by itself under load, with the reason on the last line of its log.
async fn assert_exits(world: &mut World) {
    world.load_until("its end", |world| world.service.has_ended()).await;
    let ended = world.service.ended().await;
    let is_stuck = ended.signal == Some(6) && ended.log.contains("the store's writer is stuck in one commit");
    let is_clear = ended.code == Some(1) && last_line(&ended).contains("the store failed: ");
    assert!(is_clear || is_stuck, "{ended}");
}

/// Asserts that the process does not start on this disk and logs why.
async fn assert_does_not_start(world: &mut World) {
    let ended = world.service.start().await.expect_err("it must not start");
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.log.contains("error: the store cannot be opened"), "{ended}");
}

fn last_line(ended: &Ended) -> &str {
    ended.log.lines().last().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_error_ends_the_process_and_what_was_acknowledged_survives() {
    let Some(machine) = machine("errors of the device").await else { return };
    for kind in machine.kinds.clone() {
        for fault in [Fault::FailingWrites, Fault::FailingFlushes, Fault::OneFailingFlush] {
            let mut world = World::with_something_to_lose(kind, DISK_MIB, "free_mb_min = 1").await;
            world.disk.device.set_fault(fault);
            assert_exits(&mut world).await;
            if fault != Fault::OneFailingFlush {
                assert_does_not_start(&mut world).await;
            }
            // Unflushed writes are lost; the device is replaced by one that works.
            world.disk.device.cut(Cut::Drop, 0);
            world.disk.device.set_fault(Fault::Nothing);
            world.disk.power_on().unwrap();
            world.start().await.unwrap();
            world.finish().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_becomes_read_only_ends_the_process_and_after_a_remount_nothing_is_lost() {
    let Some(machine) = machine("a read-only file system").await else { return };
    if !machine.kinds.contains(&Kind::Ext4) {
        return;
    }
    let mut world = World::with_something_to_lose(Kind::Ext4, DISK_MIB, "free_mb_min = 1").await;
    // Nothing may be on its way meanwhile: Linux 6.18 answers a sync that meets the abort with success and drops
    // what it synced, in one of ten aborts (a bare loop of append and `fdatasync`: 6 of 60; on XFS 1 of 60). No
    // program can tell it from a sync that held.
    world.ledger.check(&world.service).await.unwrap();
    // As ext4 does by itself when it detects corruption.
    run("mount", &["-o", "remount,abort", world.disk.path().to_str().unwrap()]).unwrap();
    assert_exits(&mut world).await;
    assert_does_not_start(&mut world).await;
    world.disk.unmount();
    world.disk.mount().unwrap();
    world.start().await.unwrap();
    world.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_with_a_failing_disk_it_stops_and_what_was_acknowledged_survives() {
    let Some(machine) = machine("stopping on a failing disk").await else { return };
    let mut world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, "free_mb_min = 1").await;
    world.ledger.check(&world.service).await.unwrap();
    world.disk.device.set_fault(Fault::FailingFlushes);
    let ended = world.service.terminate().await;
    // The last write, of the clocks and of the dealers' activity, detects that the disk fails. If it is
    // not made in time, the exit code is 0 as usual.
    let has_failed = ended.log.contains("error: the store failed: ");
    assert_eq!(ended.code, Some(i32::from(has_failed)), "{ended}");
    world.disk.device.cut(Cut::Drop, 0);
    world.disk.device.set_fault(Fault::Nothing);
    world.disk.power_on().unwrap();
    world.start().await.unwrap();
    world.finish().await.unwrap();
}
