//! The brand's side: imports, priorities, the quota reserve, renewal, and the circuit breakers that hold
//! minting back.

use std::time::Duration;

use serde_json::{Value, json};
use unionlink::clock::Clock as _;
use unionlink::domain::time::{MINUTE_MS, Timestamp};
use unionlink::simulator::{Api, ConversionQuota, Fault, Options, Person, Remint};

use crate::harness::{Ran, Setup, World};
use crate::process::{Process, memory};

fn ndjson(people: &[Person]) -> String {
    let row = |p: &Person| json!({"unionid": p.unionid, "openid": p.openid}).to_string() + "\n";
    people.iter().map(row).collect()
}

async fn post(world: &World, query: &str, body: impl Into<reqwest::Body>) -> Value {
    let request = world.http.post(format!("{}/v1/fans{query}", world.admin));
    let response = request.header("content-type", "application/x-ndjson").body(body).send().await.unwrap();
    assert_eq!(response.status(), 202);
    response.json().await.unwrap()
}

fn waiting(status: &Value, priority: &str) -> u64 {
    let mint = |queue: &&Value| queue["api"] == "unionid_to_pending_id" && queue["priority"] == priority;
    let queue = status["queues"].as_array().unwrap().iter().find(mint);
    queue.map_or(0, |queue| queue["waiting"].as_u64().unwrap())
}

