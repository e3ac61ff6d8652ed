//! A client that sends prepared callbacks over keep-alive connections, one request at a time on each.
//!
//! It runs on the calling thread only, the same for every server it is pointed at, and reports its own CPU
//! time: on a small machine that is taken from the server.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::time::ClockId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{cpu_seconds, platform_cpu_seconds, quantile};

/// Requests prepared in advance, in a few large buffers: as many small allocations would change how the
/// servers in the same process allocate.
pub struct Requests(Vec<Part>);

/// The requests of one buffer, and where each of them ends.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Requests {
    /// `count` requests made by `make`, on as many threads as there are cores.
    pub fn prepare(count: usize, make: impl Fn(usize) -> Vec<u8> + Sync) -> Self {
        let parts = std::thread::available_parallelism().unwrap().get();
        let part = |first: usize| {
            let mut part = Part::default();
            for n in (first..count).step_by(parts) {
                let request = make(n);
                if part.ends.is_empty() {
                    // Without it the buffer would double, and be copied, each time it is full.
                    part.bytes.reserve(count.div_ceil(parts) * (request.len() + 8));
                }
                part.bytes.extend(request);
                part.ends.push(part.bytes.len());
            }
            part
        };
        std::thread::scope(|scope| {
            let part = &part;
            let threads: Vec<_> = (0..parts).map(|first| scope.spawn(move || part(first))).collect();
            Self(threads.into_iter().map(|thread| thread.join().unwrap()).collect())
        })
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|part| part.ends.len()).sum()
    }

    fn at(&self, n: usize) -> Option<&[u8]> {
        let (part, n) = (self.0.get(n % self.0.len())?, n / self.0.len());
        let begin = if n == 0 { 0 } else { *part.ends.get(n - 1)? };
        part.bytes.get(begin..*part.ends.get(n)?)
    }
}

/// How a server is loaded.
#[derive(Clone, Copy)]
pub struct Burst {
    pub connections: usize,
    /// How long requests are sent before anything is measured.
    pub warm_up: Duration,
    /// How long requests are sent and measured.
    pub time: Duration,
    /// Whether the requests are sent again from the first one on after the last one: for servers that do not
    /// notice repetitions.
    pub may_repeat: bool,
}

#[derive(Clone, Copy, Default)]
pub struct Measured {
    /// Responses per second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time per response in microseconds: of the client, of the simulated platform, and of the rest of
    /// the process.
    pub client_us: f64,
    pub platform_us: f64,
    pub server_us: f64,
    /// How long it was measured, in seconds.
    pub seconds: f64,
    /// Whether there were too few requests, so that the measurement ended before its time.
    pub ran_out: bool,
}

/// Sends requests, each connection the next one that is left, until the time is over.
pub fn load(address: SocketAddr, burst: Burst, requests: &Requests) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let mut streams = runtime.block_on(join_all((0..burst.connections).map(|_| connect(address))));
    let supply = Supply { requests, next: Cell::new(0), may_repeat: burst.may_repeat };
    let mut send_for = |time: Duration| {
        let end = Instant::now() + time;
        let sending = streams.iter_mut().map(|stream| send_until(end, stream, &supply));
        runtime.block_on(join_all(sending)).concat()
    };
    send_for(burst.warm_up);
    let cpu = || {
        [ClockId::ThreadCPUTime, ClockId::ProcessCPUTime]
            .map(cpu_seconds)
            .into_iter()
            .chain([platform_cpu_seconds()])
    };
    let (began, before) = (Instant::now(), cpu());
    let took_ms = send_for(burst.time);
    let (seconds, after) = (began.elapsed().as_secs_f64(), cpu());
    #[expect(clippy::cast_precision_loss, reason = "some millions")]
    let answers = took_ms.len() as f64;
    let us: Vec<f64> = after.zip(before).map(|(after, before)| (after - before) * 1e6 / answers).collect();
    let (client_us, process_us, platform_us) = (us[0], us[1], us[2]);
    Measured {
        rate: answers / seconds,
        p50_ms: quantile(&took_ms, 50),
        p99_ms: quantile(&took_ms, 99),
        client_us,
        platform_us,
        server_us: process_us - client_us - platform_us,
        seconds,
        ran_out: supply.is_exhausted(),
    }
}

/// The requests that the connections share.
struct Supply<'a> {
    requests: &'a Requests,
    next: Cell<usize>,
    may_repeat: bool,
}

impl Supply<'_> {
    fn take(&self) -> Option<&[u8]> {
        let n = self.next.replace(self.next.get() + 1);
        self.requests.at(if self.may_repeat { n % self.requests.len() } else { n })
    }

    /// Whether a request was asked for in vain.
    fn is_exhausted(&self) -> bool {
        !self.may_repeat && self.next.get() > self.requests.len()
    }
}

/// Sends requests one after the other. Returns how many milliseconds each took.
async fn send_until(end: Instant, stream: &mut TcpStream, supply: &Supply<'_>) -> Vec<f64> {
    let mut took_ms = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return took_ms;
        }
        let Some(request) = supply.take() else { return took_ms };
        send(stream, request).await;
        took_ms.push(sent.elapsed().as_secs_f64() * 1e3);
    }
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request and waits until `success` is received.
pub async fn send(stream: &mut TcpStream, request: &[u8]) {
    const OK: &[u8] = b"HTTP/1.1 200";
    let mut answer = [0; 1024];
    stream.write_all(request).await.unwrap();
    let mut length = 0;
    while !answer[..length].ends_with(b"success") {
        let read = stream.read(&mut answer[length..]).await.unwrap();
        length += read;
        let is_acknowledgement = read > 0 && (length < OK.len() || answer.starts_with(OK));
        assert!(is_acknowledgement, "not acknowledged: {}", String::from_utf8_lossy(&answer[..length]));
    }
}
