//! `unionlink store`: maintenance of the embedded store's folder, and what a store on PostgreSQL needs instead.
//!
//! Deliberately absent: the operations themselves, which are in `store`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::config_file::ConfigFile;
use super::output::{counted, print, say};
use super::progress_display::ProgressDisplay;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Environment, Place};
use crate::machine::note_backup;
use crate::store::embedded::{
    BackedUp, Compacted, EmbeddedStore, Restore, Restored, Verified, backup, compact, restore, verify,
};
use crate::store::moving::{Movable, Moved, move_store};
use crate::store::postgres::{self, PostgresStore};

#[derive(Debug, clap::Args)]
pub(super) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(flatten)]
    OfFolder(OfFolder),
    /// Copy everything into the store of another configuration; the service must be stopped
    #[command(name = "move")]
    Move(MoveArgs),
    /// Bring the schema of a store on PostgreSQL up to date
    Migrate(StoreArgs),
}

/// What is done with the embedded store's folder.
#[derive(Debug, clap::Subcommand)]
enum OfFolder {
    /// Compare every record of the index with checkpoint and log; the service must be stopped
    #[command(after_help = VERIFY_HELP)]
    Verify(StoreArgs),
    /// Copy checkpoint and log to a folder; the service may be running
    Backup(BackupArgs),
    /// Restore the store from a backup; the service must be stopped
    Restore(RestoreArgs),
    /// Rewrite the store, which removes deleted data from the disk; the service must be stopped
    #[command(after_help = COMPACT_HELP)]
    Compact(StoreArgs),
    /// Of versions before 0.3
    #[command(hide = true)]
    Rebuild(GoneArgs),
}

/// The arguments of a command that is gone.
#[derive(Debug, clap::Args)]
struct GoneArgs {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

const VERIFY_HELP: &str = "\
Checkpoint and log are read from front to back, so damage to them is found too. If the index differs, it is
built anew at the next start; nothing is lost.";

#[derive(Debug, clap::Args)]
struct StoreArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

const BACKUP_HELP: &str = "\
Backups are incremental: closed segments of the log never change, so a backup to the same folder copies only
new ones, and the checkpoint if there is a new one. Run it as often as you like. What was copied is read back.

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

const RESTORE_HELP: &str = "\
The index is built from the backup. Commits that the present store has behind those of the backup are kept; if
some of them cannot be read, nothing is changed, unless --partial does without them. What was in the folder is
moved to set-aside-N inside of it; delete that when you no longer need it. Backups of versions before 0.3 can be
restored too. An interrupted restore leaves the store as it was, or is completed at the next start.

A damaged index needs no restore: it is built anew when the service starts.";

#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_HELP)]
struct RestoreArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The folder of the backup
    #[arg(value_name = "FOLDER")]
    from: PathBuf,
    /// Accept the loss of everything after a gap in the log
    #[arg(long)]
    partial: bool,
}

const COMPACT_HELP: &str = "\
The disk needs space for a second copy of the live data. The operation is atomic: it can be interrupted at any
time.

It removes the records of forgotten people from every file of the store, and what was set aside. Copies of the
folder, and blocks that the file system or the disk keeps of deleted files, are out of its reach.";

const MOVE_HELP: &str = "\
From a folder to PostgreSQL, or back, or to another of the same kind. The target must be empty. Everything is kept:
links, fans, the feed with its numbers, the positions of sinks, quotas, what waits. The copy is read again and
compared before it counts; a copy that was interrupted does not open, and has to be deleted before the next try.
The store that was copied stays as it is: delete it once you do not need it any more.";

#[derive(Debug, clap::Args)]
#[command(after_help = MOVE_HELP)]
struct MoveArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The configuration file whose [store] everything is copied to
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// How often a long operation prints its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
const RECORDS: [&str; 2] = ["record", "records"];
const COMMITS: [&str; 2] = ["commit", "commits"];

impl Store {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Move(args) => args.run().await,
            Command::Migrate(args) => migrate(&args).await,
            Command::OfFolder(command) => tokio::task::spawn_blocking(|| command.run()).await?,
        }
    }
}

