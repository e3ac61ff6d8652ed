//! `unionlink store`: maintenance of the embedded store's folder.
//!
//! Deliberately absent: the operations themselves, which are in `store::embedded`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::config_file::ConfigFile;
use super::output::{counted, print, say};
use crate::config::{self, Environment};
use crate::store::embedded::{
    BackedUp, Compacted, Rebuild, Rebuilt, Verified, backup, compact, rebuild, verify,
};

#[derive(Debug, clap::Args)]
pub(super) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Compare every record of the database with the journal; the service must be stopped
    Verify(StoreArgs),
    /// Copy the store's journal to a folder; the service may be running
    Backup(BackupArgs),
    /// Rebuild the database from the journal; the service must be stopped
    Rebuild(RebuildArgs),
    /// Rewrite the store, which removes deleted data from the disk; the service must be stopped
    #[command(after_help = COMPACT_HELP)]
    Compact(StoreArgs),
}

#[derive(Debug, clap::Args)]
struct StoreArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

const BACKUP_HELP: &str = "\
Backups are incremental: closed journal files never change, so a backup to the same folder copies only new
ones. Run it as often as you like. The copied files are read back and checked.

A backup contains personal data, like the store, including that of people who are forgotten later.";

#[derive(Debug, clap::Args)]
#[command(after_help = BACKUP_HELP)]
struct BackupArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The folder to copy to: new, empty, or that of an earlier backup
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
}

const REBUILD_HELP: &str = "\
Everything that was ever acknowledged is in the journal. The rebuilt database replaces the present one, which
is renamed to sled.set-aside-N; delete that when you no longer need it. After an interruption, run the command
again.";

#[derive(Debug, clap::Args)]
#[command(after_help = REBUILD_HELP)]
struct RebuildArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The folder of a backup, for what is missing from the journal
    #[arg(long, value_name = "FOLDER")]
    backup: Option<PathBuf>,
    /// Build the store in another folder and leave this one unchanged
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// Accept the loss of everything after a gap in the journal
    #[arg(long)]
    partial: bool,
}

const COMPACT_HELP: &str = "\
The disk needs space for a second copy of the live data. The operation is atomic: it can be interrupted at any
time.

It removes the records of forgotten people from the files of database and journal. Copies of the folder, and
blocks that the file system or the disk keeps of deleted files, are out of its reach.";

/// How often a long operation prints its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
const RECORDS: [&str; 2] = ["record", "records"];
const BATCHES: [&str; 2] = ["batch", "batches"];

impl Store {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        tokio::task::spawn_blocking(|| self.run_blocking()).await?
    }

    fn run_blocking(self) -> anyhow::Result<ExitCode> {
        let (Command::Verify(args)
        | Command::Backup(BackupArgs { store: args, .. })
        | Command::Rebuild(RebuildArgs { store: args, .. })
        | Command::Compact(args)) = &self.command;
        let json = args.json;
        let store = config::load_store(&args.config.path, &Environment::of_process())?;
        let folder = store.path.as_path();
        let cannot = |what: &str| format!("cannot {what} the store in {}", folder.display());
        match &self.command {
            Command::Verify(_) => {
                let done = verify(folder, store.cache_mb << 20).with_context(|| cannot("verify"))?;
                report_verified(&done, json)
            }
            Command::Backup(BackupArgs { to, .. }) => {
                let done = backup(folder, to).with_context(|| cannot("back up"))?;
                let BackedUp { batches, files, copied, bytes } = done;
                say(&format!(
                    "{} in {}, {} new, {}, in {}",
                    counted(batches, BATCHES),
                    counted(files, ["file", "files"]),
                    HumanCount(copied),
                    HumanBytes(bytes),
                    to.display()
                ));
                finish(&done, json)
            }
            Command::Rebuild(RebuildArgs { backup, into, partial, .. }) => {
                let how = Rebuild { backup: backup.as_deref(), into: into.as_deref(), partial: *partial };
                let done = rebuild(folder, how, progress("written")).with_context(|| cannot("rebuild"))?;
                report_rebuilt(&done, into.as_deref().unwrap_or(folder));
                finish(&done, json)
            }
            Command::Compact(_) => {
                let done = compact(folder, progress("copied")).with_context(|| cannot("compact"))?;
                let Compacted { records, bytes_before, bytes_after } = done;
                say(&format!(
                    "{}; {} before, {} now, in {}",
                    counted(records, RECORDS),
                    HumanBytes(bytes_before),
                    HumanBytes(bytes_after),
                    folder.display()
                ));
                finish(&done, json)
            }
        }
    }
}

fn finish(done: &impl Serialize, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&serde_json::to_string(done)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report_verified(done: &Verified, json: bool) -> anyhow::Result<ExitCode> {
    say(&format!(
        "{} equal in database and journal, {} in the journal",
        counted(done.records, RECORDS),
        counted(done.batches, BATCHES)
    ));
    if done.redone > 0 {
        say(&format!(
            "{} missing at the end of the database: applied from the journal",
            counted(done.redone, BATCHES)
        ));
    }
    for (kind, differ) in &done.differences {
        say(&format!(
            "records of kind {kind:?}: {} missing, {} with another value, {} not in the journal",
            HumanCount(differ.missing),
            HumanCount(differ.stale),
            HumanCount(differ.surplus)
        ));
    }
    finish(done, json)?;
    if done.differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say("hint: keep a copy of the folder, then run unionlink store rebuild");
    Ok(ExitCode::FAILURE)
}

fn report_rebuilt(done: &Rebuilt, folder: &Path) {
    let (records, batches) = (counted(done.records, RECORDS), counted(done.batches, BATCHES));
    say(&format!("{records} from {batches}, in {}", folder.display()));
    if let Some(aside) = &done.set_aside {
        say(&format!("the previous database is now {}", aside.display()));
    }
    if let Some(lost) = &done.lost {
        say(&format!("some data is lost: {lost}"));
    }
}

/// Prints how many records are done every few seconds, on a terminal only.
fn progress(verb: &'static str) -> impl FnMut(u64) {
    let terminal = std::io::stderr().is_terminal();
    let mut printed_at = Instant::now();
    move |records| {
        if terminal && printed_at.elapsed() >= PROGRESS_EVERY {
            printed_at = Instant::now();
            say(&format!("{} {verb}", counted(records, RECORDS)));
        }
    }
}
