//! The folder of a store: what is in it, and the few operations on files that must be durable.
//!
//! | name | holds |
//! | --- | --- |
//! | `wal/` | the write-ahead log: see [`wal`](super::wal) |
//! | `checkpoint/` | every live record as of a position in the log: see [`checkpoint`](super::checkpoint) |
//! | `index/` | sled |
//! | `index.building/` | an index that is being built |
//! | `index.set-aside/` | the last index that was replaced because it was damaged |
//! | `index.damaged` | says that the index has to be built anew at the next start |
//! | `index.sums` | a checksum of the index's files at the last clean stop |
//! | `restoring`, `restoring.ready`, `restoring.placing` | a store that is being [put in the place](replacement) of this one |
//! | `set-aside-1` and so on | stores that were replaced by a restored one |
//! | `lock` | locked by the process that has the store open |
//! | `ballast` | space to give up: a database on a full disk cannot even be opened |

mod error;
pub(crate) mod files;
pub(crate) mod private;
pub(crate) mod replacement;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use error::OpenError;
pub(crate) use error::folder_error;
use files::{remove_file, sync};
use private::{check_owner, create_file, create_folder, narrow, open_lock, write_durably};

const BALLAST_BYTES: u64 = 64 << 20;

/// Where a store is.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The write-ahead log.
    pub(crate) fn wal(&self) -> PathBuf {
        self.0.join("wal")
    }

    /// The checkpoint.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// sled's files.
    pub(crate) fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    /// An index that is being built.
    pub(crate) fn building(&self) -> PathBuf {
        self.0.join("index.building")
    }

    /// An index that was replaced.
    pub(crate) fn set_aside(&self) -> PathBuf {
        self.0.join("index.set-aside")
    }

    fn damage_marker(&self) -> PathBuf {
        self.0.join("index.damaged")
    }

    /// The checksum of the index's files.
    pub(crate) fn sums(&self) -> PathBuf {
        self.0.join("index.sums")
    }

    /// Makes the folder unless it is there, narrows what others may read, and locks it.
    pub(crate) fn take(&self) -> Result<Lock, OpenError> {
        create_folder(&self.0)?;
        check_owner(&self.0)?;
        // First of all, so that nobody else can place a file.
        narrow(&self.0);
        self.lock()
    }

    /// Locks the folder for this process.
    pub(crate) fn lock(&self) -> Result<Lock, OpenError> {
        check_owner(&self.0)?;
        let path = self.0.join("lock");
        let file = open_lock(&path).map_err(folder_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(self.0.clone())),
            Err(std::fs::TryLockError::Error(source)) => Err(folder_error("lock", &path)(source)),
        }
    }

    /// Has the index built anew at the next start. Durable when it returns `Ok`.
    pub(crate) fn mark_damaged(&self, reason: &str) -> Result<(), OpenError> {
        write_durably(&self.damage_marker(), reason.as_bytes())
    }

    /// Why the index has to be built anew, if it has to.
    pub(crate) fn damage(&self) -> Option<String> {
        let marker = self.damage_marker();
        marker.exists().then(|| std::fs::read_to_string(&marker).unwrap_or_default())
    }

    /// The index has been built anew.
    pub(crate) fn unmark_damaged(&self) -> Result<(), OpenError> {
        remove_file(&self.damage_marker())?;
        sync(&self.0)
    }

    /// Gives up the ballast if the disk is full.
    pub(crate) fn make_room(&self) {
        if self.free_bytes().is_some_and(|free| free < BALLAST_BYTES) {
            let _ = std::fs::remove_file(self.0.join("ballast"));
        }
    }

    /// Sets ballast aside while there is plenty of space. Failing to is no reason not to serve.
    pub(crate) fn keep_ballast(&self) {
        let ballast = self.0.join("ballast");
        let complete = std::fs::metadata(&ballast).is_ok_and(|meta| meta.len() >= BALLAST_BYTES);
        if complete || self.free_bytes().is_none_or(|free| free < 16 * BALLAST_BYTES) {
            return;
        }
        let allocated = create_file(&ballast).map_err(|e| e.to_string()).and_then(|file| {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST_BYTES)
                .map_err(|e| e.to_string())
        });
        if let Err(reason) = allocated {
            tracing::info!(reason, "no ballast file: this file system cannot set space aside");
        }
    }

    /// Bytes free on its disk, if that can be told.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        rustix::fs::statvfs(&self.0).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The lock on a store's folder, held as long as this lives.
pub(crate) struct Lock(#[expect(dead_code, reason = "held, never read")] File);