impl OfFolder {
    fn run(self) -> anyhow::Result<ExitCode> {
        let cannot = |what: &str, folder: &Path| format!("cannot {what} the store in {}", folder.display());
        match self {
            Self::Verify(args) => {
                let (folder, cache_bytes) = args.place()?;
                let done = verify(&folder, cache_bytes).with_context(|| cannot("verify", &folder))?;
                report_verified(&done, args.json)
            }
            Self::Backup(BackupArgs { store, to }) => {
                let (folder, _) = store.place()?;
                let done = backup(&folder, &to).with_context(|| cannot("back up", &folder))?;
                let BackedUp { commits, files, copied, bytes } = done;
                if let Err(error) = note_backup(&folder, &to, bytes, SystemClock.now()) {
                    say(&format!(
                        "doctor will not know of it: no note could be left in {}: {error}",
                        folder.display()
                    ));
                }
                say(&format!(
                    "{} in {}, {} new, {}, in {}",
                    counted(commits, COMMITS),
                    counted(files, ["file", "files"]),
                    HumanCount(copied),
                    HumanBytes(bytes),
                    to.display()
                ));
                finish(&done, store.json)
            }
            Self::Restore(RestoreArgs { store, from, partial }) => {
                let (folder, _) = store.place()?;
                let done = restore(&folder, &from, Restore { partial }, progress("written"));
                let done = done.with_context(|| cannot("restore", &folder))?;
                report_restored(&done, &folder);
                finish(&done, store.json)
            }
            Self::Compact(args) => {
                let (folder, cache_bytes) = args.place()?;
                let done = compact(&folder, cache_bytes, progress("copied"));
                let done = done.with_context(|| cannot("compact", &folder))?;
                let Compacted { records, bytes_before, bytes_after } = done;
                say(&format!(
                    "{}; {} before, {} now, in {}",
                    counted(records, RECORDS),
                    HumanBytes(bytes_before),
                    HumanBytes(bytes_after),
                    folder.display()
                ));
                finish(&done, args.json)
            }
            Self::Rebuild(_) => anyhow::bail!(
                "store rebuild is gone: a damaged or missing index is built anew when the service starts\n\
                 hint: start the service; for what its log lacks: unionlink store restore FOLDER"
            ),
        }
    }
}

impl StoreArgs {
    /// Where the store is, and the size of its page cache in bytes.
    fn place(&self) -> anyhow::Result<(PathBuf, u64)> {
        let store = store_of(&self.config.path)?;
        match store.folder() {
            Some(folder) => Ok((folder.path.clone(), folder.cache_mb << 20)),
            None => anyhow::bail!(
                "this store is in a database: it is backed up, verified and compacted with the means of the database\n\
                 hint: for a backup pg_dump, or what your provider has; the schema is the one of [store] schema"
            ),
        }
    }
}

/// Reads the `[store]` of a configuration.
fn store_of(path: &Path) -> anyhow::Result<config::Store> {
    Ok(config::load_store(path, &Environment::of_process())?)
}

/// What a store is called.
fn place_of(store: &config::Store) -> String {
    match &store.place {
        Place::Folder(folder) => folder.path.display().to_string(),
        Place::Database(database) => format!("the schema {} of the database", database.schema),
    }
}

async fn open(store: &config::Store) -> anyhow::Result<Box<dyn Movable>> {
    Ok(match &store.place {
        Place::Folder(folder) => {
            let (path, settings) = (folder.path.clone(), store.settings(folder));
            Box::new(tokio::task::spawn_blocking(move || EmbeddedStore::open(&path, settings)).await??)
        }
        Place::Database(database) => {
            Box::new(Box::pin(PostgresStore::open(&database.settings(store))).await?)
        }
    })
}

