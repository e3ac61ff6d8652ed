//! `unionlink links export`: every link, as the running service streams them.
//!
//! Memory does not depend on how many there are: what arrives is written, and forgotten.

mod target;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use indicatif::HumanCount;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use self::target::Target;
use super::admin::{self, AdminApi, ToService};
use super::instant::instant;
use super::output::Output;
use super::show::Show;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::lifecycle;

/// How long the service may be silent in the middle of a transfer: it may look through millions of customers before it
/// finds a link that a filter wants.
const SILENCE_MAX: Duration = Duration::from_mins(10);

#[derive(Debug, clap::Args)]
pub(super) struct Links {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write all links as NDJSON or CSV
    Export(Export),
}

const AFTER_HELP: &str = "\
Times are RFC 3339, or a date or a date and time, which are China time (UTC+8): 2026-11-22 is 2026-11-21T16:00:00Z.

The export is the state at one moment. At the end it says how many rows there were, and after which sequence number
the feed (/v1/links/feed) goes on from there. Exit status 1 means that it is not complete; FILE is not there then.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct Export {
    /// The format [default: ndjson]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// CSV that Excel opens as it is: begins with a byte order mark
    #[arg(long)]
    excel: bool,
    /// Only links made at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only links made before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Only links with customers of this dealer
    #[arg(long, value_name = "ID", value_parser = |id: &str| CorpId::new(id))]
    corp_id: Option<CorpId>,
    /// Only links of this app
    #[arg(long, value_name = "NAME", value_parser = |name: &str| AppName::new(name))]
    app: Option<AppName>,
    /// Write to this file, which appears when it is complete, instead of to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    service: ToService,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Ndjson,
    Csv,
}

fn time(text: &str) -> Result<Timestamp, String> {
    instant(text.trim()).ok_or_else(|| "write it like 2026-11-22 or 2026-11-22T08:30:00+08:00".to_owned())
}

impl Links {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Command::Export(export) = &self.command;
        let (api, mut out) = (export.service.api()?, Output::of_process());
        if export.output.is_none() {
            return self.ask(&api, &mut out).await;
        }
        // Whoever interrupts it finds no half a file.
        let stop = CancellationToken::new();
        lifecycle::listen_for_signals(stop.clone(), CancellationToken::new())?;
        tokio::select! {
            done = self.ask(&api, &mut out) => done,
            () = stop.cancelled() => bail!("interrupted; nothing was kept"),
        }
    }

    pub(super) async fn ask(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let Command::Export(export) = &self.command;
        if export.excel && export.format == Some(Format::Ndjson) {
            out.say("error: --excel is CSV, and --format says ndjson");
            return Ok(ExitCode::from(2));
        }
        export.transfer(api, out).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Export {
    fn is_csv(&self) -> bool {
        self.excel || self.format == Some(Format::Csv)
    }

    async fn transfer(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<()> {
        let started = Instant::now();
        // What cannot be written is noticed before anything is asked for.
        let mut target = Target::open(self.output.as_deref())?;
        let mut response = self.begin(api).await?;
        let header = response.headers();
        let (Some(links), Some(feed)) =
            (number(header, "x-unionlink-links"), number(header, "x-unionlink-feed"))
        else {
            return Err(api.stranger(response.status()));
        };
        let show = self.show(links);
        let mut rows = Rows::new(self.is_csv());
        let ended = loop {
            match next(&mut response).await {
                Ok(Some(chunk)) => {
                    rows.see(&chunk);
                    if let Err(error) = target.write(&chunk, out) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(what) => break Err(self.broken_off(&rows, &what)),
            }
            if let Some(show) = &show {
                show.advance(rows.count(), rows.count());
            }
        };
        if let Some(show) = &show {
            show.finish();
        }
        ended?;
        target.complete(out)?;
        out.say(&format!(
            "{} rows in {:.1} s; the feed goes on after {feed}",
            HumanCount(rows.count()),
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn begin(&self, api: &AdminApi) -> anyhow::Result<Response> {
        let [since, until] = [self.since, self.until].map(|time| time.map(|time| time.to_string()));
        let url = api.address(
            &["v1", "links", "export"],
            &[
                ("format", Some(if self.is_csv() { "csv" } else { "ndjson" })),
                ("bom", self.excel.then_some("true")),
                ("since", since.as_deref()),
                ("until", until.as_deref()),
                ("corp_id", self.corp_id.as_ref().map(CorpId::as_str)),
                ("app", self.app.as_ref().map(AppName::as_str)),
            ],
        );
        let request = api.request(Method::GET, url).send();
        let response = match tokio::time::timeout(admin::LONG_TIMEOUT, request).await {
            Ok(response) => response.map_err(|error| api.unreachable(&error))?,
            Err(_) => bail!("{} did not begin to answer in time\nhint: try again", api.base_url),
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            status => {
                let body = admin::read(response).await.map_err(|error| api.unreachable(&error))?;
                Err(api.refusal(status, &body))
            }
        }
    }

    /// Progress, unless it would run into the data.
    fn show(&self, links: u64) -> Option<Show> {
        if self.output.is_none() && std::io::stdout().is_terminal() {
            return None;
        }
        // With filters there is no telling how many of the links are meant.
        let filtered =
            self.since.is_some() || self.until.is_some() || self.corp_id.is_some() || self.app.is_some();
        Some(Show::new(std::io::stderr().is_terminal(), (!filtered).then_some(links), 0))
    }

    fn broken_off(&self, rows: &Rows, what: &str) -> anyhow::Error {
        let left = match &self.output {
            Some(path) => format!("nothing was kept in {}", path.display()),
            None => "what was written is not complete".to_owned(),
        };
        anyhow::anyhow!(
            "the export broke off after {} rows: {what}\nhint: run it again; {left}",
            HumanCount(rows.count())
        )
    }
}

/// The next piece of the body, none at its end, or why it broke off.
async fn next(response: &mut Response) -> Result<Option<axum::body::Bytes>, String> {
    match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| admin::what_failed(&error)),
        Err(_) => Err(format!("nothing came for {} s", SILENCE_MAX.as_secs())),
    }
}

fn number(header: &HeaderMap, name: &str) -> Option<u64> {
    header.get(name)?.to_str().ok()?.parse().ok()
}

/// Counts rows as they pass.
struct Rows {
    /// Line ends within quotes end no row, and the first line is the header.
    csv: bool,
    quoted: bool,
    lines: u64,
}

impl Rows {
    const fn new(csv: bool) -> Self {
        Self { csv, quoted: false, lines: 0 }
    }

    fn see(&mut self, chunk: &[u8]) {
        for byte in chunk {
            match byte {
                b'"' if self.csv => self.quoted = !self.quoted,
                b'\n' if !self.quoted => self.lines += 1,
                _ => {}
            }
        }
    }

    const fn count(&self) -> u64 {
        if self.csv { self.lines.saturating_sub(1) } else { self.lines }
    }
}
