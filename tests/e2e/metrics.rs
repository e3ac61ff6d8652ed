//! `/metrics`: what is measured, and under which names.

use std::time::{Duration, Instant};

use tokio::process::Command;
use unionlink::clock::Clock as _;
use unionlink::simulator::Forgery;

use crate::harness::{PATIENCE, World};

/// The value of a sample, as it is written.
async fn sample(world: &World, name: &str) -> String {
    let (_, metrics) = world.text("/metrics").await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_a_link_is_measured_for_links_that_an_event_led_to() {
    let world = World::usual().await;
    let fans = world.mint(2).await;
    for fan in &fans {
        world.add(0, fan, "zhangsan").await;
        world.linked(fan, 1).await;
    }
    let stranger = world.wecom.add_person();
    world.add(1, &stranger, "lisi").await;
    world.settle().await;
    world.register(std::slice::from_ref(&stranger)).await;
    world.linked(&stranger, 1).await;
    let count = async || sample(&world, "unionlink_link_seconds_count").await;
    // A link can be read a moment before it is measured. The third one came with its fan.
    let give_up = Instant::now() + PATIENCE;
    while count().await != "2" {
        assert!(Instant::now() < give_up, "{}", count().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sample(&world, "unionlink_link_seconds_bucket{le=\"86400.0\"}").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_acknowledged_callbacks_are_in_the_callback_histogram() {
    let world = World::usual().await;
    let count = async || sample(&world, "unionlink_callback_seconds_count").await;
    let refused = world.wecom.deliver_forged(&world.corp.corp_id, Forgery::Signature, 5).await;
    assert_eq!(refused, [(403, 5)].into());
    assert!(world.wecom.verify_url(&world.corp.corp_id).await);
    assert_eq!(count().await, "0");
    let (_, event) = world.befriend(0, &world.wecom.add_person(), "zhangsan");
    for _ in 0..2 {
        world.deliver(&event).await;
    }
    assert_eq!(count().await, "2", "an event, and its duplicate");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_name_the_build_that_the_version_option_prints() {
    let world = World::usual().await;
    let version = Command::new(env!("CARGO_BIN_EXE_unionlink")).arg("--version").output().await.unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let commit = version.trim_end().strip_prefix(concat!("unionlink ", env!("CARGO_PKG_VERSION"), " ("));
    let commit = commit.and_then(|rest| rest.strip_suffix(')')).unwrap_or_else(|| panic!("{version}"));
    let is_hash = commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit());
    assert!(is_hash || commit == "unknown", "{version}");
    let info =
        format!("unionlink_build_info{{version=\"{}\",commit=\"{commit}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(sample(&world, &info).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_and_the_free_disk_space_are_measured() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let world = World::usual().await;
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_cpu_seconds_total",
        "unionlink_disk_free_bytes",
    ] {
        let value: f64 = sample(&world, name).await.parse().unwrap();
        assert!(value > 0.0, "{name} {value}");
    }
    let started = sample(&world, "process_start_time_seconds").await;
    let started: i64 = started.split('.').next().unwrap().parse().unwrap();
    let now = world.clock.now().as_millis() / 1_000;
    assert!((now - 86_400..=now + 60).contains(&started), "{started} is not within a day before {now}");
}