impl MoveArgs {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let (from, to) = (store_of(&self.store.config.path)?, store_of(&self.to)?);
        let (here, there) = (place_of(&from), place_of(&to));
        if let Some(folder) = from.folder() {
            // A typing error would be an empty store.
            let is_there = folder.path.is_dir();
            anyhow::ensure!(
                is_there,
                "there is no store in {here}\nhint: name the configuration of the service as --config"
            );
        }
        let source = open(&from).await.with_context(|| format!("cannot open the store in {here}"))?;
        let alone = "stop the service first: all replicas of it";
        if let Some(replicas) = source.replicas() {
            let others = replicas.replicas().await?.len();
            anyhow::ensure!(others == 0, "the store in {here} is in use\nhint: {alone}");
        }
        let target = open(&to).await.with_context(|| format!("cannot open the store in {there}"))?;
        let terminal = std::io::stderr().is_terminal();
        // How many records there are is known once they are copied.
        let copying = ProgressDisplay::new(terminal, None, 0);
        let comparing = ProgressDisplay::new(terminal, Some(0), 0);
        let mut copied = 0;
        let told = |what: &str, rows| {
            if what == "copied" {
                copied = rows;
                copying.advance(rows, rows);
            } else {
                comparing.advance_to(rows, copied, &format!("{} compared", counted(rows, RECORDS)));
            }
        };
        let moved = move_store(&*source, &*target, told).await;
        [copying, comparing].iter().for_each(ProgressDisplay::finish);
        tokio::join!(source.close(), target.close());
        let done = moved.with_context(|| format!("the store in {here} could not be moved to {there}"))?;
        let Moved { rows, links, feed_head } = &done;
        say(&format!(
            "{} copied to {there} and compared: {} links, the feed up to {}",
            counted(rows.values().sum(), RECORDS),
            HumanCount(*links),
            HumanCount(*feed_head)
        ));
        say(&format!("hint: start the service with {}; {here} is as it was", self.to.display()));
        finish(&done, self.store.json)
    }
}

/// What a migration came to.
#[derive(Serialize)]
struct Migrated {
    /// The version of the schema before; 0: there was none.
    from: i32,
    to: i32,
}

async fn migrate(args: &StoreArgs) -> anyhow::Result<ExitCode> {
    let store = store_of(&args.config.path)?;
    let Place::Database(database) = &store.place else {
        anyhow::bail!("a store in a folder is brought up to date when the service starts");
    };
    let (from, to) = Box::pin(postgres::migrate(&database.settings(&store))).await?;
    let schema = &database.schema;
    match from {
        0 => say(&format!("the schema {schema} was made, version {to}")),
        _ if from == to => say(&format!("the schema {schema} is up to date, version {to}")),
        _ => say(&format!("the schema {schema} was brought from version {from} to {to}")),
    }
    finish(&Migrated { from, to }, args.json)
}

fn finish(done: &impl Serialize, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&serde_json::to_string(done)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report_verified(done: &Verified, json: bool) -> anyhow::Result<ExitCode> {
    say(&format!(
        "{} equal in index and log, {} in the log",
        counted(done.records, RECORDS),
        counted(done.commits, COMMITS)
    ));
    if done.rebuilt {
        say("the index was missing or damaged: built anew from checkpoint and log");
    }
    if done.replayed > 0 {
        say(&format!(
            "{} missing at the end of the index: applied from the log",
            counted(done.replayed, COMMITS)
        ));
    }
    for (kind, differ) in &done.differences {
        say(&format!(
            "records of kind {kind:?}: {} missing, {} with another value, {} not in the log",
            HumanCount(differ.missing),
            HumanCount(differ.stale),
            HumanCount(differ.surplus)
        ));
    }
    finish(done, json)?;
    if done.differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say("hint: the index is built anew when the service starts; if this comes again, is the disk failing?");
    Ok(ExitCode::FAILURE)
}

fn report_restored(done: &Restored, folder: &Path) {
    let (records, commits) = (counted(done.records, RECORDS), counted(done.commits, COMMITS));
    say(&format!("{records} from {commits}, in {}", folder.display()));
    if let Some(aside) = &done.set_aside {
        say(&format!("the previous store is now in {}", aside.display()));
    }
    if let Some(lost) = &done.lost {
        say(&format!("some data is lost: {lost}"));
    }
}

/// Prints how many records are done every few seconds, on a terminal only.
fn progress(verb: &'static str) -> impl FnMut(u64) + Send {
    let terminal = std::io::stderr().is_terminal();
    let mut printed_at = Instant::now();
    move |records| {
        if terminal && printed_at.elapsed() >= PROGRESS_EVERY {
            printed_at = Instant::now();
            say(&format!("{} {verb}", counted(records, RECORDS)));
        }
    }
}
