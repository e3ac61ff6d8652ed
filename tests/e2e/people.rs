//! Why somebody is, or is not, linked: every verdict, reached as it comes about.

use std::time::Duration;

use serde_json::{Value, json};
use strum::VariantArray as _;
use unionlink::domain::explain::Code;
use unionlink::simulator::{Api, ConversionQuota, Fault};

use crate::harness::{Setup, World};

fn is_chinese(text: &str) -> bool {
    text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
}

/// Waits until the verdict on this id has this code, and judges everything around it.
async fn explained(world: &World, id: &str, code: Code, evidence: &[&str]) -> Value {
    let told = |answer: &Value| -> Vec<String> {
        let items = answer["evidence"].as_array().unwrap().iter();
        items.map(|item| item["code"].as_str().unwrap().to_owned()).collect()
    };
    let (path, code) = (format!("/v1/explain/{id}"), json!(code));
    let answer = world.until(&path, |answer| answer["code"] == code && told(answer) == evidence).await;
    assert_eq!(answer["id"], json!(id));
    let en = answer["text"]["en"].as_str().unwrap();
    assert!(!en.is_empty() && !is_chinese(en), "{answer:#}");
    let said = answer["evidence"].as_array().unwrap().iter().map(|item| &item["text"]);
    for text in said.chain([&answer["text"]]).chain(answer["hint"].is_object().then_some(&answer["hint"])) {
        assert!(!text["en"].as_str().unwrap().is_empty(), "{answer:#}");
        assert!(is_chinese(text["zh"].as_str().unwrap()), "{answer:#}");
    }
    // Earliest first; what has no time comes last.
    let at: Vec<_> = answer["evidence"].as_array().unwrap().iter().map(|item| item["at"].as_str()).collect();
    assert!(at.is_sorted_by_key(|at| (at.is_none(), *at)), "{answer:#}");
    answer
}

fn says<'a>(answer: &'a Value, what: &str) -> &'a str {
    answer[what]["en"].as_str().unwrap()
}

