//! Filling a database that is new, and putting it in another's place.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::OpenError;
use super::engine::Write;
use super::engine::sled::{folder_error, open_database, or_abort, panic_text};
use super::private::create_folder;

/// Records written at a time; large batches make sled's memory grow without bound.
const ROWS_AT_A_TIME: usize = 100;
/// Bytes between two syncs.
const SYNC_EVERY_BYTES: u64 = 32 << 20;
pub(super) const CACHE_BYTES: u64 = 64 << 20;

/// Opens a database to be read or filled here.
pub(super) fn open(path: &Path) -> Result<sled::Db, OpenError> {
    open_database(path, CACHE_BYTES)
}

/// Fills the database in `path`, which must be new, with `rows`, and syncs it. Returns how many there were; `told` hears
/// it on the way.
pub(super) fn fill(
    path: &Path,
    rows: impl Iterator<Item = Result<Write, String>>,
    mut told: impl FnMut(u64),
) -> Result<u64, OpenError> {
    create_folder(path)?;
    let to = open(path)?;
    // What sled finds damaged where the rows come from it may tell by panicking.
    let filled = catch_unwind(AssertUnwindSafe(|| fill_open(&to, rows, &mut told)));
    let filled = filled.unwrap_or_else(|panic| Err(format!("sled panicked: {}", panic_text(&*panic))));
    let records = filled.map_err(|reason| OpenError::Database { path: path.to_owned(), reason })?;
    drop(to);
    sync_all(path)?;
    Ok(records)
}

fn fill_open(
    to: &sled::Db,
    mut rows: impl Iterator<Item = Result<Write, String>>,
    told: &mut impl FnMut(u64),
) -> Result<u64, String> {
    let text = |error: sled::Error| error.to_string();
    let (mut records, mut unsynced) = (0, 0);
    loop {
        let mut batch = sled::Batch::default();
        let before = records;
        for row in rows.by_ref().take(ROWS_AT_A_TIME) {
            let (key, value) = row?;
            let value = value.unwrap_or_default();
            unsynced += (key.len() + value.len()) as u64;
            batch.insert(key, value);
            records += 1;
        }
        if records == before {
            break;
        }
        or_abort(|| to.apply_batch(batch)).map_err(text)?;
        if unsynced >= SYNC_EVERY_BYTES {
            or_abort(|| to.flush()).map_err(text)?;
            unsynced = 0;
        }
        told(records);
    }
    or_abort(|| to.flush()).map_err(text)?;
    if to.len() as u64 == records {
        Ok(records)
    } else {
        Err("the copy has another number of records".to_owned())
    }
}

pub(super) fn rename(folder: &Path, from: &Path, to: &Path) -> Result<(), OpenError> {
    std::fs::rename(from, to).map_err(folder_error("rename", from))?;
    sync(folder)
}

pub(super) fn remove(path: &Path) -> Result<(), OpenError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(folder_error("delete", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn sync(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(folder_error("sync", path))
}

/// Every file below, then the folder.
pub(super) fn sync_all(folder: &Path) -> Result<(), OpenError> {
    for path in files_in(folder)? {
        sync(&path)?;
    }
    sync(folder)
}

pub(super) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(folder_error("read", &folder))? {
            let path = entry.map_err(folder_error("read", &folder))?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}
