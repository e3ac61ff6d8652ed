//! The feed page by page: long polling, and reading before the oldest entry kept.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unionlink::simulator::By;

use crate::harness::{Setup, World};

fn seqs(page: &Value) -> Vec<u64> {
    page["entries"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect()
}

/// A world whose feed keeps one day: entries 1 and 2 are pruned, 3 to 5 are there.
pub async fn with_a_shortened_feed() -> World {
    let world = World::with(Setup { store: "feed_days = 1".into(), ..Setup::default() }).await;
    let fans = world.mint(5).await;
    world.add_all(&fans[..2], "zhangsan").await;
    world.feed(2).await;
    world.clock.skip(Duration::from_hours(48));
    world.until("/v1/status", |status| status["feed_oldest"] == 3).await;
    for (n, fan) in fans[2..].iter().enumerate() {
        world.add(n % 2, fan, "zhangsan").await;
    }
    world.until("/v1/status", |status| status["feed_head"] == 5).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_at_once_when_there_are_entries() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.feed(1).await;
    let asked = Instant::now();
    let page = world.get("/v1/links/feed?after=0&wait=30s").await;
    assert_eq!((seqs(&page), &page["next"]), (vec![1], &json!(1)));
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_woken_by_each_link_and_entries_come_in_order() {
    const LINKS: usize = 20;
    let world = World::usual().await;
    let fans = world.mint(LINKS).await;
    let reading = async {
        let mut read = Vec::new();
        while read.len() < LINKS {
            let after = read.len();
            let asked = Instant::now();
            let page = world.get(&format!("/v1/links/feed?after={after}&wait=15s")).await;
            assert!(asked.elapsed() < Duration::from_secs(10), "the long poll was not woken");
            read.extend(seqs(&page));
            assert_eq!(page["next"], json!(read.len()));
        }
        read
    };
    let linking = async {
        for fan in &fans {
            world.add(0, fan, "zhangsan").await;
            // One at a time, so that the reader has to wait for each.
            world.linked(fan, 1).await;
        }
    };
    let (read, ()) = tokio::join!(reading, linking);
    assert_eq!(read, (1..=LINKS as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_reaches_a_long_poll_well_within_a_second() {
    let world = World::usual().await;
    let fans = world.mint(5).await;
    let mut quickest = Duration::MAX;
    for (n, fan) in fans.iter().enumerate() {
        let waiting = async {
            let page = world.get(&format!("/v1/links/feed?after={n}&wait=15s")).await;
            (seqs(&page), Instant::now())
        };
        let linking = async {
            // Measured from the acknowledgement: the link is made after it.
            world.add(0, fan, "zhangsan").await;
            Instant::now()
        };
        let ((read, read_at), added_at) = tokio::join!(waiting, linking);
        assert_eq!(read, [n as u64 + 1]);
        quickest = quickest.min(read_at.saturating_duration_since(added_at));
    }
    // Polling the store at an interval would take half that interval on average.
    assert!(quickest < Duration::from_millis(500), "the quickest of five took {quickest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_without_entries_is_answered_empty_when_its_time_is_up() {
    let world = World::usual().await;
    for (wait, after) in [("300ms", 0), ("300ms", 7)] {
        let asked = Instant::now();
        let page = world.get(&format!("/v1/links/feed?after={after}&wait={wait}")).await;
        assert_eq!(page, json!({"entries": [], "next": after}));
        assert!(asked.elapsed() >= Duration::from_millis(300), "it only took {:?}", asked.elapsed());
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    }
    let asked = Instant::now();
    assert_eq!(world.get("/v1/links/feed?after=3&wait=0").await, json!({"entries": [], "next": 3}));
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_not_a_valid_duration_is_refused() {
    let world = World::usual().await;
    for wait in ["soon", "-1s", "1h", "s", "", "1.5s", "30%20s", "99999999999999999999s"] {
        let response =
            world.http.get(format!("{}/v1/links/feed?wait={wait}", world.admin)).send().await.unwrap();
        assert_eq!(response.status(), 400, "{wait:?}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "bad_request", "{wait:?}");
        assert!(problem["detail"].as_str().unwrap().contains("wait"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_maximum_a_long_poll_is_answered_503_and_health_checks_go_on() {
    let world = World::usual().await;
    let url = format!("{}/v1/links/feed?wait=60s", world.admin);
    let mut polls = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let poll = world.http.get(&url).send();
        polls.spawn(async move { poll.await.unwrap().status() });
    }
    // The others wait for a minute.
    assert_eq!(polls.join_next().await.unwrap().unwrap(), 503);
    for path in ["/readyz", "/livez", "/v1/links/feed"] {
        let answer = world.http.get(format!("{}{path}", world.admin)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_when_the_service_stops() {
    let mut world = World::usual().await;
    let waiting = {
        let (http, url) = (world.http.clone(), format!("{}/v1/links/feed?after=4&wait=60s", world.admin));
        tokio::spawn(async move { http.get(url).send().await.unwrap().json::<Value>().await.unwrap() })
    };
    // Long enough for the request to arrive; otherwise it is refused below, and the test fails.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    let stopped_at = Instant::now();
    world.stop().await.unwrap();
    assert!(stopped_at.elapsed() < Duration::from_secs(8), "it took {:?}", stopped_at.elapsed());
    assert_eq!(waiting.await.unwrap(), json!({"entries": [], "next": 4}));
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_before_the_oldest_entry_is_410_and_names_it() {
    let world = with_a_shortened_feed().await;
    for after in [0, 1] {
        let url = format!("{}/v1/links/feed?after={after}&wait=30s", world.admin);
        let response = world.http.get(url).send().await.unwrap();
        assert_eq!((response.status().as_u16(), after), (410, after));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["oldest"]), (&json!("feed_gone"), &json!(3)));
        assert!(problem["detail"].as_str().unwrap().contains("after=2"), "{problem}");
    }
    assert_eq!(seqs(&world.get("/v1/links/feed?after=2").await), [3, 4, 5]);
    assert_eq!(
        seqs(&world.get("/v1/links/feed").await),
        [3, 4, 5],
        "without a position it begins with the oldest entry"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fully_pruned_feed_is_empty_and_goes_on_counting() {
    let world = with_a_shortened_feed().await;
    world.clock.skip(Duration::from_hours(48));
    world.until("/v1/status", |status| status["feed_oldest"] == 6).await;
    assert_eq!(world.get("/v1/links/feed").await, json!({"entries": [], "next": 5}));
    let gone = world.get("/v1/links/feed?after=4").await;
    assert_eq!((&gone["code"], &gone["oldest"]), (&json!("feed_gone"), &json!(6)));
    let fans = world.mint(1).await;
    let (page, _) = tokio::join!(world.get("/v1/links/feed?wait=15s"), world.add(0, &fans[0], "zhangsan"));
    assert_eq!(seqs(&page), [6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_change_is_on_the_feed_and_its_numbers_have_no_gap() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let dealer = world.dealers[0].corp_id.clone();
    world.add(0, &fans[0], "zhangsan").await;
    world.feed(1).await;
    world.add(0, &fans[0], "lisi").await;
    world.feed(2).await;
    // WeCom's timestamps are in seconds, and within one second an add wins over a removal.
    world.clock.skip(Duration::from_secs(2));
    let left = world.wecom.unfriend(&dealer, &fans[0], "lisi", By::Member);
    world.deliver(&left).await;
    let before = world.feed_types(3).await;
    assert_eq!(before, ["link.created", "link.follower_added", "link.follower_removed"]);
    world.post("/v1/forget", &json!({"unionid": fans[0].unionid})).await;
    let feed = world.feed(4).await;
    let entries: Vec<_> =
        feed.iter().map(|entry| (entry["seq"].as_u64().unwrap(), entry["type"].as_str().unwrap())).collect();
    // The earlier entries are erased in place.
    assert_eq!(entries, [1, 2, 3, 4].map(|seq| (seq, "link.erased")));
}
