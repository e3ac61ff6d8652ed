//! Slow disks: callbacks are acknowledged late or answered 503, but never before they are durable. A disk
//! that stops answering ends the process.
//!
//! A process that waits for such a disk cannot be killed before the disk answers: the kernel keeps it and its
//! sockets until the request is over. No request is answered meanwhile.

use std::time::Duration;

use crate::machine::machine;
use crate::power_disk::Fault;
use crate::world::{DISK_MIB, World, until};

#[tokio::test(flavor = "multi_thread")]
async fn on_a_slow_disk_callbacks_are_acknowledged_late_or_answered_503_in_time() {
    let Some(machine) = machine("a slow disk").await else { return };
    for kind in machine.kinds.clone() {
        let world = World::with_something_to_lose(kind, DISK_MIB, "free_mb_min = 1").await;
        for pause in [Duration::from_secs(1), Duration::from_millis(200)] {
            world.disk.device.set_fault(Fault::SlowFlushes(pause));
            let answers = futures_util::future::join_all((0..6).map(|_| world.send_callback())).await;
            assert!(answers.iter().all(|answer| matches!(answer, Some(200 | 503))), "{answers:?}");
        }
        // Still slow, but within the time limit.
        world.until_acknowledged().await;
        world.disk.device.set_fault(Fault::Nothing);
        world.finish().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_stalls_callbacks_are_answered_503_and_afterwards_accepted_again() {
    let Some(machine) = machine("a disk that stalls").await else { return };
    let mut world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, "free_mb_min = 1").await;
    world.disk.device.set_fault(Fault::Stalled);
    assert_eq!(world.send_callback().await, Some(503));
    world.not_ready_because("makes no progress").await;
    world.disk.device.set_fault(Fault::Nothing);
    world.service.ready().await.unwrap();
    world.until_acknowledged().await;
    world.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stops_answering_ends_the_process() {
    let Some(machine) = machine("a disk that stops answering").await else { return };
    let mut world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, "free_mb_min = 1").await;
    world.disk.device.set_fault(Fault::Stalled);
    assert_eq!(world.send_callback().await, Some(503));
    until("the abort", || world.service.log().contains("aborting the process")).await;
    world.disk.device.set_fault(Fault::Nothing);
    let ended = world.service.ended().await;
    assert_eq!(ended.signal, Some(6), "{ended}");
    world.start().await.unwrap();
    world.finish().await.unwrap();
}