#[test]
fn every_verdict_is_reached_below() {
    for code in Code::VARIANTS {
        assert!(include_str!("people.rs").contains(&format!("Code::{code:?},")), "no test reaches {code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_nobody_heard_of_is_never_registered() {
    let world = World::usual().await;
    let answer = explained(&world, "oINVENTEDnobody", Code::NeverRegistered, &[]).await;
    assert!(says(&answer, "hint").contains("POST /v1/fans"));
    for id in ["%20", "%FF", &"x".repeat(256)] {
        let (status, text) = world.text(&format!("/v1/explain/{id}")).await;
        let wanted = if id == "%20" { 200 } else { 400 };
        assert_eq!(status, wanted, "{id}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_whose_turn_has_not_come_waits_for_quota_and_is_told_until_when() {
    let quota = "quota = { per_hour = 5, per_day = 100, per_month = 1000 }";
    let mut setup = Setup { app: format!("existing_customers = false\n{quota}"), ..Setup::default() };
    setup.options.quota = ConversionQuota { per_hour: 5, per_day: 100, per_month: 1_000 };
    let world = World::with(setup).await;
    world.mint(5).await;
    let late = world.wecom.add_person();
    world.register(std::slice::from_ref(&late)).await;
    let answer = explained(&world, &late.unionid, Code::WaitingForQuota, &["fan_registered"]).await;
    assert!(says(&answer, "text").contains("expected by about 20"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_is_parked_with_the_app_and_told_what_the_operator_has_to_do() {
    let world = World::usual().await;
    world.wecom.set_app_error(&world.corp.corp_id, Some(48_002));
    let person = world.wecom.add_person();
    world.register(std::slice::from_ref(&person)).await;
    let answer = explained(&world, &person.unionid, Code::MintingParked, &["fan_registered"]).await;
    assert!(says(&answer, "text").contains("48002"), "{answer:#}");
    world.wecom.set_app_error(&world.corp.corp_id, None);
    world.clock.skip(Duration::from_mins(10));
    let evidence = ["fan_registered", "fan_minted", "existing_asked"];
    explained(&world, &person.unionid, Code::NotAdded, &evidence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_whose_ids_wecom_refuses_is_rejected_with_its_code() {
    let world = World::usual().await;
    let person = world.wecom.add_person();
    world.wecom.reject_person(&person, Some(610_014));
    world.register(std::slice::from_ref(&person)).await;
    let evidence = ["fan_registered", "fan_rejected"];
    let answer = explained(&world, &person.unionid, Code::RejectedByWecom, &evidence).await;
    assert!(says(&answer, "text").contains("610014"), "{answer:#}");
    assert_eq!(says(&answer, "hint"), "not a valid unionid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_whom_nobody_added_is_not_added_until_the_pending_id_has_expired() {
    let world = World::with(Setup { app: "renew = \"never\"".into(), ..Setup::default() }).await;
    let fans = world.mint(1).await;
    let evidence = &["fan_registered", "fan_minted", "existing_asked"];
    let answer = explained(&world, &fans[0].unionid, Code::NotAdded, evidence).await;
    assert!(says(&answer, "hint").contains("external_userid"), "{answer:#}");
    world.clock.skip(Duration::from_hours(91 * 24));
    let answer = explained(&world, &fans[0].unionid, Code::Expired, evidence).await;
    assert!(says(&answer, "hint").contains("renew"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_is_no_fan_has_no_pending_id() {
    let world = World::usual().await;
    let stranger = world.wecom.add_person();
    let customer = world.add(0, &stranger, "zhangsan").await;
    let evidence = ["contact_seen", "contact_asked"];
    let answer = explained(&world, &customer, Code::NoPendingId, &evidence).await;
    assert!(says(&answer, "hint").contains("asked again at 20"), "{answer:#}");
    // The brand's side of the same person.
    explained(&world, &stranger.unionid, Code::NeverRegistered, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_id_that_another_installation_obtained_is_unknown() {
    let mut world = World::usual().await;
    let fans = world.mint(1).await;
    world.stop().await.unwrap();
    std::fs::remove_dir_all(world.folder.path().join("data")).unwrap();
    world.start().await;
    let customer = world.add(0, &fans[0], "zhangsan").await;
    explained(&world, &customer, Code::PendingIdUnknown, &["contact_seen", "contact_resolved"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_of_a_dealer_at_fault_is_parked_with_the_dealer() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let dealer = world.dealers[0].corp_id.clone();
    world.wecom.set_dealer_error(&dealer, Some(84_074));
    let customer = world.add(0, &fans[0], "zhangsan").await;
    let answer = explained(&world, &customer, Code::DealerParked, &["event_waiting"]).await;
    assert!(says(&answer, "text").contains("84074") && says(&answer, "text").contains("tried again at 20"));
    assert!(says(&answer, "hint").contains("企业客户权限"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sealed_for_somebody_else_is_quarantined() {
    let world = World::usual().await;
    let (customer, event) = world.befriend(0, &world.wecom.add_person(), "zhangsan");
    assert!(world.wecom.post(&world.wecom.seal_with(&event, "wwSTRAY")).await.acknowledged);
    let answer = explained(&world, &customer, Code::EventQuarantined, &["event_quarantined"]).await;
    assert!(says(&answer, "text").contains("evt_1"), "{answer:#}");
    assert!(says(&answer, "hint").contains("accept_receive_ids"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_given_up_is_dead_and_the_hint_is_the_command() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let (customer, event) = world.befriend(0, &fans[0], "zhangsan");
    world.wecom.poison(&customer);
    world.deliver(&event).await;
    let answer = explained(&world, &customer, Code::EventDead, &["event_dead"]).await;
    assert!(says(&answer, "hint").ends_with("unionlink events redrive evt_1"), "{answer:#}");
    assert!(answer["hint"]["zh"].as_str().unwrap().ends_with("unionlink events redrive evt_1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_under_way_is_waiting() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(3_000), Some(1));
    let customer = world.add(0, &fans[0], "zhangsan").await;
    let answer = explained(&world, &customer, Code::EventWaiting, &["event_waiting"]).await;
    assert_eq!(answer["hint"], Value::Null, "there is nothing to do");
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_person_is_linked_from_either_side_and_the_same_story_is_told() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let first = world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    world.add(1, &fans[0], "lisi").await;
    world.linked(&fans[0], 2).await;
    let of_one =
        ["fan_registered", "fan_minted", "existing_asked", "contact_seen", "linked", "contact_resolved"];
    let answer = explained(&world, &first, Code::Linked, &of_one).await;
    assert!(says(&answer, "text").contains(&world.dealers[0].corp_id), "{answer:#}");
    let answer = explained(
        &world,
        &fans[0].unionid,
        Code::Linked,
        &[
            "fan_registered",
            "fan_minted",
            "existing_asked",
            "contact_seen",
            "linked",
            "contact_seen",
            "linked",
            "contact_resolved",
            "contact_resolved",
        ],
    )
    .await;
    assert!(says(&answer, "text").ends_with("and of 1 more"), "{answer:#}");
    assert_eq!(answer["hint"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_a_sink_has_not_got_is_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let sink = format!("[[sinks]]\nname = \"archive\"\nkind = \"file\"\npath = {:?}", folder.path());
    let world = World::with(Setup { app: sink, ..Setup::default() }).await;
    let fans = world.mint(2).await;
    let evidence =
        &["fan_registered", "fan_minted", "existing_asked", "contact_seen", "linked", "contact_resolved"];
    world.add(0, &fans[0], "zhangsan").await;
    explained(&world, &fans[0].unionid, Code::Linked, evidence).await;
    world.until("/v1/sinks/archive", |sink| sink["after"] == 1).await;
    assert_eq!(world.post("/v1/sinks/archive/pause", &json!({})).await.0, 200);
    world.add(0, &fans[1], "zhangsan").await;
    let answer = explained(&world, &fans[1].unionid, Code::SinkBehind, evidence).await;
    assert!(says(&answer, "text").contains("archive is 1 entry"), "{answer:#}");
    // What the sink has is not behind, whatever came later.
    explained(&world, &fans[0].unionid, Code::Linked, evidence).await;
    assert_eq!(world.post("/v1/sinks/archive/resume", &json!({})).await.0, 200);
    explained(&world, &fans[1].unionid, Code::Linked, evidence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_person_is_forgotten_until_registered_anew() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let customer = world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    assert_eq!(world.post("/v1/forget", &json!({"unionid": fans[0].unionid})).await.0, 200);
    for id in [&fans[0].unionid, &customer] {
        explained(&world, id, Code::Forgotten, &["forgotten"]).await;
    }
    world.clock.skip(Duration::from_secs(2));
    world.register(&fans).await;
    world.until(&format!("/v1/explain/{}", fans[0].unionid), |answer| answer["code"] == "linked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_tells_the_verdict_in_the_language_it_is_asked_for() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let customer = world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    let answer = world.get(&format!("/v1/explain/{customer}")).await;
    let (en, zh) = (says(&answer, "text"), answer["text"]["zh"].as_str().unwrap());
    for (lang, english, chinese) in
        [(&[][..], true, true), (&["--lang", "en"], true, false), (&["--lang", "zh"], false, true)]
    {
        let ran = world.unionlink(&[&["explain", customer.as_str()], lang].concat()).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
        assert!(ran.stdout.starts_with(&format!("{customer}: linked\n")), "{ran:?}");
        assert_eq!((ran.stdout.contains(en), ran.stdout.contains(zh)), (english, chinese), "{ran:?}");
    }
    let ran = world.unionlink(&["explain", &fans[0].unionid, "--json"]).await;
    assert_eq!((ran.code, &ran.json()["code"]), (0, &json!("linked")));
    assert_eq!(world.unionlink(&["explain", ""]).await.code, 2);
}
