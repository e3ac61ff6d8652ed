//! Writing a database anew, with nothing in it but what is live.
//!
//! sled is a log: a record that was overwritten or deleted stays in its segment until that is rewritten, which may be
//! never on a quiet day. Whoever has to be sure that nothing of a person is left on the disk copies every live record
//! into a fresh database, puts that in the old one's place, and deletes the old files.
//!
//! The places change by renaming, one step after the other, each synced; [`recover`] takes up whatever step a crash
//! left it at, before the database is opened.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::OpenError;
use super::sled_engine::{
    create_private, delete_unfinished_snapshots, folder_error, lock, open_database, panic_text,
};

/// Records copied at a time; large batches make sled's memory grow without bound.
const ROWS_AT_A_TIME: usize = 100;
/// Bytes between two syncs of the copy.
const SYNC_EVERY_BYTES: u64 = 32 << 20;
const CACHE_BYTES: u64 = 64 << 20;

/// What a compaction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Live records.
    pub records: u64,
    /// Bytes on disk before.
    pub bytes_before: u64,
    /// Bytes on disk after.
    pub bytes_after: u64,
}

struct Places {
    live: PathBuf,
    copy: PathBuf,
    old: PathBuf,
}

impl Places {
    fn of(folder: &Path) -> Self {
        // Names that nobody gives to a copy of their own.
        Self {
            live: folder.join("sled"),
            copy: folder.join("sled.being-compacted"),
            old: folder.join("sled.before-compaction"),
        }
    }
}

/// Ends a compaction that a crash interrupted: forwards once the copy was complete, backwards before.
pub(super) fn recover(folder: &Path) -> Result<(), OpenError> {
    let Places { live, copy, old } = Places::of(folder);
    if old.exists() && !live.exists() {
        rename(folder, if copy.exists() { &copy } else { &old }, &live)?;
    }
    remove(&old)?;
    remove(&copy)
}

/// Writes the database in `folder` anew. Nobody may serve it meanwhile. `told` hears how many records are copied.
///
/// # Errors
/// [`OpenError`]; the database is as it was then, or is taken over at the next start.
pub fn compact(folder: &Path, mut told: impl FnMut(u64)) -> Result<Compacted, OpenError> {
    let places = Places::of(folder);
    if !places.live.exists() && !places.old.exists() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        return Err(folder_error("find a database in", folder)(source));
    }
    let _lock = lock(folder)?;
    recover(folder)?;
    delete_unfinished_snapshots(&places.live)?;
    let bytes_before = bytes_in(&places.live)?;
    let records = copied(&places, &mut told).inspect_err(|_| {
        // What is left of it the next start deletes.
        let _ = std::fs::remove_dir_all(&places.copy);
    })?;
    sync_all(&places.copy)?;
    sync(folder)?;
    rename(folder, &places.live, &places.old)?;
    rename(folder, &places.copy, &places.live)?;
    remove(&places.old)?;
    sync(folder)?;
    Ok(Compacted { records, bytes_before, bytes_after: bytes_in(&places.live)? })
}

fn copied(places: &Places, told: &mut impl FnMut(u64)) -> Result<u64, OpenError> {
    create_private(&places.copy)?;
    let from = open_database(&places.live, CACHE_BYTES)?;
    let to = open_database(&places.copy, CACHE_BYTES)?;
    // What sled finds damaged it may tell by panicking.
    let copied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| copy(&from, &to, told)));
    let unreadable = |reason: String| OpenError::Database { path: places.live.clone(), reason };
    match copied {
        Ok(copied) => copied.map_err(|e| unreadable(e.to_string())),
        Err(panic) => Err(unreadable(format!("sled panicked: {}", panic_text(&*panic)))),
    }
}

