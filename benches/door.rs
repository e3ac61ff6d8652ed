//! Durable acknowledgements a second through the real door, beside the same server answering `success` without
//! doing anything. Genuine callbacks, each different, sealed beforehand; sent over keep-alive connections.
//!
//! `cargo bench --bench door`

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "its result")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unionlink::app::App;
use unionlink::clock::SystemClock;
use unionlink::config::{self, Environment};
use unionlink::http::{Limits, serve};
use unionlink::simulator::{Fault, Options, Simulator, Target};
use unionlink::telemetry::metrics::Metrics;

const CALLBACKS: usize = 12_000;
const CONNECTIONS: [usize; 3] = [1, 16, 64];

fn main() {
    tokio::runtime::Runtime::new().unwrap().block_on(run());
}

async fn run() {
    let wecom = Simulator::start(Options::default(), Arc::new(SystemClock)).await.unwrap();
    let corp = wecom.invent_app();
    let callback = wecom.invent_callback("http://127.0.0.1/callback/brand");
    wecom.add_app(unionlink::simulator::AppSpec { callback: Some(callback.clone()), ..corp.clone() });
    let dealer = wecom.add_dealer(&corp.corp_id, "Dealer");
    // The door alone: the platform never answers, so the workers stand still.
    wecom.inject(Target::Every, Fault::Hang, None);

    let nothing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nothing_address = nothing.local_addr().unwrap();
    let router = Router::new().route("/callback/brand", post(|| async { "success" }));
    let limits = Limits {
        write_timeout: Duration::from_secs(30),
        cut_off_after: None,
        connections_max: 1_000,
        head_bytes_max: 16 << 10,
        bodies_bytes_max: Some(32 << 20),
        header_timeout: Duration::from_secs(5),
        connection_life: Duration::from_mins(2),
    };
    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::default());
    tokio::spawn(serve(nothing, router, limits, metrics, TaskTracker::new(), stop.clone()));

    println!("connections   answering only      durable acknowledgements            ratio");
    for connections in CONNECTIONS {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {:?}\n\
             free_mb_min = 1\n[wecom]\napi_base = \"{}\"\n[[apps]]\nname = \"brand\"\ncorp_id = \"{}\"\n\
             agent_id = {}\nsecret = \"{}\"\ncallback_token = \"{}\"\nencoding_aes_key = \"{}\"\n",
            folder.path().join("data").display().to_string(),
            wecom.base_url(),
            corp.corp_id,
            corp.agent_id,
            corp.secret,
            callback.token,
            callback.aes_key
        );
        let config = config::parse(&text, "bench".as_ref(), &Environment::default()).unwrap();
        let stop = CancellationToken::new();
        let app = App::start(&config, Arc::new(SystemClock), stop.clone()).await.unwrap();
        let door = app.public_address;
        let running = tokio::spawn(app.run());

        let count = if connections == 1 { CALLBACKS / 6 } else { CALLBACKS };
        let requests: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                let person = wecom.add_person();
                let event = wecom.befriend(&corp.corp_id, &dealer.corp_id, &person, "zhangsan", None).event;
                let sealed = wecom.seal(&event);
                let head = format!(
                    "POST /callback/brand?{} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n",
                    sealed.query,
                    sealed.body.len()
                );
                [head.into_bytes(), sealed.body.into_bytes()].concat()
            })
            .collect();
        let requests = Arc::new(requests);
        let idle = measure(nothing_address, connections, requests.clone()).await;
        let durable = measure(door, connections, requests).await;
        println!(
            "{connections:>11}   {:>8.0}/s          {:>8.0}/s  p50 {:>5.2} ms  p99 {:>6.2} ms   {:.2}",
            idle.rate,
            durable.rate,
            durable.p50_ms,
            durable.p99_ms,
            durable.rate / idle.rate
        );
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}

struct Measured {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Sends every request once, spread over the connections, each waiting for its answer.
async fn measure(address: SocketAddr, connections: usize, requests: Arc<Vec<Vec<u8>>>) -> Measured {
    let started = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for first in 0..connections {
        let requests = requests.clone();
        senders.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut answer = [0; 1024];
            let mut took = Vec::new();
            for request in requests.iter().skip(first).step_by(connections) {
                let sent = Instant::now();
                stream.write_all(request).await.unwrap();
                let mut length = 0;
                while !answer[..length].ends_with(b"success") {
                    let read = stream.read(&mut answer[length..]).await.unwrap();
                    assert!(read > 0, "closed: {}", String::from_utf8_lossy(&answer[..length]));
                    length += read;
                }
                took.push(sent.elapsed());
            }
            took
        });
    }
    let mut took: Vec<Duration> = senders.join_all().await.concat();
    let elapsed = started.elapsed().as_secs_f64();
    took.sort_unstable();
    let ms = |percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1_000.0;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let rate = took.len() as f64 / elapsed;
    Measured { rate, p50_ms: ms(50), p99_ms: ms(99) }
}
