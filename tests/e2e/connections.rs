//! Connections: the responses that end one (those sent before the request's body was read), the PROXY header,
//! time-outs, which connection is shed at the limit, and a request that is in progress when the service
//! stops.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::harness::{PATIENCE, Setup, World};

const TOKEN: &str = "the-admin-token-of-32-characters";

async fn guarded_world() -> World {
    let admin = format!("token = {{ value = \"{TOKEN}\" }}");
    World::with(Setup { admin, ..Setup::default() }).await
}

async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).await.unwrap()
}

/// A request with `body`, announced to be `length` bytes long.
fn request(first_line: &str, headers: &str, length: usize, body: &str) -> String {
    format!(
        "{first_line} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Sends a request and reads the response. Returns its status and its head in lower case.
async fn exchange(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer");
        head.push(byte.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    stream.read_exact(&mut vec![0_u8; length.unwrap().parse().unwrap()]).await.unwrap();
    (head[9..12].parse().unwrap(), head)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_sent_before_the_body_was_read_announces_the_end_of_the_connection() {
    let world = guarded_world().await;
    let signed =
        |signature: &str| format!("POST /callback/brand?msg_signature={signature}&timestamp=1&nonce=n");
    let signature = "a".repeat(40);
    let cross_origin = "Host: localhost\r\nOrigin: https://evil.example\r\n";
    for (url, first_line, headers, length, wanted) in [
        (&world.public, signed("A0").as_str(), "Host: x\r\n", 1_000, 403),
        (&world.public, &signed(""), "Host: x\r\n", 1_000, 403),
        (&world.public, "POST /callback/nobody?msg_signature=x", "Host: x\r\n", 2, 404),
        (&world.public, "POST /elsewhere", "Host: x\r\n", 2, 404),
        (&world.public, "PUT /callback/brand", "Host: x\r\n", 2, 404),
        (&world.public, &signed(""), "Host: x\r\n", 131_073, 413),
        (&world.public, &signed(&signature), "Host: x\r\n", 131_073, 413),
        (&world.public, &signed(&signature), "Host: x\r\n", 4_000_000_000, 413),
        (&world.admin, "POST /v1/forget", "Host: evil.example\r\n", 2, 421),
        (&world.admin, "POST /v1/forget", cross_origin, 2, 403),
        (&world.admin, "POST /v1/forget", "Host: localhost\r\n", 1_000_000, 413),
        (&world.admin, "POST /v1/fans?priority=urgent", "Host: localhost\r\n", 2, 400),
        (&world.admin, "POST /v1/elsewhere", "Host: localhost\r\n", 2, 404),
        (&world.admin, "DELETE /v1/fans", "Host: localhost\r\n", 2, 405),
    ] {
        let mut stream = connect(url).await;
        let (status, head) = exchange(&mut stream, &request(first_line, headers, length, "{}")).await;
        assert_eq!(status, wanted, "{first_line}: {head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{first_line}: {head}");
        // Closed, or reset if a part of the body was on its way.
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok() && rest.is_empty(), "{first_line}: still open");
    }
    let mut stream = connect(&world.admin).await;
    let unauthorized = request("POST /v1/forget", "Host: localhost\r\n", 2, "{}").replace(TOKEN, "wrong");
    let (status, head) = exchange(&mut stream, &unauthorized).await;
    assert!(status == 401 && head.contains("\r\nconnection: close\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_stays_open_after_a_body_that_was_read_and_after_requests_without_one() {
    let world = guarded_world().await;
    let genuine = world.wecom.seal(&world.befriend(0, &world.wecom.add_person(), "zhangsan").1);
    let callback = format!("POST /callback/brand?{}", genuine.query);
    let forged = format!("POST /callback/brand?msg_signature={}&timestamp=1&nonce=n", "0".repeat(40));
    let mut stream = connect(&world.public).await;
    for (first_line, body, wanted) in [
        ("GET /livez", "", 200),
        (&callback, &genuine.body, 200),
        (&forged, "<xml></xml>", 403),
        ("GET /callback/brand?msg_signature=x", "", 403),
        ("POST /elsewhere", "", 404),
        ("GET /livez", "", 200),
    ] {
        let sent = request(first_line, "Host: x\r\n", body.len(), body);
        let (status, head) = exchange(&mut stream, &sent).await;
        assert_eq!(status, wanted, "{first_line}: {head}");
        assert!(!head.contains("\r\nconnection: close\r\n"), "{first_line}: {head}");
    }
    let mut stream = connect(&world.admin).await;
    let ndjson = "Host: localhost\r\nContent-Type: application/x-ndjson\r\n";
    for (first_line, headers, body, wanted) in [
        ("GET /v1/status", "Host: localhost\r\n", "", 200),
        ("POST /v1/fans", "Host: localhost\r\n", "[]", 202),
        ("POST /v1/fans", ndjson, "{}\n{}\n", 202),
        ("POST /v1/forget", "Host: localhost\r\n", "not JSON", 400),
        ("POST /v1/sinks/nobody/pause", "Host: localhost\r\n", "", 404),
        ("GET /v1/status", "Host: evil.example\r\n", "", 421),
        ("GET /v1/status", "Host: localhost\r\n", "", 200),
    ] {
        let (status, head) = exchange(&mut stream, &request(first_line, headers, body.len(), body)).await;
        assert_eq!(status, wanted, "{first_line}: {head}");
        assert!(!head.contains("\r\nconnection: close\r\n"), "{first_line}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_is_read_from_trusted_proxies_on_both_listeners() {
    for (server, wanted) in [("trusted_proxies = [\"127.0.0.1\"]", 200), ("", 400)] {
        let world = World::with(Setup { server: server.to_owned(), ..Setup::default() }).await;
        let genuine = world.wecom.seal(&world.befriend(0, &world.wecom.add_person(), "zhangsan").1);
        let callback = format!("POST /callback/brand?{}", genuine.query);
        for (url, first_line, body) in
            [(&world.public, callback.as_str(), genuine.body.as_str()), (&world.admin, "GET /livez", "")]
        {
            let sent = request(first_line, "Host: localhost\r\n", body.len(), body);
            let sent = format!("PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n{sent}");
            let (status, head) = exchange(&mut connect(url).await, &sent).await;
            assert_eq!(status, wanted, "{first_line}: {head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_slow_bodies_and_idle_connections_are_closed() {
    let server = "header_timeout_ms = 300\nbody_timeout_ms = 300".to_owned();
    let world = World::with(Setup { server, ..Setup::default() }).await;
    let person = world.wecom.add_person();
    let callback = world.wecom.seal(&world.befriend(0, &person, "zhangsan").1);
    let half_body = format!(
        "POST /callback/brand?{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n<xml>",
        callback.query,
        callback.body.len()
    );
    for (what, sent) in
        [("nothing", ""), ("half a head", "POST /callback/brand HTTP/1.1\r\nHo"), ("half a body", &half_body)]
    {
        let started = Instant::now();
        let mut stream = connect(&world.public).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{what}: still open after {:?}", started.elapsed());
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{what}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_connections_max_the_longest_idle_connection_is_shed() {
    let server = "connections_max = 3\nheader_timeout_ms = 60000".to_owned();
    let world = World::with(Setup { server, ..Setup::default() }).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut stream = connect(&world.public).await;
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
    let (_, metrics) = world.text("/metrics").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_acknowledged_while_the_service_stops_counts_for_its_dealer() {
    let server = "body_timeout_ms = 60000\ngrace_ms = 60000".to_owned();
    let mut world = World::with(Setup { server, ..Setup::default() }).await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    world.stop().await.unwrap();
    let stop = CancellationToken::new();
    let app = world.app(stop.clone()).await;
    let (store, address) = (app.store.clone(), app.public_address);
    let running = tokio::spawn(app.run());
    let person = world.wecom.add_person();
    let callback = world.wecom.seal(&world.befriend(0, &person, "zhangsan").1);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /callback/brand?{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        callback.query,
        callback.body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    // The workers have ended once the clocks are stored.
    world.clock.skip(Duration::from_secs(1));
    let (stored, give_up) = (store.last_moment().await, Instant::now() + PATIENCE);
    stop.cancel();
    while store.last_moment().await == stored {
        assert!(Instant::now() < give_up, "the clocks are not stored");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stream.write_all(callback.body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    running.await.unwrap().unwrap();
    drop(store);
    world.start().await;
    let dealer = world.get(&format!("/v1/dealers/{}", world.dealers[0].corp_id)).await;
    assert!(dealer["last_callback_at"].is_string(), "{dealer}");
}
