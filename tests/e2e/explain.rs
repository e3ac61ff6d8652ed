//! `explain`: why a person is or is not linked. Each code is reached through the events that lead to it.

use std::time::Duration;

use serde_json::{Value, json};
use strum::VariantArray as _;
use unionlink::domain::explain::Code;
use unionlink::simulator::{Api, Change, ConversionQuota, Fault, Invisible, Options};

use crate::agency::agency;
use crate::harness::{Setup, World};

fn is_chinese(text: &str) -> bool {
    text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
}

/// Waits until the explanation of this id has this code and evidence, and checks its texts and its order.
///
/// The evidence is compared as a set: WeCom's times are whole seconds and ours are not, so within a second
/// the order by time is not the order in which things happened.
async fn explained(world: &World, id: &str, code: Code, evidence: &[&str]) -> Value {
    let evidence_of = |answer: &Value| -> Vec<String> {
        let items = answer["evidence"].as_array().unwrap().iter();
        items.map(|item| item["code"].as_str().unwrap().to_owned()).collect()
    };
    let same = |answer: &Value| {
        let (mut found, mut wanted) = (evidence_of(answer), evidence.to_vec());
        found.sort_unstable();
        wanted.sort_unstable();
        found == wanted
    };
    let (path, code) = (format!("/v1/explain/{id}"), json!(code));
    let answer = world.until(&path, |answer| answer["code"] == code && same(answer)).await;
    assert_eq!(answer["id"], json!(id));
    let en = answer["text"]["en"].as_str().unwrap();
    assert!(!en.is_empty() && !is_chinese(en), "{answer:#}");
    let texts = answer["evidence"].as_array().unwrap().iter().map(|item| &item["text"]);
    for text in texts.chain([&answer["text"]]).chain(answer["hint"].is_object().then_some(&answer["hint"])) {
        assert!(!text["en"].as_str().unwrap().is_empty(), "{answer:#}");
        assert!(is_chinese(text["zh"].as_str().unwrap()), "{answer:#}");
    }
    // Earliest first; evidence without a time comes last.
    let at: Vec<_> = answer["evidence"].as_array().unwrap().iter().map(|item| item["at"].as_str()).collect();
    assert!(at.is_sorted_by_key(|at| (at.is_none(), *at)), "{answer:#}");
    answer
}

/// The English text of a field.
fn english<'a>(answer: &'a Value, what: &str) -> &'a str {
    answer[what]["en"].as_str().unwrap()
}

