//! The progress file, from which the next run resumes an interrupted import.
//!
//! It covers the acknowledged rows up to the first one that is not acknowledged. It may lag a little behind:
//! rows sent again are known to the service and change nothing.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::records::Position;
use crate::cli::private_file;

/// Counts of rows by result, over all runs of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) rows: u64,
    /// New to the service.
    pub(super) accepted: u64,
    pub(super) known: u64,
    pub(super) rejected: u64,
}

/// The input, the service and the options of an import. Progress applies only to the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) file: String,
    pub(super) service: String,
    /// The options that determine how the file is read, and what is asked of the service.
    pub(super) options: String,
}

/// The content of a progress file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) identity: Identity,
    /// The position before which every row is done.
    pub(super) position: Position,
    pub(super) counts: Counts,
    /// The file of rejected rows, and its length at this position.
    pub(super) rejects: Option<PathBuf>,
    pub(super) rejects_bytes: u64,
}

impl Progress {
    /// The progress that an earlier run left at `path`, if any.
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
                "{shown} is not a progress file of this version\nhint: start from the beginning with \
                 --restart, or name another file with --progress FILE"
            );
        };
        let (then, line) = (&progress.identity, progress.position.line.saturating_sub(1));
        let changed = if then.file != identity.file {
            "the file has changed since"
        } else if then.service != identity.service {
            "it was sent to another service"
        } else if then.options != identity.options {
            "--app, --format, --encoding or --retry-rejected were different"
        } else {
            return Ok(Some(progress));
        };
        bail!(
            "an import was interrupted after line {line}, and {changed} ({shown})\nhint: start from \
             the beginning with --restart; rows that the service already has are not registered again"
        );
    }

    /// Writes it to `path` atomically and durably.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        self.replace(path).with_context(|| {
            format!(
                "cannot save the progress in {}\nhint: name a writable file with --progress FILE",
                path.display()
            )
        })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let mut file = private_file::replacement(path)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Deletes the progress file at `path`.
    pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.with_context(|| format!("cannot delete {}", path.display())),
        }
    }
}

/// `path` with `suffix` appended to its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
