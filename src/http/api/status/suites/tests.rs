//! Suites and findings in `/v1/status` and `/metrics`.

use serde_json::{Value, json};

use crate::domain::suite::ExchangeEnd;
use crate::domain::time::MINUTE_MS;
use crate::http::api::scene::{NOW, Scene, corp, name};
use crate::telemetry::metrics::{AuthCodeOutcome, CallbackOutcome};
use crate::worker::breaker::Scope;

async fn suite(scene: &Scene) -> Value {
    scene.read("/v1/status").await["suites"][0].clone()
}

/// The findings about suites, each as code and state.
async fn findings(scene: &Scene) -> Vec<(String, String)> {
    let status = scene.read("/v1/status").await;
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let findings = status["findings"].as_array().unwrap().iter();
    let of_suites = findings.filter(|finding| text(finding, "code").starts_with("suite."));
    of_suites.map(|finding| (text(finding, "code"), text(finding, "state"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(code, state)| ((*code).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn a_suite_waits_for_its_ticket_and_says_until_when() {
    let scene = Scene::new();
    let waiting = ("suite.app_waiting", "warn");
    let expected = json!({
        "name": "agency", "suite_id": "dkSUITE", "state": "waiting_for_ticket", "ticket_received_at": null,
        "ticket_expires_at": null, "waits_until": "2026-11-22T01:12:03.000Z",
        "authorizations": {"active": 0, "incomplete": 0, "cancelled": 0},
        "exchanges": {"waiting": 0, "failed": 0},
    });
    assert_eq!(suite(&scene).await, expected);
    assert_eq!(findings(&scene).await, pairs(&[("suite.ticket", "warn"), waiting, waiting]));
    scene.clock.advance_ms(35 * MINUTE_MS);
    assert_eq!(suite(&scene).await["waits_until"], "2026-11-22T01:42:03.000Z");
    assert_eq!(findings(&scene).await, pairs(&[("suite.ticket", "fail"), waiting, waiting]));
    scene.ticket().await;
    let ready = suite(&scene).await;
    assert_eq!((&ready["state"], &ready["waits_until"]), (&json!("ready"), &json!(null)));
    assert_eq!(ready["ticket_expires_at"], "2026-11-22T02:07:03.000Z");
    assert_eq!(findings(&scene).await, pairs(&[waiting, waiting]));
}

#[tokio::test]
async fn a_suite_whose_ticket_was_refused_waits_for_the_next_one() {
    let scene = Scene::authorized().await;
    scene.clock.advance_ms(3 * MINUTE_MS);
    assert_eq!(suite(&scene).await["waits_until"], json!(null));
    scene.refuse_ticket();
    let waiting = suite(&scene).await;
    assert_eq!(waiting["state"], "waiting_for_ticket");
    assert_eq!(waiting["waits_until"], "2026-11-22T01:12:03.000Z");
    assert_eq!(waiting["ticket_received_at"], "2026-11-22T01:02:03.000Z");
    assert_eq!(findings(&scene).await, pairs(&[("suite.ticket", "warn")]));
    let status = scene.read("/v1/status").await;
    assert!(status["findings"][0]["seen"]["en"].as_str().unwrap().contains("refused"), "{status}");
    let metrics = scene.read("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("unionlink_suite_ready{suite=\"agency\"} 0"), "{metrics}");
}

#[tokio::test]
async fn the_status_counts_authorisations_and_has_no_findings_while_everything_works() {
    let scene = Scene::authorized().await;
    assert_eq!(suite(&scene).await["authorizations"], json!({"active": 3, "incomplete": 0, "cancelled": 0}));
    assert_eq!(findings(&scene).await, []);
    scene.cancel("wpA").await;
    scene.authorize("wpN", |_| {}).await;
    let expected = [("suite.brand_without_app", "warn"), ("suite.cancelled", "fail")];
    assert_eq!(findings(&scene).await, pairs(&expected));
    assert_eq!(suite(&scene).await["authorizations"], json!({"active": 3, "incomplete": 0, "cancelled": 1}));
}

#[tokio::test]
async fn findings_know_what_wecom_refuses_and_which_codes_were_lost() {
    let scene = Scene::authorized().await;
    scene.refuse(&Scope::Corp(name("brand"), corp("wpD")), 701_008);
    scene.refuse(&Scope::App(name("own")), 60_020);
    let id = scene.scan().await;
    let (suite_name, store) = (name("agency"), &scene.state.store);
    store.end_exchange(&suite_name, &id, ExchangeEnd::Expired { at: NOW }).await.unwrap();
    scene.ticket().await;
    assert_eq!(suite(&scene).await["exchanges"], json!({"waiting": 0, "failed": 1}));
    let expected = [("suite.auth_code_expired", "fail"), ("suite.licence", "fail")];
    assert_eq!(findings(&scene).await, pairs(&expected), "the self-built app is of no suite");
    let status = scene.read("/v1/status").await;
    let all = status["findings"].as_array().unwrap();
    let licence = all.iter().find(|finding| finding["code"] == "suite.licence").unwrap();
    assert_eq!(
        licence["subject"],
        json!({"suite": "agency", "app": "brand", "corp_id": "wpD", "corp_name": "甲wpD"})
    );
    assert!(licence["todo"]["text"]["zh"].as_str().unwrap().contains("互通账号"), "{licence}");
    scene.refuse(&Scope::Suite(suite_name.clone()), 40_001);
    assert_eq!(suite(&scene).await["state"], "paused");
    scene.state.breakers.succeeded(&Scope::Suite(suite_name.clone()));
    scene.refuse(&Scope::Suite(suite_name), 40_080);
    assert_eq!(suite(&scene).await["state"], "secret_refused");
}

#[tokio::test]
async fn members_without_a_licence_are_a_finding_while_no_call_is_refused() {
    let scene = Scene::authorized().await;
    for corp_id in ["wpA", "wpD"] {
        scene.state.activity.licence_is_missing(&name("brand"), &corp(corp_id), true, NOW);
    }
    scene.refuse(&Scope::Corp(name("brand"), corp("wpD")), 701_008);
    assert_eq!(findings(&scene).await, pairs(&[("suite.licence", "fail")]));
    let status = scene.read("/v1/status").await;
    let seen = status["findings"][0]["seen"]["en"].as_str().unwrap();
    assert!(seen.ends_with("at 甲wpA (wpA), 甲wpD (wpD) (code 701008)"), "{seen}");
}

#[tokio::test]
async fn misplaced_callbacks_are_counted_and_apps_without_a_corp_have_no_quota() {
    let scene = Scene::new();
    scene.state.metrics.callbacks.answered(CallbackOutcome::Misplaced, None);
    let status = scene.read("/v1/status").await;
    assert_eq!(status["callbacks"]["misplaced"], 1);
    let apps: Vec<_> = status["quotas"].as_array().unwrap().iter().map(|quota| &quota["app"]).collect();
    assert_eq!(apps, ["own", "own"]);
}

#[tokio::test]
async fn metrics_of_suites_follow_their_state() {
    let scene = Scene::authorized().await;
    scene.state.metrics.suites.configured(&name("agency"));
    scene.state.metrics.suites.auth_code(&name("agency"), AuthCodeOutcome::Lost);
    scene.clock.advance_ms(40 * MINUTE_MS);
    scene.cancel("wpA").await;
    let metrics = scene.read("/metrics").await;
    for line in [
        "unionlink_suite_ready{suite=\"agency\"} 0",
        "unionlink_suite_ticket_age_seconds{suite=\"agency\"} 2401",
        "unionlink_authorizations{suite=\"agency\",state=\"active\"} 2",
        "unionlink_authorizations{suite=\"agency\",state=\"cancelled\"} 1",
        "unionlink_auth_codes_total{suite=\"agency\",outcome=\"exchanged\"} 0",
        "unionlink_auth_codes_total{suite=\"agency\",outcome=\"lost\"} 1",
        "unionlink_finding{code=\"suite.ticket\",state=\"warn\"} 1",
        "unionlink_finding{code=\"suite.cancelled\",state=\"fail\"} 1",
        "unionlink_finding{code=\"suite.sealed\",state=\"fail\"} 0",
        "unionlink_suite_event_seconds_count 0",
    ] {
        assert!(metrics.as_str().unwrap().contains(line), "{line} is not in\n{metrics}");
    }
    scene.ticket().await;
    let metrics = scene.read("/metrics").await;
    for line in [
        "unionlink_suite_ready{suite=\"agency\"} 1",
        "unionlink_finding{code=\"suite.ticket\",state=\"warn\"} 0",
    ] {
        assert!(metrics.as_str().unwrap().contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn the_age_of_a_ticket_is_not_measured_before_the_first() {
    let scene = Scene::new();
    let metrics = scene.read("/metrics").await;
    assert!(!metrics.as_str().unwrap().contains("unionlink_suite_ticket_age_seconds{"), "{metrics}");
    assert!(metrics.as_str().unwrap().contains("unionlink_suite_ready{suite=\"agency\"} 0"), "{metrics}");
}
