//! The feed as server-sent events, parsed by hand as a browser would.

use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::feed::with_a_shortened_feed;
use crate::harness::{PATIENCE, Setup, World};
use crate::process::Process;

/// One event as it was sent.
#[derive(Debug)]
struct Event {
    id: u64,
    name: String,
    data: Value,
}

/// An open stream, and what of it is not an event yet.
struct Stream {
    response: Response,
    text: Vec<u8>,
}

impl Stream {
    async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, text: Vec::new() }
    }

    async fn of(world: &World, query: &str) -> Self {
        Self::open(world.http.get(format!("{}/v1/links/stream{query}", world.admin))).await
    }

    /// The next block up to an empty line; `None` where the stream ends in good order.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let rest = self.text.split_off(end + 2);
                let block = std::mem::replace(&mut self.text, rest);
                return Some(String::from_utf8(block).unwrap());
            }
            let more = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("something comes");
            let Some(more) = more.unwrap() else {
                assert_eq!(self.text, b"", "it ends in the middle of an event");
                return None;
            };
            self.text.extend_from_slice(&more);
        }
    }

    async fn next(&mut self) -> Option<Event> {
        let block = self.block().await?;
        let lines: Vec<_> = block.trim_end_matches('\n').split('\n').collect();
        let [id, name, data] = lines[..] else { panic!("not three lines: {block:?}") };
        Some(Event {
            id: id.strip_prefix("id: ").unwrap().parse().unwrap(),
            name: name.strip_prefix("event: ").unwrap().to_owned(),
            data: serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
        })
    }

    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.next().await.expect("it goes on").id);
        }
        ids
    }
}

