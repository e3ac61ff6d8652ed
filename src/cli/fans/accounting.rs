//! Bookkeeping of an import: counts, rejected rows and progress, kept consistent.
//!
//! Rejected rows are durable before the progress that counts them, so that none is missing from the file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::batches::Batch;
use super::progress::Progress;
use super::send::Receipt;
use crate::cli::private_file;
use crate::cli::progress_display::ProgressDisplay;

/// Rejected rows shown on standard error when there is no file for them.
const SHOWN_MAX: u64 = 20;
/// Rejected rows repeated in the error, if the import fails because of rejected rows.
const FIRST_REJECTS_MAX: usize = 3;

/// The bookkeeping of an import.
pub(super) struct Accounts {
    pub(super) progress: Progress,
    /// The progress file; none for a stream or a dry run.
    path: Option<PathBuf>,
    rejects: Rejects,
    /// Line and reason of the first rows that this run rejected.
    pub(super) first_rejects: Vec<String>,
    /// Whether nothing was recorded since the last save.
    saved: bool,
}

impl Accounts {
    pub(super) fn open(progress: Progress, path: Option<PathBuf>) -> anyhow::Result<Self> {
        let rejects = match &progress.rejects {
            Some(rejects) => Rejects::open(rejects, progress.rejects_bytes)?,
            None => Rejects::Shown { count: 0 },
        };
        Ok(Self { progress, path, rejects, first_rejects: Vec::new(), saved: false })
    }

    /// Records a batch that the service has acknowledged.
    pub(super) fn record(
        &mut self,
        mut batch: Batch,
        receipt: Receipt,
        display: &ProgressDisplay,
    ) -> anyhow::Result<()> {
        // The service numbers the rows that were sent, from 1.
        let mut sent: Vec<_> = batch.rows.iter_mut().filter(|row| row.rejected.is_none()).collect();
        for rejected in receipt.rejected {
            let index = usize::try_from(rejected.line).unwrap_or(usize::MAX).wrapping_sub(1);
            let row = sent.get_mut(index).context(
                "the service rejected a row that was not sent\nhint: is it the same version of unionlink?",
            )?;
            row.rejected = Some(rejected.reason);
        }
        let mut counts = self.progress.counts;
        counts.rows += batch.rows.len() as u64;
        counts.accepted += receipt.accepted;
        counts.known += receipt.known;
        for row in batch.rows {
            if let Some(reason) = row.rejected {
                counts.rejected += 1;
                if self.first_rejects.len() < FIRST_REJECTS_MAX {
                    self.first_rejects.push(format!("line {}: {reason}", row.line));
                }
                self.rejects.add(row.line, &reason, &row.text, display)?;
            }
        }
        (self.progress.counts, self.progress.position, self.saved) = (counts, batch.end, false);
        Ok(())
    }

    /// Makes everything recorded durable. Blocks for as long as the disk takes, a few milliseconds.
    pub(super) fn save(&mut self) -> anyhow::Result<()> {
        if self.saved {
            return Ok(());
        }
        // Not repeated after an error: a second sync may succeed although the data of the first is lost.
        self.saved = true;
        self.progress.rejects_bytes = self.rejects.sync()?;
        if let Some(path) = &self.path {
            self.progress.save(path)?;
        }
        Ok(())
    }

    /// Completes the import and deletes its progress file.
    pub(super) fn close(mut self) -> anyhow::Result<()> {
        self.rejects.sync()?;
        self.path.as_deref().map_or(Ok(()), Progress::remove)
    }
}

/// The destination of rejected rows.
enum Rejects {
    /// A file. `bytes` is its length, with the entries that are still in the buffer.
    File { path: PathBuf, file: BufWriter<File>, bytes: u64 },
    /// Standard error, for the first few.
    Shown { count: u64 },
}

impl Rejects {
    /// Opens `path` and keeps its first `keep_bytes`, which an earlier run wrote.
    fn open(path: &Path, keep_bytes: u64) -> anyhow::Result<Self> {
        let unwritable = || format!("cannot write {}", path.display());
        let file = private_file::append(path).with_context(unwritable)?;
        let metadata = file.metadata().with_context(unwritable)?;
        // The file is shorter if it was truncated or deleted since.
        let bytes = keep_bytes.min(metadata.len());
        if metadata.is_file() {
            // The rest was written after the last saved progress; those rows are read and rejected again.
            file.set_len(bytes).with_context(unwritable)?;
        }
        Ok(Self::File { path: path.to_owned(), file: BufWriter::new(file), bytes })
    }

    fn add(&mut self, line: u64, reason: &str, row: &str, display: &ProgressDisplay) -> anyhow::Result<()> {
        match self {
            Self::Shown { count } => {
                *count += 1;
                if *count <= SHOWN_MAX {
                    display.say(&format!("line {line}: {reason}"));
                } else if *count == SHOWN_MAX + 1 {
                    display.say("further rejected rows are only counted; --rejects FILE lists all of them");
                }
                Ok(())
            }
            Self::File { path, file, bytes } => {
                let entry = format!("{}\n", json!({"line": line, "reason": reason, "row": row}));
                *bytes += entry.len() as u64;
                let written = file.write_all(entry.as_bytes());
                written.with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }

    /// Makes the rejected rows durable. Returns the length of the file.
    fn sync(&mut self) -> anyhow::Result<u64> {
        let Self::File { path, file, bytes } = self else { return Ok(0) };
        let synced = file.flush().and_then(|()| match file.get_ref().sync_data() {
            // A pipe or a terminal has nothing to sync.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        });
        synced.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(*bytes)
    }
}
