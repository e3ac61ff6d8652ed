//! A second replica of the demo, a process of its own, which works at first and is killed in the middle.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Time-out of its start.
const START_MAX: Duration = Duration::from_secs(20);

/// The replica.
pub(super) struct Replica {
    child: Child,
    /// Where it receives callbacks, without the path.
    pub(super) public: String,
    admin: String,
    http: reqwest::Client,
    /// What it counted until it was killed.
    counted: Value,
}

impl Replica {
    /// Starts it in this folder with the configuration that `config` makes of two addresses, and waits until it works.
    pub(super) async fn start(
        folder: &Path,
        http: reqwest::Client,
        config: impl Fn(&str, &str) -> String,
    ) -> anyhow::Result<Self> {
        let (public, admin) = (free_address()?, free_address()?);
        let file = folder.join("replica.toml");
        std::fs::write(&file, config(&public, &admin)).context("cannot write its configuration")?;
        let program = std::env::current_exe().context("this program has no path")?;
        let mut command = Command::new(program);
        command.args(["serve", "--config"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        // What it logs is not a part of the story.
        command.stderr(Stdio::null());
        let child = command.spawn().context("the second replica cannot be started")?;
        let url = |address: String| format!("http://{address}");
        let mut replica = Self { child, public: url(public), admin: url(admin), http, counted: Value::Null };
        let deadline = Instant::now() + START_MAX;
        while !replica.works().await {
            if let Some(status) = replica.child.try_wait()? {
                bail!(
                    "the second replica has ended: {status}\nhint: unionlink serve --config {}",
                    file.display()
                );
            }
            if Instant::now() > deadline {
                bail!("the second replica does not start");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(replica)
    }

    async fn status(&self) -> Option<Value> {
        self.http.get(format!("{}/v1/status", self.admin)).send().await.ok()?.json().await.ok()
    }

    /// Whether it holds the lease to work.
    async fn works(&self) -> bool {
        let status = self.status().await.unwrap_or_default();
        let mut all = status["replicas"].as_array().into_iter().flatten();
        let this = all.find(|replica| replica["this"] == true).unwrap_or(&Value::Null);
        this["holds"].as_array().is_some_and(|holds| holds.iter().any(|held| held == "work"))
    }

    /// Kills it, as a power cut would.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.counted = self.status().await.map_or(Value::Null, |status| status["callbacks"].clone());
        self.child.kill().context("the second replica cannot be killed")?;
        self.child.wait().context("the second replica does not end")?;
        Ok(())
    }

    /// Adds what it counted of callbacks to a status of the other replica.
    pub(super) fn add_counts(&self, status: &mut Value) {
        for (outcome, count) in self.counted.as_object().into_iter().flatten() {
            let sum = status["callbacks"][outcome].as_u64().zip(count.as_u64()).map(|(a, b)| a + b);
            if let Some(sum) = sum {
                status["callbacks"][outcome] = sum.into();
            }
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that is free at the moment.
fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
