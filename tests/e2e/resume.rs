//! `POST /v1/resume`: after an operator has removed the cause of a pause, calls go on at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{Api, Fault, Target};

use crate::harness::{PATIENCE, Setup, World};

/// Waits until these things are paused, each for longer than a test waits.
async fn paused_for_long(world: &World, count: usize) {
    // Six failures in a row: half of five minutes at least.
    for failures in 1..=6 {
        let failed = |s: &Value| {
            let paused = s["paused"].as_array().unwrap();
            paused.len() == count && paused.iter().all(|p| p["failures"].as_u64() >= Some(failures))
        };
        let status = world.until("/v1/status", failed).await;
        let instant = |text: &Value| text.as_str().unwrap().parse::<Timestamp>().unwrap();
        let paused = status["paused"].as_array().unwrap().iter();
        let waits_ms = paused.map(|p| instant(&p["until"]).millis_since(instant(&status["now"])));
        if waits_ms.min() > Some(i64::try_from(PATIENCE.as_millis()).unwrap()) {
            return;
        }
        world.clock.skip(Duration::from_mins(5));
    }
    panic!("the pauses are too short");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_app_goes_on_at_once_when_an_operator_resumes_it() {
    let world = World::usual().await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    let fans = world.mint(3).await;
    world.wecom.inject(Target::Every, Fault::Errcode(60_020), None);
    for fan in &fans {
        world.add(0, fan, "zhangsan").await;
    }
    let late = world.wecom.add_people(1);
    world.register(&late).await;
    paused_for_long(&world, 1).await;
    // It is the app that is paused, not one of its dealers.
    let dealer = json!({"app": "brand", "corp_id": world.dealers[0].corp_id});
    assert_eq!(world.post("/v1/resume", &dealer).await, (200, json!({"resumed": 0})));
    // Asked while WeCom still refuses: a call that is on its way could end the pause otherwise.
    let app = json!({"app": "brand"});
    assert_eq!(world.post("/v1/resume", &app).await, (200, json!({"resumed": 1})));
    paused_for_long(&world, 1).await;
    assert_eq!(world.get("/v1/status").await["links"], 0);
    world.wecom.clear_faults();
    assert_eq!(world.post("/v1/resume", &app).await.0, 200);
    for fan in &fans {
        world.linked(fan, 1).await;
    }
    world.until(&format!("/v1/fans/{}", late[0].unionid), |fan| fan["state"] == "minted").await;
    world.until("/v1/status", |s| s["paused"] == json!([]) && s["inbox"]["waiting"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dealer_or_all_can_be_resumed() {
    let world = World::usual().await;
    let fans = world.mint(2).await;
    for (n, dealer) in world.dealers.iter().enumerate() {
        world.wecom.set_dealer_error(&dealer.corp_id, Some(84_074));
        world.add(n, &fans[n], "zhangsan").await;
    }
    paused_for_long(&world, 2).await;
    for dealer in &world.dealers {
        world.wecom.set_dealer_error(&dealer.corp_id, None);
    }
    let first = json!({"app": "brand", "corp_id": world.dealers[0].corp_id});
    assert_eq!(world.post("/v1/resume", &first).await, (200, json!({"resumed": 1})));
    world.linked(&fans[0], 1).await;
    let status = world.until("/v1/status", |s| s["paused"].as_array().is_some_and(|p| p.len() == 1)).await;
    assert_eq!(status["paused"][0]["corp_id"], json!(world.dealers[1].corp_id));
    // Without a body everything is resumed.
    let response = world.http.post(format!("{}/v1/resume", world.admin)).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"resumed": 1}));
    world.linked(&fans[1], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_app_of_the_configuration_can_be_resumed() {
    let world = World::usual().await;
    let (status, problem) = world.post("/v1/resume", &json!({"app": "nobody"})).await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    assert!(problem["hint"].is_string(), "{problem}");
    for body in [json!({"app": 7}), json!({"corp_id": ""}), json!({"corp": "wpX"})] {
        assert_eq!(world.post("/v1/resume", &body).await.0, 400, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suite_is_resumed_by_its_name() {
    let suite = format!(
        "[[suites]]\nname = \"agency\"\nprovider_corp_id = \"wwPROVIDER0000000\"\nsuite_id = \"dkSUITE\"\n\
         suite_secret = {{ value = \"{}\" }}\ncallback_token = {{ value = \"{}\" }}\n\
         encoding_aes_key = {{ value = \"{}\" }}\n\
         [[apps]]\nname = \"of-a-brand\"\nsuite = \"agency\"\n",
        "s".repeat(43),
        "t".repeat(20),
        "a".repeat(43)
    );
    let world = World::with(Setup { app: suite, ..Setup::default() }).await;
    assert_eq!(world.post("/v1/resume", &json!({"app": "agency"})).await, (200, json!({"resumed": 0})));
    let with_corp = json!({"app": "agency", "corp_id": "wpX"});
    assert_eq!(world.post("/v1/resume", &with_corp).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_whose_own_call_failed_goes_on_at_once_when_an_operator_resumes_its_app() {
    let world = World::usual().await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    world.wecom.inject(Api::UnionidToPendingId, Fault::Errcode(-1), None);
    let fan = world.wecom.add_people(1);
    world.register(&fan).await;
    let instant = |text: &Value| text.as_str().unwrap().parse::<Timestamp>().unwrap();
    let mut until = Timestamp::EPOCH;
    for failures in 1..=9 {
        let failed = |s: &Value| s["paused"][0]["failures"].as_u64() >= Some(failures);
        let status = world.until("/v1/status", failed).await;
        until = instant(&status["paused"][0]["until"]);
        if until.millis_since(instant(&status["now"])) > 20_000 {
            break;
        }
        world.clock.skip(Duration::from_secs(20));
    }
    world.wecom.clear_faults();
    assert_eq!(world.post("/v1/resume", &json!({"app": "brand"})).await, (200, json!({"resumed": 1})));
    let fan = world.until(&format!("/v1/fans/{}", fan[0].unionid), |fan| fan["state"] == "minted").await;
    assert!(instant(&fan["minted_at"]) < until, "it waited until {until}: {fan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_call_that_was_not_allowed_is_made_again_when_an_operator_resumes() {
    let world = World::usual().await;
    let calls = || world.wecom.counters().calls_of(Api::GetChainList);
    world.until("/v1/status", |_| calls() == 1).await;
    world.wecom.inject(Api::GetChainList, Fault::Errcode(48_002), None);
    // Hour by hour, because the first answer may still be on its way.
    let is_called_again = |_: &Value| {
        world.clock.skip(Duration::from_hours(1));
        calls() > 1
    };
    world.until("/v1/status", is_called_again).await;
    world.wecom.clear_faults();
    // More than once, because the refusal may still be on its way.
    let (before, give_up) = (calls(), Instant::now() + PATIENCE);
    while calls() == before {
        assert!(Instant::now() < give_up, "the call is not made again");
        assert_eq!(world.post("/v1/resume", &json!({})).await, (200, json!({"resumed": 0})));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_could_not_be_read_is_read_at_once_when_an_operator_resumes() {
    let world = World::usual().await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    let fans = world.mint(1).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    // Only the group's list has this person.
    let _ = world.wecom.join_chat(&chat_id, &fans);
    world.wecom.inject(Api::GroupChatGet, Fault::Errcode(50_003), None);
    world.deliver(&world.wecom.chat_created(&chat_id)).await;
    let has_failed = |_: &Value| {
        world.clock.skip(Duration::from_mins(1));
        world.wecom.counters().calls_of(Api::GroupChatGet) >= 5
    };
    // The next reading is due in eight minutes at least.
    world.until("/v1/status", has_failed).await;
    world.wecom.clear_faults();
    assert_eq!(world.post("/v1/resume", &json!({})).await, (200, json!({"resumed": 0})));
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_was_put_off_goes_on_at_once_when_an_operator_resumes() {
    let world = World::with(Setup { dealers: 1, ..Setup::default() }).await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 1).await;
    let corp_id = &world.dealers[0].corp_id;
    // The wait after the fourth failure with an undocumented code is two minutes at least.
    world.wecom.inject(Api::GetFollowUserList, Fault::Errcode(99_999), Some(4));
    assert_eq!(world.post("/v1/reconcile", &json!({})).await.0, 202);
    let (all, of_app, of_dealer) = (json!({}), json!({"app": "brand"}), json!({"corp_id": corp_id}));
    for (what, calls) in [&all, &of_app, &of_dealer, &all].into_iter().zip(1..) {
        let has_called = |_: &Value| world.wecom.counters().calls_of(Api::GetFollowUserList) >= calls;
        world.until("/v1/reconcile", has_called).await;
        assert_eq!(world.post("/v1/resume", what).await, (200, json!({"resumed": 0})));
    }
    world.until("/v1/reconcile", |run| run["running"] == false).await;
    let dealer = world.get(&format!("/v1/dealers/{corp_id}")).await;
    assert!(dealer["reconciled_at"].is_string(), "{dealer}");
}
