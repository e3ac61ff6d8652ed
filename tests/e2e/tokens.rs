//! Tokens with scopes, the audit trail of what was done with them, and the admin API on a Unix socket.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Setup, World};
use crate::process::Process;
use crate::receivers::{SECRET, Webhook};

const SCOPES: [&str; 6] = ["fans", "links", "people", "operate", "erase", "metrics"];
const ADMIN: &str = "the-admin-token-of-32-characters";

/// The token that allows only `scope`.
fn token(scope: &str) -> String {
    format!("a-token-of-32-characters-for-{scope}")
}

/// A token for everything, and one for each scope, which is named as its scope.
fn tokens() -> String {
    let mut lines = format!("token = {{ value = \"{ADMIN}\" }}\n");
    for scope in SCOPES {
        let (token, before) = (token(scope), token(&format!("{scope}-before")));
        writeln!(
            lines,
            "[[admin.tokens]]\nname = \"{scope}\"\ntoken = {{ value = \"{token}\" }}\n\
             previous_token = {{ value = \"{before}\" }}\nallow = [\"{scope}\"]"
        )
        .unwrap();
    }
    lines
}

async fn send(world: &World, method: &str, path: &str, token: &str, body: Option<&Value>) -> (u16, Value) {
    let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    let mut request = world.http.request(method, format!("{}{path}", world.admin)).bearer_auth(token);
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    // Of a success the body may have no end.
    let body = if status < 400 { Value::Null } else { answer.json().await.unwrap() };
    (status, body)
}

