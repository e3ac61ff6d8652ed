//! Delivery to sinks: failing receivers, pausing, resuming and rewinding, new sinks, restarts.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use unionlink::clock::Clock as _;
use unionlink::domain::time::{MINUTE_MS, Timestamp};

use crate::harness::{Setup, World};
use crate::receivers::{Webhook, check_received, file, lines_in, webhook};

pub async fn whole_feed(world: &World) -> Vec<Value> {
    let (mut after, mut feed) = (0, Vec::new());
    loop {
        let page = world.get(&format!("/v1/links/feed?after={after}&limit=1000")).await;
        let entries = page["entries"].as_array().unwrap();
        if entries.is_empty() {
            return feed;
        }
        after = page["next"].as_u64().unwrap();
        feed.extend(entries.iter().cloned());
    }
}

/// Waits until everything is delivered to every sink.
pub async fn caught_up(world: &World) -> Value {
    let done = |s: &Value| s["sinks"].as_array().unwrap().iter().all(|sink| sink["after"] == s["feed_head"]);
    world.until("/v1/status", done).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_down_for_an_hour_delays_no_other_and_catches_up_in_order() {
    let (dead, well, archive) =
        (Webhook::start().await, Webhook::start().await, tempfile::tempdir().unwrap());
    let folder = archive.path().join("links");
    let app = webhook("crm", &dead.url) + &webhook("cdp", &well.url) + &file(&folder);
    let world = World::with(Setup { app, ..Setup::default() }).await;
    dead.answer_with(500);
    let began_at = world.clock.now();
    let fans = world.mint(60).await;
    for (n, fan) in fans.iter().enumerate() {
        world.add(0, fan, "zhangsan").await;
        world.feed(n + 1).await;
        world.clock.skip(Duration::from_mins(1));
    }
    world.until("/v1/sinks/cdp", |sink| sink["after"] == 60).await;
    world.until("/v1/sinks/archive", |sink| sink["after"] == 60).await;
    let sink = world.until("/v1/sinks/crm", |sink| sink["failures"].as_u64() > Some(3)).await;
    assert_eq!(
        (&sink["state"], &sink["after"], &sink["lag_entries"]),
        (&json!("failing"), &json!(0), &json!(60))
    );
    assert!(
        sink["lag_seconds"].as_u64().unwrap() > 58 * 60 && sink["reason"].as_str().unwrap().contains("500")
    );
    // The failures began with the first entry, which is as old as the oldest one.
    let since: Timestamp = sink["since"].as_str().unwrap().parse().unwrap();
    assert!((0..30 * MINUTE_MS).contains(&since.millis_since(began_at)), "{sink}");
    // Because of backoff, an hour of failures has about a dozen attempts.
    assert!(sink["attempts"].as_u64().unwrap() < 25, "{sink}");
    let (_, metrics) = world.text("/metrics").await;
    for line in [
        "unionlink_sink_lag_entries{sink=\"crm\"} 60",
        "unionlink_sink_lag_entries{sink=\"cdp\"} 0",
        "unionlink_sink_state{sink=\"crm\",state=\"failing\"} 1",
        "unionlink_delivered_entries_total{sink=\"cdp\"} 60",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let status = world.get("/v1/status").await;
    let tasks: Vec<_> = status["tasks"].as_array().unwrap().iter().map(|task| &task["name"]).collect();
    assert!(
        ["sink crm", "sink cdp", "sink archive"].iter().all(|name| tasks.contains(&&json!(name))),
        "{tasks:?}"
    );
    dead.answer_with(200);
    world.clock.skip(Duration::from_hours(1));
    caught_up(&world).await;
    let feed = whole_feed(&world).await;
    for (name, received) in [("crm", dead.received()), ("cdp", well.received()), ("file", lines_in(&folder))]
    {
        assert_eq!(received.len(), 60, "{name}");
        check_received(name, &received, &feed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_resumes_and_rewinds_a_sink() {
    let hooks = Webhook::start().await;
    let mut world = World::with(Setup { app: webhook("crm", &hooks.url), ..Setup::default() }).await;
    let post = async |world: &World, what: &str, body: Value| {
        let url = format!("{}/v1/sinks/crm/{what}", world.admin);
        let response = world.http.post(url).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let fans = world.mint(6).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.until("/v1/sinks/crm", |sink| sink["after"] == 1).await;
    let (status, sink) = post(&world, "pause", json!({})).await;
    assert_eq!((status, &sink["state"]), (200, &json!("paused")));
    world.clock.skip(Duration::from_mins(1));
    assert_eq!(post(&world, "pause", json!({})).await.1["since"], sink["since"]);
    for fan in &fans[1..5] {
        world.add(0, fan, "zhangsan").await;
    }
    world.feed(5).await;
    // A pause outlives a restart.
    world.restart().await;
    let sink = world.until("/v1/sinks/crm", |sink| sink["lag_entries"] == 4).await;
    assert_eq!((&sink["state"], &sink["after"]), (&json!("paused"), &json!(1)));
    assert_eq!(hooks.received().len(), 1);
    post(&world, "resume", json!({})).await;
    world.until("/v1/sinks/crm", |sink| sink["after"] == 5).await;
    assert_eq!(hooks.received().len(), 5);
    // Rewind, then skip an entry that the receiver rejects.
    assert_eq!(post(&world, "rewind", json!({"after": 3})).await.0, 200);
    world.until("/v1/sinks/crm", |sink| sink["after"] == 5 && hooks.received().len() == 7).await;
    hooks.answer_with(422);
    world.add(0, &fans[5], "zhangsan").await;
    let sink = world.until("/v1/sinks/crm", |sink| sink["failures_in_a_row"].as_u64() >= Some(3)).await;
    post(&world, "resume", json!({})).await;
    world.until("/v1/sinks/crm", |s| s["attempts"].as_u64() > sink["attempts"].as_u64()).await;
    assert_eq!(post(&world, "rewind", json!({"to": "now"})).await.1["after"], 6);
    world.until("/v1/sinks/crm", |sink| sink["after"] == 6 && sink["state"] == "running").await;
    let ids: BTreeSet<_> = hooks.received().iter().map(|entry| entry["id"].to_string()).collect();
    assert_eq!((hooks.received().len(), ids.len()), (7, 5));
    // A receiver that answers 410 gets no deliveries until an operator resumes the sink.
    hooks.answer_with(410);
    world.add(1, &fans[5], "zhangsan").await;
    world.until("/v1/sinks/crm", |sink| sink["state"] == "disabled").await;
    hooks.answer_with(200);
    post(&world, "resume", json!({})).await;
    world.until("/v1/sinks/crm", |sink| sink["after"] == 7 && sink["state"] == "running").await;
    let (status, problem) = post(&world, "rewind", json!({"after": 8})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
    assert!(problem["detail"].as_str().unwrap().contains("the newest feed entry is 7"), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains("\"now\""), "{problem}");
    for (what, body, wanted) in [
        ("rewind", json!({}), 400),
        ("rewind", json!({"after": 1, "to": "now"}), 400),
        ("rewind", json!({"to": "yesterday"}), 400),
    ] {
        assert_eq!(post(&world, what, body).await.0, wanted);
    }
    assert_eq!(world.text("/v1/sinks/nobody").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_added_later_begins_where_it_is_configured_to() {
    let (old, all, new) = (Webhook::start().await, Webhook::start().await, Webhook::start().await);
    let app = webhook("old", &old.url);
    let mut world = World::with(Setup { app: app.clone(), ..Setup::default() }).await;
    let fans = world.mint(3).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.add(0, &fans[1], "zhangsan").await;
    world.feed(2).await;
    caught_up(&world).await;
    world.setup.app = app + &webhook("all", &all.url) + &webhook("new", &new.url) + "start = \"now\"\n";
    world.restart().await;
    world.until("/v1/sinks/new", |sink| sink["after"] == 2).await;
    world.add(0, &fans[2], "zhangsan").await;
    world.feed(3).await;
    caught_up(&world).await;
    assert_eq!([&old, &all, &new].map(|hooks| hooks.received().len()), [3, 3, 1]);
    // The cursors survive a restart.
    world.restart().await;
    caught_up(&world).await;
    assert_eq!([&old, &all, &new].map(|hooks| hooks.received().len()), [3, 3, 1]);
}
