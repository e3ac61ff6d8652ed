//! A sink that appends entries to files of a folder, one JSON object a line (NDJSON), for programs that pick up files.
//!
//! The disk's side is in `folder`; here is only the way there: a task that may block. Should a delivery be given up
//! half-way, its task still runs to its end and the next one waits for it.

mod folder;
mod name;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use self::folder::Folder;
use super::{Again, Sink, Undelivered};
use crate::clock::Clock;
use crate::domain::link::FeedEntry;

/// Entries written and made durable at once.
const BATCH_MAX: usize = 500;

/// Where and how files are written.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder; made if it is not there.
    pub path: PathBuf,
    /// A file that would grow beyond this is followed by a new one.
    pub rotate_bytes: u64,
    /// Whether each day (UTC) begins a new file.
    pub rotate_daily: bool,
}

/// The sink.
pub struct Files {
    folder: Arc<Mutex<Folder>>,
    clock: Arc<dyn Clock>,
}

impl Files {
    /// A sink for one folder. Nothing is touched before the first delivery.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { folder: Arc::new(Mutex::new(Folder::new(settings))), clock }
    }
}

/// The entries, a line each.
fn lines(entries: &[FeedEntry]) -> serde_json::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

#[async_trait]
impl Sink for Files {
    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), Undelivered> {
        if entries.is_empty() {
            return Ok(());
        }
        let undelivered = |reason| Undelivered { arrived: 0, again: Again::Later, reason };
        let lines = lines(entries)
            .map_err(|error| undelivered(format!("an entry cannot be written as JSON: {error}")))?;
        let (folder, now) = (self.folder.clone(), self.clock.now());
        // A poisoned folder is as good as any other: it looks at the disk before it writes.
        let append = move || folder.lock().unwrap_or_else(PoisonError::into_inner).append(&lines, now);
        match tokio::task::spawn_blocking(append).await {
            Ok(appended) => appended.map_err(|error| undelivered(error.to_string())),
            Err(panic) => Err(undelivered(format!("writing was broken off: {panic}"))),
        }
    }
}
