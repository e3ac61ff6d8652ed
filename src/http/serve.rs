//! The accept loop of a listener: HTTP/1 connections with time-outs and limits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Capacity, Slot};
use super::socket::{Listener, Socket, Source};
use super::source::{PROXY_HEADER_BYTES_MAX, Preamble, TrustedProxies, proxy_header};
use super::tracked::TrackedService;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::LogThrottle;

/// The limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of open connections. From 15/16 of it on, each new one sheds another: one that has not sent
    /// anything, or the one that has been waiting for input for longest.
    pub connections_max: usize,
    /// The number of open connections from one source; `None` for no limit. Connections of a trusted proxy
    /// count only if it names their source in a PROXY header.
    pub source_connections_max: Option<usize>,
    /// The size of a request's head in bytes.
    pub head_bytes_max: usize,
    /// The total size of all bodies being read; `None` if the handlers limit them.
    pub bodies_bytes_max: Option<usize>,
    /// How long a request's head may take; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// The age at which a connection is closed after its request in progress.
    pub connection_life: Duration,
    /// How long a write may block because the peer does not read.
    pub write_timeout: Duration,
    /// The age at which a connection is closed even during a request; `None` for never.
    pub cut_off_after: Option<Duration>,
}

const HEADERS_MAX: usize = 64;

/// What the connections of a listener share.
struct Shared {
    router: Router,
    limits: Limits,
    proxies: TrustedProxies,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

/// Serves `router` until `stop` is cancelled. Open connections, tracked by `connections`, then finish their
/// request in progress and close. `proxies` are believed when they say where a connection or request is from.
pub async fn serve(
    listener: impl Into<Arc<Listener>>,
    router: Router,
    limits: Limits,
    proxies: TrustedProxies,
    metrics: Arc<Metrics>,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let capacity = Capacity {
        slots: limits.connections_max,
        slots_of_source: limits.source_connections_max,
        bodies_bytes: limits.bodies_bytes_max,
    };
    let admission = Admission::new(capacity, metrics.clone());
    let shared = Arc::new(Shared { router, limits, proxies, metrics, stop });
    let (listener, log) = (listener.into(), LogThrottle::default());
    loop {
        let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await else { return };
        let (socket, peer) = match accepted {
            Ok(connection) => connection,
            // Closed by the peer before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // Most likely out of file descriptors, until time-outs have closed some connections.
                if let Some(failures) = log.count(error.kind()) {
                    tracing::warn!(failures, error = error.to_string(), "connections not accepted");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let source = if shared.proxies.contains(peer) { Source(None) } else { peer };
        let Some(slot) = admission.admit(socket.input(), source).await else {
            shared.metrics.connection_refused();
            continue;
        };
        connections.spawn(serve_connection(shared.clone(), socket, peer, slot));
    }
}

async fn serve_connection(shared: Arc<Shared>, socket: Socket, peer: Source, slot: Arc<Slot>) {
    let life_max = shared.limits.cut_off_after.unwrap_or(Duration::MAX);
    let ended = tokio::select! {
        biased;
        () = slot.shed() => {
            tracing::debug!("connection shed: the listener is full");
            return;
        }
        ended = tokio::time::timeout(life_max, shared.serve_requests(socket, peer, &slot)) => ended,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = error.to_string(), "connection failed"),
        Err(_) => tracing::debug!("connection closed: it exceeded its maximum lifetime"),
    }
}

impl Shared {
    async fn serve_requests(
        &self,
        mut socket: Socket,
        peer: Source,
        slot: &Arc<Slot>,
    ) -> Result<(), ConnectionError> {
        let source = if self.proxies.contains(peer) {
            let named = self.named(&mut socket).await?;
            if !slot.claim(named) {
                self.metrics.connection_refused();
                return Err(ConnectionError::Share);
            }
            if named.0.is_some() { named } else { peer }
        } else {
            peer
        };
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(self.limits.head_bytes_max);
        // hyper has no timer for writes.
        let mut stream = Box::pin(TimeoutStream::new(socket));
        stream.as_mut().set_write_timeout_pinned(Some(self.limits.write_timeout));
        let service = TrackedService::new(self.router.clone(), slot.clone(), source, &self.proxies);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(self.limits.connection_life) => {}
        }
        // Finish the request in progress, then close.
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }

    /// The source of a connection of a trusted proxy, if its PROXY header names one.
    async fn named(&self, socket: &mut Socket) -> Result<Source, ConnectionError> {
        let read = tokio::time::timeout(self.limits.header_timeout, read_proxy_header(socket));
        match self.stop.run_until_cancelled(read).await {
            Some(Ok(named)) => named,
            Some(Err(_)) => Err(ConnectionError::ProxyHeaderTimeout),
            // Nothing was requested yet.
            None => Err(ConnectionError::Stopped),
        }
    }
}

/// Reads the PROXY header at the start of a connection. Returns the source that it names, if there is one.
/// What follows it is put back.
async fn read_proxy_header(socket: &mut Socket) -> Result<Source, ConnectionError> {
    let mut start = Vec::with_capacity(PROXY_HEADER_BYTES_MAX);
    let (bytes, source) = loop {
        let is_ended = socket.receive(&mut start).await.map_err(ConnectionError::Receive)? == 0;
        match proxy_header(&start) {
            Preamble::Incomplete if is_ended => break (0, Source(None)),
            Preamble::Incomplete => {}
            Preamble::Absent => break (0, Source(None)),
            Preamble::Header { bytes, source } => break (bytes, source),
            Preamble::Malformed => return Err(ConnectionError::ProxyHeader),
        }
    };
    socket.put_back(Bytes::from(start).slice(bytes..));
    Ok(source)
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Receive(io::Error),
    #[error("the PROXY header is malformed")]
    ProxyHeader,
    #[error("neither a PROXY header nor a request arrived in time")]
    ProxyHeaderTimeout,
    #[error("its source has its share of the connections")]
    Share,
    #[error("the service is stopping")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axum::Extension;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::domain::network::Network;

    const LIMITS: Limits = Limits {
        connections_max: 64,
        source_connections_max: None,
        head_bytes_max: 16 << 10,
        bodies_bytes_max: None,
        header_timeout: Duration::from_mins(1),
        connection_life: Duration::from_mins(1),
        write_timeout: Duration::from_mins(1),
        cut_off_after: None,
    };

    /// A listener that answers each request with its source.
    async fn listen(trusted: &[&str], limits: Limits) -> std::net::SocketAddr {
        let networks: Vec<_> = trusted.iter().map(|text| Network::parse(text).unwrap()).collect();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let source = async |Extension(source): Extension<Source>| source.0.unwrap().to_string();
        tokio::spawn(serve(
            Listener::Tcp(tcp),
            Router::new().route("/", get(source)),
            limits,
            TrustedProxies::new(&networks),
            Arc::default(),
            TaskTracker::new(),
            CancellationToken::new(),
        ));
        address
    }

    /// Neither the listener nor a connection runs before the test waits for an answer.
    #[tokio::test]
    async fn connections_whose_request_has_arrived_are_served_however_many_come_at_once() {
        let address = listen(&[], Limits { connections_max: 4, ..LIMITS }).await;
        let connect = |_| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream.set_nonblocking(true).unwrap();
            TcpStream::from_std(stream).unwrap()
        };
        let connections: Vec<_> = (0..12).map(connect).collect();
        for mut connection in connections {
            let mut start = [0; 15];
            connection.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200 OK");
        }
    }

