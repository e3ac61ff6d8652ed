//! What happens to an authorisation while the service works: 重新获取 secret, a cancellation, tickets that do not
//! come, auth codes that run out, and another suite secret.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use unionlink::simulator::{Api, Fault, ResetEndsOld, Target, TicketRule};

use crate::agency::agency;
use crate::harness::World;
use crate::process::Process;

/// Asserts that no event was given up.
async fn nothing_is_lost(world: &World) {
    let status = world.settle().await;
    assert_eq!((&status["inbox"]["dead"], &status["inbox"]["quarantined"]), (&0.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_permanent_code_in_mid_flight_delays_nothing_but_what_needs_it() {
    join_all([ResetEndsOld::AtOnce, ResetEndsOld::AtExchange].map(|ends_old| Box::pin(reset(ends_old))))
        .await;
}

async fn reset(ends_old: ResetEndsOld) {
    let mut world = World::with(agency(|options| options.agency.reset_ends_old = ends_old)).await;
    let brand = world.brand(1).await;
    let fans = world.mint(4).await;
    world.knows_dealers(1).await;
    // Calls are under way, and others follow.
    world.wecom.inject(Target::Every, Fault::Latency(150), None);
    let new = world.wecom.add_people(10);
    world.register(&new).await;
    world.called(Api::UnionidToPendingId, fans.len() + 1).await;
    world.add(0, &fans[0], "zhangsan").await;
    let reset = world.wecom.reset_code(&brand);
    world.add(0, &fans[1], "zhangsan").await;
    world.deliver(&reset).await;
    world.add(0, &fans[2], "zhangsan").await;
    world.succeeded(Api::GetPermanentCode, 2).await;
    world.add(0, &fans[3], "zhangsan").await;
    world.minted(&new).await;
    for fan in &fans {
        world.linked(fan, 1).await;
    }
    nothing_is_lost(&world).await;
    world.check_links(&fans).await;
    // Both codes ended with their tokens.
    let tokens = world.calls_of(Api::GetToken);
    assert!(tokens.iter().filter(|call| call.errcode == Some(0)).count() >= 2, "{ends_old:?}: {tokens:?}");
    assert_eq!(world.calls_of(Api::GetPermanentCode).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cancellation_nothing_is_called_and_authorising_again_takes_up_all_work() {
    // The code of calls with a cancelled authorisation is not documented.
    join_all([48_004, 48_003, 40_001, 40_014].map(|errcode| Box::pin(cancel(errcode)))).await;
}

async fn cancel(errcode: i64) {
    let mut world = World::with(agency(|options| options.agency.cancelled = errcode)).await;
    let brand = world.brand(1).await;
    let fans = world.mint(4).await;
    world.knows_dealers(1).await;
    // A call is under way when the brand cancels, and another one is made before the service knows.
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(300), Some(1));
    world.add(0, &fans[0], "zhangsan").await;
    world.called(Api::ExternalUseridToPendingId, 1).await;
    let cancelled = world.wecom.cancel(&brand);
    world.add(0, &fans[1], "zhangsan").await;
    world.deliver(&cancelled).await;
    world.linked(&fans[0], 1).await;
    // Events and registrations of now wait.
    world.add(0, &fans[2], "zhangsan").await;
    let late = world.wecom.add_people(3);
    world.register(&late).await;
    let parked = parked_without_a_call(&world).await;
    world.wecom.reset_counters();
    world.add(0, &fans[3], "zhangsan").await;
    assert_ne!(parked_without_a_call(&world).await, parked, "{errcode}");
    let calls = world.wecom.calls();
    let of_suite = [Api::GetSuiteToken, Api::GetAuthInfo];
    assert!(calls.iter().all(|call| of_suite.contains(&call.api)), "{errcode}: {calls:#?}");

    world.ticket().await;
    world.deliver(&world.wecom.authorize_again(&brand)).await;
    world.minted(&late).await;
    for fan in &fans {
        world.linked(fan, 1).await;
    }
    nothing_is_lost(&world).await;
    world.check_links(&fans).await;
}

/// Makes a probe due, and waits until it has failed without a call, because there is no authorisation. Returns
/// when the next one is due.
async fn parked_without_a_call(world: &World) -> Value {
    world.parked().await;
    world.clock.skip(Duration::from_hours(2));
    let now = world.get("/v1/status").await["now"].as_str().unwrap().to_owned();
    let held = |status: &Value| {
        let held = status["paused"].as_array().unwrap().iter().find(|held| held["scope"] == "app");
        let held = held.filter(|held| held["errcode"].is_null() && held["until"].as_str() > Some(&now));
        held.map(|held| held["until"].clone())
    };
    held(&world.until("/v1/status", |status| held(status).is_some()).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tickets_links_go_on_and_the_next_ticket_ends_the_wait_of_an_auth_code() {
    // The suite's access token lasts for two hours: as long, an auth code needs no ticket.
    for hours in [1, 3] {
        let mut world = World::with(agency(|_| {})).await;
        let brand = world.brand(1).await;
        let fans = world.mint(2).await;
        world.clock.skip(Duration::from_hours(hours));
        world.add(0, &fans[0], "zhangsan").await;
        world.add_dealers(&brand, 1);
        world.install(1).await;
        world.linked(&fans[0], 1).await;
        world.add(0, &fans[1], "zhangsan").await;
        world.linked(&fans[1], 1).await;
        if hours > 2 {
            assert_eq!(world.calls_of(Api::GetPermanentCode).len(), 1);
            world.ticket().await;
        }
        world.succeeded(Api::GetAuthInfo, 2).await;
        assert_eq!(world.successes_of(Api::GetPermanentCode), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_wecom_refuses_is_tried_once_and_the_next_one_is_used() {
    let mut world = World::with(agency(|options| options.agency.ticket_rule = TicketRule::Newest)).await;
    world.ticket().await;
    // Lost on the way. It replaces the one before.
    let _lost = world.wecom.ticket(world.suite_id());
    let (brand, create_auth) = world.scan("Brand");
    world.add_dealers(&brand, 1);
    world.deliver(&create_auth).await;
    world.called(Api::GetSuiteToken, 1).await;
    let fans = world.wecom.add_people(1);
    world.register(&fans).await;
    world.parked().await;
    world.clock.skip(Duration::from_mins(5));
    world.ticket().await;
    world.minted(&fans).await;
    let codes: Vec<_> = world.calls_of(Api::GetSuiteToken).iter().map(|call| call.errcode).collect();
    assert_eq!(codes, [Some(40_085), Some(0)]);
    assert_eq!(world.calls_of(Api::GetPermanentCode).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auth_code_that_ran_out_is_given_up_and_authorising_again_helps() {
    let world = World::with(agency(|_| {})).await;
    let fans = world.wecom.add_people(1);
    world.register(&fans).await;
    world.ticket().await;
    // WeCom is busy for longer than the code lives.
    world.wecom.inject(Api::GetPermanentCode, Fault::Errcode(-1), None);
    let (brand, create_auth) = world.scan("Brand");
    world.deliver(&create_auth).await;
    world.called(Api::GetPermanentCode, 2).await;
    world.clock.skip(Duration::from_mins(11));
    world.parked().await;
    world.wecom.clear_faults();
    // This one arrives too late.
    let late = world.wecom.authorize_again(&brand);
    world.clock.skip(Duration::from_mins(11));
    let refused =
        || world.calls_of(Api::GetPermanentCode).iter().filter(|c| c.errcode == Some(40_078)).count();
    assert_eq!(refused(), 0);
    let calls = world.calls_of(Api::GetPermanentCode).len();
    world.deliver(&late).await;
    world.called(Api::GetPermanentCode, calls + 1).await;
    // Earlier codes go first.
    world.deliver(&world.wecom.authorize_again(&brand)).await;
    world.minted(&fans).await;
    let codes: Vec<_> =
        world.calls_of(Api::GetPermanentCode)[calls..].iter().map(|call| call.errcode).collect();
    assert_eq!(codes, [Some(40_078), Some(0)]);
}

/// Stops the process, and starts it with another secret of the suite or another `previous_suite_secret`.
async fn restart_with(process: &mut Process, secret: &str, previous: Option<&str>) {
    process.stop().await;
    let world = &mut process.world;
    secret.clone_into(&mut world.templates[0].suite_secret);
    world.wecom.set_suite_secret(world.suite_id(), secret);
    let line = |previous| format!("previous_suite_secret = {{ value = \"{previous}\" }}");
    world.setup.suite = previous.map(line).unwrap_or_default();
    let at = |url: &str| url.trim_start_matches("http://").to_owned();
    let configuration = world.configuration(&at(&world.public), &at(&world.admin));
    std::fs::write(&process.file, configuration).unwrap();
    process.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_suite_secret_loses_no_authorisation_while_the_previous_one_is_configured() {
    let mut process = Process::with(agency(|_| {})).await;
    process.start().await;
    let brand = process.world.brand(1).await;
    let fans = process.world.mint(3).await;
    let first = process.world.templates[0].suite_secret.clone();
    restart_with(&mut process, "the-second-secret", Some(&first)).await;
    process.logged("secrets are sealed with the new suite secret").await;
    process.world.add(0, &fans[0], "zhangsan").await;
    process.world.linked(&fans[0], 1).await;
    // The previous one is not needed any more.
    restart_with(&mut process, "the-second-secret", None).await;
    process.world.add(0, &fans[1], "zhangsan").await;
    process.world.linked(&fans[1], 1).await;
    // Where it was forgotten, the provider gets another permanent code.
    restart_with(&mut process, "the-third-secret", None).await;
    process.world.add(0, &fans[2], "zhangsan").await;
    process.world.parked().await;
    process.world.ticket().await;
    process.world.deliver(&process.world.wecom.reset_code(&brand)).await;
    process.world.linked(&fans[2], 1).await;
    assert_eq!(process.world.successes_of(Api::GetPermanentCode), 2);
    process.stop().await;
}
