//! Failures of WeCom, of a setting or of an id: nothing is lost, nothing else is delayed, and work resumes by
//! itself.

use std::time::Duration;

use serde_json::json;
use unionlink::simulator::{
    Api, Change, ContactChange, Fault, Invisible, MemberChange, Options, Target, TokenRule, UnknownId,
};

use crate::harness::{Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_missing_from_a_result_is_asked_about_again_later() {
    let world = World::usual().await;
    let fans = world.mint(3).await;
    let (hidden, event) = world.befriend(0, &fans[0], "zhangsan");
    world.wecom.hide_rows(&hidden, 2);
    let mut events = vec![event];
    events.extend(fans[1..].iter().map(|fan| world.befriend(0, fan, "zhangsan").1));
    assert!(world.wecom.deliver_all(events, 3).await.iter().all(|d| d.acknowledged));
    world.linked(&fans[1], 1).await;
    world.linked(&fans[2], 1).await;
    world.settle().await;
    assert!(world.links(&fans[0]).await.is_empty());
    // An answer stored only after the clock was moved is asked for again correspondingly later.
    for _ in 0..2 {
        let asked = world.wecom.counters().ids_of(Api::ExternalUseridToPendingId);
        let is_asked = |status: &serde_json::Value| {
            world.clock.skip(Duration::from_mins(1));
            status["ids_asked"].as_u64() > Some(asked)
        };
        world.until("/v1/status", is_asked).await;
    }
    let path = format!("/v1/links?unionid={}", fans[0].unionid);
    let linked = |answer: &serde_json::Value| {
        world.clock.skip(Duration::from_mins(1));
        answer["links"].as_array().is_some_and(|links| links.len() == 1)
    };
    world.until(&path, linked).await;
    world.until("/v1/status", |s| s["contacts"]["waiting"] == 0).await;
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_not_visible_for_five_days_is_linked_at_once_when_the_range_is_widened() {
    let options = Options { invisible: Invisible::FailBatch(60_011), ..Setup::default().options };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let fans = world.mint(1).await;
    let dealer = &world.dealers[0].corp_id;
    world.wecom.set_member_visible(dealer, "zhangsan", false);
    let customer = world.add(0, &fans[0], "zhangsan").await;
    let path = format!("/v1/explain/{customer}");
    let asked = async |times: u32| {
        let lookups = format!("without a pending_id: {times}, the last refused with code 60011; next at");
        let is_asked = |item: &serde_json::Value| item["text"]["en"].as_str().unwrap().contains(&lookups);
        let evidence =
            |answer: &serde_json::Value| answer["evidence"].as_array().unwrap().iter().any(is_asked);
        world.until(&path, evidence).await;
    };
    // Each answer is stored before the clock is moved on.
    for times in 1..=5 {
        asked(times).await;
        assert_eq!(world.get("/v1/status").await["contacts"]["waiting"], 1);
        world.clock.skip(Duration::from_hours(25));
    }
    asked(6).await;
    assert!(world.links(&fans[0]).await.is_empty());
    // The next lookup is due in three days.
    world.wecom.set_member_visible(dealer, "zhangsan", true);
    let change = Change::Member { user_id: "zhangsan".into(), change: MemberChange::Subscribed };
    world.deliver(&world.wecom.event(dealer, &change)).await;
    world.linked(&fans[0], 1).await;
    let status = world.settle().await;
    assert_eq!((&status["contacts"]["waiting"], &status["inbox"]["dead"]), (&json!(0), &json!(0)));
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_id_in_a_batch_of_a_hundred_is_isolated() {
    let world = World::usual().await;
    let fans = world.mint(100).await;
    // The first call is slow, so that the rest collects in one batch.
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(700), Some(1));
    let (ids, events): (Vec<_>, Vec<_>) = fans.iter().map(|fan| world.befriend(0, fan, "zhangsan")).unzip();
    world.wecom.poison_with(&ids[50], 40_058);
    assert!(world.wecom.deliver_all(events, 32).await.iter().all(|d| d.acknowledged));
    world.until("/v1/status", |s| s["links"] == 99 && s["inbox"]["waiting"] == 0).await;
    let dead = world.get("/v1/events?state=dead").await;
    assert_eq!(dead["events"].as_array().unwrap().len(), 1);
    assert_eq!(dead["events"][0]["external_userid"], json!(ids[50]));
    assert_eq!(dead["events"][0]["errcode"], 40_058);
    let calls = world.wecom.counters().calls_of(Api::ExternalUseridToPendingId);
    assert!(calls <= 20, "{calls} calls to find one bad id");
    // Once WeCom accepts the id, it can be redriven.
    world.wecom.cure(&ids[50]);
    let id = dead["events"][0]["id"].as_str().unwrap();
    let redriven = world.http.post(format!("{}/v1/events/{id}/redrive", world.admin)).send().await.unwrap();
    assert_eq!(redriven.status(), 200);
    world.linked(&fans[50], 1).await;
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_revoked_in_mid_flight_is_refreshed_once() {
    let world = World::usual().await;
    let fans = world.mint(20).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    let more = world.wecom.add_people(20);
    let issued = |corp: &str| world.wecom.counters().tokens_issued.get(corp).copied().unwrap_or_default();
    let (brand, dealer) = (world.corp.corp_id.clone(), world.dealers[0].corp_id.clone());
    let before = (issued(&brand), issued(&dealer));
    world.wecom.revoke_tokens(&brand);
    world.wecom.revoke_tokens(&dealer);
    // Twenty mints and twenty customers at once, all with the old tokens.
    world.register(&more).await;
    let events: Vec<_> = fans[1..].iter().map(|fan| world.befriend(0, fan, "zhangsan").1).collect();
    assert!(world.wecom.deliver_all(events, 20).await.iter().all(|d| d.acknowledged));
    world.until("/v1/status", |s| s["links"] == 20 && s["fans"]["minted"] == 40).await;
    assert_eq!((issued(&brand), issued(&dealer)), (before.0 + 1, before.1 + 1));
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kind_of_platform_outage_loses_anything() {
    for fault in [
        Fault::Errcode(-1),
        Fault::Errcode(42_001),
        Fault::HttpStatus(502),
        Fault::Hang,
        Fault::Reset,
        Fault::Garbage,
        Fault::ApplyThenDrop,
        Fault::Latency(3_000),
    ] {
        let setup = Setup { wecom: "timeout_ms = 400\nconnect_timeout_ms = 200".into(), ..Setup::default() };
        let world = World::with(setup).await;
        let mut fans = world.mint(8).await;
        let late = world.wecom.add_people(4);
        world.wecom.inject(Target::Every, fault, None);
        let events: Vec<_> =
            fans.iter().enumerate().map(|(n, fan)| world.befriend(n % 2, fan, "zhangsan").1).collect();
        // Callbacks are acknowledged without the platform's API.
        assert!(world.wecom.deliver_all(events, 4).await.iter().all(|d| d.acknowledged), "{fault:?}");
        world.register(&late).await;
        world.until("/v1/status", |s| s["paused"].as_array().is_some_and(|p| !p.is_empty())).await;
        assert_eq!(world.get("/v1/status").await["links"], 0, "{fault:?}");
        world.wecom.clear_faults();
        world.until("/v1/status", |s| s["links"] == 8 && s["fans"]["minted"] == 12).await;
        fans.extend(late);
        world.check_links(&fans).await;
        assert_eq!(world.get("/v1/status").await["inbox"]["dead"], 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_dealers_circuit_breaker_opens_with_the_reason_and_closes_by_itself() {
    let world = World::usual().await;
    let fans = world.mint(3).await;
    let dealer = world.dealers[0].corp_id.clone();
    world.wecom.set_dealer_error(&dealer, Some(84_074));
    world.add(0, &fans[0], "zhangsan").await;
    let breaker_open = |s: &serde_json::Value| {
        s["paused"].as_array().is_some_and(|p| p.iter().any(|p| p["errcode"] == 84_074))
    };
    let status = world.until("/v1/status", breaker_open).await;
    let breaker = &status["paused"][0];
    assert_eq!((&breaker["scope"], &breaker["corp_id"]), (&json!("corp"), &json!(dealer)));
    assert_eq!(breaker["corp_name"], "Dealer 0");
    assert!(breaker["reason"].as_str().unwrap().contains("企业客户权限"), "{breaker}");
    // The other dealer is not affected.
    world.add(1, &fans[1], "lisi").await;
    world.linked(&fans[1], 1).await;
    // Further events of the failing dealer cost no call.
    let calls = world.wecom.counters().calls_of(Api::ExternalUseridToPendingId);
    world.add(0, &fans[2], "zhangsan").await;
    world.until("/v1/events?state=waiting", |e| e["events"].as_array().is_some_and(|e| e.len() == 2)).await;
    assert_eq!(world.wecom.counters().calls_of(Api::ExternalUseridToPendingId), calls);
    world.wecom.set_dealer_error(&dealer, None);
    world.clock.skip(Duration::from_secs(10));
    world.linked(&fans[0], 1).await;
    world.linked(&fans[2], 1).await;
    assert_eq!(world.settle().await["paused"], json!([]));
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_ip_opens_the_apps_circuit_breaker_and_status_names_the_address() {
    let world = World::usual().await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    world.wecom.inject(Target::Every, Fault::Errcode(60_020), None);
    let people = world.wecom.add_people(1);
    world.register(&people).await;
    let status = world.until("/v1/status", |s| s["paused"][0]["errcode"] == 60_020).await;
    let reason = status["paused"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("企业可信IP") && reason.contains("127.0.0.1"), "{reason}");
    let paused = "unionlink_paused{app=\"brand\",scope=\"app\",errcode=\"60020\"}";
    let (_, metrics) = world.text("/metrics").await;
    assert!(metrics.contains(&format!("{paused} 1\n")), "{metrics}");
    assert_eq!(world.http.get(format!("{}/readyz", world.admin)).send().await.unwrap().status(), 200);
    world.wecom.clear_faults();
    world.clock.skip(Duration::from_secs(10));
    world.until("/v1/status", |s| s["fans"]["minted"] == 1 && s["paused"] == json!([])).await;
    let (_, metrics) = world.text("/metrics").await;
    assert!(metrics.contains(&format!("{paused} 0\n")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_limit_that_wecom_reports_is_pacing_and_pauses_nothing() {
    let world = World::usual().await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    world.wecom.inject(Api::ListAppShareInfo, Fault::Errcode(45_009), Some(1));
    world.clock.skip(Duration::from_mins(1));
    let changed = Change::ShareChainChange { agent_id: 1 };
    world.deliver(&world.wecom.event(&world.dealers[0].corp_id, &changed)).await;
    let status = world.until("/v1/status", |s| s["pacing"][0]["scope"] == "dealers").await;
    assert_eq!((&status["pacing"][0]["errcode"], &status["paused"]), (&json!(45_009), &json!([])));
    let (_, metrics) = world.text("/metrics").await;
    assert!(!metrics.contains("unionlink_paused"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_fan_has_the_reason_and_delays_no_other_fan() {
    let world = World::usual().await;
    let people = world.wecom.add_people(12);
    world.wecom.reject_person(&people[0], Some(610_014));
    world.wecom.reject_person(&people[1], Some(610_018));
    world.register(&people).await;
    world.until("/v1/status", |s| s["fans"]["minted"] == 10 && s["fans"]["rejected"] == 1).await;
    // 610018 may also mean a wrong mini-program: the fan is rejected only if others succeed between its
    // refusals.
    for _ in 0..5 {
        world.clock.skip(Duration::from_secs(62));
        world.mint(1).await;
    }
    world.clock.skip(Duration::from_secs(62));
    world.until("/v1/status", |s| s["fans"]["rejected"] == 2).await;
    let fan = world.get(&format!("/v1/fans/{}", people[0].unionid)).await;
    assert_eq!((&fan["state"], &fan["errcode"]), (&json!("rejected"), &json!(610_014)));
    let remedy = fan["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("check the unionid") && remedy.contains("?retry=rejected"), "{remedy}");
    assert!(fan["remedy_zh"].as_str().unwrap().starts_with("请核对 unionid"), "{fan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_customer_delays_no_other_however_the_platform_answers() {
    for unknown_id in [UnknownId::OmitRow, UnknownId::EmptyPendingId, UnknownId::FailBatch40096] {
        let options = Options { unknown_id, ..Setup::default().options };
        let world = World::with(Setup { options, ..Setup::default() }).await;
        let fans = world.mint(4).await;
        let dealer = world.dealers[0].corp_id.clone();
        let ghost = world.wecom.event(
            &dealer,
            &Change::Contact {
                user_id: "zhangsan".into(),
                external_userid: "wmNOBODYKNOWSTHISCUSTOMER".into(),
                change: ContactChange::Add { state: None, welcome_code: None },
            },
        );
        let mut events = vec![ghost];
        events.extend(fans.iter().map(|fan| world.befriend(0, fan, "zhangsan").1));
        assert!(world.wecom.deliver_all(events, 5).await.iter().all(|d| d.acknowledged));
        for fan in &fans {
            world.linked(fan, 1).await;
        }
        let status = world.settle().await;
        let gone =
            status["inbox"]["dead"].as_u64().unwrap() + status["contacts"]["waiting"].as_u64().unwrap();
        assert_eq!(gone, 1, "{unknown_id:?}: {status}");
        world.check_links(&fans).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_whose_call_always_fails_delays_no_other_fan() {
    let world = World::usual().await;
    let people = world.wecom.add_people(40);
    world.wecom.reject_person(&people[0], Some(-1));
    world.register(&people[..1]).await;
    world.until("/v1/status", |s| s["paused"][0]["errcode"] == -1).await;
    world.register(&people[1..]).await;
    world.until("/v1/status", |s| s["fans"]["minted"] == 39).await;
    world.wecom.reject_person(&people[0], None);
    world.until("/v1/status", |s| s["fans"]["minted"] == 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_id_opens_no_circuit_breaker_before_the_converting_token_is_known() {
    let options = Options { token_rule: TokenRule::Upstream, ..Setup::default().options };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let fans = world.mint(2).await;
    // The first event of this dealer, before the token that converts its customers is known.
    let (bad, event) = world.befriend(0, &fans[0], "zhangsan");
    world.wecom.poison_with(&bad, 40_058);
    world.deliver(&event).await;
    world.until("/v1/status", |s| s["inbox"]["dead"] == 1 && s["inbox"]["waiting"] == 0).await;
    world.add(0, &fans[1], "zhangsan").await;
    world.linked(&fans[1], 1).await;
    assert_eq!(world.get("/v1/status").await["paused"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_dealer_does_not_hold_back_others_that_share_the_brands_token() {
    let options = Options { token_rule: TokenRule::Upstream, ..Setup::default().options };
    let app = "conversion_token = \"upstream\"".to_owned();
    let world = World::with(Setup { options, app, dealers: 3, ..Setup::default() }).await;
    let fans = world.mint(30).await;
    world.wecom.set_dealer_error(&world.dealers[1].corp_id, Some(84_074));
    // One batch with customers of all three.
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(500), Some(1));
    let events: Vec<_> =
        fans.iter().enumerate().map(|(n, fan)| world.befriend(n % 3, fan, "zhangsan").1).collect();
    assert!(world.wecom.deliver_all(events, 16).await.iter().all(|d| d.acknowledged));
    let status = world.until("/v1/status", |s| s["links"] == 20 && s["inbox"]["waiting"] == 10).await;
    let held_back: Vec<_> = status["paused"].as_array().unwrap().iter().map(|p| &p["corp_id"]).collect();
    assert_eq!(held_back, [&json!(world.dealers[1].corp_id)]);
    world.wecom.set_dealer_error(&world.dealers[1].corp_id, None);
    world.clock.skip(Duration::from_mins(5));
    world.until("/v1/status", |s| s["links"] == 30).await;
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undocumented_errcode_is_retried_later_and_loses_nothing() {
    let world = World::usual().await;
    let fans = world.mint(3).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Errcode(987_654), None);
    for fan in &fans[1..] {
        world.add(0, fan, "zhangsan").await;
    }
    world.until("/v1/status", |s| s["paused"][0]["errcode"] == 987_654).await;
    // Few calls are made, and no event becomes a dead letter.
    let calls = world.wecom.counters().errcodes_of(987_654);
    assert!(calls <= 4, "{calls} calls");
    world.wecom.clear_faults();
    world.clock.skip(Duration::from_mins(1));
    for fan in &fans[1..] {
        world.linked(fan, 1).await;
    }
    assert_eq!(world.get("/v1/status").await["inbox"]["dead"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_errcode_from_a_token_request_is_blamed_on_no_event_and_no_fan() {
    let world = World::usual().await;
    let fans = world.mint(2).await;
    let late = world.wecom.add_people(1);
    for api in [Api::GetToken, Api::CorpGetToken] {
        world.wecom.inject(api, Fault::Errcode(40_058), None);
    }
    world.wecom.revoke_tokens(&world.corp.corp_id);
    world.add(0, &fans[0], "zhangsan").await;
    world.register(&late).await;
    let paused = |s: &serde_json::Value| s["paused"].as_array().is_some_and(|paused| !paused.is_empty());
    let status = world.until("/v1/status", paused).await;
    assert_eq!((&status["inbox"]["dead"], &status["fans"]["rejected"]), (&json!(0), &json!(0)));
    world.wecom.clear_faults();
    world.clock.skip(Duration::from_secs(15));
    world.linked(&fans[0], 1).await;
    world.until("/v1/status", |s| s["fans"]["minted"] == 3).await;
}
