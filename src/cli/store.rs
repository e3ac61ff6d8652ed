//! `unionlink store`: care for the store's folder.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::{ConfigFile, print, say};
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
    /// Compare every record of the database with the journal; the service has to be stopped
    Verify(Common),
    /// Copy the store to a folder, by its journal, whether or not the service runs
    Backup(BackUp),
    /// Build the database anew from the journal; the service has to be stopped
    Rebuild(BuildAnew),
    /// Write the database anew, so that nothing is left on the disk of what was deleted; the service has to be stopped
    Compact(Compact),
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    config: ConfigFile,
    /// Print what it came to as JSON
    #[arg(long)]
    json: bool,
}

const BACKUP_HELP: &str = "\
Files of the journal are never changed once they are closed, so a folder that was copied to before is brought up to
date by what is new. Schedule it as often as you like; what it copies is read back before it is done.

The copy holds personal data, like the store. People who are forgotten later are still in it.";

#[derive(Debug, clap::Args)]
#[command(after_help = BACKUP_HELP)]
struct BackUp {
    #[command(flatten)]
    common: Common,
    /// The folder to copy to: new, empty, or copied to before
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
}

const REBUILD_HELP: &str = "\
Everything that was ever acknowledged is in the journal. The database it builds takes the place of the present one,
which is put aside as sled.set-aside-N; delete that when you no longer need it. Interrupted, run it again.";

#[derive(Debug, clap::Args)]
#[command(after_help = REBUILD_HELP)]
struct BuildAnew {
    #[command(flatten)]
    common: Common,
    /// Where `store backup` copied to: for what the journal itself no longer has
    #[arg(long, value_name = "FOLDER")]
    backup: Option<PathBuf>,
    /// Build a store in another folder, and leave this one as it is
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// Accept that what follows a gap in the journal is lost
    #[arg(long)]
    partial: bool,
}

const COMPACT_HELP: &str = "\
The disk needs room for a second copy of what is live. Interrupted at any moment, the store is as it was or as it will
be.

What a forgotten person's records left in the files of database and journal is gone afterwards. Copies you made of the
folder, and what a disk keeps of deleted files, are not this program's to clean.";

#[derive(Debug, clap::Args)]
#[command(after_help = COMPACT_HELP)]
struct Compact {
    #[command(flatten)]
    common: Common,
}

const TOLD_EVERY: Duration = Duration::from_secs(2);

impl Store {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        tokio::task::spawn_blocking(|| self.run_blocking()).await?
    }

    fn run_blocking(self) -> anyhow::Result<ExitCode> {
        let common = match &self.command {
            Command::Verify(common) => common,
            Command::Backup(command) => &command.common,
            Command::Rebuild(command) => &command.common,
            Command::Compact(command) => &command.common,
        };
        let json = common.json;
        let store = config::load_store(&common.config.path, &Environment::of_process())?;
        let folder = store.path.as_path();
        let attempted = |what: &str| format!("cannot {what} the store in {}", folder.display());
        match &self.command {
            Command::Verify(_) => {
                let done = verify(folder, store.cache_mb << 20).with_context(|| attempted("verify"))?;
                told_verified(&done, json)
            }
            Command::Backup(BackUp { to, .. }) => {
                let done = backup(folder, to).with_context(|| attempted("back up"))?;
                let BackedUp { batches, files, copied, bytes } = done;
                let size = bytes >> 20;
                say(&format!(
                    "{} batches in {files} files, {copied} of them new, {size} MiB, in {}",
                    batches,
                    to.display()
                ));
                finish(&done, json)
            }
            Command::Rebuild(BuildAnew { backup, into, partial, .. }) => {
                let how = Rebuild { backup: backup.as_deref(), into: into.as_deref(), partial: *partial };
                let done = rebuild(folder, how, aloud("written")).with_context(|| attempted("rebuild"))?;
                told_rebuilt(&done, into.as_deref().unwrap_or(folder));
                finish(&done, json)
            }
            Command::Compact(_) => {
                let done = compact(folder, aloud("copied")).with_context(|| attempted("compact"))?;
                let Compacted { records, bytes_before, bytes_after } = done;
                let (before, after) = (bytes_before >> 20, bytes_after >> 20);
                say(&format!(
                    "{records} records; {before} MiB before, {after} MiB now, in {}",
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

fn told_verified(done: &Verified, json: bool) -> anyhow::Result<ExitCode> {
    say(&format!(
        "{} records are in the database as they are in the journal of {} batches",
        done.records, done.batches
    ));
    if done.redone > 0 {
        say(&format!("the database lacked the last {} of them, and was given them", done.redone));
    }
    for (kind, differ) in &done.differences {
        say(&format!(
            "records of kind {kind:?}: {} missing, {} with another value, {} that the journal has not",
            differ.missing, differ.stale, differ.surplus
        ));
    }
    finish(done, json)?;
    if done.differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say("hint: keep a copy of the folder, then run unionlink store rebuild");
    Ok(ExitCode::FAILURE)
}

fn told_rebuilt(done: &Rebuilt, folder: &Path) {
    say(&format!("{} records of {} batches, in {}", done.records, done.batches, folder.display()));
    if let Some(aside) = &done.set_aside {
        say(&format!("the database that was there is now {}", aside.display()));
    }
    if let Some(lost) = &done.lost {
        say(&format!("not everything could be had: {lost}"));
    }
}

/// Says now and then how far it is, where a person is watching.
fn aloud(done: &'static str) -> impl FnMut(u64) {
    let terminal = std::io::stderr().is_terminal();
    let mut told_at = Instant::now();
    move |records| {
        if terminal && told_at.elapsed() >= TOLD_EVERY {
            told_at = Instant::now();
            say(&format!("{records} records {done}"));
        }
    }
}