async fn read(world: &World, path: &str, token: &str) -> Value {
    let answer = world.http.get(format!("{}{path}", world.admin)).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_be_used_for_what_it_allows_and_nothing_else() {
    let world = World::with(Setup { admin: tokens(), ..Setup::default() }).await;
    let description = read(&world, "/openapi.json", &token("metrics")).await;
    let mut described = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let Some(needed) = operation["x-required-scope"].as_str() else {
                assert!(["/livez", "/readyz", "/openapi.json"].contains(&path.as_str()), "{path}");
                continue;
            };
            described.insert(needed);
            let path = path.replace(['{', '}'], "");
            for scope in SCOPES {
                let (status, problem) = send(&world, method, &path, &token(scope), None).await;
                if scope == needed {
                    assert!(![401, 403].contains(&status), "{method} {path} with {scope}: {problem}");
                    continue;
                }
                assert_eq!(
                    (status, &problem["code"], &problem["scope"]),
                    (403, &json!("scope_missing"), &json!(needed)),
                    "{method} {path} with {scope}: {problem}"
                );
                assert!(problem["hint"].as_str().unwrap().contains("[[admin.tokens]]"), "{problem}");
            }
            let (status, problem) = send(&world, method, &path, ADMIN, None).await;
            assert!(![401, 403].contains(&status), "{method} {path}: {problem}");
        }
    }
    assert_eq!(described, SCOPES.into());
    assert_eq!(send(&world, "get", "/v1/links?unionid=x", &token("links-before"), None).await.0, 200);
    let metrics = world.http.get(format!("{}/metrics", world.admin)).bearer_auth(token("metrics"));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let refused = metrics
        .lines()
        .find_map(|line| line.strip_prefix("unionlink_admin_refused_total{reason=\"scope\"} "));
    assert!(refused.unwrap().parse::<u64>().unwrap() > 100, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_trail_has_every_action_and_no_personal_id() {
    let hook = Webhook::start().await;
    let store = format!(
        "[[sinks]]\nname = \"crm\"\nkind = \"webhook\"\nurl = \"{}\"\nsecret = {{ value = \"{SECRET}\" }}",
        hook.url
    );
    let mut world = World::with(Setup { admin: tokens(), store, ..Setup::default() }).await;
    let person = world.wecom.add_person();
    let fan = json!({"unionid": person.unionid, "openid": person.openid});
    assert_eq!(send(&world, "post", "/v1/fans", &token("fans"), Some(&fan)).await.0, 202);
    let customer = world.add(0, &person, "zhangsan").await;
    let give_up = Instant::now() + PATIENCE;
    let links = format!("/v1/links?unionid={}", person.unionid);
    while read(&world, &links, &token("links")).await["links"] == json!([]) {
        assert!(Instant::now() < give_up);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let id = |id: &str| json!({"unionid": id});
    for (method, path, scope, body) in [
        ("get", "/v1/links/export?format=csv", "links", None),
        ("get", &*format!("/v1/explain/{}", person.unionid), "people", None),
        ("post", "/v1/events/redrive", "operate", Some(json!({"app": "brand", "reason": "wmREASON"}))),
        ("post", "/v1/events/redrive", "operate", Some(json!({"app": customer, "corp_id": customer}))),
        ("post", "/v1/events/discard", "operate", Some(json!({"all": true}))),
        ("post", "/v1/sinks/crm/pause", "operate", None),
        ("post", "/v1/sinks/crm/resume", "operate", None),
        ("post", "/v1/sinks/crm/rewind", "operate", Some(json!({"to": "now"}))),
        ("post", "/v1/reconcile", "operate", Some(json!({"app": "brand"}))),
        ("post", "/v1/resume", "operate", None),
        ("post", "/v1/forget", "erase", Some(id(&person.unionid))),
    ] {
        let (status, problem) = send(&world, method, path, &token(scope), body.as_ref()).await;
        assert!(status < 300, "{path}: {status} {problem}");
    }
    let (first, second) = tokio::join!(
        send(&world, "get", "/v1/status", "a-wrong-token", None),
        send(&world, "get", "/v1/status", "another-wrong-token", None)
    );
    assert_eq!((first.0, second.0), (401, 401));
    world.stop().await.unwrap();
    world.start().await;
    let trail = read(&world, "/v1/audit?after=0&limit=1000", &token("operate")).await;
    let entries = trail["entries"].as_array().unwrap();
    let done: Vec<_> = entries
        .iter()
        .map(|entry| (entry["token"].as_str().unwrap(), entry["action"].as_str().unwrap()))
        .collect();
    let operated = ["redrive", "redrive", "discard", "pause", "resume", "rewind", "reconcile", "resume"];
    let mut expected = vec![("links", "export"), ("people", "explain")];
    expected.extend(operated.map(|action| ("operate", action)));
    expected.extend([("erase", "erase"), ("", "refused_tokens")]);
    assert_eq!(done, expected);
    assert!(entries.iter().all(|entry| entry["source"] == "127.0.0.1"), "{entries:?}");
    assert_eq!((&entries[0]["counts"]["links"], &entries[0]["about"]["format"]), (&json!(1), &json!("csv")));
    assert_eq!(entries[2]["about"], json!({"app": "brand", "reason": "given"}));
    assert_eq!(entries[3]["about"], json!({}), "what may be anybody's id is left out");
    assert!(entries[10]["about"]["receipt"].as_str().unwrap().starts_with("rcp_"));
    assert_eq!(entries[11]["counts"]["requests"], 2);
    assert_eq!(trail["next"], entries.len());
    let text = trail.to_string();
    for id in [person.unionid.as_str(), &person.openid, &customer, "wmREASON", "wrong-token"] {
        assert!(!text.contains(id), "{id} is in {text}");
    }
    let page = read(&world, "/v1/audit?after=3&limit=2", ADMIN).await;
    assert_eq!((page["entries"][0]["seq"].clone(), page["next"].clone()), (json!(4), json!(5)));
    let clamped = read(&world, "/v1/audit?limit=0", ADMIN).await;
    assert_eq!(clamped["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn every_request_that_changes_or_reveals_much_is_audited() {
    for (source, calls) in [
        (include_str!("../../src/http/api/sinks.rs"), 3),
        (include_str!("../../src/http/api/events/redrive.rs"), 2),
        (include_str!("../../src/http/api/events/discard.rs"), 2),
    ] {
        let handlers = source.matches("post, path = ").count();
        let audited = source.matches("by: By").count();
        assert!(handlers == calls && audited >= handlers, "{handlers} {audited}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_on_a_unix_socket_is_for_its_user_only() {
    let mut process = Process::with(Setup::default()).await;
    let socket = process.world.folder.path().join("admin.sock");
    let place = format!("unix:{}", socket.display());
    let public = process.world.public.trim_start_matches("http://").to_owned();
    std::fs::write(&process.file, process.world.configuration(&public, &place)).unwrap();
    process.world.admin.clone_from(&place);
    for _ in 0..2 {
        process.launch(&[]);
        let give_up = Instant::now() + PATIENCE;
        loop {
            let ran = process.world.unionlink(&["events", "list"]).await;
            if ran.code == 0 {
                break;
            }
            assert!(Instant::now() < give_up && ran.stderr.contains(&place), "{ran:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let config = ["events", "list", "--config", process.file.to_str().unwrap()];
        let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_unionlink")).args(config).output().await;
        assert!(ran.unwrap().status.success());
        let second = ["serve", "--config", process.file.to_str().unwrap()];
        let second = tokio::process::Command::new(env!("CARGO_BIN_EXE_unionlink"))
            .args(second)
            .env("UNIONLINK__SERVER__LISTEN", "127.0.0.1:0")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        assert!(second.status.code() == Some(1) && said.contains("cannot listen on unix:"), "{said}");
        // The socket that a killed process leaves behind is replaced.
        process.kill().await;
        assert!(socket.exists());
    }
}
