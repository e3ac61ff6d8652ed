//! A client that sends prepared callbacks over keep-alive connections, one request at a time on each.
//!
//! It runs on the calling thread only, the same for every server it is pointed at, and reports its own CPU
//! time: on a small machine that is taken from the server.

use std::net::SocketAddr;
use std::time::Instant;

use rustix::time::ClockId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{cpu_seconds, quantile};

#[derive(Default)]
pub struct Measured {
    /// Responses per second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time per response in microseconds: of the client, and of the rest of the process.
    pub client_us: f64,
    pub server_us: f64,
}

/// Sends each request once, spread over the connections.
pub fn load(address: SocketAddr, connections: usize, requests: &[Vec<u8>]) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let streams = runtime.block_on(async {
        let connecting = (0..connections).map(|_| connect(address));
        futures_util::future::join_all(connecting).await
    });
    let clocks = [ClockId::ThreadCPUTime, ClockId::ProcessCPUTime];
    let (began, before) = (Instant::now(), clocks.map(cpu_seconds));
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
    let (elapsed, after) = (began.elapsed().as_secs_f64(), clocks.map(cpu_seconds));
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let answers = took_ms.len() as f64;
    let [client_us, all_us] = [0, 1].map(|clock| (after[clock] - before[clock]) * 1e6 / answers);
    Measured {
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

/// Sends a request and waits until `success` is received.
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
