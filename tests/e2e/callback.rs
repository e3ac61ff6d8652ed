//! The callback handler: every response it can give, every published test vector, its limits and time-outs.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use unionlink::app::App;
use unionlink::clock::SystemClock;
use unionlink::config::{self, Environment};
use unionlink::simulator::{Change, Fault, Forgery, SealedCallback, Target};

use crate::harness::{PATIENCE, Setup, World};

async fn post(world: &World, callback: &SealedCallback) -> (u16, String) {
    let response = world.http.post(callback.full_url()).body(callback.body.clone()).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// What a published message is to be counted as: accepted, ignored, quarantined, refused. Most are text messages
/// to an app or a suite's notice, which are ignored; some are not XML or JSON at all.
fn meaning(message: &str) -> [u64; 4] {
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
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\nfree_mb_min = 1\n\
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
    let (public, admin) = (app.public_address, app.admin_address);
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
                assert_eq!(change, meaning(&text(vector, "expected_plaintext")), "{vector}");
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
async fn messages_for_an_unknown_receive_id_and_malformed_ones_are_quarantined_and_can_be_redriven() {
    let mut world = World::usual().await;
    let fans = world.mint(1).await;
    let (_, event) = world.befriend(0, &fans[0], "zhangsan");
    let stray = world.wecom.seal_with(&event, "wwSOMEBODYELSE000");
    assert_eq!(post(&world, &stray).await, (200, "success".to_owned()));
    assert_eq!(post(&world, &stray).await, (200, "success".to_owned()));
    let gibberish = world.wecom.seal_text(&world.corp.corp_id, "not an event at all");
    assert_eq!(post(&world, &gibberish).await, (200, "success".to_owned()));
    let quarantined = world.get("/v1/events?state=quarantined").await["events"].clone();
    let rows = quarantined.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (&rows[0]["reason"], &rows[0]["receive_id"]),
        (&json!("receive_id"), &json!("wwSOMEBODYELSE000"))
    );
    assert_eq!(rows[1]["reason"], "not_understood");
    assert!(rows[1]["detail"].as_str().unwrap().contains("XML"), "{}", rows[1]);
    let redrive = async |world: &World, row: &Value| {
        let url = format!("{}/v1/events/{}/redrive", world.admin, row["id"].as_str().unwrap());
        let response = world.http.post(url).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, problem) = redrive(&world, &rows[0]).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
    assert!(problem["hint"].as_str().unwrap().contains("accept_receive_ids"), "{problem}");
    assert_eq!(redrive(&world, &rows[1]).await.0, 409);

    world.stop().await.unwrap();
    world.setup.app = "accept_receive_ids = [\"wwSOMEBODYELSE000\"]".into();
    world.start().await;
    for redriven in [true, false] {
        let (status, answer) = redrive(&world, &rows[0]).await;
        assert_eq!(
            (status, &answer["redriven"]),
            (200, &json!(redriven)),
            "redriven once, although asked twice"
        );
    }
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_a_change_of_the_chain_has_the_dealers_listed_again() {
    let mut world = World::usual().await;
    let change = world.wecom.event(&world.dealers[0].corp_id, &Change::ShareChainChange { agent_id: 1 });
    let stray = world.wecom.seal_with(&change, "wwSOMEBODYELSE000");
    assert_eq!(post(&world, &stray).await, (200, "success".to_owned()));
    world.stop().await.unwrap();
    world.setup.app = "accept_receive_ids = [\"wwSOMEBODYELSE000\"]".into();
    world.start().await;
    let listed =
        async |count: usize| world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == count).await;
    listed(2).await;
    let _ = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer");
    world.clock.skip(Duration::from_mins(1));
    let (_, answer) = world.post("/v1/events/redrive", &json!({})).await;
    assert_eq!(answer["redriven"], 1, "{answer}");
    listed(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dealers_corp_id_is_accepted_as_receive_id() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    let (_, event) = world.befriend(0, &fans[0], "zhangsan");
    let sealed = world.wecom.seal_with(&event, &world.dealers[0].corp_id);
    assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_of_a_new_dealer_is_accepted_under_its_own_id_and_linked() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    let newcomer = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer");
    let friendship = world.wecom.befriend(&newcomer.corp_id, &fans[0], "zhangsan", Some("spring"));
    let sealed = world.wecom.seal_with(&friendship.event, &newcomer.corp_id);
    assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
    world.linked(&fans[0], 1).await;
    assert_eq!(world.get("/v1/status").await["callbacks"]["quarantined"], 0);
}

/// An event of `corp_id` with these further fields.
fn event(corp_id: &str, name: &str, fields: &str) -> String {
    format!(
        "<xml><ToUserName><![CDATA[{corp_id}]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>\
         <CreateTime>1403610513</CreateTime><MsgType><![CDATA[event]]></MsgType>\
         <Event><![CDATA[{name}]]></Event>{fields}</xml>"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn any_event_of_a_new_dealer_has_the_dealers_listed_again() {
    let world = World::usual().await;
    let listed =
        async |count: usize| world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == count).await;
    listed(2).await;
    let newcomer = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer").corp_id;
    world.clock.skip(Duration::from_mins(1));
    let text = event(&newcomer, "enter_agent", "");
    let sealed = world.wecom.seal_text(&world.corp.corp_id, &text);
    assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
    listed(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_groups_ranges_and_the_app_are_accepted_once_and_groups_only_if_wanted() {
    let items = "<MemChangeCnt>1</MemChangeCnt><MemChangeList><Item>wmINVENTED</Item></MemChangeList>";
    let group = format!(
        "<ChatId>wrINVENTED</ChatId><ChangeType>update</ChangeType><UpdateDetail>add_member</UpdateDetail>\
         {items}<LastMemVer>1</LastMemVer><CurMemVer>2</CurMemVer>"
    );
    for (app, counted) in [("", [3, 3, 0]), ("customer_groups = false", [2, 2, 2])] {
        let world = World::with(Setup { app: app.to_owned(), ..Setup::default() }).await;
        for (name, fields) in
            [("change_external_chat", group.as_str()), ("subscribe", ""), ("low_active", "")]
        {
            let text = event(&world.dealers[0].corp_id, name, fields);
            let sealed = world.wecom.seal_text(&world.corp.corp_id, &text);
            for _ in 0..2 {
                assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
            }
        }
        let status = world.get("/v1/status").await;
        let outcomes =
            ["accepted", "duplicates", "ignored"].map(|name| status["callbacks"][name].as_u64().unwrap());
        assert_eq!(outcomes, counted, "{app}");
    }
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
    let (public, admin) = (app.public_address, app.admin_address);
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

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_slow_bodies_and_idle_connections_are_closed() {
    let server = "header_timeout_ms = 300\nbody_timeout_ms = 300".to_owned();
    let world = World::with(Setup { server, ..Setup::default() }).await;
    let person = world.wecom.add_person();
    let callback = world.wecom.seal(&world.befriend(0, &person, "zhangsan").1);
    let address = world.public.trim_start_matches("http://").to_owned();
    let half_body = format!(
        "POST /callback/brand?{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n<xml>",
        callback.query,
        callback.body.len()
    );
    for (what, sent) in
        [("nothing", ""), ("half a head", "POST /callback/brand HTTP/1.1\r\nHo"), ("half a body", &half_body)]
    {
        let started = Instant::now();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{what}: still open after {:?}", started.elapsed());
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{what}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_genuine_is_refused_before_its_body_arrives() {
    let world = World::usual().await;
    let address = world.public.trim_start_matches("http://").to_owned();
    let signature = "a".repeat(40);
    for (signature, length, wanted) in [
        ("A0", 1_000, 403),
        ("", 1_000, 403),
        ("", 131_073, 413),
        (signature.as_str(), 131_073, 413),
        (&signature, 4_000_000_000_usize, 413),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST /callback/brand?msg_signature={signature}&timestamp=1&nonce=n HTTP/1.1\r\nHost: x\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{signature} {length}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_connections_max_the_longest_idle_connection_is_shed() {
    let server = "connections_max = 3\nheader_timeout_ms = 60000".to_owned();
    let world = World::with(Setup { server, ..Setup::default() }).await;
    let address = world.public.trim_start_matches("http://").to_owned();
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        held.push(stream);
    }
    for stream in &mut held[..2] {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed").unwrap();
    }
    let metrics =
        world.http.get(format!("{}/metrics", world.admin)).send().await.unwrap().text().await.unwrap();
    for line in ["unionlink_connections_shed_total 2", "unionlink_connections_refused_total 0"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    // The remaining connections still work.
    for stream in &mut held[2..] {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("HTTP/1.1 200 OK"), "{rest}");
    }
}
