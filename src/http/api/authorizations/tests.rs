//! `GET /v1/authorizations` over the router, and what else the API says of authorisations.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::domain::bindings::{Bindings, Unserved};
use crate::domain::dealer::Dealer;
use crate::domain::suite::{CodeId, ExchangeEnd, ExchangeFailure};
use crate::http::api::scene::{NOW, Scene, corp, name, shared_from};
use crate::wecom::{Credentials as _, SuiteCredentials};
use crate::worker::breaker::Scope;

const FAN: &str = "oINVENTED-unionid-0001";

/// The field of each authorisation, with its corp.
fn column(answer: &Value, field: &str) -> Vec<(String, Value)> {
    let rows = answer["authorizations"].as_array().unwrap().iter();
    rows.map(|row| (row["corp_id"].as_str().unwrap().to_owned(), row[field].clone())).collect()
}

fn corps(answer: &Value) -> Vec<String> {
    column(answer, "corp_id").into_iter().map(|(corp_id, _)| corp_id).collect()
}

#[tokio::test]
async fn authorisations_are_listed_in_the_documented_form() {
    let scene = Scene::authorized().await;
    scene.authorize("wpO", shared_from("wpA")).await;
    let answer = scene.read("/v1/authorizations").await;
    let expected = json!({
        "suite": "agency", "corp_id": "wpA", "corp_name": "甲wpA", "state": "active", "role": "brand",
        "app": "brand", "agent_id": 1_000_007, "shared_from": null,
        "authorized_at": "2026-11-22T01:02:03.000Z", "changed_at": "2026-11-22T01:02:03.000Z", "cancelled_at": null, "verified": true,
        "may_read_customers": true, "remedy": null,
    });
    assert_eq!(answer["authorizations"][0], expected);
    assert_eq!(answer["exchanges"], json!([]));
    let apps = column(&answer, "app").into_iter().map(|(_, app)| app).collect::<Vec<_>>();
    assert_eq!(apps, ["brand", "second", "brand", "brand"]);
    let roles = column(&answer, "role").into_iter().map(|(_, role)| role).collect::<Vec<_>>();
    assert_eq!(roles, ["brand", "brand", "dealer", "dealer"]);
    assert_eq!(answer["authorizations"][2]["shared_from"], json!({"corp_id": "wpA", "share_type": 1}));
}

#[tokio::test]
async fn authorisations_are_filtered_by_suite_app_and_state() {
    let scene = Scene::authorized().await;
    scene.cancel("wpD").await;
    for (query, expected) in [
        ("?suite=agency", vec!["wpA", "wpB", "wpD"]),
        ("?app=brand", vec!["wpA", "wpD"]),
        ("?app=brand&state=active", vec!["wpA"]),
        ("?state=cancelled", vec!["wpD"]),
        ("?state=incomplete", vec![]),
        ("?app=own", vec![]),
    ] {
        assert_eq!(corps(&scene.read(&format!("/v1/authorizations{query}")).await), expected, "{query}");
    }
    let cancelled = &scene.read("/v1/authorizations?state=cancelled").await["authorizations"][0];
    assert_eq!(cancelled["cancelled_at"], "2026-11-22T01:02:04.000Z");
    assert!(cancelled["remedy"]["zh"].as_str().unwrap().contains("取消授权"), "{cancelled}");
    for (corp_id, row, remedy) in [("wpD", 2, "install the shared app"), ("wpA", 0, "QR code")] {
        scene.cancel(corp_id).await;
        let listed = scene.read("/v1/authorizations").await;
        let en = listed["authorizations"][row]["remedy"]["en"].as_str().unwrap().to_owned();
        assert!(en.contains(remedy), "{corp_id}: {en}");
        assert_eq!(en.contains("QR code"), corp_id == "wpA", "the QR code makes a dealer a brand: {en}");
    }
    for (query, status, code) in [
        ("?suite=other", 404, "unknown_suite"),
        ("?suite=a%20b", 404, "unknown_suite"),
        ("?app=other", 404, "unknown_app"),
        ("?state=lost", 400, "bad_request"),
    ] {
        let (answered, problem) = scene.get(&format!("/v1/authorizations{query}")).await;
        assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{query}");
    }
}

#[tokio::test]
async fn exchanges_are_listed_with_their_end_and_without_their_code() {
    let scene = Scene::new();
    let (suite, store) = (name("agency"), &scene.state.store);
    let first = scene.scan().await;
    let refused = ExchangeFailure::Refused { errcode: 40_078, is_permanent: true };
    store.begin_exchange(&suite, &first, true, NOW).await.unwrap().unwrap();
    store.fail_exchange(&suite, &first, refused, 0.0, NOW).await.unwrap();
    scene.clock.advance_ms(60_000);
    let second: CodeId = scene.scan().await;
    store.end_exchange(&suite, &second, ExchangeEnd::Lost { at: NOW.plus_ms(90_000) }).await.unwrap();
    scene.clock.advance_ms(60_000);
    scene.scan().await;
    let answer = scene.read("/v1/authorizations?app=brand&state=active").await;
    let row = |state: &str, minute: u32, tries: u32, failed_at: Option<&str>, errcode: Option<i64>| {
        json!({
            "suite": "agency", "kind": "create", "state": state,
            "received_at": format!("2026-11-22T01:{:02}:03.000Z", 2 + minute),
            "deadline": format!("2026-11-22T01:{:02}:03.000Z", 12 + minute),
            "tries": tries, "failed_at": failed_at, "errcode": errcode,
        })
    };
    let expected = json!([
        row("refused", 0, 1, Some("2026-11-22T01:02:03.000Z"), Some(40_078)),
        row("lost", 1, 0, Some("2026-11-22T01:03:33.000Z"), None),
        row("waiting", 2, 0, None, None),
    ]);
    assert_eq!(answer["exchanges"], expected);
    assert_eq!(scene.read("/v1/authorizations?app=own").await["exchanges"], json!([]));
}

