//! The webhook against real receivers on loopback: what arrives, and what each answer means.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::clock::{ManualClock, SystemClock};
use crate::domain::time::Timestamp;
use crate::peers::peer;
use crate::sink::sample::entries;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const PREVIOUS: &str = "whsec_cHJldmlvdXMtcHJldmlvdXMtcHJldmlvdXMtcHJldmk=";
const WAIT_MAX: Duration = Duration::from_secs(20);

/// A request as it was received.
#[derive(Clone)]
struct Received {
    headers: HeaderMap,
    body: Bytes,
    from: SocketAddr,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn is_signed_with(&self, secret: &str) -> bool {
        let verifier = standardwebhooks::Webhook::new(secret).unwrap();
        verifier.verify(&self.body, &self.headers).is_ok()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A receiver that gives the prepared answers, and then 204.
#[derive(Clone, Default)]
struct Receiver {
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<Response>>>,
}

impl Receiver {
    async fn start() -> (Self, Url) {
        let receiver = Self::default();
        let router = axum::Router::new().fallback(Self::receive).with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks?token=CANARY", listener.local_addr().unwrap());
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        (receiver, url.parse().unwrap())
    }

    #[expect(clippy::unused_async, reason = "the shape axum wants")]
    async fn receive(
        State(receiver): State<Self>,
        ConnectInfo(from): ConnectInfo<SocketAddr>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response {
        receiver.received.lock().unwrap().push(Received { headers, body, from });
        let prepared = receiver.answers.lock().unwrap().pop_front();
        prepared.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
    }

    fn will_answer(&self, answer: impl IntoResponse) {
        self.answers.lock().unwrap().push_back(answer.into_response());
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

fn settings(url: Url) -> Settings {
    Settings {
        url: Address(url),
        key: SigningKey::parse(SECRET).unwrap(),
        previous_key: None,
        headers: HeaderMap::new(),
        batch: 1,
        timeout: Duration::from_secs(10),
        private_addresses: false,
        ca_file: None,
    }
}

fn webhook(settings: Settings) -> Webhook {
    Webhook::new(settings, Arc::new(SystemClock)).unwrap()
}

async fn deliver(sink: &mut Webhook, first: u64, last: u64) -> Result<(), DeliveryError> {
    tokio::time::timeout(WAIT_MAX, sink.deliver(&entries(first, last))).await.expect("a delivery has an end")
}

#[tokio::test]
async fn an_entry_arrives_as_its_json_signed_under_its_id() {
    let (receiver, url) = Receiver::start().await;
    let mut own = HeaderMap::new();
    own.insert("x-tenant", "brand".parse().unwrap());
    let mut sink = webhook(Settings { headers: own, ..settings(url) });
    deliver(&mut sink, 6, 7).await.unwrap();
    let requests = receiver.received();
    assert_eq!(requests.len(), 2);
    for (request, entry) in requests.iter().zip(entries(6, 7)) {
        assert!(request.is_signed_with(SECRET) && !request.is_signed_with(PREVIOUS));
        assert_eq!(request.header("webhook-id"), entry.id);
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("x-tenant"), "brand");
        assert_eq!(request.json(), serde_json::to_value(&entry).unwrap());
    }
    assert_eq!(requests[0].from, requests[1].from, "the connection is used again");
}

#[tokio::test]
async fn several_entries_arrive_as_a_list_under_an_id_of_its_own() {
    let (receiver, url) = Receiver::start().await;
    let mut sink = webhook(Settings { batch: 3, ..settings(url) });
    assert_eq!(sink.batch_max(), 3);
    deliver(&mut sink, 1, 3).await.unwrap();
    deliver(&mut sink, 4, 4).await.unwrap();
    deliver(&mut sink, 5, 4).await.unwrap();
    let requests = receiver.received();
    let ids: Vec<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids, [format!("{}_3", entries(3, 3)[0].id), format!("{}_1", entries(4, 4)[0].id)]);
    assert_eq!(requests[0].json(), json!({ "entries": entries(1, 3) }));
    assert_eq!(requests[1].json(), json!({ "entries": entries(4, 4) }));
    assert!(requests.iter().all(|request| request.is_signed_with(SECRET)));
}

#[tokio::test]
async fn the_timestamp_is_the_clocks() {
    let (receiver, url) = Receiver::start().await;
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_795_309_323_999)));
    let mut sink = Webhook::new(settings(url), clock).unwrap();
    deliver(&mut sink, 1, 1).await.unwrap();
    let request = &receiver.received()[0];
    assert_eq!(request.header("webhook-timestamp"), "1795309323");
    let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
    let expected = verifier.sign(request.header("webhook-id"), 1_795_309_323, &request.body).unwrap();
    assert_eq!(request.header("webhook-signature"), expected);
}

