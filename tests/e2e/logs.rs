//! The log of the real binary: what an operator needs to see at the default level, in a bounded number of
//! lines, and which lines a more verbose level adds.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use unionlink::simulator::{Fault, Forgery, Person, Target};

use crate::harness::{LOG_EVERYTHING, Setup};
use crate::process::Process;
use crate::receivers::{Webhook, webhook};

fn lines<'a>(log: &'a str, text: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

/// How many lines for one reason a test that began then may find: one, and one more for each full minute.
fn lines_max(began_at: Instant) -> usize {
    1 + usize::try_from(began_at.elapsed().as_secs() / 60).unwrap()
}

fn ndjson(people: &[Person]) -> String {
    let row = |p: &Person| json!({"unionid": p.unionid, "openid": p.openid}).to_string() + "\n";
    people.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_url_and_refused_callbacks_are_logged_with_a_hint_once_a_minute() {
    let mut process = Process::with(Setup::default()).await;
    process.start().await;
    let began_at = Instant::now();
    let world = &process.world;
    let corp_id = &world.corp.corp_id;
    assert!(world.wecom.verify_url(corp_id).await);
    assert!(world.wecom.verify_url(corp_id).await);
    world.wecom.deliver_forged(corp_id, Forgery::Signature, 300).await;
    world.wecom.deliver_forged(corp_id, Forgery::Cipher, 100).await;
    let post = |path: String| world.http.post(format!("{}{path}", world.public)).body("CANARY").send();
    for n in 0..50 {
        assert_eq!(post("/callback/brand?nonce=CANARY".to_owned()).await.unwrap().status(), 403);
        assert_eq!(post(format!("/callback/CANARY{n}")).await.unwrap().status(), 404);
    }
    process.stop().await;
    let log = process.read_log();
    let expected: [(&str, &[&str]); 5] = [
        ("callback URL verified", &[" INFO ", "app=brand", "checks=1"]),
        (
            "callbacks refused: the signature does not match",
            &[" WARN ", "app=brand", "reason=\"signature\"", "callback_token", "%2B"],
        ),
        ("callbacks refused: the padding is malformed", &["app=brand", "encoding_aes_key"]),
        ("callbacks refused: the query is malformed", &["app=brand", "refused=1", "proxy", "query string"]),
        ("callbacks refused: their URL does not name an app", &["apps=\"brand\"", "/callback/"]),
    ];
    for (message, fields) in expected {
        let lines = lines(&log, message);
        assert!((1..=lines_max(began_at)).contains(&lines.len()), "{message}:\n{log}");
        for field in fields {
            assert!(lines[0].contains(field), "{field} is not in {}", lines[0]);
        }
    }
    assert!(!log.contains("CANARY"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_callback_of_each_dealer_is_logged_with_its_name() {
    let mut process = Process::with(Setup::default()).await;
    process.start().await;
    process.logged("dealer list refreshed").await;
    let world = &process.world;
    for (dealer, member) in [(0, "zhangsan"), (0, "lisi"), (1, "zhangsan")] {
        world.add(dealer, &world.wecom.add_person(), member).await;
    }
    process.stop().await;
    let log = process.read_log();
    let first = lines(&log, "first callback of a dealer");
    assert_eq!(first.len(), 2, "{log}");
    for (n, line) in first.iter().enumerate() {
        let corp = format!("corp={}", process.world.dealers[n].corp_id);
        for field in [" INFO ", "app=brand", &corp, &format!("dealer=\"Dealer {n}\"")] {
            assert!(line.contains(field), "{field} is not in {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_each_operation_that_fails_is_logged_once_a_minute() {
    let mut process = Process::with(Setup::default()).await;
    // More than any disk has.
    let configuration = std::fs::read_to_string(&process.file).unwrap();
    let starved = configuration.replace("free_mb_min = 1\n", "free_mb_min = 1000000000\n");
    std::fs::write(&process.file, starved).unwrap();
    process.launch(&[]);
    process.logged(" serving ").await;
    let began_at = Instant::now();
    let world = &process.world;
    let person = world.wecom.add_person();
    let (_, event) = world.befriend(0, &person, "zhangsan");
    let fan = json!({"unionid": person.unionid, "openid": person.openid});
    for _ in 0..50 {
        assert_eq!(world.wecom.deliver_once(&event).await.status, Some(503));
        assert_eq!(world.post("/v1/fans", &fan).await.0, 503);
    }
    process.stop().await;
    let log = process.read_log();
    for message in ["callbacks not acknowledged: they cannot be made durable", "admin requests failed"] {
        let found = lines(&log, message).len();
        assert!((1..=lines_max(began_at)).contains(&found), "{message}: {found} lines\n{log}");
    }
    // The other operations are those of the workers and of the start.
    let all = lines(&log, "less than 1000000000 MiB free").len();
    assert!(all <= 12 * lines_max(began_at), "{all} lines\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_logged_when_it_begins_and_when_it_ends_or_breaks_off() {
    let mut process = Process::with(Setup::default()).await;
    process.start().await;
    let world = &process.world;
    // Live registrations are no import.
    world.register(&world.wecom.add_people(10)).await;
    // The command sends several requests.
    let file = world.folder.path().join("fans.ndjson");
    std::fs::write(&file, ndjson(&world.wecom.add_people(2_500))).unwrap();
    let ran = world.unionlink(&["fans", "import", file.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    process.stop().await;
    let log = process.read_log();
    assert_eq!(lines(&log, "import begun").len(), 1, "{log}");
    let ended = lines(&log, "import ended");
    assert_eq!(ended.len(), 1, "{log}");
    assert!(ended[0].contains("accepted=2500 known=0 rejected=0 took_ms="), "{}", ended[0]);

    process.start().await;
    let world = &process.world;
    let body = ndjson(&world.wecom.add_people(1_500));
    let mut stream = TcpStream::connect(world.admin.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /v1/fans HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
         Content-Length: {}\r\n\r\n",
        body.len() + 1
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    process.logged("import begun").await;
    drop(stream);
    process.stop().await;
    let log = process.read_log();
    let broke_off = lines(&log, "import broke off");
    assert_eq!(broke_off.len(), 1, "{log}");
    assert!(broke_off[0].contains("accepted=1024 known=0 rejected=0"), "{}", broke_off[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_does_to_a_sink_is_logged() {
    let hooks = Webhook::start().await;
    let mut process = Process::with(Setup { app: webhook("crm", &hooks.url), ..Setup::default() }).await;
    process.start().await;
    let world = &process.world;
    let fans = world.mint(1).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.until("/v1/sinks/crm", |sink| sink["after"] == 1).await;
    for (what, body) in [("pause", json!({})), ("resume", json!({})), ("rewind", json!({"to": "beginning"}))]
    {
        assert_eq!(world.post(&format!("/v1/sinks/crm/{what}"), &body).await.0, 200);
    }
    process.stop().await;
    let log = process.read_log();
    for line in [
        r#"audit: pause token="open" source=127.0.0.1 about="sink=crm""#,
        r#"audit: resume token="open" source=127.0.0.1 about="sink=crm""#,
        r#"audit: rewind token="open" source=127.0.0.1 about="from_seq=1 sink=crm to_seq=0""#,
    ] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verbose_level_is_that_of_our_own_lines_even_if_libraries_are_named() {
    let app = format!("[log]\nfilter = \"{LOG_EVERYTHING}\"\nformat = \"json\"");
    let mut process = Process::with(Setup { app, ..Setup::default() }).await;
    process.start().await;
    // A failed call is one of our own lines at this level.
    process.world.wecom.inject(Target::Every, Fault::Reset, Some(1));
    process.world.mint(1).await;
    process.stop().await;
    let log = process.read_log();
    let mut crates = BTreeSet::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        if line["level"] == "DEBUG" || line["level"] == "TRACE" {
            crates.insert(line["target"].as_str().unwrap().split("::").next().unwrap().to_owned());
        }
    }
    assert_eq!(crates, BTreeSet::from(["unionlink".to_owned()]));
    assert!(log.contains("log.filter names async_nats with more than info"), "{log}");
}
