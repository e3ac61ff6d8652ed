//! Rows that were not taken: to a file, or the first of them to the terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::batches::Bad;
use crate::cli::show::Show;

/// Bad rows told on standard error when no file is named for them.
const SHOWN_MAX: u64 = 20;

pub(super) enum Rejects {
    File { path: PathBuf, file: BufWriter<File>, bytes: u64, dirty: bool },
    Shown { count: u64 },
}

impl Rejects {
    /// Rejects for `path`, which keeps its first `keep_bytes`: those an earlier run accounts for.
    pub(super) fn open(path: Option<&Path>, keep_bytes: u64) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::Shown { count: 0 });
        };
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let unwritable = || format!("cannot write {}", path.display());
        let mut file = opened.with_context(unwritable)?;
        let metadata = file.metadata().with_context(unwritable)?;
        if metadata.is_file() {
            if metadata.len() < keep_bytes {
                bail!(
                    "{} is shorter than the interrupted import left it\nhint: name another file, or begin anew with \
                     --restart",
                    path.display()
                );
            }
            // What came after the last progress comes again.
            file.set_len(keep_bytes).with_context(unwritable)?;
            file.seek(SeekFrom::Start(keep_bytes)).with_context(unwritable)?;
        }
        let path = path.to_owned();
        Ok(Self::File { path, file: BufWriter::new(file), bytes: keep_bytes, dirty: false })
    }

    /// Notes one row.
    pub(super) fn note(&mut self, bad: &Bad, show: &Show) -> anyhow::Result<()> {
        match self {
            Self::Shown { count } => {
                *count += 1;
                if *count <= SHOWN_MAX {
                    show.say(&format!("line {}: {}", bad.origin.line, bad.reason));
                }
                if *count == SHOWN_MAX {
                    show.say("further bad rows are counted only; --rejects FILE writes them all to a file");
                }
                Ok(())
            }
            Self::File { path, file, bytes, dirty } => {
                let mut line =
                    json!({"line": bad.origin.line, "reason": bad.reason, "row": bad.origin.raw}).to_string();
                line.push('\n');
                (*bytes, *dirty) = (*bytes + line.len() as u64, true);
                file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }

    /// Makes what was noted durable; how many bytes that is.
    pub(super) fn flush(&mut self) -> anyhow::Result<u64> {
        match self {
            Self::Shown { .. } => Ok(0),
            Self::File { path, file, bytes, dirty } => {
                if std::mem::take(dirty) {
                    file.flush()
                        .and_then(|()| durable(file.get_ref()))
                        .with_context(|| format!("cannot write {}", path.display()))?;
                }
                Ok(*bytes)
            }
        }
    }
}

/// A pipe or a terminal has nothing to sync.
fn durable(file: &File) -> io::Result<()> {
    match file.sync_data() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}
