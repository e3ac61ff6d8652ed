//! sled 0.34.7 behind the seam. What it needs to be trusted, each point found by measurement:
//!
//! * its sync made real: see [`durable_sync`](super::durable_sync); proven at every open;
//! * `flush_every_ms(None)`: the background flusher swallows sync errors, and Linux reports each only once;
//! * the blocking `flush()` from one thread: seven concurrent `flush_async` deadlock the database for good;
//! * leftover `snap.*.generating` files deleted before opening: a kill during an earlier open leaves one, and
//!   sled then calls the database corrupt;
//! * opening inside `catch_unwind`: sled panics on damage it notices;
//! * a new database made under another name and renamed once it is durable: interrupted while it writes its
//!   settings, sled never opens what it left;
//! * the folder synced after creation; sled never does;
//! * a lock of our own, held for the life of the process;
//! * modes of our own: see [`private`](crate::store::embedded::private);
//! * a ballast file: a database on a full disk cannot even be opened, so there is something to give up;
//! * an I/O error is sticky in sled and final for the process; what sled makes of each stands in `tests/disk/faults.rs`.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::durable_sync;
use super::{Batch, Database, Engine, EngineError, Rows};
use crate::store::embedded::journal::JournalError;
use crate::store::embedded::private::{check_owner, create_file, create_folder, narrow, open_lock};
use crate::store::embedded::writer::ABORT_AFTER;
use crate::store::embedded::{compaction, fresh};

const BALLAST_BYTES: u64 = 64 << 20;
/// A database closed a moment ago in this process may still hold its lock.
const REOPEN_WITHIN: Duration = Duration::from_secs(2);

/// Why the store's folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An operation on a file or folder failed.
    #[error("cannot {attempted} {}", path.display())]
    Folder {
        /// The operation, as a verb: "create", "open".
        attempted: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another process has this folder open.
    #[error("{} is in use by another process\nhint: one folder serves one unionlink; stop the other one", .0.display())]
    InUse(PathBuf),
    /// The folder belongs to another user than that of this process.
    #[error(
        "{} belongs to the user {owner}, and this process runs as {user}\nhint: run it as that user (sudo -u '#{owner}' …), or give the folder to this one (chown -R {user})",
        path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// The number of its owner.
        owner: u32,
        /// The number of the process's user.
        user: u32,
    },
    /// sled cannot open the database in this folder.
    #[error(
        "the database in {} cannot be opened: {reason}\nhint: keep a copy of the folder, then run unionlink store rebuild",
        path.display()
    )]
    Database {
        /// Where.
        path: PathBuf,
        /// The error of sled.
        reason: String,
    },
    /// The binary was linked without our `sync_file_range`, which makes sled's writes durable.
    #[error(
        "writes would not be durable: this binary was linked without its own sync_file_range\nhint: build it with the project's Cargo.toml"
    )]
    NotDurable,
    /// The write-ahead log cannot be used, or not with this database.
    #[error("the journal in {} cannot be used: {reason}\nhint: {hint}", path.display())]
    Journal {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The database belongs to another program or version, or is damaged.
    #[error("the content of the store cannot be used: {0}")]
    Content(crate::store::embedded::StoreError),
}

impl OpenError {
    pub(crate) fn journal(path: &Path, error: &JournalError) -> Self {
        Self::Journal { path: path.to_owned(), reason: error.to_string(), hint: error.hint() }
    }
}

pub(crate) struct SledEngine {
    db: sled::Db,
    folder: PathBuf,
    _lock: File,
}

impl SledEngine {
    /// Opens or creates the database in `folder`.
    pub(crate) fn open(folder: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        create_folder(folder)?;
        check_owner(folder)?;
        // First of all, so that nobody else can place a file.
        narrow(folder);
        let lock = lock(folder)?;
        let ballast = folder.join("ballast");
        if free_bytes(folder).is_some_and(|free| free < BALLAST_BYTES) {
            // Opening needs space: sled writes a snapshot and zeroes segments.
            let _ = std::fs::remove_file(&ballast);
        }
        compaction::recover(folder)?;
        let path = folder.join("sled");
        if !path.exists() {
            create(folder, &path, cache_bytes)?;
        }
        delete_unfinished_snapshots(&path)?;
        let db = open_database(&path, cache_bytes)?;
        // What was just created: sled's own files, then each folder that got a new entry.
        let parent =
            folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for synced in [&path.join("conf"), &path.join("db"), &path, folder, parent] {
            File::open(synced).and_then(|file| file.sync_all()).map_err(folder_error("sync", synced))?;
        }
        let engine = Self { db, folder: folder.to_owned(), _lock: lock };
        let probe = || or_abort(|| engine.commit(vec![(b"\0probe".to_vec(), Some(vec![1]))]));
        if !durable_sync::proven(probe).map_err(|e| OpenError::Database { path, reason: e.0 })? {
            return Err(OpenError::NotDurable);
        }
        keep_ballast(folder, &ballast);
        Ok(engine)
    }
}

