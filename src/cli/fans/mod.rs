//! `unionlink fans import`: fans from a file, through the admin API of a running service.
//!
//! From left to right: `source` opens a file and recognises it (`format`, `header`); `records` (`split`) cuts it
//! into records and `rows` makes fans of them; `batches` packs them, on a thread of its own; `send`
//! carries them to the service; `ledger` accounts for what became of them (`rejects`, `progress`).
//!
//! Deliberately absent: access to the store. The service has it, and goes on while fans are imported.

mod batches;
mod format;
mod header;
mod import;
mod ledger;
mod progress;
mod records;
mod rejects;
mod rows;
mod send;
mod source;
mod split;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::format::Encoding;
use self::import::{Job, Report};
use self::send::Patience;
use self::source::{Format, Input, Reading};
use super::admin::ToService;
use super::{print, say, show};
use crate::config::Environment;
use crate::domain::ids::AppName;
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
A CSV file begins with a line that names its columns. unionid and openid must be there; pending_id, minted_at and app
may be; names of Chinese exports are recognised (微信unionid, 小程序openid, 临时外部联系人id, 获取时间, 应用), other columns
are ignored. NDJSON is one object a line with the same names. Both may be compressed with gzip or zstd. minted_at is RFC
3339, a date and time (China time, UTC+8), or Unix seconds or milliseconds.

An interrupted import goes on where it stopped when the same command is run again; FILE.progress remembers where.
Rows the service has already are counted as known and change nothing.

Bad rows do not fail an import: exit status 0 means that every row was either taken or told with its line and reason.
1 means that the import did not come to its end.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct Import {
    /// The file; - reads standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    service: ToService,
    /// The app of rows that name none
    #[arg(long, value_name = "NAME", value_parser = |name: &str| AppName::new(name))]
    app: Option<AppName>,
    /// The format, if it is not to be told from the content
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// The encoding, if it is not to be told from the content
    #[arg(long, value_enum, value_name = "ENCODING")]
    encoding: Option<Encoding>,
    /// Write bad rows to this file, as NDJSON with line, reason and row; without it the first 20 are told
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Where to remember how far it is [default: FILE.progress]
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
        let again = if job.input == Input::Stdin { "" } else { "; run the same command again to go on" };
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
            let counts = &report.counts;
            print(
                &json!({
                    "rows": counts.rows,
                    "accepted": counts.accepted,
                    "known": counts.known,
                    "rejected": counts.rejected,
                    "seconds": report.took.as_secs_f64(),
                    "dry_run": self.dry_run,
                })
                .to_string(),
            )?;
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
            input: Input::new(&self.file),
            reading: Reading { format: self.format, encoding: self.encoding, app: self.app.clone() },
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
        let grouped = |number: u64| show::grouped(number.into());
        let counts = &report.counts;
        let came_to = if self.dry_run {
            let good = counts.rows - counts.rejected;
            format!("{} in order, {} bad; nothing was sent", grouped(good), grouped(counts.rejected))
        } else {
            let [new, known, rejected] = [counts.accepted, counts.known, counts.rejected].map(grouped);
            format!("{new} new, {known} known before, {rejected} rejected")
        };
        let see = match &self.rejects {
            Some(path) if counts.rejected > 0 => format!("; see {}", path.display()),
            _ => String::new(),
        };
        format!("{} rows in {:.1} s: {came_to}{see}", grouped(counts.rows), report.took.as_secs_f64())
    }
}
