//! `unionlink store`: care for the store's folder while the service is stopped.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::{ConfigFile, print, say};
use crate::config::{self, Environment};
use crate::store::embedded::{Compacted, compact};

#[derive(Debug, clap::Args)]
pub(super) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write the database anew, so that nothing is left on the disk of what was deleted
    Compact(Compact),
}

const AFTER_HELP: &str = "\
The service has to be stopped. The disk needs room for a second copy of what is live. Interrupted at any moment, the
store is as it was or as it will be.

What a forgotten person's records left in the database's files is gone afterwards. Copies you made of the folder, and
what a disk keeps of deleted files, are not this program's to clean.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct Compact {
    #[command(flatten)]
    config: ConfigFile,
    /// Print what it came to as JSON
    #[arg(long)]
    json: bool,
}

const TOLD_EVERY: Duration = Duration::from_secs(2);

impl Store {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Command::Compact(Compact { config: file, json }) = self.command;
        let store = config::load_store(&file.path, &Environment::of_process())?;
        let folder = store.path.clone();
        let done = tokio::task::spawn_blocking(move || compact_aloud(&folder)).await??;
        let Compacted { records, bytes_before, bytes_after } = done;
        say(&format!(
            "{records} records; {} MiB before, {} MiB now, in {}",
            bytes_before >> 20,
            bytes_after >> 20,
            store.path.display()
        ));
        if json {
            let told = json!({"records": records, "bytes_before": bytes_before, "bytes_after": bytes_after});
            print(&told.to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn compact_aloud(folder: &Path) -> anyhow::Result<Compacted> {
    let terminal = std::io::stderr().is_terminal();
    let mut told_at = Instant::now();
    let told = |records| {
        if terminal && told_at.elapsed() >= TOLD_EVERY {
            told_at = Instant::now();
            say(&format!("{records} records copied"));
        }
    };
    compact(folder, told).with_context(|| format!("cannot compact the store in {}", folder.display()))
}
