//! A slow disk: acknowledged late or answered 503, never before it is durable. A disk that does not answer ends the
//! process.
//!
//! A process that waits for such a disk cannot die before the disk answers, whoever kills it: the kernel keeps it, and
//! its sockets, until the request is over. Nobody is answered meanwhile.

use std::time::Duration;

use crate::machine::machine;
use crate::power_disk::Fault;
use crate::world::{DISK_MIB, World, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_is_waited_for_or_answered_503_in_time() {
    let Some(machine) = machine("a slow disk").await else { return };
    for kind in machine.kinds.clone() {
        let world = World::with_something_to_lose(kind, DISK_MIB, "free_mb_min = 1").await;
        for pause in [Duration::from_secs(1), Duration::from_millis(200)] {
            world.disk.device.be(Fault::SlowFlushes(pause));
            let answers = futures_util::future::join_all((0..6).map(|_| world.knock())).await;
            assert!(answers.iter().all(|answer| matches!(answer, Some(200 | 503))), "{answers:?}");
        }
        // Still slow, but not so slow that nobody waits for it.
        world.acknowledges().await;
        world.disk.device.be(Fault::Nothing);
        world.end().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stalls_for_a_few_seconds_is_refused_at_the_door_and_then_served_again() {
    let Some(machine) = machine("a disk that stalls").await else { return };
    let mut world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, "free_mb_min = 1").await;
    world.disk.device.be(Fault::Stalled);
    assert_eq!(world.knock().await, Some(503));
    world.not_ready_because("makes no progress").await;
    world.disk.device.be(Fault::Nothing);
    world.service.ready().await.unwrap();
    world.acknowledges().await;
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_ends_the_process() {
    let Some(machine) = machine("a disk that does not answer").await else { return };
    let mut world = World::with_something_to_lose(machine.kinds[0], DISK_MIB, "free_mb_min = 1").await;
    world.disk.device.be(Fault::Stalled);
    assert_eq!(world.knock().await, Some(503));
    until("the abort", || world.service.log().contains("aborting the process")).await;
    world.disk.device.be(Fault::Nothing);
    let ended = world.service.ended().await;
    assert_eq!(ended.signal, Some(6), "{ended}");
    world.start().await.unwrap();
    world.end().await.unwrap();
}
