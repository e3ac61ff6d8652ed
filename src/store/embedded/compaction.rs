//! Writing a database anew, with nothing in it but what is live.
//!
//! sled is a log: a record that was overwritten or deleted stays in its segment until that is rewritten, which may be
//! never on a quiet day. Whoever has to be sure that nothing of a person is left on the disk copies every live record
//! into a fresh database, puts that in the old one's place, and deletes the old files.
//!
//! The places change by renaming, one step after the other, each synced; [`recover`] takes up whatever step a crash
//! left it at, before the database is opened.

use std::io;
use std::path::{Path, PathBuf};

use super::OpenError;
use super::engine::sled::{folder_error, lock};
use super::fresh::{self, files_in, remove, rename, sync};
use super::journal::care;

/// The name of a database while it is being rebuilt.
pub(super) const BEING_REBUILT: &str = "sled.being-rebuilt";

/// What a compaction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
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
    remove(&copy)?;
    // What an interrupted rebuilding left is not known to be whole.
    let rebuilt = folder.join(BEING_REBUILT);
    if rebuilt.exists() && !live.exists() {
        let reason = "it was being rebuilt; run unionlink store rebuild again, as before".to_owned();
        return Err(OpenError::Database { path: rebuilt, reason });
    }
    remove(&rebuilt)
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
    care::settle(folder, fresh::CACHE_BYTES)?;
    let _lock = lock(folder)?;
    let bytes_before = bytes_in(&places.live)?;
    let records = copied(&places, &mut told).inspect_err(|_| {
        // What is left of it the next start deletes.
        let _ = std::fs::remove_dir_all(&places.copy);
    })?;
    sync(folder)?;
    rename(folder, &places.live, &places.old)?;
    rename(folder, &places.copy, &places.live)?;
    remove(&places.old)?;
    sync(folder)?;
    care::shrink(folder)?;
    Ok(Compacted { records, bytes_before, bytes_after: bytes_in(&places.live)? })
}

fn copied(places: &Places, told: &mut impl FnMut(u64)) -> Result<u64, OpenError> {
    let from = fresh::open(&places.live)?;
    let rows = from.iter().map(|row| match row {
        Ok((key, value)) => Ok((key.to_vec(), Some(value.to_vec()))),
        Err(error) => Err(error.to_string()),
    });
    fresh::fill(&places.copy, rows, told)
}

fn bytes_in(folder: &Path) -> Result<u64, OpenError> {
    let sizes = files_in(folder)?.into_iter();
    Ok(sizes.map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum())
}

#[cfg(test)]
mod tests {
    use super::super::engine::sled::open_database;
    use super::super::journal::PRIVATE;
    use super::super::private::create_folder;
    use super::super::{EmbeddedStore, Settings};
    use super::*;

    fn settings() -> Settings {
        Settings { cache_mb: 8, free_mb_min: 1, ..Settings::default() }
    }

    fn write(folder: &Path, records: u32) {
        create_folder(folder).unwrap();
        create_folder(&folder.join("sled")).unwrap();
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
        let rows = db.iter().map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap());
        rows.filter(|(key, _)| key[0] != PRIVATE).collect()
    }

    #[test]
    fn what_was_deleted_is_gone_from_the_disk_and_the_rest_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 3_000);
        assert!(holds(folder.path(), b"oINVENTED-forgotten"), "sled keeps what is deleted");
        let before = read(folder.path());
        let mut last = 0;
        let done = compact(folder.path(), |records| last = records).unwrap();
        // And the one that every opening writes.
        assert_eq!((done.records, last), (3_001, 3_001));
        assert!(!holds(folder.path(), b"oINVENTED-forgotten"));
        assert_eq!(read(folder.path()), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "database, lock and ballast");
    }

    #[test]
    fn a_crash_between_any_two_steps_loses_nothing() {
        for step in 0..4 {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), 500);
            let before = read(folder.path());
            let Places { live, copy, old } = Places::of(folder.path());
            // A copy that was being written; complete from the first renaming on.
            create_folder(&copy).unwrap();
            if step > 0 {
                copied(&Places::of(folder.path()), &mut |_| {}).unwrap();
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