#[tokio::test]
async fn no_answer_contains_a_ticket_a_code_or_the_suite_secret() {
    let scene = Scene::authorized().await;
    scene.scan().await;
    scene.register("brand", FAN).await;
    scene.customer_added("brand", "wpD").await;
    // They are in memory, in clear.
    let (of_suite, of_app) =
        (scene.state.apps.of_suite(&name("agency"), NOW), scene.state.apps.of_app(&name("brand")));
    let SuiteCredentials { secret, ticket, .. } = of_suite.unwrap();
    for secret in [secret, ticket.unwrap(), of_app.unwrap().secret] {
        assert!(secret.expose_secret().starts_with("CANARY"));
    }
    // Each answer is searched for them where it is received.
    for path in ["authorizations", "status", "dealers", "events?state=waiting", &format!("explain/{FAN}")] {
        assert!(scene.read(&format!("/v1/{path}")).await.is_object(), "{path}");
    }
    assert!(scene.read("/metrics").await.is_string());
}

#[tokio::test]
async fn a_dealer_says_whether_it_has_authorised_itself() {
    let scene = Scene::authorized().await;
    let dealers = ["wpD", "wpE"].map(|id| Dealer::listed(corp(id), 7, String::new(), NOW)).to_vec();
    scene.state.store.put_dealers(&name("brand"), dealers).await.unwrap();
    let authorized = async || {
        let answer = scene.read("/v1/dealers?app=brand").await;
        let dealers = answer["dealers"].as_array().unwrap().iter();
        dealers.map(|dealer| dealer["authorized"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(authorized().await, [true, false]);
    assert_eq!(scene.read("/v1/dealers/wpD").await["authorized"], true);
    scene.cancel("wpD").await;
    assert_eq!(authorized().await, [false, false]);
}

#[tokio::test]
async fn a_fan_or_customer_of_an_app_without_authorisation_is_explained_by_that() {
    let scene = Scene::new();
    scene.register("brand", FAN).await;
    let waiting = scene.read(&format!("/v1/explain/{FAN}")).await;
    assert_eq!(waiting["code"], "app_not_authorized");
    assert!(waiting["hint"]["en"].as_str().unwrap().contains("scan the template"), "{waiting}");
    scene.authorize("wpA", |_| {}).await;
    assert_eq!(scene.read(&format!("/v1/explain/{FAN}")).await["code"], "waiting_for_quota");
    scene.customer_added("brand", "wpD").await;
    assert_eq!(scene.read("/v1/explain/wmINVENTED").await["code"], "event_waiting");
    scene.cancel("wpA").await;
    for id in [FAN, "wmINVENTED"] {
        let answer = scene.read(&format!("/v1/explain/{id}")).await;
        assert_eq!(answer["code"], "app_cancelled", "{answer}");
        assert!(answer["text"]["zh"].as_str().unwrap().contains("2026-11-22 09:02:04"), "{answer}");
        let evidence = answer["evidence"].as_array().unwrap();
        assert!(evidence.iter().any(|item| item["code"] == "app_cancelled"), "{answer}");
    }
}

#[tokio::test]
async fn the_brands_among_which_an_app_has_to_choose_are_named() {
    let scene = Scene::new();
    scene.register("brand", FAN).await;
    let brands = vec![(corp("wpA"), "甲".to_owned()), (corp("wpC"), "乙".to_owned())];
    let apps = BTreeMap::from([(name("brand"), Err(Unserved::Several(brands)))]);
    scene.state.apps.replace(BTreeMap::new(), &Bindings { apps, ..Bindings::default() }, NOW);
    let answer = scene.read(&format!("/v1/explain/{FAN}")).await;
    assert_eq!(answer["code"], "app_not_authorized");
    assert!(answer["text"]["en"].as_str().unwrap().ends_with("甲 (wpA), 乙 (wpC)"), "{answer}");
    assert!(answer["hint"]["zh"].as_str().unwrap().contains("corp_id"), "{answer}");
}

#[tokio::test]
async fn remedies_are_the_providers_where_the_app_is_agency_developed() {
    for (app, corp_id, expected) in [("brand", "wpD", "服务商管理后台"), ("own", "wpX", "企业可信IP")]
    {
        let scene = Scene::authorized().await;
        scene.customer_added(app, corp_id).await;
        scene.refuse(&Scope::App(name(app)), 60_020);
        let held = scene.read("/v1/explain/wmINVENTED").await;
        assert_eq!(held["code"], "dealer_parked", "{held}");
        assert!(held["hint"]["en"].as_str().unwrap().contains(expected), "{held}");
        scene.give_up(60_020).await;
        let dead = scene.read("/v1/explain/wmINVENTED").await;
        assert_eq!(dead["code"], "event_dead", "{dead}");
        assert!(dead["hint"]["zh"].as_str().unwrap().contains(expected), "{dead}");
        let events = scene.read("/v1/events?state=dead").await;
        let remedy = |event: &Value| event["remedy_zh"].as_str().unwrap().contains(expected);
        assert!(remedy(&events["events"][0]), "{events}");
        let id = events["events"][0]["id"].as_str().unwrap();
        assert!(remedy(&scene.read(&format!("/v1/events/{id}")).await), "{events}");
    }
}
