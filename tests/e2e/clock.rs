//! The wall clock of the machine is set while the service runs and while it is stopped. WeCom's clock is
//! right.

use std::time::Duration;

use serde_json::Value;
use unionlink::clock::Clock as _;
use unionlink::domain::time::{HOUR_MS, MINUTE_MS, Timestamp};
use unionlink::simulator::{Api, Fault, Options};

use crate::harness::{Setup, World};

/// The settings under which only callbacks, registrations and waits lead to conversion calls.
const APP: &str = "existing_customers = false\nreconcile_hours = 0";

fn instant(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// The remaining wait of calls for fans for a call limit, in milliseconds, according to the status.
fn pacing_ms(status: &Value) -> Option<i64> {
    let until = status["pacing"].as_array().unwrap().iter().find(|held_back| held_back["scope"] == "fans")?;
    Some(instant(&until["until"]).millis_since(instant(&status["now"])))
}

/// Waits until the service's clock shows what the wall clock does.
async fn followed(world: &World) -> Value {
    let is_right =
        |status: &Value| instant(&status["now"]).millis_since(world.machine.now()).abs() < MINUTE_MS;
    world.until("/v1/status", is_right).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_of_an_hour_lasts_an_hour_when_the_wall_clock_is_set() {
    for by_ms in [-8 * HOUR_MS, 8 * HOUR_MS] {
        let world = World::with(Setup { app: APP.into(), ..Setup::default() }).await;
        world.wecom.inject(Api::UnionidToPendingId, Fault::Errcode(45_009), Some(1));
        world.register(&world.wecom.add_people(1)).await;
        let an_hour = |status: &Value| pacing_ms(status).is_some_and(|ms| ms > HOUR_MS / 2);
        world.until("/v1/status", an_hour).await;
        world.machine.set_wall(by_ms);
        let status = followed(&world).await;
        let waits_ms = pacing_ms(&status);
        assert!(
            waits_ms.is_some_and(|ms| (HOUR_MS / 2..=HOUR_MS).contains(&ms)),
            "{waits_ms:?} ms: {status:#}"
        );
        world.clock.skip(Duration::from_secs(3_601));
        world.until("/v1/status", |status| status["fans"]["minted"] == 1).await;
        assert_eq!(world.wecom.counters().calls_of(Api::UnionidToPendingId), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_looked_up_in_time_after_a_start_with_a_clock_that_was_set_back() {
    let options = Options { late_mint_resolves: true, ..Setup::default().options };
    let mut world = World::with(Setup { options, app: APP.into(), ..Setup::default() }).await;
    let person = world.wecom.add_person();
    world.add(0, &person, "zhangsan").await;
    world.until("/v1/status", |status| status["contacts"]["waiting"] == 1).await;
    world.register(std::slice::from_ref(&person)).await;
    world.until("/v1/status", |status| status["fans"]["minted"] == 1).await;
    world.stop().await.unwrap();
    world.machine.set_wall(-8 * HOUR_MS);
    world.start().await;
    world.clock.skip(Duration::from_mins(1));
    world.linked(&person, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_accepted_before_the_clock_was_set_back_does_not_make_later_refusals_the_fault_of_fans() {
    let world = World::with(Setup { app: APP.into(), ..Setup::default() }).await;
    world.mint(1).await;
    world.machine.set_wall(-8 * HOUR_MS);
    followed(&world).await;
    world.clock.skip(Duration::from_hours(2));
    // The mini program is wrong, for every fan.
    world.wecom.set_app_error(&world.corp.corp_id, Some(610_018));
    world.register(&world.wecom.add_people(1)).await;
    let refused_often = |status: &Value| {
        world.clock.skip(Duration::from_mins(1));
        let paused = status["paused"].as_array().unwrap();
        status["fans"]["rejected"] != 0
            || paused.iter().any(|held| held["scope"] == "fans" && held["failures"].as_u64() > Some(5))
    };
    let status = world.until("/v1/status", refused_often).await;
    assert_eq!(status["fans"]["rejected"], 0, "{status:#}");
}
