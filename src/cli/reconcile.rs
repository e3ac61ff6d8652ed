//! `unionlink reconcile`: has the running service compare dealers' customers with WeCom's lists, and shows
//! the progress until the end.
//!
//! Deliberately absent: a way to stop the comparison. It goes on in the service when this command is
//! interrupted.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::HumanCount;
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::admin::{AdminApi, ServiceArgs, TIMEOUT};
use super::output::{Output, counted};
use super::progress_display::ProgressDisplay;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{SECOND_MS, Timestamp};
use crate::lifecycle;

/// The wait before the service is first asked how far it is; doubled up to [`ASK_EVERY_MAX`].
const ASK_EVERY_FIRST: Duration = Duration::from_millis(50);
const ASK_EVERY_MAX: Duration = Duration::from_secs(1);
/// How long the service may not answer: it may be restarting, and the comparison then goes on.
const SILENCE_MAX: Duration = Duration::from_mins(1);

const AFTER_HELP: &str = "\
The service compares each dealer's customers every reconcile_hours by itself. This command asks for it now and
shows the progress until the end. It may be interrupted: the comparison goes on in the service, also after a
restart, and GET /v1/reconcile shows how far it is. If a comparison is under way, the dealers are added to it.

A dealer whose lists cannot be read now counts as done. GET /v1/dealers shows its trouble, and when each
dealer was last compared completely.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Reconcile {
    /// Only the dealers of this app
    #[arg(long, value_name = "NAME", value_parser = |name: &str| AppName::new(name))]
    app: Option<AppName>,
    /// Only the dealer with this corp id
    #[arg(long, value_name = "ID", value_parser = |id: &str| CorpId::new(id))]
    corp_id: Option<CorpId>,
    #[command(flatten)]
    service: ServiceArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A comparison, as the service shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Run {
    running: bool,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    dealers_total: u64,
    dealers_done: u64,
    customers_seen: u64,
    customers_new: u64,
    links_made: u64,
}

impl Reconcile {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let (api, stop) = (self.service.api()?, CancellationToken::new());
        lifecycle::listen_for_signals(stop.clone(), CancellationToken::new())?;
        self.run_with(&api, &mut Output::of_process(), &stop).await
    }

    pub(super) async fn run_with(
        &self,
        api: &AdminApi,
        out: &mut Output,
        stop: &CancellationToken,
    ) -> anyhow::Result<ExitCode> {
        let Some(begun) = stop.run_until_cancelled(self.begin(api)).await else {
            bail!("interrupted before the service answered\nhint: see GET /v1/reconcile");
        };
        let begun = begun?;
        let display = ProgressDisplay::new(std::io::stderr().is_terminal(), Some(begun.dealers_total), 0);
        let ended = stop.run_until_cancelled(watch(api, &display, begun)).await;
        display.finish();
        let Some(ended) = ended else {
            bail!("interrupted; the comparison goes on in the service\nhint: see GET /v1/reconcile");
        };
        let run = ended?;
        if self.json {
            out.print(&serde_json::to_string(&run)?)?;
        } else {
            out.print(&run.summary())?;
        }
        if run.dealers_total == 0 {
            out.say("no dealer shares the app, as far as is known; see GET /v1/dealers");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Has the service begin the comparison.
    async fn begin(&self, api: &AdminApi) -> anyhow::Result<Run> {
        let which = json!({"app": self.app, "corp_id": self.corp_id});
        let answer = api.send(api.request(Method::POST, url(api)).timeout(TIMEOUT).json(&which)).await?;
        match answer.status {
            StatusCode::ACCEPTED => api.parsed(&answer.body),
            status => Err(api.refusal(status, &answer.body)),
        }
    }
}

fn url(api: &AdminApi) -> Url {
    api.url(&["v1", "reconcile"], &[])
}

/// Shows the progress of a comparison until it has ended. Returns its final state.
async fn watch(api: &AdminApi, display: &ProgressDisplay, mut run: Run) -> anyhow::Result<Run> {
    let (mut wait, mut answered_at) = (ASK_EVERY_FIRST, Instant::now());
    while run.running {
        display.advance_to(run.dealers_done, run.dealers_total, &run.progress());
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ASK_EVERY_MAX);
        match ask(api).await {
            // It has ended, and the next one has begun.
            Ok(next) if next.started_at != run.started_at => run.running = false,
            Ok(same) => (run, answered_at) = (same, Instant::now()),
            Err(_) if answered_at.elapsed() < SILENCE_MAX => {}
            Err(error) => return Err(error),
        }
    }
    Ok(run)
}

async fn ask(api: &AdminApi) -> anyhow::Result<Run> {
    api.parsed(&api.get(url(api)).await?)
}

impl Run {
    /// `3/40 dealers · 12,000 customers seen · 12 new · 10 linked`
    fn progress(&self) -> String {
        let Self { dealers_total, dealers_done, .. } = self;
        let customers = self.customers().join(" · ");
        format!("{}/{} dealers · {customers}", HumanCount(*dealers_done), HumanCount(*dealers_total))
    }

    /// `40 dealers compared in 12.3 s: 12,000 customers seen, 12 new, 10 linked`
    fn summary(&self) -> String {
        let dealers = counted(self.dealers_done, ["dealer", "dealers"]);
        let took = self.finished_at.zip(self.started_at).map(|(finished_at, started_at)| {
            let took_ms = finished_at.millis_since(started_at).max(0);
            format!(" in {}.{} s", took_ms / SECOND_MS, took_ms % SECOND_MS / 100)
        });
        format!("{dealers} compared{}: {}", took.unwrap_or_default(), self.customers().join(", "))
    }

    fn customers(&self) -> [String; 3] {
        [
            format!("{} seen", counted(self.customers_seen, ["customer", "customers"])),
            format!("{} new", HumanCount(self.customers_new)),
            format!("{} linked", HumanCount(self.links_made)),
        ]
    }
}
