//! Real receivers behind sinks: an HTTP server, a NATS server, a folder. Each keeps what it receives, for
//! comparison with the feed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::harness::PATIENCE;
use crate::peers::peer;

/// A Standard Webhooks secret: `whsec_` and 24 bytes in base64.
pub const SECRET: &str = "whsec_dW5pb25saW5rLWludmVudGVkLXNlY3JldC0x";

/// An HTTP server for webhooks.
#[derive(Clone)]
pub struct Webhook {
    pub url: String,
    received: Arc<Mutex<Vec<Value>>>,
    status: Arc<AtomicU16>,
}

impl Webhook {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let webhook = Self { url, received: Arc::default(), status: Arc::new(AtomicU16::new(200)) };
        let router = Router::new().route("/hooks", post(receive)).with_state(webhook.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        webhook
    }

    /// Sets the status that requests are answered with from now on.
    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }
}

async fn receive(State(webhook): State<Webhook>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let status = StatusCode::from_u16(webhook.status.load(Ordering::SeqCst)).unwrap();
    if status.is_success() {
        let entry: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(headers["webhook-id"], entry["id"].as_str().unwrap());
        assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
        webhook.received.lock().unwrap().push(entry);
    }
    status
}

/// A NATS server with a stream for links.
pub struct Nats {
    pub url: String,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Nats {
    /// `None` where NATS is not installed.
    pub async fn start() -> Option<Self> {
        let server = peer("nats-server")?;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(server);
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let nats = Self {
            url: format!("nats://127.0.0.1:{port}"),
            _process: command.spawn().unwrap(),
            _folder: folder,
        };
        let ready = async {
            while nats.stream().await.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("the NATS server starts");
        Some(nats)
    }

    async fn stream(&self) -> Option<jetstream::stream::Stream> {
        let context = jetstream::new(async_nats::connect(&self.url).await.ok()?);
        let subjects = vec!["unionlink.links".to_owned()];
        let config = jetstream::stream::Config { name: "links".to_owned(), subjects, ..Default::default() };
        context.get_or_create_stream(config).await.ok()
    }

    pub async fn received(&self) -> Vec<Value> {
        let mut stream = self.stream().await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut received = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            received.push(serde_json::from_slice(&message.payload).unwrap());
        }
        received
    }
}

/// The entries a file sink wrote.
pub fn lines_in(folder: &Path) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
    texts
        .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
        .collect()
}

// Configuration sections of the sinks.

pub fn webhook(name: &str, url: &str) -> String {
    format!(
        "[[sinks]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"{url}\"\nsecret = {{ value = \"{SECRET}\" }}\n"
    )
}

pub fn file(folder: &Path) -> String {
    format!("[[sinks]]\nname = \"archive\"\nkind = \"file\"\npath = {:?}\n", folder.display().to_string())
}

pub fn nats(url: &str) -> String {
    format!("[[sinks]]\nname = \"bus\"\nkind = \"nats\"\nurl = \"{url}\"\n")
}

/// Asserts that every entry of the feed arrived in order, and repeats with the same id and content only.
pub fn check_received(name: &str, received: &[Value], feed: &[Value]) {
    let plain = |entry: &Value| {
        let mut entry = entry.clone();
        // Reported only while it is valid; and the name once the list of dealers has been read.
        for key in ["welcome_code", "corp_name"] {
            entry["data"][key] = Value::Null;
        }
        entry
    };
    let wanted: BTreeMap<u64, Value> =
        feed.iter().map(|entry| (entry["seq"].as_u64().unwrap(), plain(entry))).collect();
    let (mut newest, mut seen) = (0, BTreeSet::new());
    for entry in received {
        let seq = entry["seq"].as_u64().unwrap();
        assert!(seq <= newest + 1, "{name}: {seq} came after {newest}");
        newest = newest.max(seq);
        assert_eq!(Some(&plain(entry)), wanted.get(&seq), "{name}");
        seen.insert(entry["id"].as_str().unwrap().to_owned());
    }
    assert_eq!((newest, seen.len()), (feed.len() as u64, feed.len()), "{name}: entries are missing");
}
