//! Errors of the device, and a file system that becomes read-only: the process ends, and says why.
//!
//! What sled 0.34.7 makes of it: whatever a write of its log or the sync after it returns (`EIO`, `ENOSPC`, `EROFS`)
//! becomes its *global error*, kept for the life of the database (`pagecache/iobuf.rs`, `write_to_log` and
//! `make_stable_inner`); every later `apply_batch` and `flush` returns it, and what waits in `flush` is woken to return
//! it. Only a write begun by the last of several writers of one buffer (`exit_reservation` in `pagecache/logger.rs`)
//! notes its error and wakes nobody; `flush` then waits for ever, and the store's watchdog aborts the process. A read
//! that fails is returned to whoever asked, and is not kept. A database with such an error writes nothing more when it is
//! closed; one that meets its first error while it is closed panics (`Log::drop`) or waits for ever, which is why `serve`
//! ends without closing it.
//!
//! So an error is final for the process, even if the disk works again a moment later: it ends with 1, or by `SIGABRT` if
//! it was stuck, and the next start finds out what the disk holds. On a disk that is still broken that start fails with
//! 1, too.

use crate::machine::{Kind, machine, run};
use crate::power_disk::{Cut, Fault};
use crate::service::Ended;
use crate::world::{DISK_MIB, World};

/// Under load, the process ends by itself, and its last words say why.
async fn ends(world: &mut World) {
    world.lives_until("its end", |world| world.service.has_ended()).await;
    let ended = world.service.ended().await;
    let is_stuck = ended.signal == Some(6) && ended.log.contains("the store's writer is stuck in one commit");
    let is_clear = ended.code == Some(1) && last_line(&ended).contains("the store failed: ");
    assert!(is_clear || is_stuck, "{ended}");
}

/// Nothing starts on such a disk, and it is said why.
async fn does_not_start(world: &mut World) {
    let ended = world.service.start().await.expect_err("it does not start");
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.log.contains("error: the store cannot be opened"), "{ended}");
}

fn last_line(ended: &Ended) -> &str {
    ended.log.lines().last().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_device_ends_the_process_and_what_was_acknowledged_is_on_the_disk() {
    let Some(machine) = machine("errors of the device").await else { return };
    for kind in machine.kinds.clone() {
        for fault in [Fault::FailingWrites, Fault::FailingFlushes, Fault::OneFailingFlush] {
            let mut world = World::with_something_to_lose(kind, DISK_MIB, "free_mb_min = 1").await;
            world.disk.device.be(fault);
            ends(&mut world).await;
            if fault != Fault::OneFailingFlush {
                does_not_start(&mut world).await;
            }
            // What the device had not written is gone; it is exchanged for one that works.
            world.disk.device.cut(Cut::Drop, 0);
            world.disk.device.be(Fault::Nothing);
            world.disk.power_on().unwrap();
            world.start().await.unwrap();
            world.end().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_becomes_read_only_ends_the_process_and_after_a_remount_all_is_there() {
    let Some(machine) = machine("a read-only file system").await else { return };
    if !machine.kinds.contains(&Kind::Ext4) {
        return;
    }
    let mut world = World::with_something_to_lose(Kind::Ext4, DISK_MIB, "free_mb_min = 1").await;
    // What ext4 does by itself when it finds itself damaged.
    run("mount", &["-o", "remount,abort", world.disk.path().to_str().unwrap()]).unwrap();
    ends(&mut world).await;
    does_not_start(&mut world).await;
    world.disk.unmount();
    world.disk.mount().unwrap();
    world.start().await.unwrap();
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_on_a_failing_disk_it_stops_and_what_was_acknowledged_is_there() {
    let Some(machine) = machine("stopping on a failing disk").await else { return };
    let mut world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, "free_mb_min = 1").await;
    world.ledger.judge(&world.service).await.unwrap();
    world.disk.device.be(Fault::FailingFlushes);
    let ended = world.service.terminate().await;
    // Nothing was under way, so nothing failed that somebody waits for: that is a stop like any other.
    assert_eq!(ended.code, Some(0), "{ended}");
    world.disk.device.cut(Cut::Drop, 0);
    world.disk.device.be(Fault::Nothing);
    world.disk.power_on().unwrap();
    world.start().await.unwrap();
    world.end().await.unwrap();
}