    #[tokio::test]
    async fn a_source_that_a_proxy_names_has_its_share_of_the_connections() {
        let address = listen(&["127.0.0.1"], Limits { source_connections_max: Some(1), ..LIMITS }).await;
        // The connections of the proxy itself are not limited.
        let _idle = [TcpStream::connect(address).await, TcpStream::connect(address).await];
        let mut held = TcpStream::connect(address).await.unwrap();
        held.write_all(b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut start = [0; 15];
        held.read_exact(&mut start).await.unwrap();
        for (source, expected) in [("192.0.2.9", ""), ("192.0.2.8", "192.0.2.8")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("PROXY TCP4 {source} 127.0.0.1 1 2\r\n").as_bytes()).await.unwrap();
            assert_eq!(answer(stream, "").await, expected);
        }
        assert_eq!(answer(TcpStream::connect(address).await.unwrap(), "").await, "127.0.0.1");
    }

    /// The body of the response, or the status if that is not 200; empty if the connection is closed without.
    async fn answer(mut stream: TcpStream, headers: &str) -> String {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => body.to_owned(),
            Some((head, _)) => head.get(9..12).unwrap_or_default().to_owned(),
            None => answer,
        }
    }

    #[tokio::test]
    async fn a_trusted_proxy_names_the_source_of_a_connection_or_of_a_request() {
        const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\x7f\0\0\x01\0\x01\0\x02";
        const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        const V1: &[u8] = b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n";
        let trusting = listen(&["127.0.0.1", "10.0.0.0/8"], LIMITS).await;
        let wary = listen(&["10.0.0.0/8"], LIMITS).await;
        let forwarded = "X-Forwarded-For: 1.1.1.1, 9.9.9.9, 10.0.0.1\r\n";
        for (start, headers, trusted, untrusted) in [
            (b"".as_slice(), "", "127.0.0.1", "127.0.0.1"),
            (b"", forwarded, "9.9.9.9", "127.0.0.1"),
            (V1, "", "192.0.2.9", "400"),
            // The header names an address that is not trusted.
            (V1, forwarded, "192.0.2.9", "400"),
            (V2, "", "192.0.2.9", "400"),
            (V2_LOCAL, "", "127.0.0.1", "400"),
            (V2_LOCAL, forwarded, "9.9.9.9", "400"),
            (b"PROXY TCP4 10.0.0.7 127.0.0.1 1 2\r\n", forwarded, "9.9.9.9", "400"),
            (b"PROXY TCP4 192.0.2.9\r\n", "", "", "400"),
        ] {
            for (address, expected) in [(trusting, trusted), (wary, untrusted)] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(start).await.unwrap();
                assert_eq!(answer(stream, headers).await, expected, "{} {headers}", start.escape_ascii());
            }
            let mut in_pieces = TcpStream::connect(trusting).await.unwrap();
            in_pieces.set_nodelay(true).unwrap();
            for byte in start {
                in_pieces.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(answer(in_pieces, headers).await, trusted, "{} in pieces", start.escape_ascii());
        }
    }
}
