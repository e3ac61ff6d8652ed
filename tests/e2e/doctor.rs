//! `doctor`: the real command beside a real service, with faults of WeCom, of the configuration, and of a proxy in front.

use std::io::Write as _;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode, Uri};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use unionlink::simulator::{Fault, Target};

use crate::harness::{Ran, Setup, World};
use crate::url_trials::{configured, run};

/// What a proxy does with a URL check or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    Right,
    /// Decodes `%2B`, and something behind it takes the plus for a space.
    PlusToSpace,
    /// Decodes `%2B`, and nothing more: that does no harm.
    DecodesPlus,
    CutsPath,
    DropsQuery,
    Redirects,
    OwnPage,
    AddsNewline,
    AddsBom,
    Compresses,
    Unreachable,
}

/// A proxy in front of the service; its address.
async fn proxy(world: &World, how: Proxy) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(pass).with_state((how, world.public.clone(), world.http.clone()));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

async fn pass(
    State((how, service, http)): State<(Proxy, String, reqwest::Client)>,
    uri: Uri,
) -> Response<Body> {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let query = match how {
        Proxy::PlusToSpace => query.replace("%2B", "%20"),
        Proxy::DecodesPlus => query.replace("%2B", "+"),
        Proxy::DropsQuery => String::new(),
        _ => query.to_owned(),
    };
    let path = if how == Proxy::CutsPath { path.trim_start_matches("/callback") } else { path };
    let answer = Response::builder();
    match how {
        Proxy::Redirects => {
            return answer
                .status(302)
                .header("location", "https://elsewhere.invalid/")
                .body(Body::empty())
                .unwrap();
        }
        Proxy::OwnPage => return answer.body("<html>welcome</html>".into()).unwrap(),
        Proxy::Unreachable => return answer.status(502).body("<html>bad gateway</html>".into()).unwrap(),
        _ => {}
    }
    let passed = http.get(format!("{service}{path}?{query}")).send().await.unwrap();
    let (status, body) = (passed.status(), passed.bytes().await.unwrap());
    let answer = answer.status(status);
    if status != StatusCode::OK {
        return answer.body(body.into()).unwrap();
    }
    match how {
        Proxy::AddsNewline => answer.body([&body, b"\n".as_slice()].concat().into()).unwrap(),
        Proxy::AddsBom => answer.body([b"\xef\xbb\xbf".as_slice(), &body].concat().into()).unwrap(),
        Proxy::Compresses => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(&body).unwrap();
            answer.header("content-encoding", "gzip").body(gzip.finish().unwrap().into()).unwrap()
        }
        _ => answer.body(body.into()).unwrap(),
    }
}

pub async fn doctor(world: &World, more: &[&str]) -> Ran {
    run(world, &[&["doctor", "--json"], more].concat()).await
}

/// The findings by code and state, one of each code.
fn states(ran: &Ran) -> Vec<(String, String)> {
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    findings.map(|finding| (text(&finding["code"]), text(&finding["state"]))).collect()
}

pub fn failed(ran: &Ran) -> Vec<String> {
    states(ran).into_iter().filter(|(_, state)| state == "fail").map(|(code, _)| code).collect()
}

