//! Reloading the configuration of a running service, by SIGHUP and by `POST /v1/reload`: all that can be
//! taken over or nothing, and no request in progress notices.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use unionlink::simulator::CallbackSpec;

use crate::harness::{PATIENCE, Setup, World};
use crate::process::Process;
use crate::receivers::{check_received, file, lines_in, webhook};
use crate::sinks::whole_feed;

const TOKENS: [&str; 2] = ["the-admin-token-of-32-characters", "another-admin-token-of-32-charac"];

/// Changes the configuration file.
fn edit(process: &Process, pairs: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(&process.file).unwrap();
    for (before, after) in pairs {
        assert!(text.contains(before), "{before} is not in\n{text}");
        text = text.replace(before, after);
    }
    std::fs::write(&process.file, text).unwrap();
}

/// Asks for a reload. Returns the status and the answer.
async fn reload(process: &Process) -> (u16, Value) {
    process.world.post("/v1/reload", &json!({})).await
}

/// Waits until a text has been logged this many times.
async fn logged_times(process: &Process, text: &str, times: usize) {
    let logged = async {
        while process.read_log().matches(text).count() < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, logged).await.unwrap_or_else(|_| panic!("{}", process.read_log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sighup_and_on_request_the_service_takes_over_what_it_can_and_names_the_rest() {
    let mut process = Process::with(Setup::default()).await;
    let (secret, callback) = (process.world.corp.secret.clone(), process.world.callback.clone());
    edit(&process, &[(&secret, "a-secret-that-is-wrong")]);
    process.start().await;
    let world = &process.world;
    let fan = world.wecom.add_person();
    world.register(std::slice::from_ref(&fan)).await;
    world.until("/v1/status", |status| !status["paused"].as_array().unwrap().is_empty()).await;

    // The secret: calls go on at once.
    edit(&process, &[("a-secret-that-is-wrong", &secret), ("[[apps]]", "[log]\n[[apps]]")]);
    let (status, answer) = reload(&process).await;
    assert_eq!((status, &answer["changed"]), (200, &json!(["apps.brand.secret"])), "{answer}");
    let warnings = answer["warnings"].as_array().unwrap();
    assert_eq!((&answer["needs_restart"], warnings.len()), (&json!([]), 1));
    assert!(warnings[0]["reason"].as_str().unwrap().contains("is open to every user"), "{answer}");
    std::fs::set_permissions(&process.file, std::fs::Permissions::from_mode(0o600)).unwrap();
    world.until(&format!("/v1/fans/{}", fan.unionid), |fan| fan["state"] == "minted").await;
    world.until("/v1/status", |status| status["paused"] == json!([])).await;

    // The token and key of callbacks, the receive ids, a quota, the log filter; another key needs a restart.
    let next = world.wecom.invent_callback("");
    let (old_key, new_key) = (format!("\"{}\"", callback.aes_key), format!("\"{}\"", next.aes_key));
    let (old_token, new_token) = (format!("\"{}\"", callback.token), format!("\"{}\"", next.token));
    edit(
        &process,
        &[
            (&old_key, &new_key),
            (&old_token, &new_token),
            (
                "name = \"brand\"",
                "name = \"brand\"\naccept_receive_ids = [\"wwSTRAY\"]\nquota = { per_hour = 77 }",
            ),
            ("[log]", "[log]\nfilter = \"debug\""),
            ("cache_mb = 16", "cache_mb = 17"),
        ],
    );
    process.signal("HUP").await;
    logged_times(&process, "configuration reloaded", 2).await;
    let log = process.read_log();
    for text in [
        "apps.brand.accept_receive_ids, apps.brand.callback_token, apps.brand.encoding_aes_key, \
         apps.brand.quota, log.filter",
        "take effect after a restart keys=\"store.cache_mb\"",
    ] {
        assert!(log.contains(text), "{text} is not in\n{log}");
    }
    assert!(!log.contains(&next.token) && !log.contains(&next.aes_key) && !log.contains(&secret));
    let (customer, event) = world.befriend(0, &fan, "zhangsan");
    assert!(!world.wecom.deliver(&event).await.acknowledged, "with the token from before");
    let url = format!("{}/callback/brand", world.public);
    world.wecom.set_callback(&world.corp.corp_id, CallbackSpec { url, ..next });
    world.deliver(&event).await;
    assert_eq!(world.linked(&fan, 1).await[0]["external_userid"], customer.as_str());
    let stray = world.wecom.seal_with(&world.befriend(0, &world.wecom.add_person(), "lisi").1, "wwSTRAY");
    assert!(world.wecom.post(&stray).await.acknowledged);
    assert_eq!(world.settle().await["inbox"]["quarantined"], 0);
    let status = world.get("/v1/status").await.to_string();
    assert!(status.contains("\"limit\":77"), "{status}");
    let mut stream = TcpStream::connect(world.public.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"no HTTP\r\n\r\n").await.unwrap();
    process.logged("connection failed").await;

    // The file is as it was: nothing changes, and what needs a restart is named again.
    let (_, answer) = reload(&process).await;
    assert_eq!(answer, json!({"changed": [], "needs_restart": ["store.cache_mb"], "warnings": []}));
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_changes_nothing_and_every_problem_is_listed_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::with(Setup { app: file(folder.path()), ..Setup::default() }).await;
    process.start().await;
    let valid = std::fs::read_to_string(&process.file).unwrap();
    let canary = "CANARY-secret";
    let secret = format!("\"{}\"", process.world.corp.secret);
    let aes_key = format!("\"{}\"", process.world.callback.aes_key);
    edit(
        &process,
        &[
            (&secret, &format!("\"{canary}\"")),
            (&aes_key, &format!("\"{canary}\"")),
            ("cache_mb = 16", "cache_mb = \"much\""),
            ("kind = \"file\"", "kind = \"file\"\nrotate_mb = 0"),
            ("[[apps]]", "[log]\nfilter = \"debug\"\n[[apps]]"),
        ],
    );
    let (status, answer) = reload(&process).await;
    assert_eq!((status, &answer["code"]), (422, &json!("configuration_invalid")), "{answer}");
    let keys: Vec<_> = answer["problems"].as_array().unwrap().iter().map(|one| &one["key"]).collect();
    assert_eq!(keys, ["apps[0].encoding_aes_key", "sinks[0].rotate_mb", "store.cache_mb"]);
    assert_eq!(answer["problems"][0]["reason"], "has 13 characters instead of 43");
    process.signal("HUP").await;
    logged_times(&process, "the configuration was not reloaded", 2).await;
    for broken in ["[[apps]", ""] {
        std::fs::write(&process.file, broken).unwrap();
        assert_eq!(reload(&process).await.0, 422, "{broken:?}");
    }
    std::fs::remove_file(&process.file).unwrap();
    let (status, answer) = reload(&process).await;
    assert_eq!((status, &answer["problems"][0]["key"]), (422, &json!(process.file.display().to_string())));
    let log = process.read_log();
    assert!(log.contains("store.cache_mb is text instead of a whole number"), "{log}");
    assert!(!log.contains(canary) && !answer.to_string().contains(canary), "{log}");
    assert!(!log.contains("configuration reloaded"), "{log}");

    // Everything works on, and the file of before is no change.
    let world = &process.world;
    let fan = &world.mint(1).await[0];
    world.add(0, fan, "zhangsan").await;
    world.until("/v1/sinks/archive", |sink| sink["after"] == 1).await;
    std::fs::write(&process.file, valid).unwrap();
    assert_eq!(reload(&process).await.1["changed"], json!([]));
    let trail = process.world.get("/v1/audit").await;
    let entries = trail["entries"].as_array().unwrap();
    let of = |entry: &Value| (entry["action"].clone(), entry["token"].clone(), entry["counts"].clone());
    let (reloads, problems) = (json!("reload"), |count: u64| json!({"problems": count}));
    assert_eq!(of(&entries[0]), (reloads.clone(), json!("open"), problems(3)), "{trail}");
    assert_eq!(of(&entries[1]), (reloads.clone(), json!("signal"), problems(3)), "{trail}");
    let nothing = json!({"changed": 0, "needs_restart": 0});
    assert_eq!(of(entries.last().unwrap()), (reloads, json!("open"), nothing), "{trail}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_at_once_and_a_request_in_progress_goes_on() {
    let admin = format!("token = {{ value = \"{}\" }}", TOKENS[0]);
    let mut process = Process::with(Setup { admin, ..Setup::default() }).await;
    process.start().await;
    let request = |method: &str, path: &str, token: &str| {
        let url = format!("{}{path}", process.world.admin);
        process.world.http.request(method.parse().unwrap(), url).bearer_auth(token).send()
    };
    let poll = tokio::spawn(request("GET", "/v1/links/feed?after=0&wait=2s", TOKENS[0]));
    edit(
        &process,
        &[
            (&format!("\"{}\"", TOKENS[0]), &format!("\"{}\"", TOKENS[1])),
            ("[admin]", "[admin]\nhosts = [\"x.test\"]"),
        ],
    );
    let answer: Value = request("POST", "/v1/reload", TOKENS[0]).await.unwrap().json().await.unwrap();
    assert_eq!(answer["changed"], json!(["admin.hosts", "admin.token"]), "{answer}");
    assert_eq!(request("GET", "/v1/status", TOKENS[0]).await.unwrap().status(), 401);
    assert_eq!(request("GET", "/v1/status", TOKENS[1]).await.unwrap().status(), 200);
    let url = format!("{}/v1/status", process.world.admin);
    let named = process.world.http.get(&url).header("host", "x.test").bearer_auth(TOKENS[1]);
    assert_eq!(named.send().await.unwrap().status(), 200);
    assert_eq!(poll.await.unwrap().unwrap().status(), 200);
    // Only a restart removes the last token.
    edit(&process, &[(&format!("token = {{ value = \"{}\" }}", TOKENS[1]), "open = true")]);
    let answer: Value = request("POST", "/v1/reload", TOKENS[1]).await.unwrap().json().await.unwrap();
    assert_eq!(answer["needs_restart"], json!(["admin.open", "admin.token"]), "{answer}");
    assert_eq!(process.world.http.get(url).send().await.unwrap().status(), 401);
    process.stop().await;
}

/// A receiver of webhooks that takes its time, and keeps what it gets.
#[derive(Clone, Default)]
struct SlowReceiver {
    received: Arc<Mutex<Vec<Value>>>,
    open: Arc<AtomicUsize>,
    has_overlapped: Arc<AtomicBool>,
}

impl SlowReceiver {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let router = Router::new().route("/hooks", post(receive_slowly)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }
}

async fn receive_slowly(State(receiver): State<SlowReceiver>, body: Bytes) -> StatusCode {
    let is_alone = receiver.open.fetch_add(1, Ordering::SeqCst) == 0;
    receiver.has_overlapped.fetch_or(!is_alone, Ordering::SeqCst);
    // Long enough for several reloads.
    tokio::time::sleep(Duration::from_millis(100)).await;
    receiver.received.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    receiver.open.fetch_sub(1, Ordering::SeqCst);
    StatusCode::OK
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_changed_gets_every_entry_once_and_one_that_is_removed_goes_on_when_it_is_back() {
    let receiver = SlowReceiver::default();
    let url = receiver.start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::with(Setup { app: webhook("crm", &url), ..Setup::default() }).await;
    process.start().await;
    let world = &process.world;
    let fans = world.mint(12).await;
    edit(&process, &[(SECRET_LINE, &format!("{SECRET_LINE}\ntimeout_ms = 10000"))]);
    for (timeout_ms, fan) in (10_000..).zip(&fans[..10]) {
        world.add(0, fan, "zhangsan").await;
        let (before, after) =
            (format!("timeout_ms = {timeout_ms}"), format!("timeout_ms = {}", timeout_ms + 1));
        edit(&process, &[(&before, &after)]);
        assert_eq!(reload(&process).await.1["changed"], json!(["sinks.crm"]));
    }
    world.until("/v1/sinks/crm", |sink| sink["after"] == 10).await;
    check_received("crm", &receiver.received(), &whole_feed(world).await);
    assert_eq!(receiver.received().len(), 10);
    assert!(!receiver.has_overlapped.load(Ordering::SeqCst), "two deliveries at once");

    // Another sink in its place.
    let with_crm = std::fs::read_to_string(&process.file).unwrap();
    let (before_sinks, _) = with_crm.split_once("[[sinks]]").unwrap();
    std::fs::write(&process.file, format!("{before_sinks}{}", file(folder.path()))).unwrap();
    assert_eq!(reload(&process).await.1["changed"], json!(["sinks.archive", "sinks.crm"]));
    assert_eq!(world.text("/v1/sinks/crm").await.0, 404);
    world.add(0, &fans[10], "zhangsan").await;
    let sink = world.until("/v1/sinks/archive", |sink| sink["after"] == 11).await;
    assert_eq!((&sink["kind"], lines_in(folder.path()).len()), (&json!("file"), 11));
    let no_crm = |status: &Value| !status["tasks"].to_string().contains("sink crm");
    world.until("/v1/status", no_crm).await;
    let (_, metrics) = world.text("/metrics").await;
    assert!(metrics.contains("sink=\"archive\"") && !metrics.contains("sink=\"crm\""), "{metrics}");

    // It goes on where it was.
    std::fs::write(&process.file, with_crm).unwrap();
    process.signal("HUP").await;
    world.until("/v1/sinks", |list| list["sinks"][0]["name"] == "crm").await;
    world.add(0, &fans[11], "zhangsan").await;
    world.until("/v1/sinks/crm", |sink| sink["after"] == 12).await;
    check_received("crm", &receiver.received(), &whole_feed(world).await);
    process.stop().await;
}

/// The line of the webhook's secret, after which a further one fits.
const SECRET_LINE: &str = "kind = \"webhook\"";

#[tokio::test(flavor = "multi_thread")]
async fn no_callback_is_lost_or_refused_while_the_configuration_is_reloaded_over_and_over() {
    const RELOADS: usize = 50;
    let mut process = Process::with(Setup::default()).await;
    let callback = process.world.callback.clone();
    process.start().await;
    let world = &process.world;
    let fans = world.mint(20).await;
    let others = world.wecom.add_people(1_980);
    let people: Vec<_> = fans.iter().chain(&others).cloned().collect();
    let is_over = AtomicBool::new(false);
    let poll = world.get("/v1/links/feed?after=19&wait=60s");
    let reloads = async {
        let other = world.wecom.invent_callback("");
        let lines = |token: &str| format!("callback_token = {{ value = \"{token}\" }}");
        let previous = format!(
            "{}\nprevious_callback_token = {{ value = \"{}\" }}",
            lines(&other.token),
            callback.token
        );
        let (mut reloads, mut has_other) = (0, false);
        while reloads < RELOADS || !is_over.load(Ordering::SeqCst) {
            // With another token, the one that the callbacks are signed with is the previous one.
            let now = lines(&callback.token);
            let pair = if has_other { (&*previous, &*now) } else { (&*now, &*previous) };
            edit(&process, &[pair]);
            has_other = !has_other;
            let (status, answer) = reload(&process).await;
            let changed = json!(["apps.brand.callback_token", "apps.brand.previous_callback_token"]);
            assert_eq!((status, &answer["changed"]), (200, &changed), "{answer}");
            reloads += 1;
        }
    };
    let callbacks = async {
        world.add_all(&people, "zhangsan").await;
        is_over.store(true, Ordering::SeqCst);
    };
    let ((), (), page) = tokio::join!(reloads, callbacks, poll);
    assert!(!page["entries"].as_array().unwrap().is_empty(), "{page}");
    world.settle().await;
    let feed = world.feed(20).await;
    let linked: BTreeSet<_> = feed.iter().map(|entry| entry["data"]["unionid"].to_string()).collect();
    assert_eq!(linked.len(), 20);
    let callbacks = &world.get("/v1/status").await["callbacks"];
    assert_eq!((&callbacks["accepted"], &callbacks["refused"]), (&json!(2_000), &json!(0)), "{callbacks}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_file_has_nothing_to_reload() {
    let world = World::usual().await;
    let (status, problem) = world.post("/v1/reload", &json!({})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
}

/// The finding about the configuration: its state, and what was seen.
async fn config_changed(process: &Process) -> (String, String) {
    let report = process.world.get("/v1/doctor").await;
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["code"] == "config.changed").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&finding["state"]), text(&finding["seen"]["en"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_says_otherwise_than_the_service_has_it_is_a_finding_until_it_is_taken_over() {
    // A callback URL without TLS has no certificate to watch.
    let server = "public_url = \"http://127.0.0.1:1\"".to_owned();
    let mut process = Process::with(Setup { server, ..Setup::default() }).await;
    process.start().await;
    assert_eq!(config_changed(&process).await.0, "ok");
    edit(
        &process,
        &[("[server]\n", "[server]\ngrace_ms = 4321\n"), ("[[apps]]\n", "[[apps]]\nsilent_days = 3\n")],
    );
    let (state, seen) = config_changed(&process).await;
    assert_eq!(state, "warn");
    assert!(seen.contains("server.grace_ms") && seen.contains("apps.brand.silent_days"), "{seen}");
    edit(&process, &[("grace_ms = 4321", "grace_ms = 10000"), ("silent_days = 3\n", "")]);
    assert_eq!(config_changed(&process).await.0, "ok");
    // One that cannot be used; what is in it is not repeated.
    let secret = &process.world.corp.secret;
    edit(&process, &[(&format!("{{ value = \"{secret}\" }}"), "{ valu = \"canary-secret\" }")]);
    let (state, seen) = config_changed(&process).await;
    assert_eq!(state, "fail", "{seen}");
    assert!(seen.contains("apps[0].secret") && !seen.contains("canary-secret"), "{seen}");
    process.stop().await;
}