#[tokio::test]
async fn while_secrets_change_either_verifies_the_signature() {
    let (receiver, url) = Receiver::start().await;
    let previous_key = Some(SigningKey::parse(PREVIOUS).unwrap());
    deliver(&mut webhook(Settings { previous_key, ..settings(url) }), 1, 1).await.unwrap();
    let request = &receiver.received()[0];
    assert!(request.is_signed_with(SECRET) && request.is_signed_with(PREVIOUS));
    assert!(!request.is_signed_with("whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldCBlbnRpcmVseSE="));
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    let after = |secs| Retry::After(Duration::from_secs(secs));
    let waiting = |status, secs: &str| (status, [("retry-after", secs.to_owned())]).into_response();
    let cases = [
        (StatusCode::OK.into_response(), None),
        ((StatusCode::ACCEPTED, "queued").into_response(), None),
        (waiting(StatusCode::OK, "60"), None),
        (StatusCode::GONE.into_response(), Some(Retry::Never)),
        (waiting(StatusCode::GONE, "60"), Some(Retry::Never)),
        (waiting(StatusCode::TOO_MANY_REQUESTS, "60"), Some(after(60))),
        (waiting(StatusCode::SERVICE_UNAVAILABLE, "86400"), Some(after(3_600))),
        (waiting(StatusCode::INTERNAL_SERVER_ERROR, "2"), Some(after(2))),
        (waiting(StatusCode::SERVICE_UNAVAILABLE, "soon"), Some(Retry::Backoff)),
        (StatusCode::TOO_MANY_REQUESTS.into_response(), Some(Retry::Backoff)),
        (StatusCode::SERVICE_UNAVAILABLE.into_response(), Some(Retry::Backoff)),
        (StatusCode::BAD_REQUEST.into_response(), Some(Retry::Backoff)),
        (StatusCode::UNAUTHORIZED.into_response(), Some(Retry::Backoff)),
        (StatusCode::NOT_FOUND.into_response(), Some(Retry::Backoff)),
        (StatusCode::PAYLOAD_TOO_LARGE.into_response(), Some(Retry::Backoff)),
        (StatusCode::BAD_GATEWAY.into_response(), Some(Retry::Backoff)),
    ];
    let (receiver, url) = Receiver::start().await;
    let mut sink = webhook(settings(url));
    for (answer, expected) in cases {
        let status = answer.status();
        receiver.will_answer(answer);
        let error = deliver(&mut sink, 1, 1).await.err();
        assert_eq!(error.as_ref().map(|error| error.retry), expected, "{status}: {error:?}");
        if let Some(DeliveryError { reason, delivered, .. }) = error {
            assert!(reason.contains(status.as_str()) && !reason.contains("CANARY"), "{reason}");
            assert_eq!(delivered, 0);
        }
    }
}

#[tokio::test]
async fn entries_delivered_before_a_failure_are_counted_and_none_is_sent_after_it() {
    let (receiver, url) = Receiver::start().await;
    receiver.will_answer(StatusCode::OK);
    receiver.will_answer(StatusCode::OK);
    receiver.will_answer(StatusCode::IM_A_TEAPOT);
    let error = deliver(&mut webhook(settings(url)), 1, 9).await.unwrap_err();
    assert_eq!((error.delivered, receiver.received().len()), (2, 3));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (elsewhere, target) = Receiver::start().await;
    let (receiver, url) = Receiver::start().await;
    for status in
        [StatusCode::MOVED_PERMANENTLY, StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT]
    {
        receiver.will_answer((status, [("location", target.to_string())]));
        let error = deliver(&mut webhook(settings(url.clone())), 1, 1).await.unwrap_err();
        assert_eq!(error.retry, Retry::Backoff);
        assert!(error.reason.contains("redirect"), "{error}");
    }
    assert_eq!((receiver.received().len(), elsewhere.received().len()), (3, 0));
}

