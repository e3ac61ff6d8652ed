//! `unionlink demo`: plays a story with the service and the simulated platform, over real sockets, and
//! prints a summary.
//!
//! It checks its own result: the command fails if a link is missing or wrong, as the simulator knows the true
//! ones.
//!
//! | part | is |
//! | --- | --- |
//! | here | the command |
//! | `stage` | the simulated platform, the service, a client of its API |
//! | `replica` | a second replica, with a database |
//! | `story` | what happens, and the check of its result |
//! | `agency` | what happens besides with an agency-developed app (代开发) |
//! | `watcher` | a reader of the feed, for the latencies |
//! | `summary` | the result as text and as JSON |

mod agency;
mod replica;
mod stage;
mod story;
mod summary;
mod template;
mod watcher;

use std::process::ExitCode;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use self::stage::Stage;
use super::output::{print, say};
use crate::lifecycle;

#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Play it with an app that a service provider has developed (代开发)
    #[arg(long)]
    agency: bool,
    /// Play it with two replicas on this database, one of which is killed in the middle
    #[arg(long, value_name = "URL", conflicts_with = "agency")]
    postgres: Option<String>,
    /// Keep everything running afterwards, to explore it
    #[arg(long)]
    stay: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let stage = Box::pin(Stage::start(self.agency, self.postgres.as_deref())).await?;
        let summary = stage.play(started).await?;
        if self.json {
            print(&summary.json().to_string())?;
        } else {
            print(&summary.text())?;
        }
        if self.stay {
            let stop = CancellationToken::new();
            lifecycle::listen_for_signals(stop.clone(), stop.clone())?;
            lifecycle::survive_hangups(|| say("received SIGHUP; there is nothing to reload"))?;
            say(&format!(
                "\nstill running: admin API {}, simulated WeCom {}",
                stage.api,
                stage.wecom.base_url()
            ));
            say("until it ends, every process of this machine can use both, without a token");
            say("stop with Ctrl-C");
            stop.cancelled().await;
        }
        stage.stop().await?;
        Ok(ExitCode::SUCCESS)
    }
}
