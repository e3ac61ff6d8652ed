//! Comparing the index with checkpoint and log, record by record.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::store::embedded::checkpoint::{CompareError, Inventory, side_by_side};
use crate::store::embedded::database::{Recovered, apply_all, recover};
use crate::store::embedded::engine::{Engine, EngineError, records};
use crate::store::embedded::folder::{Folder, OpenError, folder_error, replacement};

/// What comparing came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// The number of the last commit in the log: groups of transactions since the store was created.
    pub commits: u64,
    /// Records that are in both, and equal.
    pub records: u64,
    /// Commits that the index lacked at its end, as after a crash; it has been given them.
    pub replayed: u64,
    /// Whether the index was missing or did not open, and was built anew.
    pub rebuilt: bool,
    /// What differs, by the first letter of the records' keys.
    pub differences: BTreeMap<char, Differences>,
}

/// How many records of one kind differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Differences {
    /// In checkpoint and log, not in the index.
    pub missing: u64,
    /// In both, with another value.
    pub stale: u64,
    /// In the index, not in checkpoint and log.
    pub surplus: u64,
}

/// Compares every row of the store in `folder` with checkpoint and log, which are read from front to back. Nobody may
/// serve it meanwhile. If the index differs, it is built anew at the next start.
///
/// # Errors
/// [`OpenError`] where checkpoint or log cannot be read.
pub fn verify(folder: &Path, cache_bytes: u64) -> Result<Verified, OpenError> {
    let folder = existing(folder)?;
    let _lock = folder.take()?;
    let Recovered { engine, last, backlog, applied, is_rebuilt, .. } =
        recover(&folder, cache_bytes, &mut |_, _| true)?;
    apply_all(&engine, &backlog).map_err(|error| unreadable(&folder, &error))?;
    let mut verified = Verified {
        commits: last,
        records: 0,
        replayed: last.saturating_sub(applied),
        rebuilt: is_rebuilt,
        differences: BTreeMap::new(),
    };
    compare(&folder, &engine, last, &mut verified)?;
    if !verified.differences.is_empty() {
        folder.mark_damaged("it differs from checkpoint and log")?;
    }
    Ok(verified)
}

/// The folder of a store that was made before.
pub(super) fn existing(folder: &Path) -> Result<Folder, OpenError> {
    let store = Folder::new(folder);
    let is_there =
        [store.wal(), store.checkpoint(), store.index(), folder.join("journal"), folder.join("sled")];
    if is_there.iter().any(|path| path.is_dir()) || replacement::is_begun(folder) {
        return Ok(store);
    }
    Err(folder_error("find a store in", folder)(io::ErrorKind::NotFound.into()))
}

pub(super) fn unreadable(folder: &Folder, EngineError(reason): &EngineError) -> OpenError {
    OpenError::Index { path: folder.index(), reason: reason.clone() }
}

fn compare(
    folder: &Folder,
    engine: &dyn Engine,
    last: u64,
    verified: &mut Verified,
) -> Result<(), OpenError> {
    let cannot_read = folder_error("read", folder.path());
    let log = Inventory::read(folder).and_then(|found| found.rows(last)).map_err(cannot_read)?;
    for row in side_by_side(log, records(engine)) {
        let (key, log, index) = row.map_err(|error| match error {
            CompareError::Log(error) => cannot_read(error),
            CompareError::Index(error) => unreadable(folder, &error),
        })?;
        if log == index {
            verified.records += 1;
            continue;
        }
        let kind = key.first().copied().unwrap_or_default() as char;
        let differences = verified.differences.entry(kind).or_default();
        match (log, index) {
            (Some(_), None) => differences.missing += 1,
            (None, _) => differences.surplus += 1,
            (Some(_), Some(_)) => differences.stale += 1,
        }
    }
    Ok(())
}
