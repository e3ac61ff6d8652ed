//! What a store on disk has in addition to its database and its writer.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::checkpoint::{self, Checkpointer, Progress};
use super::database::{Drainer, write_sums};
use super::failure::Failure;
use super::folder::{Folder, Lock};
use crate::domain::time::{DAY_MS, Timestamp};
use crate::store::LogStatus;

/// What a store on disk has in addition to its database and its writer.
pub(super) struct OnDisk {
    pub(super) folder: Folder,
    pub(super) drainer: Drainer,
    pub(super) checkpointer: Checkpointer,
    pub(super) failure: Failure,
    pub(super) progress: Arc<Progress>,
    /// Whether the index was rebuilt when the store was opened.
    pub(super) index_rebuilt: bool,
    pub(super) _lock: Lock,
}

impl OnDisk {
    pub(super) fn log_status(&self) -> LogStatus {
        LogStatus { index_rebuilt: self.index_rebuilt, ..self.progress.status() }
    }

    /// Drains what is left, and records that the store was closed.
    pub(super) fn close(&self) {
        self.drainer.stop();
        self.checkpointer.stop();
        if self.failure.is_final() {
            return;
        }
        if let Err(error) = write_sums(&self.folder) {
            tracing::warn!(%error, "the index will be compared at the next start");
        }
    }

    /// A person was forgotten at this instant, perhaps after the last checkpoint was written: then another is needed,
    /// with the records up to `last`.
    pub(super) fn person_was_forgotten(&self, forgotten_at: Timestamp, last: u64) {
        let written_at = checkpoint::find(&self.folder.checkpoint()).ok().and_then(|(found, _)| {
            let modified = std::fs::metadata(found?.path).ok()?.modified().ok()?;
            let since = modified.duration_since(UNIX_EPOCH).ok()?;
            i64::try_from(since.as_millis()).ok()
        });
        // It has what was in the log when its writing began, which takes less than that.
        let is_covered = written_at.is_some_and(|at| forgotten_at.plus_ms(DAY_MS).as_millis() < at);
        if !is_covered {
            self.progress.forgot(last);
        }
    }
}