fn quota<'a>(status: &'a Value, api: &str) -> &'a Value {
    status["quotas"].as_array().unwrap().iter().find(|quota| quota["api"] == api).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ndjson_body_of_any_length_is_accepted_row_by_row() {
    let world = World::with(Setup { app: "existing_customers = false".into(), ..Setup::default() }).await;
    world.wecom.set_app_error(&world.corp.corp_id, Some(48_002));
    let people = world.wecom.add_people(30_000);
    let mut body = ndjson(&people);
    body.push_str("not a row\n\n");
    body.push_str(&json!({"unionid": people[0].unionid, "openid": people[0].openid}).to_string());
    let receipt = post(&world, "", body).await;
    assert_eq!((&receipt["accepted"], &receipt["known"]), (&json!(30_000), &json!(1)));
    assert_eq!(receipt["rejected"].as_array().unwrap().len(), 1);
    assert_eq!(receipt["rejected"][0]["line"], 30_001);
    let status = world.get("/v1/status").await;
    assert_eq!(status["fans"]["registered"], 30_000);
    // By default the first 1,000 rows of a request are live registrations; the rest counts as an import.
    assert_eq!(waiting(&status, "live"), 1_000);
    assert_eq!(waiting(&status, "bulk"), 29_000);
    let at = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    let done_at = at(&quota(&status, "unionid_to_pending_id")["forecast"]["import_done_at"]);
    // The limit per minute, less the reserve of one percent, allows 9,900 calls every 76 seconds.
    let minutes = done_at.millis_since(at(&status["now"])) / MINUTE_MS;
    assert!((1..=5).contains(&minutes), "{minutes} minutes");
    let wrong = world.http.post(format!("{}/v1/fans?priority=urgent", world.admin)).body("{}").send();
    assert_eq!(wrong.await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_id_is_rejected_by_the_service_and_costs_no_call() {
    let world = World::usual().await;
    let Person { unionid, openid } = world.wecom.add_person();
    let rows = [
        json!({"unionid": "hello", "openid": openid}),
        json!({"unionid": unionid, "openid": "1.23457E+15"}),
        json!({"unionid": unionid, "openid": "o".repeat(65)}),
    ];
    let receipt = post(&world, "", rows.map(|row| row.to_string() + "\n").concat()).await;
    let form = "(expected o and 19 to 63 letters, digits, _ or -)";
    assert_eq!(
        receipt["rejected"],
        json!([
            {"line": 1, "reason": format!("unionid is not an id that WeChat issues {form}")},
            {"line": 2, "reason": format!(
                "openid is a number that Excel has made of the id: format the column as text and export it \
                 again {form}"
            )},
            {"line": 3, "reason": "openid is longer than 64 bytes"},
        ])
    );
    assert_eq!(world.get("/v1/status").await["fans"]["registered"], 0);
    assert_eq!(world.wecom.counters().calls_of(Api::UnionidToPendingId), 0);
    let fields = world.get("/openapi.json").await["components"]["schemas"]["FanRow"]["properties"].clone();
    for name in ["unionid", "openid"] {
        assert_eq!(fields[name]["pattern"], "^o[A-Za-z0-9_-]{19,63}$");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_registered_during_an_import_is_minted_at_once() {
    let app = "existing_customers = false".into();
    let world = World::with(Setup { app, ..Setup::default() }).await;
    world.wecom.inject(Api::UnionidToPendingId, Fault::Latency(100), None);
    let people = world.wecom.add_people(3_000);
    post(&world, "?priority=bulk", ndjson(&people)).await;
    world.until("/v1/status", |s| s["fans"]["minted"].as_u64() > Some(50)).await;
    let person = world.wecom.add_person();
    world.register(std::slice::from_ref(&person)).await;
    let path = format!("/v1/fans/{}", person.unionid);
    let fan = world.until(&path, |fan| fan["state"] == "minted").await;
    let at = |name: &str| fan[name].as_str().unwrap().parse().unwrap();
    let waited_ms = Timestamp::millis_since(at("minted_at"), at("registered_at"));
    let status = world.get("/v1/status").await;
    assert!(waiting(&status, "bulk") > 1_500, "the import is over already: {status:#}");
    assert!(waited_ms < 1_000, "{waited_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_leaves_the_quota_reserve_to_live_registrations() {
    let quota_line = "quota = { per_hour = 200, per_day = 1000, per_month = 5000, reserve_percent = 10 }";
    let mut setup = Setup { app: format!("existing_customers = false\n{quota_line}"), ..Setup::default() };
    setup.options.quota = ConversionQuota { per_hour: 200, per_day: 1_000, per_month: 5_000 };
    let world = World::with(setup).await;
    post(&world, "?priority=bulk", ndjson(&world.wecom.add_people(300))).await;
    let bulk_held_back = |s: &Value| s["pacing"].as_array().unwrap().iter().any(|p| p["scope"] == "bulk");
    let status = world.until("/v1/status", |s| bulk_held_back(s) && s["fans"]["minted"] == 180).await;
    // Waiting for the quota is no trouble: nothing is paused, and nothing can be resumed.
    assert_eq!(status["paused"], json!([]));
    let (_, metrics) = world.text("/metrics").await;
    assert!(!metrics.contains("unionlink_paused"), "{metrics}");
    assert_eq!(world.post("/v1/resume", &json!({})).await, (200, json!({"resumed": 0})));
    assert_eq!(
        quota(&status, "unionid_to_pending_id")["hour"],
        json!({"used": 180, "limit": 200, "left": 20})
    );
    let people = world.wecom.add_people(20);
    world.register(&people).await;
    for person in &people {
        world.until(&format!("/v1/fans/{}", person.unionid), |fan| fan["state"] == "minted").await;
    }
    let counters = world.wecom.counters();
    assert_eq!((counters.calls_of(Api::UnionidToPendingId), counters.quota_violations), (200, 0));
    // An hour later the quota is free again.
    world.clock.skip(Duration::from_secs(3_700));
    world.until("/v1/status", |s| s["fans"]["minted"] == 320).await;
    assert_eq!(world.wecom.counters().quota_violations, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_ids_are_renewed_before_they_expire_whatever_wecom_returns() {
    for remint in [Remint::NewId, Remint::SameId, Remint::SameIdNotRenewed] {
        let options = Options { remint, ..Setup::default().options };
        let store = "feed_days = 365".to_owned();
        let world = World::with(Setup { options, store, ..Setup::default() }).await;
        let fans = world.mint(3).await;
        world.add(0, &fans[0], "zhangsan").await;
        world.linked(&fans[0], 1).await;
        let path = format!("/v1/fans/{}", fans[1].unionid);
        let first = world.get(&path).await;
        let calls = |s: &Value| s["calls"]["unionid_to_pending_id"].as_u64();
        world.clock.skip(Duration::from_hours(86 * 24));
        world.until("/v1/status", |s| calls(s) == Some(6)).await;
        // Where WeCom returned the same pending id, it is asked once more when that one would have expired.
        world.clock.skip(Duration::from_hours(5 * 24));
        let renewed = |fan: &Value| {
            fan["state"] == "minted" && fan["expires_at"].as_str() > first["expires_at"].as_str()
        };
        world.until(&path, renewed).await;
        let asked_again = if remint == Remint::NewId { 6 } else { 9 };
        world.until("/v1/status", |s| calls(s) == Some(asked_again)).await;
        // Added by a dealer long after the first pending id expired.
        world.add(1, &fans[1], "lisi").await;
        world.linked(&fans[1], 1).await;
        world.check_links(&fans[..2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_pending_id_is_not_minted_again() {
    let setup = Setup { app: "existing_customers = false".into(), ..Setup::default() };
    let mut world = World::with(setup).await;
    let fans = world.mint(2).await;
    let known = world.get(&format!("/v1/fans/{}", fans[0].unionid)).await;
    let pending_id = known["pending_id"].as_str().unwrap();
    // A new installation imports what this one knew.
    world.stop().await.unwrap();
    std::fs::remove_dir_all(world.folder.path().join("data")).unwrap();
    world.start().await;
    let minted_at = known["minted_at"].as_str().unwrap();
    let (unionid, openid) = (&fans[0].unionid, &fans[0].openid);
    let row = json!({"unionid": unionid, "openid": openid, "pending_id": pending_id, "minted_at": minted_at});
    let late =
        json!({"unionid": unionid, "openid": openid, "pending_id": "p", "minted_at": "2199-01-01T00:00:00Z"});
    let receipt = post(&world, "?priority=bulk", format!("{row}\n{late}\n{row}\n")).await;
    assert_eq!((&receipt["accepted"], &receipt["known"]), (&json!(1), &json!(1)));
    assert_eq!(receipt["rejected"], json!([{"line": 2, "reason": "minted_at is in the future"}]));
    let calls = world.wecom.counters().calls_of(Api::UnionidToPendingId);
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    assert_eq!(world.wecom.counters().calls_of(Api::UnionidToPendingId), calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn minted_at_is_read_in_every_form_that_an_imported_file_may_have() {
    let world = World::with(Setup { app: "existing_customers = false".into(), ..Setup::default() }).await;
    let at = Timestamp::from_secs(world.clock.now().as_secs() - 3_600);
    let forms = [
        json!(at),
        json!(at.in_china()),
        json!(at.in_china_for_sheets()),
        json!(at.as_secs()),
        json!(at.as_millis().to_string()),
    ];
    for minted_at in forms {
        let Person { unionid, openid } = world.wecom.add_person();
        let pending_id = format!("p{unionid}");
        let row =
            json!({"unionid": unionid, "openid": openid, "pending_id": pending_id, "minted_at": minted_at});
        let receipt = post(&world, "", row.to_string()).await;
        assert_eq!((&receipt["accepted"], &receipt["rejected"]), (&json!(1), &json!([])), "{minted_at}");
        assert_eq!(world.get(&format!("/v1/fans/{unionid}")).await["minted_at"], json!(at), "{minted_at}");
    }
    let Person { unionid, openid } = world.wecom.add_person();
    let row = json!({"unionid": unionid, "openid": openid, "pending_id": "p", "minted_at": "yesterday"});
    let receipt = post(&world, "", row.to_string()).await;
    let reason = receipt["rejected"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("minted_at is not an instant: write 2026-11-22 or"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_mini_program_opens_the_circuit_breaker_at_once_and_rejects_no_fan() {
    for errcode in [610_018, 845_003, 48_002, 60_020] {
        let world = World::with(Setup { app: "existing_customers = false".into(), ..Setup::default() }).await;
        // It worked a moment ago.
        world.mint(2).await;
        world.wecom.set_app_error(&world.corp.corp_id, Some(errcode));
        post(&world, "?priority=bulk", ndjson(&world.wecom.add_people(500))).await;
        let breaker_open = |s: &Value| {
            let paused = s["paused"].as_array().unwrap();
            paused.iter().any(|p| p["errcode"] == errcode && p["failures"].as_u64() > Some(0))
        };
        let status = world.until("/v1/status", breaker_open).await;
        let calls = world.wecom.counters().calls_of(Api::UnionidToPendingId);
        assert!(calls < 2 + 40, "{errcode}: {calls} calls were spent");
        assert_eq!(status["fans"]["rejected"], 0);
        // Once an operator has fixed it, minting resumes by itself.
        world.wecom.set_app_error(&world.corp.corp_id, None);
        world.clock.skip(Duration::from_mins(10));
        // A call in flight during the fix may open the circuit breaker once more.
        let minted = |s: &Value| {
            world.clock.skip(Duration::from_secs(1));
            s["fans"]["minted"] == 502
        };
        world.until("/v1/status", minted).await;
        assert_eq!(world.get("/v1/status").await["fans"]["rejected"], 0, "{errcode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_tiny_objects_takes_little_more_memory_than_its_bytes() {
    const MEGABYTE: usize = 1 << 20;
    let mut process = Process::with(Setup::default()).await;
    process.start().await;
    let before = memory(process.pid(), "VmHWM:");
    let objects = vec![r#"{"":0}"#; 15 * MEGABYTE / 7].join(",");
    let body = format!("[{objects}]");
    let url = format!("{}/v1/fans", process.world.admin);
    let answer = process.world.http.post(url).body(body.clone()).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["rejected_total"], 15 * MEGABYTE / 7);
    let grown = memory(process.pid(), "VmHWM:") - before;
    // Besides the body: what a buffer that doubles has reserved, and what the allocator keeps.
    assert!(grown < 4 * body.len() as u64, "{grown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errcode_45009_blocks_the_api_until_the_limit_resets_and_status_shows_it() {
    let world = World::with(Setup { app: "existing_customers = false".into(), ..Setup::default() }).await;
    world.wecom.inject(Api::UnionidToPendingId, Fault::Errcode(45_009), Some(1));
    let people = world.wecom.add_people(3);
    world.register(&people[..1]).await;
    let blocked = |s: &Value| !quota(s, "unionid_to_pending_id")["blocked_until"].is_null();
    world.until("/v1/status", blocked).await;
    world.register(&people[1..]).await;
    // A restart does not lift the block.
    let mut world = world;
    world.restart().await;
    let status = world.until("/v1/status", |s| s["pacing"].as_array().is_some_and(|p| !p.is_empty())).await;
    assert_eq!(status["paused"], json!([]));
    assert_eq!(world.wecom.counters().calls_of(Api::UnionidToPendingId), 1);
    world.clock.skip(Duration::from_secs(3_601));
    world.until("/v1/status", |s| s["fans"]["minted"] == 3).await;
}

fn mint_calls(status: &Value) -> u64 {
    status["calls"]["unionid_to_pending_id"].as_u64().unwrap()
}

/// The unionids and the `next` of a page of fans.
async fn page(world: &World, query: &str) -> (Vec<String>, Value) {
    let page = world.get(&format!("/v1/fans{query}")).await;
    let fans = page["fans"].as_array().unwrap_or_else(|| panic!("{page:#}")).iter();
    (fans.map(|fan| fan["unionid"].as_str().unwrap().to_owned()).collect(), page["next"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_fans_are_listed_and_wecom_is_asked_again_only_with_another_openid_or_on_request() {
    let world = World::with(Setup { app: "existing_customers = false".into(), ..Setup::default() }).await;
    let people = world.wecom.add_people(4);
    world.wecom.reject_person(&people[1], Some(610_014));
    world.wecom.reject_person(&people[2], Some(610_014));
    world.register(&people).await;
    let settled = |s: &Value| s["fans"]["minted"] == 2 && s["fans"]["rejected"] == 2;
    world.until("/v1/status", settled).await;

    let refused = [people[1].unionid.clone(), people[2].unionid.clone()];
    let listed = page(&world, "?state=rejected&errcode=610014&app=brand").await;
    assert_eq!(listed, (refused.to_vec(), Value::Null));
    let fan = world.get(&format!("/v1/fans/{}", refused[0])).await;
    assert_eq!(world.get("/v1/fans?state=rejected").await["fans"][0], fan);
    for nobody in ["?state=rejected&errcode=40096", "?state=expired", "?app=other"] {
        assert_eq!(page(&world, nobody).await, (vec![], Value::Null), "{nobody}");
    }
    // A fan registered between two pages moves nobody to another page.
    let (mut found, mut next) = page(&world, "?limit=3").await;
    world.mint(1).await;
    while let Some(after) = next.as_str() {
        let (more, following) = page(&world, &format!("?limit=1&after={after}")).await;
        found.extend(more);
        next = following;
    }
    let known: Vec<_> = people.iter().map(|person| person.unionid.clone()).collect();
    assert_eq!((&found[..4], found.len()), (&known[..], 5));
    for malformed in ["?state=lost", "?after=x", "?errcode=x", "?app="] {
        assert_eq!(world.text(&format!("/v1/fans{malformed}")).await.0, 400, "{malformed}");
    }

    // The same registration again is known, and WeCom is not asked: only about the fan registered after it.
    let again = post(&world, "", ndjson(&people[1..2])).await;
    assert_eq!((&again["accepted"], &again["known"]), (&json!(0), &json!(1)));
    world.mint(1).await;
    assert_eq!(mint_calls(&world.get("/v1/status").await), 6);
    let retried = post(&world, "?retry=rejected", ndjson(&people[1..2])).await;
    assert_eq!((&retried["accepted"], &retried["known"]), (&json!(1), &json!(0)));
    world.until("/v1/status", |s| mint_calls(s) == 7 && s["fans"]["rejected"] == 2).await;
    let metrics = world.text("/metrics").await.1;
    let refusals = "unionlink_fans_rejected_total{app=\"brand\",errcode=\"610014\"} 3\n";
    assert!(metrics.contains(refusals), "{metrics}");
    let corrected = Person { openid: "oINVENTED-openid-corrected".into(), ..people[1].clone() };
    let changed = post(&world, "", ndjson(&[corrected])).await;
    assert_eq!(changed["accepted"], 1);
    world.until("/v1/status", |s| mint_calls(s) == 8).await;
    let wrong = world.http.post(format!("{}/v1/fans?retry=all", world.admin)).body("{}").send();
    assert_eq!(wrong.await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_refused_fans_and_imports_them_again() {
    let world = World::with(Setup { app: "existing_customers = false".into(), ..Setup::default() }).await;
    let people = world.wecom.add_people(3);
    world.wecom.reject_person(&people[1], Some(610_014));
    world.register(&people).await;
    world.until("/v1/status", |s| s["fans"]["minted"] == 2 && s["fans"]["rejected"] == 1).await;

    let list = ["fans", "list", "--state", "rejected", "--errcode", "610014"];
    let ran = world.unionlink(&list).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "1 fan\n"), "{ran:?}");
    assert_eq!(ran.json(), world.get(&format!("/v1/fans/{}", people[1].unionid)).await);
    let ran = world.unionlink(&[&list[..], &["--format", "csv"]].concat()).await;
    assert!(ran.code == 0 && ran.stdout.contains(&people[1].unionid), "{ran:?}");

    // What was listed can be imported: without the option it is known, with it WeCom is asked.
    let file = world.folder.path().join("rejected.csv");
    std::fs::write(&file, &ran.stdout).unwrap();
    let import = ["fans", "import", file.to_str().unwrap(), "--json"];
    let counts =
        |ran: &Ran| (ran.json()["accepted"].as_u64().unwrap(), ran.json()["known"].as_u64().unwrap());
    let ran = world.unionlink(&import).await;
    assert_eq!(counts(&ran), (0, 1), "{ran:?}");
    let status = world.get("/v1/status").await;
    assert_eq!((mint_calls(&status), &status["fans"]["rejected"]), (3, &json!(1)));
    world.wecom.reject_person(&people[1], None);
    let ran = world.unionlink(&[&import[..], &["--retry-rejected"]].concat()).await;
    assert_eq!(counts(&ran), (1, 0), "{ran:?}");
    world.until("/v1/status", |s| s["fans"]["minted"] == 3).await;
}
