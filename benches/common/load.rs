//! A client that sends callbacks made beforehand over keep-alive connections, each waiting for its answer.
//!
//! It runs on the caller's thread alone, the same for everything it is pointed at, and says how much computing
//! was its own: on a small machine that is taken from the server.

use std::net::SocketAddr;
use std::time::Instant;

use rustix::time::ClockId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{computed, quantile};

#[derive(Default)]
pub struct Loaded {
    /// Answers a second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Microseconds of computing an answer, the client's and everybody else's.
    pub client_us: f64,
    pub server_us: f64,
}

/// Sends each request once, dealt out to the connections.
pub fn load(address: SocketAddr, connections: usize, requests: &[Vec<u8>]) -> Loaded {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let streams = runtime.block_on(async {
        let connecting = (0..connections).map(|_| connect(address));
        futures_util::future::join_all(connecting).await
    });
    let clocks = [ClockId::ThreadCPUTime, ClockId::ProcessCPUTime];
    let (began, before) = (Instant::now(), clocks.map(computed));
    let senders = streams.into_iter().enumerate().map(|(first, mut stream)| async move {
        let mut took_ms = Vec::new();
        for request in requests.iter().skip(first).step_by(connections) {
            let sent = Instant::now();
            send(&mut stream, request).await;
            took_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        took_ms
    });
    let took_ms = runtime.block_on(futures_util::future::join_all(senders)).concat();
    let (elapsed, after) = (began.elapsed().as_secs_f64(), clocks.map(computed));
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let answers = took_ms.len() as f64;
    let [client_us, all_us] = [0, 1].map(|clock| (after[clock] - before[clock]) * 1e6 / answers);
    Loaded {
        rate: answers / elapsed,
        p50_ms: quantile(&took_ms, 50),
        p99_ms: quantile(&took_ms, 99),
        client_us,
        server_us: all_us - client_us,
    }
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request and waits for its `success`.
pub async fn send(stream: &mut TcpStream, request: &[u8]) {
    let mut answer = [0; 1024];
    stream.write_all(request).await.unwrap();
    let mut length = 0;
    while !answer[..length].ends_with(b"success") {
        let read = stream.read(&mut answer[length..]).await.unwrap();
        assert!(read > 0, "not acknowledged: {}", String::from_utf8_lossy(&answer[..length]));
        length += read;
    }
}
