//! The destination of an export: standard output, or a file that is created only once it is complete.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

use crate::cli::output::Output;
use crate::cli::private_file;

pub(super) enum Target {
    Stdout,
    File {
        /// What is written to until then; deleted when dropped.
        part: NamedTempFile,
        path: PathBuf,
    },
}

impl Target {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        if path.is_dir() {
            bail!("{} is a directory\nhint: name a file in it", path.display());
        }
        let part = private_file::replacement(path).with_context(|| cannot_write(path))?;
        Ok(Self::File { part, path: path.to_owned() })
    }

    pub(super) fn write(&mut self, bytes: &[u8], out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Stdout => out.write(bytes),
            Self::File { part, path } => part.write_all(bytes).with_context(|| cannot_write(path)),
        }
    }

    /// Completes the export: a file is synced and renamed to its final path.
    pub(super) fn complete(self, out: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Stdout => out.flush(),
            Self::File { part, path } => {
                part.as_file().sync_all().with_context(|| cannot_write(&path))?;
                part.persist(&path).map(drop).with_context(|| cannot_write(&path))
            }
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write to {}", path.display())
}
