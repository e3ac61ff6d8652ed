//! `unionlink fans import`: fans from a file, through the admin API of a running service.
//!
//! From left to right: `source` opens a file and recognises it (`detect`); `records` splits it into records
//! and `rows` reads fans from them (`columns`); `batches` packs them, on a thread of its own; `send` carries
//! them to the service; `accounting` records what became of them (`progress`). `import` ties these together.
//!
//! Deliberately absent: access to the store. The service has it, and keeps running while fans are imported.

mod accounting;
mod batches;
mod columns;
mod detect;
mod import;
mod progress;
mod records;
mod rows;
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

use self::import::{Job, Report};
use self::progress::Counts;
use self::send::Patience;
use self::source::ReadOptions;
use super::admin::ToService;
use super::{print, say};
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
}

const AFTER_HELP: &str = "\
The first line of a CSV file names the columns. unionid and openid are required, pending_id, minted_at and app
optional, other columns ignored. Names in Chinese exports are recognised: 微信unionid, 小程序openid,
临时外部联系人id, 获取时间, 应用. NDJSON is one object a line with the same names. Both may be compressed with gzip
or zstd. minted_at is RFC 3339, a date and time (China time, UTC+8), or Unix seconds or milliseconds.

An interrupted import continues where it stopped when the same command is run again; FILE.progress records
where. Rows that the service has already are counted as known and change nothing.

Rejected rows do not fail an import: exit status 0 means that every row was accepted, or reported with its
line and reason; 1 means that the import did not reach its end.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct Import {
    /// The file; - reads standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    service: ToService,
    #[command(flatten)]
    options: ReadOptions,
    /// Write rejected rows to this file, as NDJSON with line, reason and row [default: show the first 20]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Where to record the progress [default: FILE.progress]
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,
    /// Begin anew, whatever an interrupted import did
    #[arg(long)]
    restart: bool,
    /// Seconds to wait for a service that does not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    patience: u64,
    /// Check every row and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl Fans {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Command::Import(import) = self.command;
        Box::pin(import.run()).await
    }
}

impl Import {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
        lifecycle::listen_for_signals(stop.clone(), at_once.clone())?;
        let job = self.job(&Environment::of_process())?;
        let again = if self.file == Path::new("-") { "" } else { "; run the same command again to go on" };
        let report = tokio::select! {
            report = job.run(stop) => report?,
            () = at_once.cancelled() => bail!("interrupted at once{again}"),
        };
        match report.interrupted_after {
            Some(0) => bail!("interrupted before anything was sent"),
            Some(line) => bail!("interrupted after line {line}{again}"),
            None => {}
        }
        say(&self.summary(&report));
        if self.json {
            let mut summary = serde_json::to_value(report.counts)?;
            summary["seconds"] = report.took.as_secs_f64().into();
            summary["dry_run"] = self.dry_run.into();
            print(&summary.to_string())?;
        }
        Ok(ExitCode::SUCCESS)
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
            patience,
            save_every: Duration::from_millis(500),
            terminal: std::io::stderr().is_terminal(),
        })
    }

    fn summary(&self, report: &Report) -> String {
        let count = HumanCount;
        let Counts { rows, accepted, known, rejected } = report.counts;
        let outcome = if self.dry_run {
            format!("{} valid, {} rejected; nothing was sent", count(rows - rejected), count(rejected))
        } else {
            format!("{} new, {} known before, {} rejected", count(accepted), count(known), count(rejected))
        };
        let see = match &self.rejects {
            Some(path) if rejected > 0 => format!("; see {}", path.display()),
            _ => String::new(),
        };
        format!("{} rows in {:.1} s: {outcome}{see}", count(rows), report.took.as_secs_f64())
    }
}