/// A receiver on TCP: it sends `answer`, and then bytes without end if `endless`, on each connection after
/// the first bytes of a request. Reports how many of those bytes it could send.
async fn raw(answer: Vec<u8>, endless: bool) -> (Url, tokio::sync::mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let (sender, sent) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.read(&mut [0; 16 << 10]).await;
            let mut count = 0;
            let _ = connection.write_all(&answer).await;
            while endless && connection.write_all(&[b'x'; 4 << 10]).await.is_ok() {
                count += 4 << 10;
            }
            let _ = connection.shutdown().await;
            let _ = sender.send(count).await;
        }
    });
    (url, sent)
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n".to_vec();
    let (url, mut sent) = raw(head, true).await;
    let mut sink = webhook(settings(url));
    deliver(&mut sink, 1, 1).await.unwrap();
    // The connection was closed, so the receiver could send no more than the buffers on the way hold.
    let bytes = tokio::time::timeout(WAIT_MAX, sent.recv()).await.expect("the connection is closed").unwrap();
    assert!(bytes < 64 << 20, "{bytes}");
}

#[tokio::test]
async fn an_answer_whose_body_stalls_is_judged_by_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let stalling = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        assert!(connection.read(&mut [0; 16 << 10]).await.unwrap() > 0);
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).await
    });
    deliver(&mut webhook(settings(url)), 1, 1).await.unwrap();
    tokio::time::timeout(WAIT_MAX, stalling).await.expect("the connection is closed").unwrap().unwrap();
}

#[tokio::test]
async fn a_missing_or_broken_answer_and_a_missing_receiver_are_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent: Url = format!("http://user:CANARY@{}/", listener.local_addr().unwrap()).parse().unwrap();
    let mut impatient = webhook(Settings { timeout: Duration::from_millis(200), ..settings(silent) });
    let error = deliver(&mut impatient, 1, 1).await.unwrap_err();
    assert_eq!(error.retry, Retry::Backoff);
    assert_eq!(error.reason, "the receiver did not answer in time");

    let (broken, _sent) = raw(b"HTTP/1.1 2".to_vec(), false).await;
    let error = deliver(&mut webhook(settings(broken)), 1, 1).await.unwrap_err();
    assert_eq!(error.retry, Retry::Backoff);
    assert!(error.reason.starts_with("the connection to the receiver broke"), "{error}");

    let nobody: Url = "http://user:CANARY@127.0.0.1:1/?token=CANARY".parse().unwrap();
    let error = deliver(&mut webhook(settings(nobody)), 1, 1).await.unwrap_err();
    assert_eq!(error.retry, Retry::Backoff);
    assert!(error.reason.starts_with("no connection to the receiver: "), "{error}");
    assert!(!error.reason.contains("CANARY"), "{error}");
}

/// A zone in which every name has the same addresses.
struct Zone(Vec<SocketAddr>);

impl Resolve for Zone {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses = self.0.clone();
        Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) })
    }
}

#[tokio::test]
async fn a_host_name_with_a_private_address_is_refused_unless_it_is_allowed() {
    let (receiver, url) = Receiver::start().await;
    let address = *url.socket_addrs(|| None).unwrap().first().unwrap();
    let named: Url = format!("http://crm.example.com:{}/", address.port()).parse().unwrap();
    let sink = |private_addresses| {
        let settings = Settings { private_addresses, ..settings(named.clone()) };
        Webhook::resolving(settings, Arc::new(SystemClock), Arc::new(Zone(vec![address]))).unwrap()
    };
    let error = deliver(&mut sink(false), 1, 1).await.unwrap_err();
    assert_eq!(error.retry, Retry::Backoff);
    assert!(error.reason.contains("private_addresses = true"), "{error}");
    assert_eq!(receiver.received().len(), 0);
    deliver(&mut sink(true), 1, 1).await.unwrap();
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(receiver.received()[0].header("host"), format!("crm.example.com:{}", address.port()));
}

