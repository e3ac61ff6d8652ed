//! Polls the feed as a brand's own system would, and records when each link first appears.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often the feed is polled, which is also the measurement error.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// When each customer's link was first on the feed.
type Seen = BTreeMap<String, Instant>;

/// A task that polls the feed.
pub(super) struct Watcher {
    wanted: watch::Sender<usize>,
    reading: JoinHandle<anyhow::Result<Seen>>,
}

impl Watcher {
    pub(super) fn start(http: reqwest::Client, feed: String) -> Self {
        let (wanted, finish) = watch::channel(usize::MAX);
        Self { wanted, reading: tokio::spawn(read(http, feed, finish)) }
    }

    /// Polls until `links` links have appeared.
    pub(super) async fn finish(self, links: usize) -> anyhow::Result<Seen> {
        self.wanted.send_replace(links);
        tokio::time::timeout(Duration::from_secs(5), self.reading)
            .await
            .context("not every link appeared on the feed")??
    }
}

async fn read(http: reqwest::Client, feed: String, wanted: watch::Receiver<usize>) -> anyhow::Result<Seen> {
    let mut seen = Seen::new();
    let mut after = 0;
    while seen.len() < *wanted.borrow() {
        let page = http.get(format!("{feed}?after={after}&limit=1000")).send().await?.error_for_status()?;
        let page: Value = page.json().await?;
        let now = Instant::now();
        for entry in page["entries"].as_array().into_iter().flatten() {
            if let Some(id) = entry["data"]["external_userid"].as_str() {
                seen.entry(id.to_owned()).or_insert(now);
            }
        }
        after = page["next"].as_u64().context("a page of the feed has no next")?;
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(seen)
}
