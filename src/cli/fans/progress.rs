//! How far an import is, in a file beside the imported one, so that the next run continues there.
//!
//! Only rows that the service has acknowledged count, and only up to the first that it has not. A progress
//! file may be a little behind: rows sent again are known to the service and change nothing.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::records::Position;

/// How many rows there were and what became of them, over all runs of one import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) rows: u64,
    /// New to the service.
    pub(super) accepted: u64,
    pub(super) known: u64,
    pub(super) rejected: u64,
}

/// What is imported, and where to. Progress is valid for this alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) file: String,
    pub(super) service: String,
    /// How the file is read.
    pub(super) options: String,
}

/// The content of a progress file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) identity: Identity,
    /// Everything before it is done.
    pub(super) position: Position,
    pub(super) counts: Counts,
    /// The rejects file, and how many of its bytes belong to what is done.
    pub(super) rejects: Option<PathBuf>,
    pub(super) rejects_bytes: u64,
}

impl Progress {
    /// What an earlier run left at `path`, if anything.
    ///
    /// # Errors
    /// When it belongs to another import.
    pub(super) fn load(path: &Path, identity: &Identity) -> anyhow::Result<Option<Self>> {
        let shown = path.display();
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("cannot read {shown}"))?,
        };
        let Ok(progress) = serde_json::from_reader::<_, Self>(BufReader::new(file)) else {
            bail!(
                "{shown} is not a progress file of this version\nhint: begin anew with --restart, or keep \
                 progress elsewhere with --progress FILE"
            );
        };
        let (then, line) = (&progress.identity, progress.position.line.saturating_sub(1));
        let changed = if then.file != identity.file {
            "the file has changed since"
        } else if then.service != identity.service {
            "it was sent to another service"
        } else if then.options != identity.options {
            "--app, --format or --encoding were different"
        } else {
            return Ok(Some(progress));
        };
        bail!(
            "an import was interrupted after line {line}, and {changed} ({shown})\nhint: begin anew with \
             --restart; rows that the service has already are not registered again"
        );
    }

    /// Writes it to `path` so that a crash leaves the old content or the new.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        self.replace(path).with_context(|| {
            format!(
                "cannot keep the progress in {}\nhint: name a file that can be written with --progress FILE",
                path.display()
            )
        })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let new = with_suffix(path, ".new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Deletes it from `path`: the import is complete.
    pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.with_context(|| format!("cannot delete {}", path.display())),
        }
    }
}

/// `path` with something behind its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
