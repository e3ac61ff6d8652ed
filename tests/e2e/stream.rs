//! The feed as server-sent events, parsed byte by byte to check the framing too.

use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::feed::with_a_shortened_feed;
use crate::harness::{PATIENCE, Setup, World};
use crate::process::{Process, memory};

/// One server-sent event.
#[derive(Debug)]
struct Event {
    id: u64,
    name: String,
    data: Value,
}

/// An open stream, with the bytes of an incomplete event.
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

    /// The next block up to an empty line; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let rest = self.text.split_off(end + 2);
                let block = std::mem::replace(&mut self.text, rest);
                return Some(String::from_utf8(block).unwrap());
            }
            let more =
                tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream goes on");
            let Some(more) = more.unwrap() else {
                assert_eq!(self.text, b"", "the stream ends in the middle of an event");
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
            ids.push(self.next().await.expect("the stream goes on").id);
        }
        ids
    }
}

/// A world with `count` links on its feed.
async fn with_links(count: usize) -> World {
    let world = World::usual().await;
    let fans = world.mint(count).await;
    world.add_all(&fans, "zhangsan").await;
    world.until("/v1/status", |status| status["feed_head"] == count).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_sends_existing_entries_then_new_ones_as_they_are_on_the_feed() {
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
        // Valid for 20 seconds only, so it may be gone from one of the two.
        for entry in [&mut entry, &mut sent] {
            entry["data"]["welcome_code"].take();
        }
        assert_eq!(sent, entry);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_continues_after_the_last_event_id_or_else_after_the_query_parameter() {
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
        // Whitespace around a header value is not part of it.
        let wanted = if id == Some(" ") { 200 } else { 400 };
        assert_eq!(refused.status(), wanted, "{query} {id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_cleanly_when_the_service_stops() {
    let mut world = with_links(1).await;
    let mut stream = Stream::of(&world, "").await;
    assert_eq!(stream.ids(1).await, [1]);
    let stopped_at = Instant::now();
    let (stopped, ended) = tokio::join!(world.stop(), stream.next());
    stopped.unwrap();
    assert!(ended.is_none(), "{ended:?}");
    assert!(stopped_at.elapsed() < Duration::from_secs(5), "it took {:?}", stopped_at.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_before_the_oldest_entry_is_410() {
    let world = with_a_shortened_feed().await;
    let request = |query: &str| world.http.get(format!("{}/v1/links/stream{query}", world.admin));
    for request in [request("?after=1"), request("").header("last-event-id", "0")] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 410);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["oldest"]), (&json!("feed_gone"), &json!(3)));
    }
    assert_eq!(
        Stream::of(&world, "").await.ids(3).await,
        [3, 4, 5],
        "without a position it begins with the oldest entry"
    );
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
async fn a_person_just_forgotten_is_in_no_new_stream() {
    let world = with_links(3).await;
    // Streams share a cache of recent entries, and this entry was just read into it.
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
async fn beyond_the_maximum_a_stream_is_answered_503_until_another_ends() {
    const STREAMS_MAX: usize = 1_000;
    let world = World::usual().await;
    let url = format!("{}/v1/links/stream", world.admin);
    let mut streams = Vec::new();
    let refused = loop {
        let response = world.http.get(&url).send().await.unwrap();
        if response.status() != 200 {
            break response;
        }
        streams.push(response);
    };
    // Fewer where the limit of open files allows fewer connections.
    assert!((100..=STREAMS_MAX).contains(&streams.len()), "{}", streams.len());
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "too_busy");
    drop(streams.pop());
    let give_up = Instant::now() + PATIENCE;
    while world.http.get(&url).send().await.unwrap().status() != 200 {
        assert!(Instant::now() < give_up, "no stream was accepted after one ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.http.get(format!("{}/v1/status", world.admin)).send().await.unwrap().status(), 200);
}

/// The resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_neither_delay_others_nor_grow_memory() {
    const STALLED: usize = 200;
    // The most followers kept for one customer; every entry lists all of them.
    const MEMBERS: usize = 48;
    let app = "existing_customers = false".to_owned();
    let mut process = Process::with(Setup { app, ..Setup::default() }).await;
    process.start().await;
    let world = &process.world;
    let address = world.admin.trim_start_matches("http://").parse().unwrap();
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let socket = TcpSocket::new_v4().unwrap();
        // A small receive buffer, so that the service soon cannot write.
        socket.set_recv_buffer_size(2_048).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(b"GET /v1/links/stream HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stalled.push(stream);
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
    let (_, bytes) = *everything.await.expect("the stalled readers do not delay it").unwrap();
    // More than the socket buffers between service and reader can hold.
    assert!(bytes > 5 << 20, "only {bytes} bytes");
    let grown = resident(process.pid()).saturating_sub(before);
    assert!(grown < 100 << 20, "{} MB more, of {} MB for all", grown >> 20, (bytes * STALLED) >> 20);
    drop(stalled);
    process.stop().await;
    reading.await.unwrap();
}
