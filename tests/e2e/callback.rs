//! The callback handler: every response it can give, and every published test vector. Which messages are
//! accepted is in `recipients`; time-outs and limits of connections are in `connections`.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use unionlink::app::App;
use unionlink::clock::SystemClock;
use unionlink::config::{self, Environment};
use unionlink::simulator::{Api, CallbackSpec, Fault, Forgery, Options, SealedCallback, Target};

use crate::harness::{PATIENCE, Setup, World};
use crate::process::Process;

/// Posts a callback. Returns the status and the body of the response.
pub async fn post(world: &World, callback: &SealedCallback) -> (u16, String) {
    let response = world.http.post(callback.full_url()).body(callback.body.clone()).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// How often a published message is counted as accepted, ignored, quarantined and refused. Most are text
/// messages to an app or notices to a suite, which are ignored; some are not XML or JSON at all.
fn expected_counts(message: &str) -> [u64; 4] {
    let is_damaged = message.contains(":mycreate\"");
    if message.contains("add_external_contact") {
        [1, 0, 0, 0]
    } else if ["<MsgType>", "\"MsgType\"", "<InfoType>"].iter().any(|tag| message.contains(tag))
        && !is_damaged
    {
        [0, 1, 0, 0]
    } else {
        [0, 0, 1, 0]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_published_test_vector_is_answered_as_wecom_expects() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../vectors/callback.json")).unwrap();
    let text = |vector: &Value, field: &str| vector[field].as_str().unwrap_or_default().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let mut configuration = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\nopen = true\n[store]\npath = {:?}\nfree_mb_min = 1\n\
         [wecom]\napi_base = \"http://127.0.0.1:9\"\n",
        folder.path().join("data").display().to_string()
    );
    let whole = |vector: &Value| {
        let kind = text(vector, "kind");
        kind == "url_verify" || kind.starts_with("post_")
    };
    for (n, vector) in vectors.iter().enumerate().filter(|(_, vector)| whole(vector)) {
        let _ = write!(
            configuration,
            "[[apps]]\nname = \"v{n}\"\ncorp_id = \"wwVECTOR{n:08}\"\nagent_id = 1\nsecret = \"s\"\n\
             callback_token = {:?}\nencoding_aes_key = {:?}\naccept_receive_ids = [{:?}]\n",
            text(vector, "token"),
            text(vector, "aes_key"),
            text(vector, "decrypted_receive_id"),
        );
    }
    let config = config::parse(&configuration, "vectors".as_ref(), &Environment::default())
        .unwrap_or_else(|e| panic!("{e}"));
    let stop = CancellationToken::new();
    let app = App::start(&config, std::sync::Arc::new(SystemClock), stop.clone()).await.unwrap();
    let (public, admin) = (app.public_address, app.admin_address.clone());
    let running = tokio::spawn(app.run());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();

    let classified = async || {
        let status: Value =
            http.get(format!("http://{admin}/v1/status")).send().await.unwrap().json().await.unwrap();
        ["accepted", "ignored", "quarantined", "refused"]
            .map(|name| status["callbacks"][name].as_u64().unwrap())
    };
    let (mut echoes, mut events) = (0, 0);
    for (n, vector) in vectors.iter().enumerate() {
        let query = format!(
            "msg_signature={}&timestamp={}&nonce={}",
            text(vector, "signature"),
            text(vector, "timestamp"),
            text(vector, "nonce")
        );
        let url = format!("http://{public}/callback/v{n}?{query}");
        let before = classified().await;
        match vector["kind"].as_str().unwrap() {
            "url_verify" => {
                let response = http
                    .get(format!("{url}&echostr={}", text(vector, "echostr_urlencoded")))
                    .send()
                    .await
                    .unwrap();
                assert_eq!(response.status(), 200, "{}", vector["source"]);
                assert_eq!(response.text().await.unwrap(), text(vector, "expected_plaintext"));
                echoes += 1;
            }
            kind if kind.starts_with("post_") => {
                let response = http.post(url).body(text(vector, "post_body")).send().await.unwrap();
                assert_eq!(response.status(), 200, "{}", vector["source"]);
                assert_eq!(response.text().await.unwrap(), "success");
                let after = classified().await;
                let change = std::array::from_fn(|n| after[n] - before[n]);
                assert_eq!(change, expected_counts(&text(vector, "expected_plaintext")), "{vector}");
                events += 1;
            }
            _ => {}
        }
    }
    assert_eq!((echoes, events), (10, 19));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_check_of_the_admin_console_is_answered() {
    let world = World::usual().await;
    assert!(world.wecom.verify_url(&world.corp.corp_id).await);
    let response =
        world.http.get(format!("{}/callback/brand?msg_signature=x", world.public)).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (403, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_corp_id_is_found_when_the_url_is_saved() {
    let mut process = Process::with(Setup::default()).await;
    let genuine = process.world.corp.corp_id.clone();
    let text = std::fs::read_to_string(&process.file).unwrap();
    let wrong = text.replace(&format!("corp_id = {genuine:?}"), "corp_id = \"wwWRONGCORPID00000\"");
    assert_ne!(text, wrong);
    std::fs::write(&process.file, &wrong).unwrap();
    process.start().await;
    let counted = "unionlink_finding{code=\"app.receive_id\",state=\"fail\"} ";
    let of_url = async |process: &Process| {
        let status = process.world.get("/v1/status").await;
        let findings = status["findings"].as_array().unwrap().clone();
        // WeCom refuses the wrong id, too.
        findings.into_iter().filter(|finding| finding["code"] == "app.receive_id").collect::<Vec<_>>()
    };
    assert_eq!(of_url(&process).await, <[Value; 0]>::default());

    assert!(!process.world.wecom.verify_url(&genuine).await);
    let status = process.world.get("/v1/status").await;
    let finding = &status["findings"][0];
    assert_eq!((&finding["code"], &finding["state"]), (&json!("app.receive_id"), &json!("fail")), "{status}");
    assert_eq!(finding["subject"], json!({"app": "brand", "corp_id": "wwWRONGCORPID00000"}));
    assert!(finding["seen"]["en"].as_str().unwrap().contains(&genuine), "{finding}");
    let (_, metrics) = process.world.text("/metrics").await;
    assert!(metrics.contains(&format!("{counted}1\n")), "{metrics}");
    process.logged("compare corp_id with").await;

    let accepted = wrong.replace("[[apps]]", &format!("[[apps]]\naccept_receive_ids = [{genuine:?}]"));
    std::fs::write(&process.file, accepted).unwrap();
    let (code, answer) = process.world.post("/v1/reload", &json!({})).await;
    assert_eq!((code, &answer["needs_restart"]), (200, &json!([])), "{answer}");
    assert!(process.world.wecom.verify_url(&genuine).await);
    assert_eq!(of_url(&process).await, <[Value; 0]>::default());
    let (_, metrics) = process.world.text("/metrics").await;
    assert!(metrics.contains(&format!("{counted}0\n")), "{metrics}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_message_is_not_decrypted_by_a_url_check() {
    let world = World::usual().await;
    let person = world.wecom.add_person();
    let (_, event) = world.befriend(0, &person, "zhangsan");
    let SealedCallback { url, query, body } = world.wecom.seal(&event);
    let (_, rest) = body.split_once("<Encrypt><![CDATA[").unwrap();
    let (encrypted, _) = rest.split_once("]]>").unwrap();
    // The signature of a message is that of a URL check, too.
    let echo = encrypted.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let response = world.http.get(format!("{url}?{query}&echostr={echo}")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (403, ""));
    let (_, metrics) = world.text("/metrics").await;
    assert!(metrics.contains("unionlink_callback_refusals_total{reason=\"echo\"} 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_token_and_key_are_changed_callbacks_with_either_pair_are_accepted() {
    let mut world = World::usual().await;
    let old = world.callback.clone();
    // Changed here first, and in WeCom's console afterwards.
    world.callback = world.wecom.invent_callback(&old.url);
    let previous = format!(
        "previous_callback_token = {{ value = {:?} }}\nprevious_encoding_aes_key = {{ value = {:?} }}\n",
        old.token, old.aes_key
    );
    world.setup.app.insert_str(0, &previous);
    world.restart().await;
    let fans = world.mint(2).await;
    let url = format!("{}/callback/brand", world.public);
    let pairs = [("previous", old), ("current", world.callback.clone())];
    for (fan, (key, callback)) in fans.iter().zip(pairs) {
        world.wecom.set_callback(&world.corp.corp_id, CallbackSpec { url: url.clone(), ..callback });
        assert!(world.wecom.verify_url(&world.corp.corp_id).await, "{key}");
        world.add(0, fan, "zhangsan").await;
        world.linked(fan, 1).await;
        let (_, metrics) = world.text("/metrics").await;
        let line = format!("unionlink_callbacks_opened_total{{name=\"brand\",key=\"{key}\"}} 2\n");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_the_same_empty_403() {
    let world = World::usual().await;
    let person = world.wecom.add_person();
    let (_, event) = world.befriend(0, &person, "zhangsan");
    let genuine = world.wecom.seal(&event);
    let change = |query: &dyn Fn(&str) -> String, body: &dyn Fn(&str) -> String| SealedCallback {
        url: genuine.url.clone(),
        query: query(&genuine.query),
        body: body(&genuine.body),
    };
    let same = |text: &str| text.to_owned();
    let refused = [
        change(&|q| q.replace("msg_signature", "signature"), &same),
        change(&|q| q.replace("nonce=", "nonce=1"), &same),
        change(&|q| q.replace("timestamp=", "timestamp=1"), &same),
        change(&|_| String::new(), &same),
        change(&same, &|b| b.replace("Encrypt", "Encrypted")),
        change(&same, &|b| b.replace("<Encrypt><![CDATA[", "<Encrypt><![CDATA[A")),
        change(&same, &|_| String::new()),
        change(&same, &|_| "{}".to_owned()),
        change(&same, &|_| "\u{0}\u{1}<<<<".to_owned()),
        change(&same, &|b| format!("<!DOCTYPE xml [<!ENTITY a \"b\">]>{b}")),
    ];
    for callback in &refused {
        assert_eq!(post(&world, callback).await, (403, String::new()), "{callback:?}");
    }
    // With wrong keys, a callback is sealed correctly, but with another token and key.
    for forgery in [Forgery::Signature, Forgery::Cipher, Forgery::WrongKeys] {
        let statuses = world.wecom.deliver_forged(&world.corp.corp_id, forgery, 5).await;
        assert_eq!(statuses, [(403, 5)].into(), "{forgery:?}");
    }
    assert_eq!(world.get("/v1/status").await["callbacks"]["accepted"], 0);
    assert_eq!(post(&world, &genuine).await, (200, "success".to_owned()));
    let metrics =
        world.http.get(format!("{}/metrics", world.admin)).send().await.unwrap().text().await.unwrap();
    for reason in ["query", "envelope", "signature"] {
        let none = format!("unionlink_callback_refusals_total{{reason=\"{reason}\"}} 0");
        assert!(!metrics.contains(&none), "{reason} was not counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_envelope_is_accepted_too() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let (_, event) = world.befriend(0, &fans[0], "zhangsan");
    let sealed = world.wecom.seal(&event);
    let encrypt = sealed.body.split("<Encrypt><![CDATA[").nth(1).unwrap().split("]]>").next().unwrap();
    for name in ["encrypt", "Encrypt"] {
        let body = json!({ name: encrypt, "tousername": "x", "agentid": 7 }).to_string();
        let callback = SealedCallback { body, ..sealed.clone() };
        assert_eq!(post(&world, &callback).await, (200, "success".to_owned()));
    }
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_404() {
    let world = World::usual().await;
    for path in [
        "/",
        "/callback",
        "/callback/",
        "/callback/nobody",
        "/callback/%FF",
        "/metrics",
        "/v1/status",
        "/readyz",
        "/callback/brand/x",
    ] {
        let url = format!("{}{path}", world.public);
        assert_eq!(world.http.get(&url).send().await.unwrap().status(), 404, "GET {path}");
        assert_eq!(world.http.post(&url).body("x").send().await.unwrap().status(), 404, "POST {path}");
    }
    let url = format!("{}/callback/brand", world.public);
    assert_eq!(world.http.delete(&url).send().await.unwrap().status(), 404);
    assert_eq!(world.http.get(format!("{}/livez", world.public)).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413() {
    let world = World::usual().await;
    let person = world.wecom.add_person();
    let mut callback = world.wecom.seal(&world.befriend(0, &person, "zhangsan").1);
    callback.body += &" ".repeat(65_536);
    assert_eq!(post(&world, &callback).await.0, 413);
    callback.body.truncate(65_536);
    assert_eq!(post(&world, &callback).await, (200, "success".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_cannot_be_made_durable_is_answered_503() {
    // A full inbox: the platform's API is down, so no event can be settled.
    let setup = Setup { store: "inbox_events_max = 3".into(), ..Setup::default() };
    let world = World::with(setup).await;
    let fans = world.mint(4).await;
    world.wecom.inject(Target::Every, Fault::Errcode(-1), None);
    for fan in &fans[..3] {
        world.add(0, fan, "zhangsan").await;
    }
    let (_, fourth) = world.befriend(0, &fans[3], "zhangsan");
    let delivery = world.wecom.deliver_once(&fourth).await;
    assert_eq!((delivery.acknowledged, delivery.status), (false, Some(503)));
    let (status, says) = world.text("/readyz").await;
    assert!(status == 503 && says.contains("inbox_full"), "{says}");
    world.wecom.clear_faults();
    world.settle().await;
    assert_eq!(world.text("/readyz").await.0, 200);
    world.deliver(&fourth).await;
    world.linked(&fans[3], 1).await;

    // Less free disk space than `free_mb_min`.
    let mut starved = World::usual().await;
    starved.stop().await.unwrap();
    starved.setup.store = "free_mb_min = 1000000000".into();
    // TOML allows a key once, so the default line is removed.
    let text = starved.configuration("127.0.0.1:0", "127.0.0.1:0").replace("free_mb_min = 1\n", "");
    let config = config::parse(&text, "test".as_ref(), &Environment::default()).unwrap();
    let stop = CancellationToken::new();
    let app = App::start(&config, starved.clock.clone(), stop.clone()).await.unwrap();
    let (public, admin) = (app.public_address, app.admin_address.clone());
    let running = tokio::spawn(app.run());
    let (_, event) = starved.befriend(0, &starved.wecom.add_person(), "zhangsan");
    let mut callback = starved.wecom.seal(&event);
    callback.url = format!("http://{public}/callback/brand");
    assert_eq!(post(&starved, &callback).await, (503, String::new()));
    let ready = starved.http.get(format!("http://{admin}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.json::<Value>().await.unwrap()["code"], "no_space");
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Posts a genuine callback that a proxy forwards for this address. Returns the status of the response.
async fn post_from(world: &World, address: &str) -> u16 {
    let person = world.wecom.add_person();
    let callback = world.wecom.seal(&world.befriend(0, &person, "zhangsan").1);
    let request = world.http.post(callback.full_url()).header("X-Forwarded-For", address);
    request.body(callback.body).send().await.unwrap().status().as_u16()
}

/// Waits until the metrics have this line.
async fn measured(world: &World, line: &str) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let (_, metrics) = world.text("/metrics").await;
        if metrics.lines().any(|found| found == line) {
            return;
        }
        assert!(Instant::now() < give_up, "{line} is not in {metrics}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_from_addresses_that_wecom_does_not_list_are_counted_or_refused() {
    for (mode, status, outcome, refused) in [("report", 200, "accepted", 0), ("enforce", 403, "refused", 2)] {
        let listed = vec!["192.0.2.*".to_owned()];
        let options = Options { callback_ips: listed, ..Setup::default().options };
        let server = format!("trusted_proxies = [\"127.0.0.1\"]\ncallback_ips = \"{mode}\"");
        let mut world = World::with(Setup { options, server, ..Setup::default() }).await;
        measured(&world, "unionlink_callback_addresses 1").await;
        assert_eq!(post_from(&world, "192.0.2.1").await, 200);
        // What is left of it was sent by the stranger.
        for stranger in ["198.51.100.1", "192.0.2.1, 198.51.100.1"] {
            assert_eq!(post_from(&world, stranger).await, status, "{mode} {stranger}");
        }
        measured(&world, &format!("unionlink_callback_strangers_total{{outcome=\"{outcome}\"}} 2")).await;
        measured(&world, &format!("unionlink_callback_refusals_total{{reason=\"source\"}} {refused}")).await;
        // WeCom changes its list, which is read again after the next callback from elsewhere.
        let changed = ["192.0.2.*", "198.51.100.1"].map(str::to_owned).to_vec();
        world.wecom.configure(|options| options.callback_ips = changed);
        world.clock.skip(Duration::from_mins(10));
        assert_eq!(post_from(&world, "203.0.113.1").await, status);
        measured(&world, "unionlink_callback_addresses 2").await;
        assert_eq!(post_from(&world, "198.51.100.1").await, 200);
        // Without a list nobody is refused.
        world.wecom.inject(Api::GetCallbackIp, Fault::Errcode(48_002), None);
        world.restart().await;
        assert_eq!(post_from(&world, "203.0.113.1").await, 200);
    }
}
