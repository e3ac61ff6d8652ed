//! Errors of the device, and a file system that becomes read-only: the process ends, and says why.
//!
//! What sled 0.34.7 makes of an error of its log (`pagecache/iobuf.rs`, `pagecache/logger.rs`): whatever `write` or the
//! sync returns becomes its *global error*, kept for the life of the database; every later `apply_batch` and `flush`
//! returns it, and the thread in `flush` is woken by it. Reads that are in the cache go on. The one way in which nobody
//! is woken (`exit_reservation`, when the error strikes between a batch and its flush) leaves `flush` waiting; then the
//! writer's watchdog aborts the process. A read that fails is returned, and is not sticky. Closing the database after
//! such an error writes nothing more.
//!
//! So an error is final: the process ends with 1, or by `SIGABRT` if it was stuck, and a supervisor's restart finds
//! out what is on the disk. On a disk that is still broken the start fails with 1, too.

use rand::RngExt;

use crate::machine::{Kind, machine, run};
use crate::power_disk::{Cut, Fault};
use crate::service::Ended;
use crate::world::{DISK_MIB, World};

/// Under load, the process ends by itself, and its last words say why.
async fn ends(world: &mut World) {
    world.lives_until(|world| world.service.has_ended()).await;
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
async fn an_error_of_the_device_ends_the_process_and_what_was_acknowledged_is_there_after_a_power_cut() {
    let Some(machine) = machine("errors of the device").await else { return };
    for kind in machine.kinds.clone() {
        for fault in [Fault::FailingWrites, Fault::FailingFlushes] {
            let mut world = World::with_something_to_lose(kind, DISK_MIB, "free_mb_min = 1").await;
            world.disk.device.be(fault);
            ends(&mut world).await;
            does_not_start(&mut world).await;
            // What the device had not written is gone; it is exchanged for one that works.
            world.disk.device.cut(Cut::Drop, rand::rng().random());
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
async fn told_to_stop_on_a_failing_disk_it_ends_and_loses_nothing() {
    let Some(machine) = machine("stopping on a failing disk").await else { return };
    let mut world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, "free_mb_min = 1").await;
    world.ledger.judge(&world.service).await.unwrap();
    world.disk.device.be(Fault::FailingFlushes);
    let ended = world.service.terminate().await;
    assert!(ended.signal.is_none(), "{ended}");
    world.disk.device.cut(Cut::Drop, 1);
    world.disk.device.be(Fault::Nothing);
    world.disk.power_on().unwrap();
    world.start().await.unwrap();
    world.end().await.unwrap();
}