#[test]
fn every_code_is_reached_by_a_test_below() {
    for code in Code::VARIANTS {
        assert!(include_str!("explain.rs").contains(&format!("Code::{code:?},")), "no test reaches {code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_is_never_registered() {
    let world = World::usual().await;
    let answer = explained(&world, "oINVENTEDnobody", Code::NeverRegistered, &[]).await;
    assert!(english(&answer, "hint").contains("POST /v1/fans"));
    for id in ["%20", "%FF", &"x".repeat(256)] {
        let (status, text) = world.text(&format!("/v1/explain/{id}")).await;
        let wanted = if id == "%20" { 200 } else { 400 };
        assert_eq!(status, wanted, "{id}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_beyond_the_quota_waits_for_it_and_the_text_says_until_when() {
    let quota = "quota = { per_hour = 5, per_day = 100, per_month = 1000 }";
    let mut setup = Setup { app: format!("existing_customers = false\n{quota}"), ..Setup::default() };
    setup.options.quota = ConversionQuota { per_hour: 5, per_day: 100, per_month: 1_000 };
    let world = World::with(setup).await;
    world.mint(5).await;
    let late = world.wecom.add_person();
    world.register(std::slice::from_ref(&late)).await;
    let answer = explained(&world, &late.unionid, Code::WaitingForQuota, &["fan_registered"]).await;
    assert!(english(&answer, "text").contains("expected by about 20"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn minting_is_parked_while_the_circuit_breaker_is_open_and_the_text_has_the_errcode() {
    let world = World::usual().await;
    world.wecom.set_app_error(&world.corp.corp_id, Some(48_002));
    let person = world.wecom.add_person();
    world.register(std::slice::from_ref(&person)).await;
    let answer = explained(&world, &person.unionid, Code::MintingParked, &["fan_registered"]).await;
    assert!(english(&answer, "text").contains("48002"), "{answer:#}");
    world.wecom.set_app_error(&world.corp.corp_id, None);
    world.clock.skip(Duration::from_mins(10));
    let evidence = ["fan_registered", "fan_minted", "existing_asked"];
    explained(&world, &person.unionid, Code::NotAdded, &evidence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_whose_ids_wecom_refuses_is_rejected_with_the_errcode() {
    let world = World::usual().await;
    let person = world.wecom.add_person();
    world.wecom.reject_person(&person, Some(610_014));
    world.register(std::slice::from_ref(&person)).await;
    let evidence = ["fan_registered", "fan_rejected"];
    let answer = explained(&world, &person.unionid, Code::RejectedByWecom, &evidence).await;
    assert!(english(&answer, "text").contains("610014"), "{answer:#}");
    let hint = english(&answer, "hint");
    assert!(hint.starts_with("check the unionid") && hint.contains("?retry=rejected"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_no_dealer_added_is_not_added_and_after_90_days_expired() {
    let world = World::with(Setup { app: "renew = \"never\"".into(), ..Setup::default() }).await;
    let fans = world.mint(1).await;
    let evidence = &["fan_registered", "fan_minted", "existing_asked"];
    let answer = explained(&world, &fans[0].unionid, Code::NotAdded, evidence).await;
    assert!(english(&answer, "hint").contains("external_userid"), "{answer:#}");
    world.clock.skip(Duration::from_hours(91 * 24));
    let answer = explained(&world, &fans[0].unionid, Code::Expired, evidence).await;
    assert!(english(&answer, "hint").contains("renew"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_is_no_fan_has_no_pending_id() {
    let world = World::usual().await;
    let stranger = world.wecom.add_person();
    let customer = world.add(0, &stranger, "zhangsan").await;
    let evidence = ["contact_seen", "contact_asked"];
    let answer = explained(&world, &customer, Code::NoPendingId, &evidence).await;
    assert!(english(&answer, "hint").contains("asked again at 20"), "{answer:#}");
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
async fn a_customer_is_dealer_parked_while_the_dealers_circuit_breaker_is_open() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let dealer = world.dealers[0].corp_id.clone();
    world.wecom.set_dealer_error(&dealer, Some(84_074));
    let customer = world.add(0, &fans[0], "zhangsan").await;
    let answer = explained(&world, &customer, Code::DealerParked, &["event_waiting"]).await;
    assert!(
        english(&answer, "text").contains("84074") && english(&answer, "text").contains("tried again at 20")
    );
    assert!(english(&answer, "hint").contains("企业客户权限"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_whom_the_app_cannot_see_is_not_visible_and_the_hint_says_what_to_widen() {
    let options = Options { invisible: Invisible::FailBatch(60_011), ..Setup::default().options };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let fans = world.mint(1).await;
    world.wecom.set_member_visible(&world.dealers[0].corp_id, "zhangsan", false);
    let customer = world.add(0, &fans[0], "zhangsan").await;
    let evidence = ["contact_seen", "contact_asked"];
    let answer = explained(&world, &customer, Code::NotVisible, &evidence).await;
    assert!(english(&answer, "text").contains("60011"), "{answer:#}");
    let hint = english(&answer, "hint");
    assert!(hint.contains("可见范围") && hint.contains("asked again at 20"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_joined_a_group_a_moment_ago_is_lookup_waiting() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let dealer = &world.dealers[0].corp_id;
    let chat_id = world.wecom.add_chat(dealer);
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(3_000), Some(1));
    world.deliver(&world.wecom.join_chat(&chat_id, &fans)).await;
    let customer = world.wecom.external_userid(dealer, &fans[0]).unwrap();
    let evidence = ["contact_seen", "group_joined"];
    let answer = explained(&world, &customer, Code::LookupWaiting, &evidence).await;
    assert_eq!(answer["hint"], Value::Null, "no action is needed");
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_of_a_dealer_that_no_longer_shares_the_app_is_dealer_left() {
    let world = World::with(Setup { dealers: 3, ..Setup::default() }).await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 3).await;
    let fans = world.mint(1).await;
    let dealer = &world.dealers[2].corp_id;
    world.wecom.share(dealer, false);
    world.clock.skip(Duration::from_mins(1));
    let changed = Change::ShareChainChange { agent_id: 1 };
    world.deliver(&world.wecom.event(&world.dealers[0].corp_id, &changed)).await;
    world.until(&format!("/v1/dealers/{dealer}"), |dealer| dealer["state"] == "left").await;
    let customer = world.add(2, &fans[0], "zhangsan").await;
    let answer = explained(&world, &customer, Code::DealerLeft, &["event_waiting"]).await;
    assert!(english(&answer, "text").contains(dealer), "{answer:#}");
    assert!(english(&answer, "hint").contains("share the app with this dealer again"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_of_a_dealer_that_wecom_has_not_verified_is_dealer_unverified() {
    let mut world = World::usual().await;
    let fans = world.mint(1).await;
    let dealer = world.dealers[0].corp_id.clone();
    world.stop().await.unwrap();
    world.wecom.set_qualification(&dealer, 1);
    world.start().await;
    world.until(&format!("/v1/dealers/{dealer}"), |dealer| dealer["state"] == "unverified").await;
    let customer = world.add(0, &fans[0], "zhangsan").await;
    let answer = explained(&world, &customer, Code::DealerUnverified, &["event_waiting"]).await;
    assert!(english(&answer, "text").contains(&dealer), "{answer:#}");
    assert!(english(&answer, "hint").contains("get its corp verified"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_behind_a_call_limit_waits_and_is_not_dealer_parked() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Errcode(45_009), Some(1));
    let customer = world.add(0, &fans[0], "zhangsan").await;
    world.until("/v1/status", |s| s["pacing"][0]["scope"] == "corp").await;
    explained(&world, &customer, Code::EventWaiting, &["event_waiting"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_an_unknown_receive_id_is_quarantined() {
    let world = World::usual().await;
    let (customer, event) = world.befriend(0, &world.wecom.add_person(), "zhangsan");
    assert!(world.wecom.post(&world.wecom.seal_with(&event, "wwSTRAY")).await.acknowledged);
    let answer = explained(&world, &customer, Code::EventQuarantined, &["event_quarantined"]).await;
    assert!(english(&answer, "text").contains("evt_1"), "{answer:#}");
    assert!(english(&answer, "hint").contains("accept_receive_ids"), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_event_dead_and_the_hint_is_the_redrive_command() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let (customer, event) = world.befriend(0, &fans[0], "zhangsan");
    world.wecom.poison_with(&customer, 40_058);
    world.deliver(&event).await;
    let answer = explained(&world, &customer, Code::EventDead, &["event_dead"]).await;
    assert!(english(&answer, "hint").ends_with("unionlink events redrive evt_1"), "{answer:#}");
    assert!(answer["hint"]["zh"].as_str().unwrap().ends_with("unionlink events redrive evt_1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_progress_is_event_waiting() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(3_000), Some(1));
    let customer = world.add(0, &fans[0], "zhangsan").await;
    let answer = explained(&world, &customer, Code::EventWaiting, &["event_waiting"]).await;
    assert_eq!(answer["hint"], Value::Null, "no action is needed");
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_person_is_linked_under_either_id_with_the_same_evidence() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let first = world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    world.add(1, &fans[0], "lisi").await;
    world.linked(&fans[0], 2).await;
    let of_one =
        ["fan_registered", "fan_minted", "existing_asked", "contact_seen", "linked", "contact_resolved"];
    let answer = explained(&world, &first, Code::Linked, &of_one).await;
    let dealer = format!("dealer Dealer 0 ({})", world.dealers[0].corp_id);
    assert!(english(&answer, "text").contains(&dealer), "{answer:#}");
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
    assert!(english(&answer, "text").ends_with("and of 1 more"), "{answer:#}");
    assert_eq!(answer["hint"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_not_yet_delivered_to_a_sink_is_sink_behind() {
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
    assert!(english(&answer, "text").contains("archive is stopped, 1 entry"), "{answer:#}");
    // A delivered link is not behind, whatever else the sink still lacks.
    explained(&world, &fans[0].unionid, Code::Linked, evidence).await;
    assert_eq!(world.post("/v1/sinks/archive/resume", &json!({})).await.0, 200);
    explained(&world, &fans[1].unionid, Code::Linked, evidence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_person_is_forgotten_until_registered_again() {
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
async fn the_command_prints_the_explanation_in_the_requested_language() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let customer = world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    let answer = world.get(&format!("/v1/explain/{customer}")).await;
    let (en, zh) = (english(&answer, "text"), answer["text"]["zh"].as_str().unwrap());
    for (lang, has_english, has_chinese) in
        [(&[][..], true, true), (&["--lang", "en"], true, false), (&["--lang", "zh"], false, true)]
    {
        let ran = world.unionlink(&[&["explain", customer.as_str()], lang].concat()).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
        assert!(ran.stdout.starts_with(&format!("{customer}: linked\n")), "{ran:?}");
        assert_eq!((ran.stdout.contains(en), ran.stdout.contains(zh)), (has_english, has_chinese), "{ran:?}");
    }
    let ran = world.unionlink(&["explain", &fans[0].unionid, "--json"]).await;
    assert_eq!((ran.code, &ran.json()["code"]), (0, &json!("linked")));
    assert_eq!(world.unionlink(&["explain", ""]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_of_an_app_without_an_authorisation_waits_for_the_brand() {
    let mut world = World::with(agency(|_| {})).await;
    let fan = world.wecom.add_person();
    world.register(std::slice::from_ref(&fan)).await;
    let answer = explained(&world, &fan.unionid, Code::AppNotAuthorized, &["fan_registered"]).await;
    assert!(english(&answer, "hint").contains("QR code"), "{answer:#}");
    let brand = world.brand(0).await;
    let evidence = ["fan_registered", "fan_minted", "existing_asked", "app_cancelled"];
    explained(&world, &fan.unionid, Code::NotAdded, &evidence[..3]).await;
    world.deliver(&world.wecom.cancel(&brand)).await;
    explained(&world, &fan.unionid, Code::AppCancelled, &evidence).await;
    world.deliver(&world.wecom.authorize_again(&brand)).await;
    explained(&world, &fan.unionid, Code::NotAdded, &evidence[..3]).await;
}
