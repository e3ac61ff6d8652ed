//! The NATS sink against a real server with JetStream, started and killed by the test.

mod tls;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, Stream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::*;
use crate::peers::peer;
use crate::sink::sample::entries;
use crate::telemetry::address::Address;

const SUBJECT: &str = "unionlink.links";
const WAIT_MAX: Duration = Duration::from_secs(30);

fn address(url: &str) -> Address {
    Address(url.parse().unwrap())
}

/// A port that stays free while its server is dead: below the range of ephemeral ports.
fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| first + TRIED.fetch_add(1, Ordering::Relaxed)).take(1_000).find(free).unwrap()
}

/// A server with a store of its own.
struct Server {
    program: PathBuf,
    process: Option<Child>,
    port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// `None` where NATS is not installed.
    async fn start(arguments: &[&str]) -> Option<Self> {
        let (program, port) = (peer("nats-server")?, free_port());
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self { program, process: None, port, folder, arguments };
        server.resume().await;
        Some(server)
    }

    /// Starts the server on its port and waits for its greeting.
    async fn resume(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(self.folder.path());
        command.args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(command.spawn().unwrap());
        let speaks = async {
            loop {
                let mut greeting = [0; 4];
                let connection = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await;
                if let Ok(mut connection) = connection
                    && tokio::io::AsyncReadExt::read_exact(&mut connection, &mut greeting).await.is_ok()
                {
                    assert_eq!(&greeting, b"INFO");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(WAIT_MAX, speaks).await.expect("the server starts");
    }

    /// SIGKILL.
    async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    fn url(&self) -> Address {
        address(&format!("nats://127.0.0.1:{}", self.port))
    }

    fn sink(&self) -> Nats {
        self.sink_as(Login::None)
    }

    fn sink_as(&self, login: Login) -> Nats {
        Nats::new(Settings { url: self.url(), subject: SUBJECT.to_owned(), login, ca_file: None })
    }

    async fn stream(&self) -> Stream {
        let context = jetstream::new(async_nats::connect(self.url().0.as_str()).await.unwrap());
        let subjects = vec![SUBJECT.to_owned()];
        let config = Config { name: "unionlink".to_owned(), subjects, ..Config::default() };
        context.get_or_create_stream(config).await.unwrap()
    }
}

/// The messages of a stream, in order: id and entry.
async fn messages(stream: &mut Stream) -> Vec<(String, Value)> {
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut messages = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        assert_eq!(message.subject.as_str(), SUBJECT);
        let id = message.headers.get(NATS_MESSAGE_ID).unwrap().as_str().to_owned();
        messages.push((id, serde_json::from_slice(&message.payload).unwrap()));
    }
    messages
}

fn expected(first: u64, last: u64) -> Vec<(String, Value)> {
    let pair = |entry: &FeedEntry| (entry.id.clone(), serde_json::to_value(entry).unwrap());
    entries(first, last).iter().map(pair).collect()
}

async fn deliver(sink: &mut Nats, first: u64, last: u64) -> Result<(), DeliveryError> {
    tokio::time::timeout(WAIT_MAX, sink.deliver(&entries(first, last))).await.expect("a delivery has an end")
}

/// Retries until everything is delivered, as the worker would.
async fn deliver_with_retries(sink: &mut Nats, mut first: u64, last: u64) {
    let delivered = async {
        while let Err(error) = sink.deliver(&entries(first, last)).await {
            assert_eq!(error.retry, Retry::Backoff);
            first += error.delivered as u64;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, delivered).await.expect("it works in the end");
}

#[tokio::test]
async fn entries_are_in_the_stream_in_order_and_repeated_ones_once() {
    let Some(server) = Server::start(&[]).await else { return };
    let mut stream = server.stream().await;
    let mut sink = server.sink();
    deliver(&mut sink, 1, 8).await.unwrap();
    // As after a crash between the acknowledgement and the advance of the cursor.
    deliver(&mut server.sink(), 5, 10).await.unwrap();
    deliver(&mut sink, 9, 12).await.unwrap();
    assert_eq!(messages(&mut stream).await, expected(1, 12));
}

#[tokio::test]
async fn a_missing_stream_is_reported_with_the_remedy_and_needs_no_restart() {
    let Some(server) = Server::start(&[]).await else { return };
    let mut sink = server.sink();
    let error = deliver(&mut sink, 1, 3).await.unwrap_err();
    assert_eq!((error.delivered, error.retry), (0, Retry::Backoff));
    assert!(error.reason.contains("nats stream add unionlink --subjects unionlink.links"), "{error}");
    let mut stream = server.stream().await;
    deliver(&mut sink, 1, 3).await.unwrap();
    assert_eq!(messages(&mut stream).await, expected(1, 3));
}

#[tokio::test]
async fn a_server_killed_between_and_during_deliveries_gets_every_entry_once_in_order() {
    let Some(mut server) = Server::start(&[]).await else { return };
    server.stream().await;
    let mut sink = server.sink();
    deliver(&mut sink, 1, 5).await.unwrap();
    server.kill().await;
    let error = deliver(&mut sink, 6, 9).await.unwrap_err();
    assert_eq!((error.delivered, error.retry), (0, Retry::Backoff));
    server.resume().await;
    deliver_with_retries(&mut sink, 6, 9).await;
    // Once more, during a delivery.
    let everything = entries(10, 265);
    let (delivered, ()) = tokio::join!(sink.deliver(&everything), async {
        tokio::task::yield_now().await;
        server.kill().await;
        server.resume().await;
    });
    let delivered = delivered.map_or_else(|error| error.delivered, |()| everything.len());
    deliver_with_retries(&mut sink, 10 + delivered as u64, 300).await;
    assert_eq!(messages(&mut server.stream().await).await, expected(1, 300));
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_found_later() {
    let Some(mut server) = Server::start(&[]).await else { return };
    server.stream().await;
    server.kill().await;
    let mut sink = server.sink();
    let error = deliver(&mut sink, 1, 1).await.unwrap_err();
    assert!(error.reason.starts_with("no connection to the NATS server"), "{error}");
    server.resume().await;
    deliver_with_retries(&mut sink, 1, 2).await;
    assert_eq!(messages(&mut server.stream().await).await, expected(1, 2));
}

#[tokio::test]
async fn a_login_is_used_and_a_wrong_one_is_reported_without_its_secret() {
    let Some(server) = Server::start(&["--auth", "CANARY-right"]).await else { return };
    for login in [Login::None, Login::Token("CANARY-wrong".into())] {
        let error = deliver(&mut server.sink_as(login), 1, 1).await.unwrap_err();
        assert!(error.reason.contains("refuses the login"), "{error}");
        assert!(!error.reason.contains("CANARY"), "{error}");
    }
    let error = deliver(&mut server.sink_as(Login::Token("CANARY-right".into())), 1, 1).await.unwrap_err();
    assert!(error.reason.contains("no stream"), "{error}");

    let Some(server) = Server::start(&["--user", "unionlink", "--pass", "CANARY"]).await else { return };
    let login = Login::Password { user: "unionlink".to_owned(), password: "CANARY".into() };
    let error = deliver(&mut server.sink_as(login), 1, 1).await.unwrap_err();
    assert!(error.reason.contains("no stream"), "{error}");
}

#[tokio::test]
async fn a_client_that_stopped_reconnecting_is_replaced() {
    let Some(mut server) = Server::start(&[]).await else { return };
    server.stream().await;
    let mut sink = Nats { reconnects_max: 2, ..server.sink() };
    deliver(&mut sink, 1, 1).await.unwrap();
    server.kill().await;
    let stopped = async {
        while !deliver(&mut sink, 2, 2).await.unwrap_err().reason.contains("for a while") {}
        assert!(sink.connection.is_none());
    };
    tokio::time::timeout(WAIT_MAX, stopped).await.expect("the client stops");
    server.resume().await;
    deliver_with_retries(&mut sink, 2, 2).await;
    assert_eq!(messages(&mut server.stream().await).await, expected(1, 2));
}

#[tokio::test]
async fn the_servers_own_error_is_reported() {
    let permissions = tempfile::NamedTempFile::new().unwrap();
    let text = "authorization { users = [{ user: u, password: p, permissions: { publish: \"other\" } }] }";
    std::fs::write(permissions.path(), text).unwrap();
    let Some(server) = Server::start(&["-c", permissions.path().to_str().unwrap()]).await else { return };
    let login = Login::Password { user: "u".to_owned(), password: "p".into() };
    let error = deliver(&mut server.sink_as(login), 1, 1).await.unwrap_err();
    assert!(error.reason.to_lowercase().contains("permissions violation"), "{error}");
}

#[tokio::test]
async fn a_server_behind_tls_is_trusted_if_its_certificate_is_in_the_ca_file() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let arguments = ["--tls", "--tlscert", cert.to_str().unwrap(), "--tlskey", key.to_str().unwrap()];
    let Some(server) = Server::start(&arguments).await else { return };
    for (ca_file, says) in [(None, "certificate"), (Some(cert.clone()), "no stream takes the subject")] {
        let url = address(&format!("tls://localhost:{}", server.port));
        let settings = Settings { url, subject: SUBJECT.to_owned(), login: Login::None, ca_file };
        let error = deliver(&mut Nats::new(settings), 1, 1).await.unwrap_err();
        assert!(error.reason.contains(says), "{error}");
    }
}

#[tokio::test]
async fn an_unusable_credentials_file_is_reported() {
    let login = Login::Credentials("/nonexistent/unionlink.creds".into());
    let url = address("nats://127.0.0.1:1");
    let settings = Settings { url, subject: SUBJECT.to_owned(), login, ca_file: None };
    let error = deliver(&mut Nats::new(settings), 1, 1).await.unwrap_err();
    assert!(error.reason.contains("credentials_file /nonexistent/unionlink.creds"), "{error}");
    assert!(!are_credentials("no credentials"));
}

/// A server that takes messages and never acknowledges any.
#[tokio::test(start_paused = true)]
async fn a_missing_acknowledgement_ends_the_wait() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = address(&format!("nats://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let mut connection = BufReader::new(connection);
        let info = br#"INFO {"server_id":"x","version":"2.9.0","headers":true,"max_payload":1048576}"#;
        connection.write_all(&[&info[..], b"\r\n"].concat()).await.unwrap();
        let mut line = String::new();
        while connection.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            if line.starts_with("PING") {
                connection.write_all(b"PONG\r\n").await.unwrap();
            }
            line.clear();
        }
    });
    let settings = Settings { url, subject: SUBJECT.to_owned(), login: Login::None, ca_file: None };
    let error = deliver(&mut Nats::new(settings), 1, 2).await.unwrap_err();
    assert_eq!((error.delivered, error.retry), (0, Retry::Backoff));
    assert!(error.reason.contains("did not acknowledge within 5 s"), "{error}");
}

#[test]
fn subjects_are_those_that_can_be_published_to() {
    for subject in ["unionlink.links", "a", "a.b-c_d.E1"] {
        assert!(is_subject(subject), "{subject}");
    }
    for subject in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "链接", "a\n"] {
        assert!(!is_subject(subject), "{subject}");
    }
}
