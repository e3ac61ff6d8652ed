//! Comparing a running index with checkpoint and log, after a stop that left no checksums of its files: sled does not
//! notice every bit that a disk flips.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use super::inventory::Inventory;
use super::merge::{CompareError, side_by_side};
use crate::store::embedded::engine::{Engine, records};
use crate::store::embedded::folder::Folder;
use crate::store::embedded::wal;

/// Rows between two pauses, which leave the disk and the processor to whoever is waiting.
const ROWS_BETWEEN_PAUSES: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(1);
/// Keys that differ and may have been written meanwhile, before the log is asked.
const SUSPECTS_MAX: usize = if cfg!(test) { 4 } else { 50_000 };

/// What comparing came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// So many rows are equal, and none differs.
    Equal(u64),
    /// The index differs, in this way.
    Differs(String),
    /// It was stopped.
    Stopped,
}

/// Compares the index with what checkpoint and log hold up to the record `to`. The index may be written meanwhile: what
/// the log has written since is left alone. Segments must not be deleted meanwhile.
pub(super) fn compare(
    folder: &Folder,
    engine: &dyn Engine,
    to: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<Compared> {
    let log = Inventory::read(folder)?.rows(to)?;
    let (mut suspects, mut equal) = (HashSet::new(), 0);
    for (n, row) in side_by_side(log, records(engine)).enumerate() {
        if n % ROWS_BETWEEN_PAUSES == 0 {
            if stop() {
                return Ok(Compared::Stopped);
            }
            std::thread::park_timeout(PAUSE);
        }
        let (key, log, index) = match row {
            Ok(row) => row,
            Err(CompareError::Log(error)) => return Err(error),
            Err(CompareError::Index(error)) => return Ok(Compared::Differs(error.0)),
        };
        if log == index {
            equal += 1;
            continue;
        }
        suspects.insert(key);
        if suspects.len() >= SUSPECTS_MAX
            && let Some(reason) = acquit(folder, to, &mut suspects)?
        {
            return Ok(Compared::Differs(reason));
        }
    }
    Ok(match acquit(folder, to, &mut suspects)? {
        Some(reason) => Compared::Differs(reason),
        None => Compared::Equal(equal),
    })
}

/// Drops the keys that were written after the record `to`. Why the index differs, if there are others.
fn acquit(folder: &Folder, to: u64, suspects: &mut HashSet<Vec<u8>>) -> io::Result<Option<String>> {
    if !suspects.is_empty() {
        // A record being appended passes for a torn end; its keys were not in the index when that was read.
        wal::replay::<io::Error>(&wal::list(&folder.wal())?, to, |_, entries| {
            for (key, _) in entries {
                suspects.remove(key);
            }
            Ok(())
        })?;
    }
    let found = suspects.len();
    let first = suspects.iter().next().and_then(|key| key.first().copied()).unwrap_or_default() as char;
    Ok((found > 0).then(|| format!("{found} records, of kind {first:?} among others, are not as in the log")))
}
