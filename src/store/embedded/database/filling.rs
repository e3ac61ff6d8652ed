//! Filling a new index.

use std::path::Path;

use super::mark::{Mark, set_mark};
use super::sums;
use crate::store::embedded::engine::sled::SledEngine;
use crate::store::embedded::engine::{Engine, EngineError, PRIVATE, Write};
use crate::store::embedded::folder::files::{remove_folder, rename, sync_all};
use crate::store::embedded::folder::{Folder, OpenError};
use crate::store::embedded::watchdog::step;
use crate::store::rows::records::is_intact;
use crate::store::rows::source::Row;

/// Bytes between two flushes while much is written.
const FLUSH_EVERY_BYTES: usize = 32 << 20;
/// Rows written at a time.
const ROWS_AT_A_TIME: usize = 64;
const BUILDING_CACHE_BYTES: u64 = 64 << 20;
/// Keys of records that were damaged already in log or checkpoint are kept behind this.
const DAMAGED: &[u8] = b"\0damaged";

/// What remembers a damaged record.
pub(super) fn damaged_row(key: &[u8]) -> Write {
    ([DAMAGED, key].concat(), Some(Vec::new()))
}

/// The keys of the damaged records that are remembered.
pub(super) fn damaged_keys(engine: &dyn Engine) -> Result<Vec<Vec<u8>>, EngineError> {
    let rows = engine.range(DAMAGED, &[PRIVATE + 1]).take_while(|row| match row {
        Ok((key, _)) => key.starts_with(DAMAGED),
        Err(_) => true,
    });
    rows.map(|row| row.map(|(key, _)| key[DAMAGED.len()..].to_vec())).collect()
}

/// Fills a new index, and puts it in the place of the one that is there, which is set aside; `written` returns whether to
/// go on. How many records there were, and the keys of those that were damaged already.
pub(crate) fn replace(
    folder: &Folder,
    mark: Mark,
    rows: impl Iterator<Item = Result<Row, OpenError>>,
    written: &mut dyn FnMut(u64) -> bool,
) -> Result<(u64, Vec<Vec<u8>>), OpenError> {
    let building = folder.building();
    // What is left of one that failed would keep everybody else from writing where the disk is full.
    let filled = fill(&building, mark, rows, written).inspect_err(|_| drop(remove_folder(&building)))?;
    remove_folder(&folder.set_aside())?;
    if folder.index().exists() {
        rename(&folder.index(), &folder.set_aside())?;
    }
    rename(&building, &folder.index())?;
    folder.unmark_damaged()?;
    sums::forget(folder)?;
    Ok(filled)
}

/// Fills a new index in `path`, and makes it durable.
fn fill(
    path: &Path,
    mark: Mark,
    rows: impl Iterator<Item = Result<Row, OpenError>>,
    written: &mut dyn FnMut(u64) -> bool,
) -> Result<(u64, Vec<Vec<u8>>), OpenError> {
    remove_folder(path)?;
    let engine = SledEngine::open(path, BUILDING_CACHE_BYTES)?;
    let unusable = |EngineError(reason)| OpenError::Index { path: path.to_owned(), reason };
    let (mut records, mut unflushed, mut portion) = (0, 0, Vec::new());
    let mut damaged = Vec::new();
    for row in rows {
        let (key, value) = row?;
        if !is_intact(&key, &value) {
            damaged.push(key.clone());
        }
        unflushed += key.len() + value.len();
        portion.push((key, Some(value)));
        records += 1;
        if portion.len() == ROWS_AT_A_TIME {
            step("filling an index", || engine.apply(&portion)).map_err(unusable)?;
            portion.clear();
            if !written(records) {
                return Err(OpenError::Interrupted);
            }
            if unflushed >= FLUSH_EVERY_BYTES {
                step("the flush of an index", || engine.flush()).map_err(unusable)?;
                unflushed = 0;
            }
        }
    }
    portion.extend(damaged.iter().map(|key| damaged_row(key)));
    step("filling an index", || engine.apply(&portion)).map_err(unusable)?;
    set_mark(&engine, mark).map_err(unusable)?;
    drop(engine);
    sync_all(path)?;
    Ok((records, damaged))
}