#[tokio::test]
async fn without_tls_nothing_is_sent_to_a_public_address() {
    let (receiver, url) = Receiver::start().await;
    let port = url.port().unwrap();
    let public = SocketAddr::from(([1, 1, 1, 1], port));
    for host in ["crm.example.com", "1.1.1.1"] {
        let url = format!("http://{host}:{port}/").parse().unwrap();
        let settings = Settings { private_addresses: true, ..settings(url) };
        let names = Arc::new(Zone(vec![public]));
        let mut sink = Webhook::resolving(settings, Arc::new(SystemClock), names).unwrap();
        let error = deliver(&mut sink, 1, 1).await.unwrap_err();
        assert_eq!(error.retry, Retry::Backoff);
        assert!(error.reason.contains("write https:// in url"), "{host}: {error}");
    }
    // Of several addresses, the private ones are used.
    let url = format!("http://crm.example.com:{port}/").parse().unwrap();
    let settings = Settings { private_addresses: true, ..settings(url) };
    let names = Arc::new(Zone(vec![public, ([127, 0, 0, 1], port).into()]));
    let mut sink = Webhook::resolving(settings, Arc::new(SystemClock), names).unwrap();
    deliver(&mut sink, 1, 1).await.unwrap();
    assert_eq!(receiver.received().len(), 1);
}

/// A receiver behind TLS with a self-signed certificate.
async fn tls_receiver() -> (Url, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            if let Ok(mut connection) = acceptor.accept(connection).await {
                let _ = connection.read(&mut [0; 16 << 10]).await;
                let _ = connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                let _ = connection.shutdown().await;
            }
        }
    });
    (url.parse().unwrap(), made.cert.pem())
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_unless_it_is_in_the_ca_file() {
    let (url, pem) = tls_receiver().await;
    let error = deliver(&mut webhook(settings(url.clone())), 1, 1).await.unwrap_err();
    assert_eq!(error.retry, Retry::Backoff);
    assert!(error.reason.contains("certificate"), "{error}");

    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca_file.path(), pem).unwrap();
    let trusting = Settings { ca_file: Some(ca_file.path().to_owned()), ..settings(url.clone()) };
    deliver(&mut webhook(trusting), 1, 1).await.unwrap();

    std::fs::write(ca_file.path(), "no certificate").unwrap();
    let empty = Settings { ca_file: Some(ca_file.path().to_owned()), ..settings(url) };
    assert!(matches!(Webhook::new(empty, Arc::new(SystemClock)), Err(WebhookError::NoCertificate { .. })));
}

#[tokio::test]
async fn the_python_library_verifies_our_signature() {
    const SCRIPT: &str = "import base64, json, sys\n\
        from standardwebhooks.webhooks import Webhook, WebhookVerificationError\n\
        seen = json.load(sys.stdin)\n\
        body = base64.b64decode(seen['body'])\n\
        for secret in seen['secrets']:\n\
        \x20   Webhook(secret).verify(body, seen['headers'])\n\
        try:\n\
        \x20   Webhook(seen['secrets'][0]).verify(body + b' ', seen['headers'])\n\
        except WebhookVerificationError:\n\
        \x20   print('verified')\n";
    let Some(python) = peer("python/bin/python") else { return };
    let (receiver, url) = Receiver::start().await;
    let previous_key = Some(SigningKey::parse(PREVIOUS).unwrap());
    deliver(&mut webhook(Settings { previous_key, batch: 10, ..settings(url) }), 1, 9).await.unwrap();
    let request = &receiver.received()[0];
    let headers: HashMap<_, _> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &request.body);
    let seen = json!({ "headers": headers, "body": body, "secrets": [SECRET, PREVIOUS] }).to_string();

    let mut python = tokio::process::Command::new(python);
    python.args(["-c", SCRIPT]).kill_on_drop(true);
    python.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut python = python.spawn().unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(seen.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(WAIT_MAX, python.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "verified");
}