pub fn state_of(ran: &Ran, code: &str) -> String {
    let states = states(ran);
    states.iter().find(|(known, _)| known == code).map(|(_, state)| state.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_healthy_service_has_no_finding_and_is_asked_nothing_that_costs() {
    let world = World::usual().await;
    let fan = world.mint(1).await.remove(0);
    world.add(0, &fan, "zhangsan").await;
    world.linked(&fan, 1).await;
    let calls = world.wecom.calls().len();
    let public = proxy(&world, Proxy::Right).await;
    let ran = doctor(&world, &["--url", &public]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    assert_eq!((&report["verdict"], &report["vantage"]), (&"warn".into(), &"service".into()), "{report:#}");
    for (code, state) in states(&ran) {
        let expected: &[&str] = match code.as_str() {
            // Plain HTTP on this machine, to WeCom and from outside.
            "callback.certificate" | "net.tls" => &["skip"],
            // How this machine is, and that no backup was made.
            "clock.synced" | "store.filesystem" | "process.limits" | "store.fsync" => &["ok", "warn"],
            "backup.age" => &["warn"],
            _ => &["ok"],
        };
        assert!(expected.contains(&state.as_str()), "{code}: {state} {report:#}");
    }
    for code in
        ["config.valid", "store.ready", "wecom.token", "callback.local", "callback.public", "callback.seen"]
    {
        assert_eq!(state_of(&ran, code), "ok", "{code}");
    }
    assert_eq!(world.wecom.calls().len(), calls, "nobody is asked");
    let offline = doctor(&world, &["--offline", "--url", &public]).await;
    assert_eq!(state_of(&offline, "callback.public"), "unknown");
    // For people, in either language or both; and only a part.
    for (lang, word) in [("en", "Callbacks"), ("zh", "回调"), ("both", "Callbacks · 回调")] {
        let ran = run(&world, &["doctor", "--lang", lang, "--url", &public, "callback"]).await;
        assert!(ran.code == 0 && ran.stdout.contains(word) && !ran.stdout.contains("store"), "{ran:?}");
    }
    let list = run(&world, &["doctor", "--list"]).await.stdout;
    assert!(list.contains("callback.plus") && list.contains("wecom.trusted_ip"), "{list}");
    // No secret anywhere.
    let people = run(&world, &["doctor", "--url", &public]).await;
    for secret in [&world.callback.token, &world.callback.aes_key, &world.corp.secret] {
        assert!(!format!("{ran:?}{people:?}").contains(secret.as_str()));
    }
    assert_eq!(run(&world, &["doctor", "no.such"]).await.code, 2);
}

#[tokio::test]
async fn what_a_proxy_does_wrong_is_named() {
    let world = World::usual().await;
    for (how, code) in [
        (Proxy::DecodesPlus, None),
        (Proxy::PlusToSpace, Some("callback.plus")),
        (Proxy::CutsPath, Some("callback.public")),
        (Proxy::DropsQuery, Some("callback.public")),
        (Proxy::Redirects, Some("callback.public")),
        (Proxy::OwnPage, Some("callback.public")),
        (Proxy::Unreachable, Some("callback.public")),
        (Proxy::AddsNewline, Some("callback.body")),
        (Proxy::AddsBom, Some("callback.body")),
        (Proxy::Compresses, Some("callback.body")),
    ] {
        let public = proxy(&world, how).await;
        let ran =
            doctor(&world, &["callback.public", "callback.plus", "callback.body", "--url", &public]).await;
        assert_eq!(failed(&ran), code.into_iter().collect::<Vec<_>>(), "{how:?}: {ran:?}");
        assert_eq!(ran.code, i32::from(code.is_some()), "{how:?}");
    }
    // Nothing is there: a network may not lead back to itself.
    let ran = doctor(&world, &["callback.public", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!((state_of(&ran, "callback.public").as_str(), ran.code), ("unknown", 0));
}

#[tokio::test]
async fn what_is_wrong_here_or_at_wecom_is_named_and_what_depends_on_it_is_skipped() {
    let mut world = World::usual().await;
    // Another Token than that of the running service.
    let text = configured(&world).replace(&world.callback.token, "another-token");
    let file = world.folder.path().join("other.toml");
    std::fs::write(&file, &text).unwrap();
    let other = file.to_str().unwrap();
    let ran = doctor(&world, &["--config", other]).await;
    assert_eq!(failed(&ran), ["callback.local"], "{ran:?}");
    assert_eq!(state_of(&ran, "callback.public"), "skip");
    let public = proxy(&world, Proxy::Right).await;
    let ran = doctor(&world, &["--config", other, "--url", &public, "callback.public"]).await;
    assert_eq!(failed(&ran), ["callback.public"], "{ran:?}");
    // One that cannot be used.
    std::fs::write(&file, text.replace("agent_id", "agentid")).unwrap();
    let ran = doctor(&world, &["--config", other, "config"]).await;
    assert_eq!(failed(&ran), ["config.valid", "config.unknown_keys"], "{ran:?}");
    assert_eq!(ran.code, 1);
    // WeCom refuses our address.
    world.wecom.inject(Target::Every, Fault::Errcode(60_020), None);
    let fan = world.wecom.add_people(1).remove(0);
    world.add(0, &fan, "zhangsan").await;
    world
        .until("/v1/status", |status| status["paused"].as_array().is_some_and(|paused| !paused.is_empty()))
        .await;
    let ran = doctor(&world, &["wecom"]).await;
    assert_eq!(failed(&ran), ["wecom.trusted_ip"], "{ran:?}");
    assert_eq!(state_of(&ran, "wecom.token"), "skip");
    let report = ran.json();
    let finding = report["findings"].as_array().unwrap().iter().find(|one| one["state"] == "fail").unwrap();
    assert_eq!((&finding["raw"]["errcode"], &finding["subject"]["app"]), (&60_020.into(), &"brand".into()));
    assert!(finding["todo"]["where"].as_str().unwrap().contains("企业可信IP"), "{finding:#}");
    for text in ["seen", "means"] {
        assert!(finding[text]["zh"].as_str().is_some_and(|zh| !zh.is_empty()), "{finding:#}");
    }
    // The service does not run.
    world.wecom.clear_faults();
    world.stop().await.unwrap();
    let ran = doctor(&world, &[]).await;
    assert_eq!((failed(&ran), ran.code), (vec!["ports.listen".to_owned()], 1), "{ran:?}");
    assert_eq!(
        (&ran.json()["vantage"], state_of(&ran, "callback.local").as_str()),
        (&"command".into(), "skip")
    );
}

#[tokio::test]
async fn what_could_not_be_looked_at_is_unknown_and_no_failure() {
    let token = "canary-token-0123456789abcdef0123456789";
    let admin = format!("token = {{ value = \"{token}\" }}");
    let world = World::with(Setup { admin, ..Setup::default() }).await;
    // The service refuses to say: another token than its own.
    let text = configured(&world).replace(token, "another-token-0123456789abcdef0123456789");
    let file = world.folder.path().join("other.toml");
    std::fs::write(&file, text).unwrap();
    let ran = doctor(&world, &["--config", file.to_str().unwrap(), "--offline"]).await;
    assert_eq!((ran.code, state_of(&ran, "store.ready").as_str()), (3, "unknown"), "{ran:?}");
    assert!(!format!("{ran:?}").contains(token));
    let ran = doctor(&world, &["--config", "/no/such/file"]).await;
    assert_eq!((ran.code, state_of(&ran, "config.valid").as_str()), (3, "unknown"), "{ran:?}");
}