/// A world with so many links in its feed.
async fn with_links(count: usize) -> World {
    let world = World::usual().await;
    let fans = world.mint(count).await;
    world.add_all(&fans, "zhangsan").await;
    world.until("/v1/status", |status| status["feed_head"] == count).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_sends_what_is_there_and_then_what_comes_as_the_feed_tells_it() {
    let world = with_links(2).await;
    let mut stream = Stream::of(&world, "").await;
    assert_eq!(stream.ids(2).await, [1, 2]);
    for seq in 3..6 {
        let fans = world.mint(1).await;
        world.add(0, &fans[0], "zhangsan").await;
        let event = stream.next().await.unwrap();
        assert_eq!((event.id, event.name.as_str()), (seq, "link.created"));
        assert_eq!(event.data["data"]["unionid"], json!(fans[0].unionid));
        let page = world.get(&format!("/v1/links/feed?after={}", seq - 1)).await;
        let mut entry = page["entries"][0].clone();
        let mut sent = event.data.clone();
        // True for 20 seconds only, so it may have gone in the meantime.
        for told in [&mut entry, &mut sent] {
            told["data"]["welcome_code"].take();
        }
        assert_eq!(sent, entry);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_behind_after_or_the_last_event_id_which_goes_first() {
    let world = with_links(5).await;
    assert_eq!(Stream::of(&world, "?after=3").await.ids(2).await, [4, 5]);
    let request = |query: &str| world.http.get(format!("{}/v1/links/stream{query}", world.admin));
    let mut resumed = Stream::open(request("").header("last-event-id", "2")).await;
    assert_eq!(resumed.ids(3).await, [3, 4, 5]);
    let mut both = Stream::open(request("?after=0").header("last-event-id", "4")).await;
    assert_eq!(both.ids(1).await, [5]);
    let mut empty = Stream::open(request("?after=1").header("last-event-id", "")).await;
    assert_eq!(empty.ids(1).await, [2], "a browser that has read nothing may send an empty one");
    for (query, id) in [("?after=soon", None), ("", Some("five")), ("?after=1", Some("-1")), ("", Some(" "))]
    {
        let request = id.iter().fold(request(query), |request, id| request.header("last-event-id", *id));
        let refused = request.send().await.unwrap();
        // White space around a value is not part of it.
        let wanted = if id == Some(" ") { 200 } else { 400 };
        assert_eq!(refused.status(), wanted, "{query} {id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_in_good_order_when_the_service_stops() {
    let mut world = with_links(1).await;
    let mut stream = Stream::of(&world, "").await;
    assert_eq!(stream.ids(1).await, [1]);
    let told = Instant::now();
    let (stopped, ended) = tokio::join!(world.stop(), stream.next());
    stopped.unwrap();
    assert!(ended.is_none(), "{ended:?}");
    assert!(told.elapsed() < Duration::from_secs(5), "it took {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_begin_where_it_should_is_410_before_anything_is_sent() {
    let world = with_a_shortened_feed().await;
    let request = |query: &str| world.http.get(format!("{}/v1/links/stream{query}", world.admin));
    for request in [request("?after=1"), request("").header("last-event-id", "0")] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 410);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["oldest"]), (&json!("feed_gone"), &json!(3)));
    }
    assert_eq!(Stream::of(&world, "").await.ids(3).await, [3, 4, 5], "without a position from the oldest");
    assert_eq!(Stream::of(&world, "?after=2").await.ids(3).await, [3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_readers_each_get_every_entry_while_links_are_made() {
    const READERS: usize = 300;
    let world = with_links(5).await;
    let fans = world.mint(25).await;
    let mut streams = Vec::new();
    for _ in 0..READERS {
        streams.push(Stream::of(&world, "?after=2").await);
    }
    let reading = streams.into_iter().map(|mut stream| tokio::spawn(async move { stream.ids(28).await }));
    let reading: Vec<_> = reading.collect();
    world.add_all(&fans, "zhangsan").await;
    for read in reading {
        assert_eq!(read.await.unwrap(), (3..=30).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_forgotten_a_moment_ago_is_in_no_stream_any_more() {
    let world = with_links(3).await;
    // Readers share what was read for one of them, and this one was just read.
    let mut stream = Stream::of(&world, "?after=0").await;
    let unionid = stream.next().await.unwrap().data["data"]["unionid"].clone();
    assert_eq!(world.post("/v1/forget", &json!({"unionid": unionid})).await.0, 200);
    let mut later = Stream::of(&world, "?after=0").await;
    for seq in 1..=4 {
        let event = later.next().await.unwrap();
        assert_eq!(event.id, seq);
        assert!(!event.data.to_string().contains(unionid.as_str().unwrap()), "{event:?}");
        assert_eq!(event.name == "link.erased", seq == 1 || seq == 4, "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_streams_are_open_and_no_more_until_one_ends() {
    const STREAMS_MAX: usize = 1_000;
    let world = World::usual().await;
    let url = format!("{}/v1/links/stream", world.admin);
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        streams.push(Stream::open(world.http.get(&url)).await);
    }
    let refused = world.http.get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "too_busy");
    drop(streams.pop());
    let give_up = Instant::now() + PATIENCE;
    while world.http.get(&url).send().await.unwrap().status() != 200 {
        assert!(Instant::now() < give_up, "there is never room again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.http.get(format!("{}/v1/status", world.admin)).send().await.unwrap().status(), 200);
}

/// What the process holds in memory, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_slow_nobody_and_fill_no_memory() {
    const DEAF: usize = 200;
    // As many as are kept for one customer; every entry names all of them.
    const MEMBERS: usize = 48;
    let app = "existing_customers = false".to_owned();
    let mut process = Process::with(Setup { app, ..Setup::default() }).await;
    process.start().await;
    let world = &process.world;
    let address = world.admin.trim_start_matches("http://").parse().unwrap();
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let socket = TcpSocket::new_v4().unwrap();
        // Little room on the way, so that the service notices soon.
        socket.set_recv_buffer_size(2_048).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(b"GET /v1/links/stream HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        deaf.push(stream);
    }
    let fans = world.mint(30).await;
    let before = resident(process.pid());
    let mut stream = Stream::of(world, "").await;
    let (read, mut newest) = watch::channel((0, 0));
    let reading = tokio::spawn(async move {
        while let Some(event) = stream.next().await {
            let (id, bytes) = *read.borrow();
            assert_eq!(event.id, id + 1);
            read.send_replace((event.id, bytes + event.data.to_string().len()));
        }
    });
    let state = "s".repeat(100);
    for member in 0..MEMBERS {
        let dealer = &world.dealers[0].corp_id;
        let member = format!("{member:064}");
        let befriend = |fan| world.wecom.befriend(dealer, fan, &member, Some(&state)).event;
        let events = fans.iter().map(befriend).collect();
        assert!(world.wecom.deliver_all(events, 32).await.iter().all(|delivery| delivery.acknowledged));
    }
    let head = world.settle().await["feed_head"].as_u64().unwrap();
    let everything = tokio::time::timeout(PATIENCE, newest.wait_for(|(id, _)| *id == head));
    let (_, bytes) = *everything.await.expect("nobody holds it up").unwrap();
    // More than the system keeps on the way to one that does not read.
    assert!(bytes > 5 << 20, "only {bytes} bytes");
    let grown = resident(process.pid()).saturating_sub(before);
    assert!(grown < 100 << 20, "{} MB more, of {} MB for all", grown >> 20, (bytes * DEAF) >> 20);
    drop(deaf);
    process.stop().await;
    reading.await.unwrap();
}
