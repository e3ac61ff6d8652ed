//! TLS of the NATS sink, against servers that behave as their scripts say.

use std::sync::Arc;

use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::*;

/// What a scripted server does with its connections.
#[derive(Clone, Copy)]
enum Script {
    /// Knows no TLS.
    Plaintext,
    /// Greets, then expects TLS.
    GreetsFirst,
    /// The same; it closes its first session once the client has logged in, and every later connection at
    /// once.
    GreetsFirstAndDies,
    /// Waits for TLS before it greets.
    TlsFirst,
}

/// What a scripted server has seen.
#[derive(Default)]
struct Seen {
    connections: usize,
    /// The bytes received outside of TLS handshakes.
    received: Vec<u8>,
}

impl Seen {
    fn received(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.received).contains(text)
    }
}

struct Scripted {
    port: u16,
    seen: watch::Receiver<Seen>,
}

impl Scripted {
    /// A server whose greeting announces `others` as members of its cluster.
    async fn start(script: Script, identity: &Identity, others: &[&Self]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let announced: Vec<_> = others.iter().map(|other| format!("127.0.0.1:{}", other.port)).collect();
        let info = serde_json::json!({
            "server_id": "x", "version": "2.9.0", "headers": true, "max_payload": 1_048_576,
            "tls_required": !matches!(script, Script::Plaintext), "connect_urls": announced,
        });
        let (greeting, acceptor) = (format!("INFO {info}\r\n"), identity.acceptor.clone());
        let (sender, seen) = watch::channel(Seen::default());
        tokio::spawn(async move {
            let mut dead = false;
            while let Ok((connection, _)) = listener.accept().await {
                sender.send_modify(|seen| seen.connections += 1);
                if !dead {
                    let logged_in = session(script, connection, &greeting, &acceptor, &sender).await;
                    dead = logged_in && matches!(script, Script::GreetsFirstAndDies);
                }
            }
        });
        Self { port, seen }
    }

    async fn until(&self, holds: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        tokio::time::timeout(WAIT_MAX, seen.wait_for(holds)).await.expect("it happens in time").unwrap();
    }
}

/// One connection, to its end. Returns whether the client has logged in.
async fn session(
    script: Script,
    mut connection: TcpStream,
    greeting: &str,
    acceptor: &TlsAcceptor,
    seen: &watch::Sender<Seen>,
) -> bool {
    match script {
        Script::Plaintext => converse(connection, greeting, false, seen).await,
        Script::TlsFirst => match acceptor.accept(connection).await {
            Ok(protected) => converse(protected, greeting, false, seen).await,
            Err(_) => false,
        },
        Script::GreetsFirst | Script::GreetsFirstAndDies => {
            let _ = connection.write_all(greeting.as_bytes()).await;
            let dies = matches!(script, Script::GreetsFirstAndDies);
            match acceptor.accept(connection).await {
                Ok(protected) => converse(protected, "", dies, seen).await,
                Err(_) => false,
            }
        }
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    greeting: &str,
    dies: bool,
    seen: &watch::Sender<Seen>,
) -> bool {
    let _ = stream.write_all(greeting.as_bytes()).await;
    let (mut received, mut buffer, mut logged_in) = (Vec::new(), [0; 4 << 10], false);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        received.extend_from_slice(&buffer[..read]);
        seen.send_modify(|seen| seen.received.extend_from_slice(&buffer[..read]));
        if received.first() == Some(&0x16) {
            // A TLS handshake, which this server takes for a command.
            let _ = stream.write_all(b"-ERR 'Unknown Protocol Operation'\r\n").await;
        } else if received.ends_with(b"PING\r\n") {
            let _ = stream.write_all(b"PONG\r\n").await;
            logged_in = true;
            if dies {
                break;
            }
        }
    }
    logged_in
}

/// A certificate for 127.0.0.1.
struct Identity {
    acceptor: TlsAcceptor,
    ca_file: NamedTempFile,
}

impl Identity {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let ca_file = NamedTempFile::new().unwrap();
        std::fs::write(ca_file.path(), made.cert.pem()).unwrap();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca_file }
    }

    /// A sink that trusts this certificate and logs in with a token.
    fn sink(&self, scheme: &str, server: &Scripted) -> Nats {
        Nats::new(Settings {
            url: address(&format!("{scheme}://127.0.0.1:{}", server.port)),
            subject: SUBJECT.to_owned(),
            login: Login::Token("CANARY".into()),
            ca_file: Some(self.ca_file.path().to_owned()),
        })
    }
}

#[tokio::test]
async fn a_server_that_a_greeting_announces_is_never_connected_to() {
    let identity = Identity::new();
    let stranger = Scripted::start(Script::Plaintext, &identity, &[]).await;
    let server = Scripted::start(Script::GreetsFirstAndDies, &identity, &[&stranger]).await;
    let mut sink = identity.sink("tls", &server);
    // Every reconnect fails, so a client that knew another server would soon try that.
    let (delivered, ()) = tokio::join!(deliver(&mut sink, 1, 1), server.until(|seen| seen.connections >= 8));
    assert!(delivered.is_err() && server.seen.borrow().received("CANARY"));
    assert_eq!(stranger.seen.borrow().connections, 0);
}

#[tokio::test]
async fn with_tls_or_ca_file_nothing_is_sent_to_a_server_without_tls() {
    let identity = Identity::new();
    for scheme in ["tls", "nats"] {
        let server = Scripted::start(Script::Plaintext, &identity, &[]).await;
        let error = deliver(&mut identity.sink(scheme, &server), 1, 1).await.unwrap_err();
        assert!(error.reason.contains("offers no TLS"), "{scheme}: {error}");
        let seen = server.seen.borrow();
        assert!(seen.connections > 0 && !seen.received("CONNECT") && !seen.received("CANARY"), "{scheme}");
    }
}

#[tokio::test]
async fn without_tls_nothing_is_sent_to_a_public_address() {
    let identity = Identity::new();
    for (script, reason) in
        [(Script::Plaintext, "offers no TLS"), (Script::GreetsFirst, "invalid peer certificate")]
    {
        let server = Scripted::start(script, &identity, &[]).await;
        let mut sink = identity.sink("nats", &server);
        sink.settings.ca_file = None;
        sink.is_private = |_| false;
        let error = deliver(&mut sink, 1, 1).await.unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
        let seen = server.seen.borrow();
        assert!(seen.connections == 1 && !seen.received("CONNECT") && !seen.received("CANARY"), "{reason}");
    }
}

#[tokio::test]
async fn the_certificate_of_a_private_server_that_requires_tls_may_be_for_its_name() {
    let identity = Identity::new();
    let server = Scripted::start(Script::GreetsFirst, &identity, &[]).await;
    let mut sink = identity.sink("nats", &server);
    sink.settings.ca_file = None;
    let error = deliver(&mut sink, 1, 1).await.unwrap_err();
    assert!(error.reason.contains("invalid peer certificate"), "{error}");
    // By address, then by name.
    assert_eq!(server.seen.borrow().connections, 2);
}

#[tokio::test]
async fn tls_is_spoken_before_or_after_the_greeting_as_the_server_wants_it() {
    let identity = Identity::new();
    for script in [Script::TlsFirst, Script::GreetsFirst] {
        let server = Scripted::start(script, &identity, &[]).await;
        let mut sink = identity.sink("tls", &server);
        tokio::select! {
            // It never acknowledges an entry.
            ended = deliver(&mut sink, 1, 1) => panic!("{ended:?}"),
            () = server.until(|seen| seen.received(&format!("HPUB {SUBJECT} "))) => {}
        }
    }
}
