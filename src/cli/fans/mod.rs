//! `unionlink fans`: imports fans from a file, and lists them, through the admin API of a running service.
//!
//! `list` prints fans. `import` runs the pipeline: `source` opens a file, detects its format (`detect`) and examines its first
//! rows (`sample`); `records` splits it into records and `rows` parses them (`columns`); `batches` collects
//! rows into request bodies, on a thread of its own; `send` sends them to the service; `accounting` counts
//! the results and saves the `progress`.
//!
//! Deliberately absent: access to the store. The service has it, and keeps running during an import.

mod accounting;
mod batches;
mod columns;
mod detect;
mod import;
mod list;
mod progress;
mod records;
mod rows;
mod sample;
mod send;
mod source;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use indicatif::HumanCount;
use tokio_util::sync::CancellationToken;

use self::import::{End, Job, Report};
use self::list::List;
use self::progress::Counts;
use self::send::Patience;
use self::source::ReadOptions;
use super::admin::ServiceArgs;
use super::output::{Output, counted, print, say};
use crate::config::Environment;
use crate::lifecycle;

#[derive(Debug, clap::Args)]
pub(super) struct Fans {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Register the fans in a CSV or NDJSON file with the running service
    Import(Box<Import>),
    /// List fans with their state, such as those that WeCom refused
    List(List),
}

const AFTER_HELP: &str = "\
The first line of a CSV file names the columns: unionid and openid are required; pending_id, minted_at and app
are optional; others are ignored. The names in Chinese exports are recognised: 微信unionid, 小程序openid,
临时外部联系人id, 获取时间, 应用. NDJSON has one object per line, with the same names. Both may be compressed with
gzip or zstd. minted_at is RFC 3339, a date and time in China time (UTC+8), or Unix seconds or milliseconds.

After an interruption, run the same command again: it resumes at the position saved in FILE.progress. Rows
that the service already has are counted as known and change nothing.

A fan that WeCom refused (unionlink fans list --state rejected) is known, too: asking again would only cost
quota. Correct its openid in the file, or import it with --retry-rejected once the cause is removed.

Rejected rows do not fail an import, unless every row is rejected, or more rows than --max-rejects. Exit
status 0 means that every row was accepted or reported with its line and the reason; 1 means that the import
is incomplete or that every row was rejected.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct Import {
    /// The file to import; - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    options: ReadOptions,
    /// Write rejected rows to this file, as NDJSON with line, reason and row [default: show the first 20]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Stop once more than N rows are rejected [default: no limit]
    #[arg(long, value_name = "N")]
    max_rejects: Option<u64>,
    /// The file that records the progress [default: FILE.progress]
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,
    /// Start from the beginning, discarding the progress of an interrupted import
    #[arg(long)]
    restart: bool,
    /// Seconds to keep retrying while the service does not accept fans
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    patience: u64,
    /// Ask WeCom again about fans that it refused, even where the openid has not changed
    #[arg(long)]
    retry_rejected: bool,
    /// Check every row without sending any
    #[arg(long)]
    dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl Fans {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Import(import) => Box::pin(import.run()).await,
            Command::List(list) => list.run(&list.service.api()?, &mut Output::of_process()).await,
        }
    }

    /// Runs `list` with another client and output; an import brings its own.
    #[cfg(test)]
    pub(super) async fn run_with(
        &self,
        api: &super::admin::AdminApi,
        out: &mut Output,
    ) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::Import(import) => panic!("{import:?}"),
            Command::List(list) => list.run(api, out).await,
        }
    }
}

impl Import {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
        lifecycle::listen_for_signals(stop.clone(), at_once.clone())?;
        let job = self.job(&Environment::of_process())?;
        let report = tokio::select! {
            report = job.run(stop) => report?,
            () = at_once.cancelled() => bail!("interrupted at once{}", self.resume()),
        };
        say(&self.summary(&report));
        if self.json {
            print(&self.summary_json(&report)?.to_string())?;
        }
        self.verdict(&report)?;
        Ok(ExitCode::SUCCESS)
    }

    /// How to go on after an interruption.
    fn resume(&self) -> &'static str {
        if self.file == Path::new("-") { "" } else { "; run the same command again to resume" }
    }

    /// Fails unless the whole input was imported, and a row of it was valid.
    fn verdict(&self, report: &Report) -> anyhow::Result<()> {
        let Report { end, counts: Counts { rows, rejected, .. }, line, .. } = *report;
        let reasons: String = report.first_rejects.iter().flat_map(|row| ["\n  ", row.as_str()]).collect();
        match end {
            End::Interrupted if line == 0 => bail!("interrupted before anything was sent"),
            End::Interrupted => bail!("interrupted after line {line}{}", self.resume()),
            End::TooManyRejects => {
                let limit = self.max_rejects.unwrap_or_default();
                let hint = if self.dry_run || self.file == Path::new("-") {
                    "correct the input and import it again"
                } else {
                    "correct the file and import it with --restart; or resume: run the same command with a \
                     higher --max-rejects"
                };
                bail!(
                    "stopped after line {line}: {} rejected, and --max-rejects is {limit}; what follows was \
                     not imported{reasons}\nhint: {hint}",
                    counted(rejected, ["row was", "rows were"])
                );
            }
            End::Complete if rows > 0 && rejected == rows => {
                bail!("every row was rejected{reasons}\nhint: correct the input and import it again")
            }
            End::Complete => Ok(()),
        }
    }

    fn job(&self, environment: &Environment) -> anyhow::Result<Job> {
        let access = if self.dry_run { None } else { Some(self.service.access(environment)?) };
        let patience = Patience {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(5),
            total: Duration::from_secs(self.patience),
        };
        Ok(Job {
            file: self.file.clone(),
            options: self.options.clone(),
            access,
            rejects: self.rejects.clone(),
            progress: self.progress.clone(),
            restart: self.restart,
            retry_rejected: self.retry_rejected,
            max_rejects: self.max_rejects,
            patience,
            save_every: Duration::from_millis(500),
            terminal: std::io::stderr().is_terminal(),
        })
    }

    fn summary_json(&self, report: &Report) -> serde_json::Result<serde_json::Value> {
        let mut summary = serde_json::to_value(report.counts)?;
        summary["seconds"] = report.took.as_secs_f64().into();
        summary["dry_run"] = self.dry_run.into();
        summary["complete"] = (report.end == End::Complete).into();
        Ok(summary)
    }

    fn summary(&self, report: &Report) -> String {
        let count = HumanCount;
        let Counts { rows, accepted, known, rejected } = report.counts;
        let outcome = if self.dry_run {
            format!("{} valid, {} rejected; nothing was sent", count(rows - rejected), count(rejected))
        } else {
            format!("{} new, {} already known, {} rejected", count(accepted), count(known), count(rejected))
        };
        let see = match &self.rejects {
            Some(path) if rejected > 0 => format!("; see {}", path.display()),
            _ => String::new(),
        };
        let rows = counted(rows, ["row", "rows"]);
        format!("{rows} in {:.1} s: {outcome}{see}", report.took.as_secs_f64())
    }
}
