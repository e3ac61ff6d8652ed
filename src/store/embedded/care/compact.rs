//! Writing a store anew, with nothing in it but what is live.
//!
//! sled is a log: a row that was overwritten or deleted stays in its segment until that is rewritten, which may be
//! never on a quiet day. Whoever has to be sure that nothing of a person is left in the index has it built anew.

use std::io;
use std::path::Path;

use super::verify::{existing, unreadable};
use crate::store::embedded::checkpoint;
use crate::store::embedded::database::{Mark, Recovered, apply_all, recover, replace_index};
use crate::store::embedded::folder::files::{bytes_in, entries, remove_file, remove_folder, sync};
use crate::store::embedded::folder::{OpenError, folder_error};
use crate::store::embedded::wal;

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

/// Writes a checkpoint of the store in `folder`, and builds its index anew. Nobody may serve it meanwhile. `told` hears
/// how many rows are written.
///
/// # Errors
/// [`OpenError`]; the store is as it was then.
pub fn compact(folder: &Path, cache_bytes: u64, mut told: impl FnMut(u64)) -> Result<Compacted, OpenError> {
    let store = existing(folder)?;
    let _lock = store.take()?;
    let bytes_before = bytes_in(folder)?;
    let Recovered { engine, lineage, last, backlog, .. } = recover(&store, cache_bytes, &mut |_, _| true)?;
    apply_all(&engine, &backlog).map_err(|error| unreadable(&store, &error))?;
    let path = store.checkpoint();
    let cannot_write = folder_error("write a checkpoint in", &path);
    let made = match checkpoint::make(&store, lineage, last, &|| false) {
        // The index has everything.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(%error, "log or checkpoint are damaged; a checkpoint is written from the index");
            checkpoint::from_index(&engine, &path, lineage, last, &|| last, &|| false)
        }
        made => made,
    };
    let (made, _) = made.map_err(cannot_write)?;
    drop(engine);
    let rows = checkpoint::live(made.entries().map_err(cannot_write)?);
    let rows = rows.map(|row| row.map_err(cannot_write));
    let (records, _) = replace_index(&store, Mark { lineage, seq: last }, rows, &mut |records| {
        told(records);
        true
    })?;
    checkpoint::clear_unfinished(&store.checkpoint()).map_err(cannot_write)?;
    for segment in wal::list(&store.wal())? {
        remove_file(&segment.path)?;
    }
    sync(&store.wal())?;
    sync(&store.checkpoint())?;
    remove_set_aside(folder)?;
    Ok(Compacted { records, bytes_before, bytes_after: bytes_in(folder)? })
}

/// Deletes what earlier restorations and versions have set aside.
fn remove_set_aside(folder: &Path) -> Result<(), OpenError> {
    for path in entries(folder)? {
        let is_aside = path.file_name().is_some_and(|name| name.to_string_lossy().contains("set-aside"));
        if is_aside && path.is_dir() {
            remove_folder(&path)?;
        }
    }
    Ok(())
}
