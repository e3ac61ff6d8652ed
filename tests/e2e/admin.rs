//! The admin API: authentication, the formats it accepts, its responses. Host and origin checks are in
//! `guard`.

use reqwest::Method;
use serde_json::{Value, json};
use unionlink::simulator::Person;

use crate::harness::{Setup, World};

async fn send(request: reqwest::RequestBuilder) -> (u16, String, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let kind =
        response.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let text = response.text().await.unwrap();
    (status, kind, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_requests_with_the_admin_token_are_served() {
    let admin = "token = { value = \"the-admin-token-of-32-characters\" }".to_owned();
    let world = World::with(Setup { admin, ..Setup::default() }).await;
    for path in ["/v1/status", "/metrics"] {
        let url = format!("{}{path}", world.admin);
        for token in [
            None,
            Some(""),
            Some("wrong"),
            Some("the-admin-token-of-32-character"),
            Some("the-admin-token-of-32-characters "),
        ] {
            let request = match token {
                Some(token) => world.http.get(&url).header("authorization", format!("Bearer {token}x")),
                None => world.http.get(&url),
            };
            let (status, kind, body) = send(request).await;
            assert_eq!(
                (status, kind.as_str(), &body["code"]),
                (401, "application/problem+json", &json!("unauthorized"))
            );
        }
        assert_eq!(
            send(world.http.get(&url).bearer_auth("the-admin-token-of-32-characters")).await.0,
            200,
            "{path}"
        );
    }
    // Nobody without a token learns which paths and methods there are.
    let answer = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let shown = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let all = ["content-type", "www-authenticate", "allow"].map(shown);
        (status, all, answer.text().await.unwrap())
    };
    let refused = answer(world.http.get(format!("{}/v1/status", world.admin))).await;
    for path in ["/", "/no/such", "/v1/fans", "/openapi.json", "/v1/sinks/none/pause"] {
        for method in [Method::GET, Method::DELETE, Method::PATCH] {
            let request = world.http.request(method.clone(), format!("{}{path}", world.admin));
            assert_eq!(answer(request).await, refused, "{method} {path}");
        }
    }
    // Health checks need no token.
    for path in ["/livez", "/readyz"] {
        assert_eq!(send(world.http.get(format!("{}{path}", world.admin))).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fans_are_accepted_as_one_object_an_array_or_ndjson() {
    let world = World::usual().await;
    let url = format!("{}/v1/fans", world.admin);
    let people = world.wecom.add_people(5);
    let row = |n: usize| json!({"unionid": people[n].unionid, "openid": people[n].openid});
    let counts = |accepted, known| json!({"accepted": accepted, "known": known, "rejected": []});

    let (status, _, body) = send(world.http.post(&url).json(&row(0))).await;
    assert_eq!((status, body), (202, counts(1, 0)));
    let (status, _, body) = send(world.http.post(&url).json(&json!([row(0), row(1)]))).await;
    assert_eq!((status, body), (202, counts(1, 1)));
    let lines = format!(
        "{}\n\n{{\"unionid\": \"\"}}\nnot json\n{}\r\n[]\n{{\"app\":\"nobody\",\"unionid\":\"a\",\"openid\":\"b\"}}",
        row(2),
        row(3)
    );
    let request = world.http.post(&url).header("content-type", "application/x-ndjson").body(lines);
    let (status, _, body) = send(request).await;
    assert_eq!((status, &body["accepted"], &body["known"]), (202, &json!(2), &json!(0)));
    let rejected: Vec<_> = body["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["line"].as_u64().unwrap(), r["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(rejected.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4, 6, 7]);
    assert_eq!(rejected[0].1, "unionid is empty");
    assert!(rejected[1].1.starts_with("not JSON"));
    assert_eq!((rejected[2].1, rejected[3].1), ("not an object", "there is no app named \"nobody\""));

    let many = "x\n".repeat(1_200);
    let request =
        world.http.post(&url).header("content-type", "Application/X-NDJSON; charset=utf-8").body(many);
    let (_, _, body) = send(request).await;
    assert_eq!((body["rejected"].as_array().unwrap().len(), &body["rejected_total"]), (1_000, &json!(1_200)));

    let (status, kind, body) = send(world.http.post(&url).body("{")).await;
    assert_eq!(
        (status, kind.as_str(), &body["code"]),
        (400, "application/problem+json", &json!("bad_request"))
    );
    let (status, _, body) = send(world.http.post(&url).body(" ".repeat(17 << 20))).await;
    assert_eq!((status, &body["code"]), (413, &json!("body_too_large")));

    let fan = world.until(&format!("/v1/fans/{}", people[0].unionid), |fan| fan["state"] == "minted").await;
    assert_eq!((&fan["openid"], &fan["app"]), (&json!(people[0].openid), &json!("brand")));
    assert!(fan["pending_id"].is_string() && fan["minted_at"].is_string());
    let life = |fan: &Value| {
        let at =
            |name: &str| fan[name].as_str().unwrap().parse::<unionlink::domain::time::Timestamp>().unwrap();
        at("expires_at").millis_since(at("minted_at"))
    };
    assert_eq!(life(&fan), 90 * 24 * 3_600_000);
    let (status, _, body) = send(world.http.get(format!("{}/v1/fans/nobody", world.admin))).await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_object_that_is_rejected_is_answered_422_with_the_reason() {
    let world = World::usual().await;
    let url = format!("{}/v1/fans", world.admin);
    let Person { unionid, openid } = world.wecom.add_person();
    for (row, reason, apps) in [
        (json!({"unionid": unionid}), "openid is missing", Value::Null),
        (
            json!({"unionid": unionid, "openid": openid, "app": "nobody"}),
            "there is no app named \"nobody\"",
            json!(["brand"]),
        ),
        (json!("fan"), "not an object", Value::Null),
    ] {
        let (status, kind, problem) = send(world.http.post(&url).json(&row)).await;
        assert_eq!((status, kind.as_str()), (422, "application/problem+json"));
        assert_eq!(
            (&problem["code"], &problem["detail"], &problem["apps"]),
            (&json!("fan_rejected"), &json!(reason), &apps)
        );
        assert_eq!(problem["hint"].is_string(), apps.is_array());
        let receipt = json!({"accepted": 0, "known": 0, "rejected": [{"line": 1, "reason": reason}]});
        let (status, _, body) = send(world.http.post(&url).json(&json!([row]))).await;
        assert_eq!((status, &body), (202, &receipt));
        let line = world.http.post(&url).header("content-type", "application/x-ndjson").body(row.to_string());
        let (status, _, body) = send(line).await;
        assert_eq!((status, body), (202, receipt));
    }
    assert_eq!(world.get("/v1/status").await["fans"]["registered"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_answered_with_the_reason() {
    let world = World::usual().await;
    for (path, wanted) in [
        ("/v1/links", 400),
        ("/v1/links?unionid=a&external_userid=b", 400),
        ("/v1/links?unionid=", 400),
        ("/v1/links/feed?after=soon", 400),
        ("/v1/events?state=lost", 400),
        ("/v1/events?state=dead&after=first", 400),
        ("/v1/events?state=waiting&after=evt_1", 400),
        ("/v1/fans/%FF", 400),
        ("/v1/fans/x?app=a&app=b", 400),
        ("/v1/nothing", 404),
    ] {
        let (status, kind, body) = send(world.http.get(format!("{}{path}", world.admin))).await;
        assert_eq!((status, kind.as_str()), (wanted, "application/problem+json"), "{path}");
        assert!(!body["detail"].as_str().unwrap().is_empty() && body["title"].is_string(), "{path}: {body}");
    }
    let (status, _, _) = send(world.http.delete(format!("{}/v1/fans", world.admin))).await;
    assert_eq!(status, 405);
    for id in ["evt_7", "7"] {
        let (status, _, _) = send(world.http.post(format!("{}/v1/events/{id}/redrive", world.admin))).await;
        assert_eq!(status, 404);
    }
    assert_eq!(world.get("/v1/links?unionid=nobody").await, json!({"links": []}));
    assert_eq!(world.get("/v1/links/feed?after=5").await, json!({"entries": [], "next": 5}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_is_read_page_by_page() {
    let world = World::usual().await;
    let fans = world.mint(5).await;
    for fan in &fans {
        world.add(0, fan, "zhangsan").await;
    }
    world.until("/v1/status", |s| s["feed_head"] == 5).await;
    let (mut after, mut seqs) = (0, Vec::new());
    loop {
        let page = world.get(&format!("/v1/links/feed?after={after}&limit=2")).await;
        let entries = page["entries"].as_array().unwrap().clone();
        if entries.is_empty() {
            break;
        }
        assert!(entries.len() <= 2);
        seqs.extend(entries.iter().map(|entry| entry["seq"].as_u64().unwrap()));
        after = page["next"].as_u64().unwrap();
    }
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_metrics_agree() {
    let world = World::usual().await;
    let fans = world.mint(3).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    // A link can be read a moment before it is durable and counted.
    let counted = |s: &Value| s["links"] == 1 && s["calls"]["unionid_to_external_userid"] == 3;
    let status = world.until("/v1/status", counted).await;
    assert_eq!(
        status["fans"],
        json!({"registered": 3, "queued": 0, "minted": 3, "expired": 0, "rejected": 0})
    );
    assert_eq!(
        (&status["links"], &status["ready"], &status["paused"]),
        (&json!(1), &json!(true), &json!([]))
    );
    let mint =
        status["quotas"].as_array().unwrap().iter().find(|q| q["api"] == "unionid_to_pending_id").unwrap();
    assert_eq!((&mint["hour"]["used"], &mint["hour"]["limit"]), (&json!(3), &json!(100_000)));
    let (_, kind, metrics) = send(world.http.get(format!("{}/metrics", world.admin))).await;
    assert!(kind.starts_with("application/openmetrics-text"));
    let metrics = metrics.as_str().unwrap();
    for line in [
        "unionlink_links 1",
        "unionlink_fans{state=\"minted\"} 3",
        "unionlink_callbacks_total{outcome=\"accepted\"} 1",
        "unionlink_callbacks_total{outcome=\"refused\"} 0",
        "unionlink_wecom_calls_total{api=\"unionid_to_pending_id\",outcome=\"ok\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
