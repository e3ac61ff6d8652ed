//! Replay: genuine callbacks sent again byte for byte after `dedupe_days`; and timestamps far off our clock.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unionlink::simulator::{By, SealedCallback};

use crate::harness::{PATIENCE, Setup, World};

const DAY: Duration = Duration::from_hours(24);

/// The value of a sample of `/metrics`.
async fn count(world: &World, sample: &str) -> u64 {
    let (_, metrics) = world.text("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample));
    line.unwrap_or_else(|| panic!("no {sample} in\n{metrics}")).trim().parse().unwrap()
}

async fn far_off(world: &World, time: &str, direction: &str) -> u64 {
    let labels = format!("{{time=\"{time}\",direction=\"{direction}\"}}");
    count(world, &format!("unionlink_callbacks_far_off_total{labels}")).await
}

async fn duplicates(world: &World) -> u64 {
    count(world, "unionlink_callbacks_total{outcome=\"duplicate\"}").await
}

/// Sends a callback again until it is no longer recognised as a duplicate.
async fn replay(world: &World, callback: &SealedCallback) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let before = duplicates(world).await;
        assert!(world.wecom.post(callback).await.acknowledged);
        if duplicates(world).await == before {
            return;
        }
        assert!(Instant::now() < give_up, "it is still recognised as a duplicate");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All that the API shows about these customers.
async fn visible_state(world: &World, customers: &[String]) -> Value {
    let status = world.settle().await;
    let mut links = Vec::new();
    for customer in customers {
        links.push(world.get(&format!("/v1/links?external_userid={customer}")).await);
        links.push(world.get(&format!("/v1/explain/{customer}")).await["code"].clone());
    }
    let feed = world.get("/v1/links/feed?limit=1000").await;
    json!({"links": links, "feed": feed, "counts": [&status["links"], &status["inbox"], &status["contacts"]]})
}

#[tokio::test(flavor = "multi_thread")]
async fn old_callbacks_sent_again_change_nothing() {
    let world = World::usual().await;
    let fans = world.mint(3).await;
    let stranger = world.wecom.add_person();
    let (mut customers, mut genuine) = (Vec::new(), Vec::new());
    // Four cases: still linked; left since; forgotten since, as a fan; forgotten since, as a customer who is
    // no fan.
    for person in fans.iter().chain([&stranger]) {
        let (customer, event) = world.befriend(0, person, "zhangsan");
        let sealed = world.wecom.seal(&event);
        assert!(world.wecom.post(&sealed).await.acknowledged);
        customers.push(customer);
        genuine.push(sealed);
    }
    for fan in &fans {
        world.linked(fan, 1).await;
    }
    world.clock.skip(Duration::from_mins(1));
    let dealer = &world.dealers[0].corp_id;
    world.deliver(&world.wecom.unfriend(dealer, &fans[1], "zhangsan", By::Member)).await;
    world.settle().await;
    for forget in [json!({"unionid": fans[2].unionid}), json!({"external_userid": customers[3]})] {
        assert_eq!(world.post("/v1/forget", &forget).await.0, 200);
    }
    world.clock.skip(8 * DAY);
    let before = visible_state(&world, &customers).await;
    let known = before["counts"][2]["known"].as_u64().unwrap();
    assert_eq!((&before["counts"][0], known), (&json!(2), 2));
    for callback in &genuine {
        replay(&world, callback).await;
        assert_eq!(visible_state(&world, &customers).await, before);
    }
    for time in ["timestamp", "create_time"] {
        assert!(far_off(&world, time, "past").await >= 4, "{time}");
        assert_eq!(far_off(&world, time, "future").await, 0, "{time}");
    }
    // A forgotten person who is added again is a customer again.
    for person in [&fans[2], &stranger] {
        world.add(0, person, "lisi").await;
    }
    world.until("/v1/status", |status| status["contacts"]["known"] == known + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_disagree_lose_no_event() {
    let world = World::usual().await;
    let fans = world.mint(2).await;
    let (_, late) = world.befriend(0, &fans[0], "zhangsan");
    world.clock.skip(30 * DAY);
    world.deliver(&late).await;
    world.linked(&fans[0], 1).await;
    assert_eq!(
        (far_off(&world, "create_time", "past").await, far_off(&world, "timestamp", "past").await),
        (1, 0)
    );
    // As if our clock were behind: the event happened in our future.
    let (_, mut early) = world.befriend(0, &fans[1], "zhangsan");
    early.inner = later_by(&early.inner, 11 * 60);
    world.deliver(&early).await;
    world.linked(&fans[1], 1).await;
    assert_eq!(far_off(&world, "create_time", "future").await, 1);
}

/// The same event with a later `CreateTime`.
fn later_by(inner: &str, secs: i64) -> String {
    let (before, rest) = inner.split_once("<CreateTime>").unwrap();
    let (at, after) = rest.split_once("</CreateTime>").unwrap();
    format!("{before}<CreateTime>{}</CreateTime>{after}", at.parse::<i64>().unwrap() + secs)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_further_off_than_event_days_max_is_quarantined_until_redriven() {
    let setup = Setup { server: "event_days_max = 2".to_owned(), ..Setup::default() };
    let world = World::with(setup).await;
    let fans = world.mint(3).await;
    let (_, old) = world.befriend(0, &fans[0], "zhangsan");
    let (_, mut ahead) = world.befriend(0, &fans[1], "zhangsan");
    ahead.inner = later_by(&ahead.inner, 98 * 3_600);
    let (_, within) = world.befriend(0, &fans[2], "zhangsan");
    let within = unionlink::simulator::Event { inner: later_by(&within.inner, 48 * 3_600), ..within };
    world.clock.skip(3 * DAY);
    for event in [&old, &ahead, &within] {
        world.deliver(event).await;
    }
    world.linked(&fans[2], 1).await;
    let listed = world.get("/v1/events?state=quarantined&reason=far_off").await;
    let rows = listed["events"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{listed}");
    for row in rows {
        let shown = world.get(&format!("/v1/events/{}", row["id"].as_str().unwrap())).await;
        assert_eq!((&shown["state"], &shown["reason"]), (&json!("quarantined"), &json!("far_off")));
        assert!(shown["detail"].as_str().unwrap().starts_with("CreateTime 20"), "{shown}");
        assert!(shown["remedy"].as_str().unwrap().contains("event_days_max"), "{shown}");
    }
    let listing = world.unionlink(&["events", "list"]).await;
    assert!(listing.stdout.contains("far_off: CreateTime 20"), "{listing:?}");
    assert!(world.links(&fans[0]).await.is_empty() && world.links(&fans[1]).await.is_empty());
    let answer = world.post("/v1/events/redrive", &json!({"reason": "far_off"})).await;
    assert_eq!((answer.0, &answer.1["redriven"]), (200, &json!(2)), "{answer:?}");
    for fan in &fans[..2] {
        world.linked(fan, 1).await;
    }
}