fn copy(from: &sled::Db, to: &sled::Db, told: &mut impl FnMut(u64)) -> sled::Result<u64> {
    let (mut records, mut unsynced) = (0, 0);
    let mut rows = from.iter().peekable();
    while rows.peek().is_some() {
        let mut batch = sled::Batch::default();
        for row in rows.by_ref().take(ROWS_AT_A_TIME) {
            let (key, value) = row?;
            unsynced += (key.len() + value.len()) as u64;
            batch.insert(key, value);
            records += 1;
        }
        to.apply_batch(batch)?;
        if unsynced >= SYNC_EVERY_BYTES {
            to.flush()?;
            unsynced = 0;
        }
        told(records);
    }
    to.flush()?;
    if to.len() as u64 != records {
        return Err(sled::Error::ReportableBug("the copy has another number of records".to_owned()));
    }
    Ok(records)
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

fn sync(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(folder_error("sync", path))
}

/// Every file below, then the folder.
pub(super) fn sync_all(folder: &Path) -> Result<(), OpenError> {
    for path in files_in(folder)? {
        sync(&path)?;
    }
    sync(folder)
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
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

fn bytes_in(folder: &Path) -> Result<u64, OpenError> {
    let sizes = files_in(folder)?.into_iter();
    Ok(sizes.map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum())
}

#[cfg(test)]
mod tests {
    use super::super::{EmbeddedStore, Settings};
    use super::*;

    fn settings() -> Settings {
        Settings { cache_mb: 8, free_mb_min: 1, ..Settings::default() }
    }

    fn write(folder: &Path, records: u32) {
        create_private(folder).unwrap();
        create_private(&folder.join("sled")).unwrap();
        let db = open_database(&folder.join("sled"), 8 << 20).unwrap();
        for n in 0..records {
            db.insert(n.to_be_bytes(), vec![7; 100]).unwrap();
        }
        db.insert(b"secret", b"oINVENTED-forgotten").unwrap();
        db.flush().unwrap();
        db.remove(b"secret").unwrap();
        db.flush().unwrap();
    }

    fn holds(folder: &Path, text: &[u8]) -> bool {
        files_in(folder).unwrap().into_iter().any(|path| {
            let bytes = std::fs::read(path).unwrap();
            bytes.windows(text.len()).any(|window| window == text)
        })
    }

    fn read(folder: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
        let db = open_database(&folder.join("sled"), 8 << 20).unwrap();
        db.iter().map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
    }

    #[test]
    fn what_was_deleted_is_gone_from_the_disk_and_the_rest_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 3_000);
        assert!(holds(folder.path(), b"oINVENTED-forgotten"), "sled keeps what is deleted");
        let before = read(folder.path());
        let mut last = 0;
        let done = compact(folder.path(), |records| last = records).unwrap();
        assert_eq!((done.records, last), (3_000, 3_000));
        assert!(!holds(folder.path(), b"oINVENTED-forgotten"));
        assert_eq!(read(folder.path()), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "the database and the lock");
    }

    #[test]
    fn a_crash_between_any_two_steps_loses_nothing() {
        for step in 0..4 {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), 500);
            let before = read(folder.path());
            let Places { live, copy, old } = Places::of(folder.path());
            // A copy that was being written; complete from the first renaming on.
            create_private(&copy).unwrap();
            if step > 0 {
                let to = open_database(&copy, 8 << 20).unwrap();
                super::copy(&open_database(&live, 8 << 20).unwrap(), &to, &mut |_| {}).unwrap();
            }
            if step > 1 {
                std::fs::rename(&live, &old).unwrap();
            }
            if step > 2 {
                std::fs::rename(&copy, &live).unwrap();
            }
            recover(folder.path()).unwrap();
            assert!(live.exists() && !copy.exists() && !old.exists(), "step {step}");
            assert_eq!(read(folder.path()), before, "step {step}");
        }
    }

    #[test]
    fn a_database_in_use_or_absent_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let error = compact(folder.path(), |_| {}).unwrap_err();
        assert!(error.to_string().contains("find a database"), "{error}");
        let store = EmbeddedStore::open(folder.path(), settings()).unwrap();
        assert!(matches!(compact(folder.path(), |_| {}), Err(OpenError::InUse(_))));
        drop(store);
    }
}
