//! A sink that appends entries to files in a folder, one JSON object per line (NDJSON), for programs that
//! pick up files.
//!
//! Here is only the serialisation and a blocking task; what happens on the disk is in `folder`. If a delivery
//! is cancelled, its task still runs to its end, and the next delivery waits for it.

mod folder;
mod name;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rustix::fs::Access;

use self::folder::Folder;
pub use self::folder::Settings;
use super::{DeliveryError, Looked, Retry, Sink};
use crate::clock::Clock;
use crate::domain::link::FeedEntry;

/// Entries that are written and synced at once.
const BATCH_MAX: usize = 500;

/// The file sink.
pub struct Files {
    folder: Arc<Mutex<Folder>>,
    clock: Arc<dyn Clock>,
}

impl Files {
    /// A sink for one folder. The disk is not touched before the first delivery.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { folder: Arc::new(Mutex::new(Folder::new(settings))), clock }
    }
}

/// The entries as NDJSON.
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

    async fn deliver(&mut self, entries: &[FeedEntry]) -> Result<(), DeliveryError> {
        if entries.is_empty() {
            return Ok(());
        }
        let failed = |reason| DeliveryError { delivered: 0, retry: Retry::Backoff, reason };
        let lines = lines(entries)
            .map_err(|error| failed(format!("an entry cannot be serialised as JSON: {error}")))?;
        let (folder, now) = (self.folder.clone(), self.clock.now());
        // After a panic the folder is still usable: it checks the file on the disk before every write.
        let append = move || folder.lock().unwrap_or_else(PoisonError::into_inner).append(&lines, now);
        match tokio::task::spawn_blocking(append).await {
            Ok(appended) => appended.map_err(|error| failed(error.to_string())),
            Err(panic) => Err(failed(format!("writing the file ended unexpectedly: {panic}"))),
        }
    }

    async fn look(&mut self) -> Result<Looked, String> {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner).path().to_owned();
        // The last ancestor of a relative path is the present folder.
        let of = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
        let existing =
            folder.ancestors().map(of).find(|path| path.exists()).unwrap_or_else(|| folder.clone());
        let access = Access::WRITE_OK | Access::EXEC_OK;
        let shown = existing.display();
        match rustix::fs::access(&existing, access) {
            Ok(()) => Ok(Looked::Well(format!("{} can be written to", folder.display()))),
            Err(error) => {
                Err(format!("{shown} cannot be written to: {error}; give it to the user of the service"))
            }
        }
    }
}
