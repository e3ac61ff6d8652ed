//! Dead letters and quarantined messages: listed, shown, redriven, discarded and expired, over HTTP and by
//! command.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unionlink::simulator::Person;

use crate::harness::{PATIENCE, World};

const STRAY: &str = "wwSOMEBODYELSE000";

/// A world with three dead letters (two at the first dealer) and three quarantined messages: two for an
/// unknown receive id, and one that cannot be parsed.
struct FailedEvents {
    world: World,
    fans: Vec<Person>,
    customers: Vec<String>,
}

impl FailedEvents {
    async fn usual() -> Self {
        let world = World::usual().await;
        let fans = world.mint(5).await;
        let mut customers = Vec::new();
        for (n, dealer) in [(0, 0), (1, 0), (2, 1)] {
            let (customer, event) = world.befriend(dealer, &fans[n], "zhangsan");
            world.wecom.poison_with(&customer, 40_058);
            world.deliver(&event).await;
            // One at a time, so that their order is known.
            world.until("/v1/status", |status| status["inbox"]["dead"] == n + 1).await;
            customers.push(customer);
        }
        for fan in &fans[3..] {
            let (customer, event) = world.befriend(0, fan, "zhangsan");
            assert!(world.wecom.post(&world.wecom.seal_with(&event, STRAY)).await.acknowledged);
            customers.push(customer);
        }
        let gibberish = world.wecom.seal_text(&world.corp.corp_id, "not an event at all");
        assert!(world.wecom.post(&gibberish).await.acknowledged);
        Self { world, fans, customers }
    }

    fn cure(&self) {
        for customer in &self.customers {
            self.world.wecom.cure(customer);
        }
    }

    async fn list(&self, query: &str) -> Vec<Value> {
        self.world.get(&format!("/v1/events?{query}")).await["events"].as_array().unwrap().clone()
    }

    async fn ids(&self, query: &str) -> Vec<String> {
        self.list(query).await.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }

