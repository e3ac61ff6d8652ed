//! The destination of an export: standard output, or a file that is created only once it is complete.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::TempPath;

use crate::cli::output::Output;

pub(super) enum Target {
    Stdout,
    File {
        file: File,
        /// The path written to until then, next to `path`; deleted when dropped.
        part: TempPath,
        path: PathBuf,
    },
}

impl Target {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let cannot = || format!("cannot write to {}", part.display());
        if path.is_dir() {
            bail!("{} is a directory\nhint: name a file in it", path.display());
        }
        // Not truncated yet: another export may be writing it.
        let file =
            File::options().write(true).create(true).truncate(false).open(&part).with_context(cannot)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("another export to {} is running\nhint: wait until it has finished", path.display())
            }
            // On a file system without locks, concurrent exports to one file are not detected.
            Ok(()) | Err(TryLockError::Error(_)) => file.set_len(0).with_context(cannot)?,
        }
        let part = TempPath::try_from_path(&part).with_context(cannot)?;
        Ok(Self::File { file, part, path: path.to_owned() })
    }

    pub(super) fn write(&mut self, bytes: &[u8], out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Stdout => out.write(bytes),
            Self::File { file, part, .. } => {
                file.write_all(bytes).with_context(|| format!("cannot write to {}", part.display()))
            }
        }
    }

    /// Completes the export: a file is synced and renamed to its final path.
    pub(super) fn complete(self, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Stdout => out.flush(),
            Self::File { file, part, path } => {
                let cannot = || format!("cannot write to {}", path.display());
                file.sync_all().with_context(cannot)?;
                part.persist(&path).with_context(cannot)
            }
        }
    }
}