pub(crate) fn folder_error<'a>(
    attempted: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Folder { attempted, path: path.to_owned(), source }
}

/// A new database gets its name once all of it is durable: sled writes its settings in two steps and does not sync
/// them, and what an interruption leaves of them it never opens.
fn create(folder: &Path, path: &Path, cache_bytes: u64) -> Result<(), OpenError> {
    let new = folder.join("sled.being-created");
    fresh::remove(&new)?;
    create_folder(&new)?;
    // Said now: dropping it would not tell that something could not be written.
    let new_database = open_database(&new, cache_bytes)?;
    let flushed = or_abort(|| new_database.flush());
    drop(new_database);
    flushed.map_err(|e| OpenError::Database { path: new.clone(), reason: e.to_string() })?;
    fresh::sync_all(&new)?;
    fresh::rename(folder, &new, path)
}

pub(crate) fn lock(folder: &Path) -> Result<File, OpenError> {
    check_owner(folder)?;
    let path = folder.join("lock");
    let file = open_lock(&path).map_err(folder_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(folder.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(folder_error("lock", &path)(source)),
    }
}

pub(crate) fn delete_unfinished_snapshots(path: &Path) -> Result<(), OpenError> {
    for entry in std::fs::read_dir(path).map_err(folder_error("read", path))? {
        let entry = entry.map_err(folder_error("read", path))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "deleting a snapshot that an earlier start did not finish");
            std::fs::remove_file(entry.path()).map_err(folder_error("delete", &entry.path()))?;
        }
    }
    Ok(())
}

pub(crate) fn open_database(path: &Path, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    let until = Instant::now() + REOPEN_WITHIN;
    loop {
        let reason = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(e))) if e.to_string().contains("lock") && Instant::now() < until => {
                std::thread::park_timeout(Duration::from_millis(20));
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("sled panicked: {}", panic_text(&*panic)),
        };
        return Err(OpenError::Database { path: path.to_owned(), reason });
    }
}

/// Does what writes while the store is being opened or closed, when no writer's watchdog is there: where an I/O error comes at
/// the wrong moment sled never returns, and a process that neither serves nor ends helps nobody.
pub(crate) fn or_abort<T>(work: impl FnOnce() -> T) -> T {
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::Builder::new().name("store-opening".to_owned()).spawn(move || {
        if ended.recv_timeout(ABORT_AFTER) == Err(RecvTimeoutError::Timeout) {
            tracing::error!(
                "the store is stuck in one write while it is opened or closed; aborting the process"
            );
            std::process::abort();
        }
    });
    let result = work();
    drop((done, watching));
    result
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    rustix::fs::statvfs(folder).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Sets space aside while there is plenty. Failing to is no reason not to serve.
fn keep_ballast(folder: &Path, ballast: &Path) {
    let complete = std::fs::metadata(ballast).is_ok_and(|meta| meta.len() >= BALLAST_BYTES);
    if complete || free_bytes(folder).is_none_or(|free| free < 16 * BALLAST_BYTES) {
        return;
    }
    let allocated = create_file(ballast).map_err(|e| e.to_string()).and_then(|file| {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST_BYTES)
            .map_err(|e| e.to_string())
    });
    if let Err(reason) = allocated {
        tracing::info!(reason, "no ballast file: this file system cannot set space aside");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn engine_error(error: sled::Error) -> EngineError {
    EngineError(error.to_string())
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.db.get(key).map(|value| value.map(|v| v.to_vec())).map_err(engine_error)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let rows = self.db.range(from..to);
        Box::new(rows.map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(engine_error)))
    }

    /// One batch on one tree, then one blocking flush; why that is durable is told in [`writer`](crate::store::embedded::writer).
    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.db.apply_batch(writes).map_err(engine_error)?;
        self.flush()
    }

    fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.folder)
    }
}

impl Database for SledEngine {
    /// Not as one of sled's batches: each of those makes it write and sync its buffer twice (`pin_log`,
    /// `pagecache/mod.rs:889-918`) and wakes seven threads each time.
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        for (key, value) in batch {
            match value {
                Some(value) => self.db.insert(key, value),
                None => self.db.remove(key),
            }
            .map_err(engine_error)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.db.flush().map(drop).map_err(engine_error)
    }
}