    async fn redrive(&self, body: Value) -> Value {
        let (status, answer) = self.world.post("/v1/events/redrive", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn discard(&self, path: &str, body: Value) -> (u16, Value) {
        self.world.post(&format!("/v1/events/{path}"), &body).await
    }

    /// Waits until `/metrics` has this line.
    async fn metric(&self, line: &str) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let (_, metrics) = self.world.text("/metrics").await;
            if metrics.lines().any(|each| each == line) {
                return;
            }
            assert!(Instant::now() < give_up, "no {line} in\n{metrics}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Restarts the service with the unknown receive id accepted.
    async fn accept_stray(&mut self) {
        self.world.stop().await.unwrap();
        self.world.setup.app = format!("accept_receive_ids = [\"{STRAY}\"]");
        self.world.start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_quarantined_messages_are_found_by_each_filter() {
    let failed = FailedEvents::usual().await;
    let (first, second) = (&failed.world.dealers[0].corp_id, &failed.world.dealers[1].corp_id);
    for (query, found) in [
        ("state=dead".to_owned(), 3),
        ("state=dead&app=brand".to_owned(), 3),
        ("state=dead&app=other".to_owned(), 0),
        (format!("state=dead&corp_id={first}"), 2),
        (format!("state=dead&corp_id={second}"), 1),
        ("state=dead&errcode=40058".to_owned(), 3),
        ("state=dead&errcode=40097".to_owned(), 0),
        (format!("state=dead&errcode=40058&corp_id={second}"), 1),
        ("state=quarantined".to_owned(), 3),
        ("state=quarantined&reason=receive_id".to_owned(), 2),
        ("state=quarantined&reason=not_understood".to_owned(), 1),
        ("state=quarantined&reason=XML".to_owned(), 1),
        ("state=quarantined&errcode=40058".to_owned(), 0),
        (format!("state=quarantined&corp_id={first}"), 0),
        ("state=waiting".to_owned(), 0),
        ("state=leased".to_owned(), 0),
        (String::new(), 0),
    ] {
        assert_eq!(failed.list(&query).await.len(), found, "{query}");
    }
    let dead = failed.list("state=dead").await;
    for (row, customer) in dead.iter().zip(&failed.customers) {
        assert_eq!((&row["external_userid"], &row["state"]), (&json!(customer), &json!("dead")));
        assert!(row["remedy"].as_str().unwrap().starts_with("check the ids"), "{row}");
        assert!(row["remedy_zh"].as_str().unwrap().starts_with("请核对"), "{row}");
        assert!(row["died_at"].is_string(), "{row}");
        assert_eq!(row.get("message"), None, "a list holds no messages");
    }
    let names: Vec<_> = dead.iter().map(|row| &row["corp_name"]).collect();
    assert_eq!(names, ["Dealer 0", "Dealer 0", "Dealer 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_together_hold_every_event_once() {
    let failed = FailedEvents::usual().await;
    for (state, filter) in [("dead", ""), ("quarantined", ""), ("dead", "&errcode=40058")] {
        let whole = failed.ids(&format!("state={state}{filter}")).await;
        for limit in 1..=3 {
            let (mut read, mut after) = (Vec::new(), String::new());
            loop {
                let query = format!("state={state}{filter}&limit={limit}{after}");
                let page = failed.world.get(&format!("/v1/events?{query}")).await;
                let rows = page["events"].as_array().unwrap();
                assert!(rows.len() <= limit);
                read.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
                let Some(next) = page["next"].as_str() else { break };
                assert_eq!(Some(next), read.last().map(String::as_str));
                after = format!("&after={next}");
            }
            assert_eq!(read, whole, "{limit} at a time");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_shown_with_all_its_fields_and_its_message() {
    let failed = FailedEvents::usual().await;
    let dead = failed.list("state=dead").await;
    let shown = failed.world.get(&format!("/v1/events/{}", dead[0]["id"].as_str().unwrap())).await;
    for name in ["id", "state", "external_userid", "errcode", "reason", "died_at", "attempts", "remedy"] {
        assert_eq!(shown[name], dead[0][name], "{name}");
    }
    assert_eq!(shown.get("message"), None, "the message of a parsed event is not kept");
    let stray = failed.ids("state=quarantined&reason=receive_id").await;
    let shown = failed.world.get(&format!("/v1/events/{}", stray[0])).await;
    assert_eq!((&shown["state"], &shown["receive_id"]), (&json!("quarantined"), &json!(STRAY)));
    let message = shown["message"].as_str().unwrap();
    assert!(message.starts_with("<xml>") && message.contains(&failed.customers[3]), "{message}");
    assert_eq!(shown["message_bytes"], message.len());
    let gibberish = failed.ids("state=quarantined&reason=not_understood").await;
    let shown = failed.world.get(&format!("/v1/events/{}", gibberish[0])).await;
    assert_eq!(shown["message"], "not an event at all");
    for (id, wanted) in [("evt_4711", 404), ("evt_0", 404), ("evt_", 400), ("first", 400)] {
        assert_eq!(failed.world.text(&format!("/v1/events/{id}")).await.0, wanted, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_an_event_again_has_no_further_effect() {
    let failed = FailedEvents::usual().await;
    failed.cure();
    let ids = failed.ids("state=dead").await;
    let path = format!("/v1/events/{}/redrive", ids[0]);
    for redriven in [true, false, false] {
        let (status, answer) = failed.world.post(&path, &json!(null)).await;
        assert_eq!((status, answer), (200, json!({"id": ids[0], "redriven": redriven})));
        failed.world.linked(&failed.fans[0], 1).await;
    }
    assert_eq!(failed.ids("state=dead").await, ids[1..]);
    assert_eq!(failed.world.text(&format!("/v1/events/{}", ids[0])).await.0, 404);
    assert_eq!(failed.world.get("/v1/status").await["links"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_everything_requeues_what_it_can_and_lists_what_was_refused() {
    let mut failed = FailedEvents::usual().await;
    failed.cure();
    let quarantined = failed.ids("state=quarantined").await;
    let answer = failed.redrive(json!({})).await;
    assert_eq!((&answer["redriven"], &answer["refused_total"]), (&json!(3), &json!(3)));
    let refused: Vec<_> = answer["refused"].as_array().unwrap().iter().map(|r| r["id"].clone()).collect();
    assert_eq!(json!(refused), json!(quarantined));
    for problem in answer["refused"].as_array().unwrap() {
        assert_eq!((&problem["code"], &problem["status"]), (&json!("conflict"), &json!(409)));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    for fan in &failed.fans[..3] {
        failed.world.linked(fan, 1).await;
    }
    // A second time nothing is left to redrive, and the same messages are refused.
    let answer = failed.redrive(json!({})).await;
    assert_eq!((&answer["redriven"], &answer["refused_total"]), (&json!(0), &json!(3)));
    failed.accept_stray().await;
    let answer = failed.redrive(json!({})).await;
    assert_eq!((&answer["redriven"], &answer["refused_total"]), (&json!(2), &json!(1)));
    for fan in &failed.fans {
        failed.world.linked(fan, 1).await;
    }
    failed.world.check_links(&failed.fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_by_filter_touches_nothing_else() {
    let mut failed = FailedEvents::usual().await;
    failed.cure();
    let second = failed.world.dealers[1].corp_id.clone();
    assert_eq!(failed.redrive(json!({"errcode": 40_097})).await["redriven"], 0);
    assert_eq!(failed.redrive(json!({"app": "other"})).await["redriven"], 0);
    assert_eq!(failed.redrive(json!({"corp_id": second})).await["redriven"], 1);
    failed.world.linked(&failed.fans[2], 1).await;
    assert_eq!(failed.list("state=dead").await.len(), 2);
    failed.accept_stray().await;
    let answer = failed.redrive(json!({"state": "quarantined", "reason": "receive_id"})).await;
    assert_eq!(answer, json!({"redriven": 2, "refused": [], "refused_total": 0}));
    for fan in &failed.fans[3..] {
        failed.world.linked(fan, 1).await;
    }
    assert_eq!(failed.list("state=dead").await.len(), 2);
    assert_eq!(failed.redrive(json!({"state": "dead", "errcode": 40_058})).await["redriven"], 2);
    failed.world.linked(&failed.fans[0], 1).await;
    for body in [json!({"state": "waiting"}), json!({"sate": "dead"}), json!({"errcode": "x"}), json!(1)] {
        let (status, problem) = failed.world.post("/v1/events/redrive", &body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_redriven_too_early_becomes_a_dead_letter_again_under_the_same_id() {
    let failed = FailedEvents::usual().await;
    let ids = failed.ids("state=dead").await;
    assert_eq!(failed.redrive(json!({"state": "dead"})).await["redriven"], 3);
    failed.world.until("/v1/status", |status| status["inbox"]["dead"] == 3).await;
    let again: BTreeSet<_> = failed.ids("state=dead").await.into_iter().collect();
    assert_eq!(again, ids.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_discarded_by_id_by_filter_and_by_command() {
    let failed = FailedEvents::usual().await;
    let (dead, quarantined) = (failed.ids("state=dead").await, failed.ids("state=quarantined").await);
    for id in [&dead[0], &quarantined[0]] {
        for discarded in [true, false] {
            let answer = failed.discard(&format!("{id}/discard"), json!(null)).await;
            assert_eq!(answer, (200, json!({"id": id, "discarded": discarded})));
        }
        assert_eq!(failed.world.text(&format!("/v1/events/{id}")).await.0, 404);
        let (_, answer) = failed.world.post(&format!("/v1/events/{id}/redrive"), &json!(null)).await;
        assert_eq!(answer["redriven"], false);
    }
    for (id, wanted) in [("evt_4711", 404), ("evt_0", 404), ("first", 400)] {
        assert_eq!(failed.discard(&format!("{id}/discard"), json!(null)).await.0, wanted, "{id}");
    }
    // Without a filter it has to be said that all are meant.
    for body in [json!({}), json!({"all": false}), json!({"sate": "dead"}), json!({"state": "waiting"})] {
        let (status, problem) = failed.discard("discard", body.clone()).await;
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{body}");
    }
    let (_, problem) = failed.discard("discard", json!({})).await;
    assert!(problem["hint"].as_str().unwrap().contains("{\"all\": true}"), "{problem}");
    let (first, second) = (&failed.world.dealers[0].corp_id, &failed.world.dealers[1].corp_id);
    for (filter, discarded) in [
        (json!({"app": "other"}), 0),
        (json!({"state": "quarantined", "errcode": 40_058}), 0),
        (json!({"reason": "not_understood"}), 1),
        (json!({"corp_id": second}), 1),
    ] {
        let answer = failed.discard("discard", filter.clone()).await;
        assert_eq!(answer, (200, json!({"discarded": discarded})), "{filter}");
    }
    assert_eq!(failed.ids("state=dead").await, dead[1..2]);
    assert_eq!(failed.ids("state=quarantined").await, quarantined[1..2]);
    let ran = failed.world.unionlink(&["events", "discard", &quarantined[1], &dead[0]]).await;
    let expected = format!(
        "{} discarded\n{} is no dead letter or quarantined message any more\n",
        quarantined[1], dead[0]
    );
    assert_eq!((ran.code, ran.stdout), (0, expected));
    let ran = failed.world.unionlink(&["events", "discard", "--all", "--corp-id", first]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "1 discarded\n"));
    let status = failed.world.get("/v1/status").await;
    assert_eq!((&status["inbox"]["dead"], &status["inbox"]["quarantined"]), (&json!(0), &json!(0)));
    for state in ["dead", "quarantined"] {
        let line = format!("unionlink_events_deleted_total{{state=\"{state}\",reason=\"discarded\"}} 3");
        failed.metric(&line).await;
    }
    // Neither is processed: their customers stay unlinked.
    assert_eq!(failed.world.get("/v1/status").await["links"], 0);
    assert_eq!(failed.discard("discard", json!({"all": true})).await, (200, json!({"discarded": 0})));
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_messages_expire_and_are_counted_and_dead_letters_stay() {
    let failed = FailedEvents::usual().await;
    let deleted =
        |n| format!("unionlink_events_deleted_total{{state=\"quarantined\",reason=\"expired\"}} {n}");
    failed.world.clock.skip(Duration::from_hours(29 * 24));
    failed.metric(&deleted(0)).await;
    assert_eq!(failed.ids("state=quarantined").await.len(), 3);
    failed.world.clock.skip(Duration::from_hours(2 * 24));
    failed.metric(&deleted(3)).await;
    assert_eq!(failed.ids("state=quarantined").await.len(), 0);
    assert_eq!(failed.ids("state=dead").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_commands_list_show_and_redrive() {
    let failed = FailedEvents::usual().await;
    let world = &failed.world;
    let dead = failed.ids("state=dead").await;
    let stray = failed.ids("state=quarantined").await;
    let ran = world.unionlink(&["events", "list"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(dead.iter().chain(&stray).all(|id| ran.stdout.contains(id.as_str())), "{ran:?}");
    assert!(ran.stdout.contains("→") && ran.stderr.contains("3 dead; 3 quarantined"), "{ran:?}");
    assert!(ran.stdout.contains(&format!("Dealer 1 ({})", world.dealers[1].corp_id)), "{ran:?}");
    let ran = world.unionlink(&["events", "list", "--lang", "zh"]).await;
    assert!(ran.stdout.contains("→ 请核对") && !ran.stdout.contains("→ check"), "{ran:?}");
    let ran = world.unionlink(&["events", "list", "--json", "--state", "dead", "--limit", "2"]).await;
    let rows: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| &row["id"]).collect::<Vec<_>>(), [&json!(dead[0]), &json!(dead[1])]);
    assert!(ran.stderr.contains("2 dead, and more"), "{ran:?}");

    let ran = world.unionlink(&["events", "show", &stray[0]]).await;
    assert!(ran.code == 0 && ran.stdout.contains(STRAY) && ran.stdout.contains("<xml>"), "{ran:?}");
    let ran = world.unionlink(&["events", "show", &dead[0], "--json"]).await;
    assert_eq!((ran.code, &ran.json()["errcode"]), (0, &json!(40_058)));
    assert_eq!(world.unionlink(&["events", "show", "evt_4711"]).await.code, 1);

    failed.cure();
    let ran = world.unionlink(&["events", "redrive", &dead[0]]).await;
    assert_eq!((ran.code, ran.stdout), (0, format!("{} redriven\n", dead[0])));
    world.linked(&failed.fans[0], 1).await;
    let ran = world.unionlink(&["events", "redrive", &dead[0], &stray[0]]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (1, format!("{} needs no redrive any more\n", dead[0]).as_str())
    );
    assert!(ran.stderr.contains("refused") && ran.stderr.contains("accept_receive_ids"), "{}", ran.stderr);
    let ran = world.unionlink(&["events", "redrive", "--errcode", "40058", "--json"]).await;
    assert_eq!((ran.code, &ran.json()["redriven"]), (0, &json!(2)));
    for fan in &failed.fans[..3] {
        world.linked(fan, 1).await;
    }
    for arguments in [&[][..], &["evt_1", "--all"], &["first"]] {
        assert_eq!(world.unionlink(&[&["events", "redrive"], arguments].concat()).await.code, 2);
    }
}

/// With its only blocking thread occupied, a request that runs on a blocking thread waits for it.
#[test]
fn a_filtered_list_is_read_on_a_blocking_thread() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::usual().await;
        let (release, occupied) = std::sync::mpsc::channel::<()>();
        let occupying = tokio::task::spawn_blocking(move || occupied.recv());
        for state in ["dead", "waiting"] {
            let whole = world.get(&format!("/v1/events?state={state}")).await;
            let filtered = async || world.get(&format!("/v1/events?state={state}&errcode=1")).await;
            assert_eq!(whole["events"], json!([]));
            let answered = tokio::time::timeout(Duration::from_millis(300), filtered()).await;
            assert!(answered.is_err(), "{state}: {answered:?}");
        }
        release.send(()).unwrap();
        occupying.await.unwrap().unwrap();
        for state in ["dead", "waiting"] {
            let found = world.get(&format!("/v1/events?state={state}&errcode=1")).await;
            assert_eq!(found["events"], json!([]), "{state}");
        }
    });
}
