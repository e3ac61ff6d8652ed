//! `unionlink links export`: copies the link export of the running service to standard output or a file.
//!
//! Each chunk is written as it arrives, so memory does not depend on the number of links.

mod target;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use self::target::Target;
use super::admin::{self, AdminApi, ServiceArgs};
use super::output::{Output, counted};
use super::progress_display::ProgressDisplay;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::instant::{INSTANT_FORMS, instant};
use crate::domain::time::Timestamp;
use crate::lifecycle;

/// The longest pause between two chunks: with a filter, the service may read millions of links before one
/// passes.
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
A time is RFC 3339, Unix seconds, or a date with or without a time of day in China time (UTC+8). A date means
its first instant: --since 2026-11-01 --until 2026-12-01 is all of November.

At the end, the command prints the number of rows and the sequence number after which the feed
(/v1/links/feed) continues. Links that are made or changed during the export may or may not be in it; they are
all in the feed after that number. Exit status 1 means that the export is incomplete and FILE was not
created.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct Export {
    /// The format [default: ndjson]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write CSV for Excel: with a byte order mark, and times in China time
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
    /// Write to this file instead of standard output; it is created once complete
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Ndjson,
    Csv,
}

fn time(text: &str) -> Result<Timestamp, String> {
    instant(text.trim()).ok_or_else(|| INSTANT_FORMS.to_owned())
}

impl Links {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Command::Export(export) = &self.command;
        let (api, mut out) = (export.service.api()?, Output::of_process());
        if export.output.is_none() {
            return self.run_with(&api, &mut out).await;
        }
        // An interrupted export leaves no partial file: dropping the target deletes it.
        let stop = CancellationToken::new();
        lifecycle::listen_for_signals(stop.clone(), CancellationToken::new())?;
        tokio::select! {
            done = self.run_with(&api, &mut out) => done,
            () = stop.cancelled() => bail!("interrupted; nothing was written"),
        }
    }

    pub(super) async fn run_with(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let Command::Export(export) = &self.command;
        if export.excel && export.format == Some(Format::Ndjson) {
            out.say("error: --excel is CSV and cannot be combined with --format ndjson");
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
        // Opened first, so that a file that cannot be written fails before the request.
        let mut target = Target::open(self.output.as_deref())?;
        let mut response = self.begin(api).await?;
        let headers = response.headers();
        let (Some(links), Some(feed)) =
            (number(headers, "x-unionlink-links"), number(headers, "x-unionlink-feed"))
        else {
            return Err(api.unexpected_answer(response.status()));
        };
        let display = self.progress(links);
        let mut rows = Rows { csv: self.is_csv(), quoted: false, lines: 0 };
        let ended = loop {
            match next(&mut response).await {
                Ok(Some(chunk)) => {
                    rows.add(&chunk);
                    if let Err(error) = target.write(&chunk, out) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(reason) => break Err(self.failed(&rows, &reason)),
            }
            if let Some(display) = &display {
                display.advance(rows.count(), rows.count());
            }
        };
        if let Some(display) = &display {
            display.finish();
        }
        ended?;
        target.complete(out)?;
        out.say(&format!(
            "{} in {:.1} s; the feed continues after {feed}",
            counted(rows.count(), ["row", "rows"]),
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn begin(&self, api: &AdminApi) -> anyhow::Result<Response> {
        let [since, until] = [self.since, self.until].map(|time| time.map(|time| time.to_string()));
        let url = api.url(
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
            Err(_) => bail!("{} did not answer in time\nhint: try again", api.place),
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            status => {
                let body = admin::read_body(response).await.map_err(|error| api.unreachable(&error))?;
                Err(api.refusal(status, &body))
            }
        }
    }

    /// The progress display; none where it would mix with data on the terminal.
    fn progress(&self, links: u64) -> Option<ProgressDisplay> {
        if self.output.is_none() && std::io::stdout().is_terminal() {
            return None;
        }
        // The total counts all links, whatever the filters.
        let filtered =
            self.since.is_some() || self.until.is_some() || self.corp_id.is_some() || self.app.is_some();
        Some(ProgressDisplay::new(std::io::stderr().is_terminal(), (!filtered).then_some(links), 0))
    }

    fn failed(&self, rows: &Rows, reason: &str) -> anyhow::Error {
        let left = match &self.output {
            Some(path) => format!("{} was not written", path.display()),
            None => "the output is incomplete".to_owned(),
        };
        anyhow::anyhow!(
            "the export failed after {}: {reason}; {left}\nhint: run it again",
            counted(rows.count(), ["row", "rows"])
        )
    }
}

/// The next chunk of the body; none at its end.
///
/// # Errors
/// The reason why the transfer failed.
async fn next(response: &mut Response) -> Result<Option<axum::body::Bytes>, String> {
    match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| admin::failure_reason(&error)),
        Err(_) => Err(format!("no data for {} s", SILENCE_MAX.as_secs())),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Counts rows in a stream of chunks.
struct Rows {
    /// In CSV, line ends within quotes do not end a row, and the first line is the header.
    csv: bool,
    quoted: bool,
    lines: u64,
}

impl Rows {
    fn add(&mut self, chunk: &[u8]) {
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
