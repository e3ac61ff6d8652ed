//! How far an import is, in a file beside the imported one, so that the next run goes on there.
//!
//! Only what the service has acknowledged counts, and only up to the first row it has not. A progress file is a
//! little behind at worst: rows sent again are known to the service and change nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::records::Position;
use super::source::Regular;

/// How many rows, and what became of them; over all runs of one import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) rows: u64,
    /// Not known to the service before.
    pub(super) accepted: u64,
    pub(super) known: u64,
    pub(super) rejected: u64,
}

/// What is imported, and where to: progress is good for this alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    bytes: u64,
    modified_ms: i64,
    head_sha256: String,
    /// The service.
    admin: String,
    /// How the file was told to be read.
    reading: String,
}

impl Identity {
    pub(super) fn new(file: &Regular, admin: &str, reading: &super::source::Reading) -> Self {
        Self {
            bytes: file.bytes,
            modified_ms: file.modified_ms,
            head_sha256: file.head_sha256.clone(),
            admin: admin.to_owned(),
            reading: format!("{reading:?}"),
        }
    }

    fn differs(&self, now: &Self) -> Option<&'static str> {
        if (self.bytes, self.modified_ms, &self.head_sha256) != (now.bytes, now.modified_ms, &now.head_sha256)
        {
            Some("the file has changed since")
        } else if self.admin != now.admin {
            Some("it was another service then")
        } else if self.reading != now.reading {
            Some("--app, --format or --encoding was another then")
        } else {
            None
        }
    }
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    version: u32,
    identity: Identity,
    /// Bytes acknowledged, decompressed.
    offset: u64,
    /// The line that begins there.
    line: u64,
    pub(super) counts: Counts,
    rejects: Option<PathBuf>,
    rejects_bytes: u64,
}

const VERSION: u32 = 1;
/// A progress file is never longer; another file named by mistake is not read whole.
const BYTES_MAX: u64 = 64 * 1024;

impl Progress {
    pub(super) fn begun(identity: Identity, at: Position, rejects: Option<PathBuf>) -> Self {
        let (offset, line) = (at.offset, at.line);
        Self {
            version: VERSION,
            identity,
            offset,
            line,
            counts: Counts::default(),
            rejects,
            rejects_bytes: 0,
        }
    }

    pub(super) const fn position(&self) -> Position {
        Position { offset: self.offset, line: self.line }
    }

    pub(super) const fn advance(&mut self, to: Position, counts: Counts, rejects_bytes: u64) {
        (self.offset, self.line, self.counts, self.rejects_bytes) =
            (to.offset, to.line, counts, rejects_bytes);
    }

    /// How much of the rejects file belongs to this progress. Rejects go to another file now: none of it.
    pub(super) fn rejects_now(&mut self, path: Option<PathBuf>) -> u64 {
        if self.rejects != path {
            (self.rejects, self.rejects_bytes) = (path, 0);
        }
        self.rejects_bytes
    }
}

/// Progress and where it is kept.
pub(super) struct Kept {
    pub(super) file: ProgressFile,
    pub(super) progress: Progress,
    /// Whether an earlier run made it.
    pub(super) resumed: bool,
}

/// Where progress is kept.
pub(super) struct ProgressFile {
    path: PathBuf,
}

impl ProgressFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The name beside `file`.
    pub(super) fn beside(file: &Path) -> Self {
        let mut name = file.as_os_str().to_owned();
        name.push(".progress");
        Self { path: name.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier run left, if it is about the same import.
    pub(super) fn load(&self, identity: &Identity) -> anyhow::Result<Option<Progress>> {
        let read = |file: File| {
            let mut text = Vec::new();
            file.take(BYTES_MAX).read_to_end(&mut text).map(|_| text)
        };
        let text = match File::open(&self.path).and_then(read) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let Ok(progress) = serde_json::from_slice::<Progress>(&text) else {
            bail!(
                "{} is not a progress file of this version\nhint: begin anew with --restart, or keep progress \
                 elsewhere with --progress FILE",
                self.path.display()
            );
        };
        if progress.version != VERSION {
            bail!("{} was written by another version\nhint: begin anew with --restart", self.path.display());
        }
        match progress.identity.differs(identity) {
            None => Ok(Some(progress)),
            Some(why) => bail!(
                "an import was interrupted after line {}, and {why} ({})\nhint: begin anew with --restart; rows the \
                 service has already are not registered again",
                progress.line - 1,
                self.path.display()
            ),
        }
    }

    /// Writes it so that a crash leaves the old one or the new one.
    pub(super) fn save(&self, progress: &Progress) -> anyhow::Result<()> {
        self.replace(progress).with_context(|| {
            format!(
                "cannot keep the progress in {}\nhint: name a file that can be written with --progress FILE",
                self.path.display()
            )
        })
    }

    fn replace(&self, progress: &Progress) -> io::Result<()> {
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec(progress)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The import is complete.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}
