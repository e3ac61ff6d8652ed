//! The feed page by page: waiting for news, and what is no longer kept.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use unionlink::simulator::By;

use crate::harness::{Setup, World};

fn seqs(page: &Value) -> Vec<u64> {
    page["entries"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect()
}

/// A world whose feed forgets after a day, two entries of which it has forgotten, and three that it has.
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
async fn who_waits_for_news_is_answered_at_once_when_there_are_some() {
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
async fn who_waits_for_news_is_woken_by_a_link_and_reads_every_one_in_order() {
    const LINKS: usize = 20;
    let world = World::usual().await;
    let fans = world.mint(LINKS).await;
    let reading = async {
        let mut read = Vec::new();
        while read.len() < LINKS {
            let after = read.len();
            let asked = Instant::now();
            let page = world.get(&format!("/v1/links/feed?after={after}&wait=15s")).await;
            assert!(asked.elapsed() < Duration::from_secs(10), "nobody woke it");
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
async fn news_reach_who_waits_well_within_a_second() {
    let world = World::usual().await;
    let fans = world.mint(5).await;
    let mut quickest = Duration::MAX;
    for (n, fan) in fans.iter().enumerate() {
        let waiting = async {
            let page = world.get(&format!("/v1/links/feed?after={n}&wait=15s")).await;
            (seqs(&page), Instant::now())
        };
        let linking = async {
            // The acknowledgement is what the clock is stopped against: the link is made after it.
            world.add(0, fan, "zhangsan").await;
            Instant::now()
        };
        let ((read, told_at), added_at) = tokio::join!(waiting, linking);
        assert_eq!(read, [n as u64 + 1]);
        quickest = quickest.min(told_at.saturating_duration_since(added_at));
    }
    // A reader that looked by a timer would need half its interval on average, every time.
    assert!(quickest < Duration::from_millis(500), "the quickest of five took {quickest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_is_answered_with_nothing_when_the_time_is_up() {
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
async fn a_wait_that_is_no_duration_is_refused() {
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
async fn whoever_waits_is_let_go_when_the_service_stops() {
    let mut world = World::usual().await;
    let waiting = {
        let (http, url) = (world.http.clone(), format!("{}/v1/links/feed?after=4&wait=60s", world.admin));
        tokio::spawn(async move { http.get(url).send().await.unwrap().json::<Value>().await.unwrap() })
    };
    // Long enough to have arrived; should it not have, it is refused below, and the test fails.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    let told = Instant::now();
    world.stop().await.unwrap();
    assert!(told.elapsed() < Duration::from_secs(8), "it took {:?}", told.elapsed());
    assert_eq!(waiting.await.unwrap(), json!({"entries": [], "next": 4}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_kept_is_410_and_says_where_the_feed_begins() {
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
    assert_eq!(seqs(&world.get("/v1/links/feed").await), [3, 4, 5], "without a position from the oldest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_kept_nothing_says_so_and_goes_on() {
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
async fn every_kind_of_change_is_told_and_the_numbers_have_no_gap() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let dealer = world.dealers[0].corp_id.clone();
    world.add(0, &fans[0], "zhangsan").await;
    world.feed(1).await;
    world.add(0, &fans[0], "lisi").await;
    world.feed(2).await;
    // WeCom's instants have seconds; whoever leaves within one of them was never there.
    world.clock.skip(Duration::from_secs(2));
    let left = world.wecom.unfriend(&dealer, &fans[0], "lisi", By::Member);
    world.deliver(&left).await;
    let before = world.feed_types(3).await;
    assert_eq!(before, ["link.created", "link.follower_added", "link.follower_removed"]);
    world.post("/v1/forget", &json!({"unionid": fans[0].unionid})).await;
    let feed = world.feed(4).await;
    let told: Vec<_> =
        feed.iter().map(|entry| (entry["seq"].as_u64().unwrap(), entry["type"].as_str().unwrap())).collect();
    // What was told before the end is empty now, and stands where it stood.
    assert_eq!(told, [1, 2, 3, 4].map(|seq| (seq, "link.erased")));
}
