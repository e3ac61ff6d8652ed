//! sled 0.34.7 behind the interface. What it needs to be trusted, each point found by measurement:
//!
//! * its sync made real: see [`durable_sync`]; proven at every open;
//! * `flush_every_ms(None)`: the background flusher swallows sync errors, and Linux reports each only once;
//! * the blocking `flush()` from one thread: seven concurrent `flush_async` deadlock the database for good;
//! * leftover `snap.*.generating` files deleted before opening: a kill during an earlier open leaves one, and
//!   sled then calls the database corrupt;
//! * every call inside [`caught`]: sled panics on most damage that it notices;
//! * a new database made under another name and renamed once it is durable: interrupted while it writes its
//!   settings, sled never opens what it left;
//! * the folder synced after creation; sled never does;
//! * writes in small portions, not as sled's batches: each of those makes it write and sync its buffer twice
//!   (`pin_log`, `pagecache/mod.rs:889-918`), and beyond a hundred keys its memory grows without bound;
//! * an I/O error is sticky in sled and final for the process; what sled makes of each stands in
//!   `tests/disk/faults.rs`.
//!
//! What it was told to flush is durable: `Db::flush` waits until the log is stable up to all that was reserved
//! (`pagecache/iobuf.rs:1011-1015`, `900-990`), and a position is stable once its buffer was written and
//! `sync_file_range` returned (`iobuf.rs:729-753`), which in this program is `fdatasync`. A write that fails is
//! remembered for good and returned by every later flush (`iobuf.rs:916-925`).

use std::path::Path;
use std::time::{Duration, Instant};

use super::durable_sync;
use super::interface::{Engine, EngineError, Rows, Write};
use crate::store::embedded::folder::OpenError;
use crate::store::embedded::folder::files::{entries, parent, remove_file, sync};
use crate::store::embedded::folder::private::create_folder;
use crate::store::embedded::watchdog::{caught, step};

/// A database closed a moment ago in this process may still hold its lock.
const REOPEN_WITHIN: Duration = Duration::from_secs(2);
const PROBE: &[u8] = b"\0probe";

/// An index on disk.
pub(crate) struct SledEngine(sled::Db);

impl SledEngine {
    /// Opens, or makes, the database in `path`.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        create_folder(path)?;
        delete_unfinished_snapshots(path)?;
        let engine = Self(open_database(path, cache_bytes)?);
        // What was just created: sled's own files, then the folders that got a new entry.
        for synced in [&path.join("conf"), &path.join("db"), path, parent(path)] {
            sync(synced)?;
        }
        let probe = || {
            step("the first write of the index", || {
                engine.apply(&[(PROBE.to_vec(), Some(vec![1]))])?;
                engine.apply(&[(PROBE.to_vec(), None)])?;
                engine.flush()
            })
        };
        match durable_sync::proven(probe) {
            Ok(true) => Ok(engine),
            Ok(false) => Err(OpenError::NotDurable),
            Err(EngineError(reason)) => Err(OpenError::Index { path: path.to_owned(), reason }),
        }
    }
}

fn delete_unfinished_snapshots(path: &Path) -> Result<(), OpenError> {
    for file in entries(path)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "deleting a snapshot that an earlier start did not finish");
            remove_file(&file)?;
        }
    }
    Ok(())
}

fn open_database(path: &Path, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    let until = Instant::now() + REOPEN_WITHIN;
    loop {
        let reason = match caught(|| config.open()) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(e))) if e.to_string().contains("lock") && Instant::now() < until => {
                std::thread::park_timeout(Duration::from_millis(20));
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("sled panicked: {panic}"),
        };
        return Err(OpenError::Index { path: path.to_owned(), reason });
    }
}

/// Calls sled, which tells of some damage by panicking.
fn calling<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, EngineError> {
    match caught(call) {
        Ok(result) => result.map_err(|error| EngineError(error.to_string())),
        Err(panic) => Err(EngineError(format!("sled panicked: {panic}"))),
    }
}

impl Engine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        calling(|| self.0.get(key)).map(|value| value.map(|v| v.to_vec()))
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let mut rows = self.0.range(from..to);
        let mut failed = false;
        Box::new(std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let row = calling(|| rows.next().transpose()).transpose()?;
            failed = row.is_err();
            Some(row.map(|(key, value)| (key.to_vec(), value.to_vec())))
        }))
    }

    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        calling(|| {
            for (key, value) in writes {
                match value {
                    Some(value) => self.0.insert(key, value.as_slice()),
                    None => self.0.remove(key),
                }?;
            }
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        calling(|| self.0.flush()).map(drop)
    }
}
