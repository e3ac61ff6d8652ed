//! The sockets of the listeners: TCP, or a Unix socket for the admin API, and where a connection comes from.
//!
//! Deliberately absent: HTTP, and which connections are admitted.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A bound listener.
pub enum Listener {
    /// For addresses and ports.
    Tcp(TcpListener),
    /// For a path.
    Unix(BoundPath),
}

/// A listener at a path, which is deleted when the listener is dropped.
pub struct BoundPath {
    listener: UnixListener,
    path: PathBuf,
}

impl BoundPath {
    /// Listens at `path`, which only this process's user may connect to. A socket that a process left there
    /// when it was killed is replaced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if a process listens there, or there is something other than a socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        // Between the two steps the umask keeps others out.
        rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

/// Whether `path` is a socket that no process listens at.
fn is_abandoned(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let connected = || std::os::unix::net::UnixStream::connect(path);
    is_socket && connected().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// The next connection, and the address of its peer if it has one.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Source)> {
        let (kind, address) = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Responses are small; Nagle's algorithm would only delay them.
                let _ = stream.set_nodelay(true);
                (Kind::Tcp(stream), Some(peer.ip().to_canonical()))
            }
            Self::Unix(bound) => (Kind::Unix(bound.listener.accept().await?.0), None),
        };
        let stream = Arc::new(Stream { kind, has_sent: AtomicBool::new(false) });
        Ok((Socket { stream, unread: Bytes::new() }, Source(address)))
    }
}

/// Where a request comes from; `None` for a Unix socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Source(pub(super) Option<IpAddr>);

/// Calls a method of the stream inside.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Kind::Tcp($inner) => $call,
            Kind::Unix($inner) => $call,
        }
    };
}

/// The socket of a connection.
pub(super) struct Socket {
    stream: Arc<Stream>,
    /// What was received and is still to be read.
    unread: Bytes,
}

impl Socket {
    /// Receives some bytes into the spare capacity of `to`. Returns how many; none at the end.
    pub(super) async fn receive(&self, to: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            either!(&self.stream.kind, stream => stream.readable().await)?;
            match either!(&self.stream.kind, stream => stream.try_read_buf(to)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// What it has received.
    pub(super) fn input(&self) -> Arc<dyn Input> {
        self.stream.clone()
    }

    /// Has these bytes read before any that are received later.
    pub(super) fn put_back(&mut self, received: Bytes) {
        self.unread = received;
    }
}

/// What a connection has received.
pub(super) trait Input: Send + Sync {
    /// Whether bytes have arrived that we have not read yet.
    fn is_waiting(&self) -> bool;

    /// Whether we have read anything. A PROXY header does not count, which is not from the client.
    fn has_sent(&self) -> bool;
}

/// A stream that can be read and written without exclusive access.
struct Stream {
    kind: Kind,
    has_sent: AtomicBool,
}

enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Input for Stream {
    fn is_waiting(&self) -> bool {
        either!(&self.kind, stream => rustix::io::ioctl_fionread(stream)).is_ok_and(|bytes| bytes > 0)
    }

    fn has_sent(&self) -> bool {
        self.has_sent.load(Ordering::Relaxed)
    }
}

impl Stream {
    /// Tries `io` whenever the stream may be ready for it, until it would no longer block.
    fn poll_io<T>(
        cx: &mut Context<'_>,
        ready: impl Fn(&mut Context<'_>) -> Poll<io::Result<()>>,
        mut io: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(ready(cx))?;
            match io() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        Self::poll_io(cx, |cx| either!(&self.kind, stream => stream.poll_write_ready(cx)), write)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, unread } = self.get_mut();
        let before = buffer.filled().len();
        let read = if unread.is_empty() {
            let ready = |cx: &mut Context<'_>| either!(&stream.kind, stream => stream.poll_read_ready(cx));
            let read = || either!(&stream.kind, stream => stream.try_read_buf(buffer)).map(|_| ());
            Stream::poll_io(cx, ready, read)
        } else {
            let count = unread.len().min(buffer.remaining());
            buffer.put_slice(&unread.split_to(count));
            Poll::Ready(Ok(()))
        };
        if buffer.filled().len() > before && !stream.has_sent() {
            stream.has_sent.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = &*self.stream;
        stream.poll_write_with(cx, || either!(&stream.kind, stream => stream.try_write(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = &*self.stream;
        stream.poll_write_with(cx, || either!(&stream.kind, stream => stream.try_write_vectored(parts)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = either!(&self.stream.kind, stream => rustix::net::shutdown(stream, Shutdown::Write));
        Poll::Ready(match shut {
            // The peer has closed the connection already.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn both_kinds_carry_more_than_a_buffer_in_both_directions_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let long = vec![7; 4 << 20];
        for listener in [Listener::Tcp(tcp), Listener::Unix(BoundPath::bind(&path).unwrap())] {
            let is_unix = matches!(listener, Listener::Unix(_));
            let echo = async {
                let (mut socket, source) = listener.accept().await.unwrap();
                assert_eq!(source.0.is_none(), is_unix);
                let mut received = Vec::new();
                socket.read_to_end(&mut received).await.unwrap();
                socket.write_all(&received).await.unwrap();
                socket.shutdown().await.unwrap();
            };
            let peer = async {
                let mut received = Vec::new();
                if is_unix {
                    let mut peer = UnixStream::connect(&path).await.unwrap();
                    peer.write_all(&long).await.unwrap();
                    peer.shutdown().await.unwrap();
                    peer.read_to_end(&mut received).await.unwrap();
                } else {
                    let mut peer = TcpStream::connect(address).await.unwrap();
                    peer.write_all(&long).await.unwrap();
                    peer.shutdown().await.unwrap();
                    peer.read_to_end(&mut received).await.unwrap();
                }
                received
            };
            let ((), received) = tokio::join!(echo, peer);
            assert!(received == long);
        }
    }

    #[tokio::test]
    async fn what_was_put_back_is_read_first_and_input_is_seen_before_it_is_read() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
        let (mut socket, _) = Listener::Tcp(tcp).accept().await.unwrap();
        peer.write_all(b"header, request").await.unwrap();
        let mut received = Vec::with_capacity(8);
        while received.len() < received.capacity() {
            assert_ne!(socket.receive(&mut received).await.unwrap(), 0);
        }
        assert_eq!(received, b"header, ");
        let input = socket.input();
        peer.write_all(b" and more").await.unwrap();
        while !input.is_waiting() {
            tokio::task::yield_now().await;
        }
        assert!(!input.has_sent(), "a PROXY header is not from the client");
        socket.put_back(Bytes::from(received).slice(3..));
        peer.shutdown().await.unwrap();
        drop(peer);
        let mut start = [0; 2];
        socket.read_exact(&mut start).await.unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&start, rest.as_slice()), (b"de", b"r, request and more".as_slice()));
        assert!(input.has_sent() && !input.is_waiting());
        assert_eq!(socket.receive(&mut rest).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_abandoned_socket_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let in_use = |path: &Path| BoundPath::bind(path).err().map(|error| error.kind());
        let bound = BoundPath::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(in_use(&path), Some(io::ErrorKind::AddrInUse));
        drop(bound);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file");
        drop(BoundPath::bind(&path).unwrap());
        std::fs::write(&path, "a file").unwrap();
        assert_eq!(in_use(&path), Some(io::ErrorKind::AddrInUse));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }
}
