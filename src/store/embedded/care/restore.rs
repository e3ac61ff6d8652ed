//! Restoring a store from a copy that [`backup`](super::backup) made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::embedded::checkpoint::Inventory;
use crate::store::embedded::database::{Recovered, recover, upgrade_layout};
use crate::store::embedded::engine::records;
use crate::store::embedded::folder::files::{at, entries, remove_file};
use crate::store::embedded::folder::private::{copy_file, create_folder, write_durably};
use crate::store::embedded::folder::{Folder, OpenError, folder_error, replacement};
use crate::store::embedded::wal::record::{self, Header, Kind};
use crate::store::embedded::wal::{self, Content, Gap, Lineage};

/// What restoring came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// The number of the last commit.
    pub commits: u64,
    /// Live records.
    pub records: u64,
    /// Where the store is that was there before.
    pub set_aside: Option<PathBuf>,
    /// What could not be had, where that was accepted.
    pub lost: Option<String>,
}

/// How to restore.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restore {
    /// Whether what comes before a gap in the log will do.
    pub partial: bool,
}

/// Puts the copy in `from` in the place of the store in `folder`, and builds its index. Nobody may serve the store
/// meanwhile. Where the store that was there has commits behind those of the copy, they are kept. What was there is set
/// aside. `told` hears how many rows are written.
///
/// # Errors
/// [`OpenError`]. The store is as it was then; unless the error comes while the two change places, which the next start
/// completes.
pub fn restore(
    folder: &Path,
    from: &Path,
    how: Restore,
    mut told: impl FnMut(u64),
) -> Result<Restored, OpenError> {
    let store = Folder::new(folder);
    create_folder(folder)?;
    let _lock = store.take()?;
    replacement::finish(folder)?;
    let new = folder.join(replacement::UNFINISHED);
    let target = Folder::new(&new);
    let restored = assemble(&store, from, &target).and_then(|lost| {
        if let Some(lost) = lost.as_ref().filter(|_| !how.partial) {
            let hint = "add --partial to do without what comes behind it";
            return Err(OpenError::Incomplete { path: from.to_owned(), reason: lost.clone(), hint });
        }
        let mut written = |_: &str, records| {
            told(records);
            true
        };
        let Recovered { engine, last, .. } = recover(&target, BUILDING_CACHE_BYTES, &mut written)?;
        let live = records(&engine).count() as u64;
        Ok((last, live, lost))
    });
    let (commits, records, lost) = restored.inspect_err(|_| {
        let _ = fs::remove_dir_all(&new);
    })?;
    let set_aside = replacement::begin(folder, &new)?;
    Ok(Restored { commits, records, set_aside, lost })
}

const BUILDING_CACHE_BYTES: u64 = 64 << 20;
/// A segment with later commits that has become longer is followed by another.
const SEGMENT_BYTES_MAX: usize = 16 << 20;

/// Copies checkpoint and log of the copy to `target`, and what the store has behind them. What of either cannot be had.
fn assemble(store: &Folder, from: &Path, target: &Folder) -> Result<Option<String>, OpenError> {
    let copy = Folder::new(from);
    let cannot_copy = folder_error("copy", from);
    if is_of_an_earlier_version(from)? {
        // A copy of a journal: the folder that is converted.
        copy_folder(from, &target.path().join("journal")).map_err(cannot_copy)?;
        upgrade_layout(target)?;
    } else {
        copy_folder(&copy.checkpoint(), &target.checkpoint())
            .and_then(|()| copy_folder(&copy.wal(), &target.wal()))
            .map_err(cannot_copy)?;
    }
    let Some(lineage) = lineage(target).map_err(cannot_copy)? else {
        return Err(folder_error("find a copy of a store in", from)(io::ErrorKind::NotFound.into()));
    };
    let (copied, cut) = cut_at_a_gap(target).map_err(cannot_copy)?;
    let (reached, missing) = add_later(store, target, lineage, copied).map_err(cannot_copy)?;
    let gaps = [cut, missing].into_iter().flatten().filter(|gap| gap.end > reached);
    Ok(gaps.map(|gap| gap.to_string()).reduce(|a, b| format!("{a}; {b}")))
}

fn lineage(folder: &Folder) -> io::Result<Option<Lineage>> {
    let found = Inventory::read(folder)?;
    match (&found.checkpoint, &found.unreadable) {
        (None, Some(unreadable)) => Err(wal::damaged(unreadable)),
        _ => found.lineage(),
    }
}

fn is_of_an_earlier_version(folder: &Path) -> Result<bool, OpenError> {
    let is_of_one = |path: &PathBuf| path.extension().is_some_and(|name| name == "sorted" || name == "log");
    Ok(entries(folder)?.iter().any(is_of_one))
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    create_folder(to)?;
    for path in entries(from)?.into_iter().filter(|path| path.is_file()) {
        let mut file = fs::File::open(&path).map_err(at(&path))?;
        copy_file(&mut file, &to.join(path.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// Deletes what comes behind a gap in the log, or is damaged. The last record before it; and the gap, if there is one.
fn cut_at_a_gap(target: &Folder) -> io::Result<(u64, Option<Gap>)> {
    let found = Inventory::read(target)?;
    let replayed = found.replay()?;
    if replayed.gap.is_none() {
        return Ok((replayed.last, None));
    }
    for segment in &found.segments {
        let content = Content::read(segment).ok().flatten().filter(|_| segment.from <= replayed.last);
        match content {
            Some(content) if content.end() > replayed.last => {
                let file =
                    fs::OpenOptions::new().write(true).open(&segment.path).map_err(at(&segment.path))?;
                let length = content.bytes_up_to(replayed.last) as u64;
                file.set_len(length).and_then(|()| file.sync_all()).map_err(at(&segment.path))?;
            }
            Some(_) => {}
            None => remove_file(&segment.path)?,
        }
    }
    Ok((replayed.last, replayed.gap))
}

/// Adds the commits of the store after `copied` to a copy of it. The last commit there is then; and what cannot be
/// read of those behind it.
fn add_later(store: &Folder, copy: &Folder, lineage: Lineage, copied: u64) -> io::Result<(u64, Option<Gap>)> {
    // Before its first start by this version, a store's log is in `journal`.
    let mut own = wal::list(&store.wal())?;
    own.extend(wal::list(&store.path().join("journal"))?);
    own.sort_unstable();
    if wal::lineage(&own)?.is_some_and(|own| own != lineage) {
        return Ok((copied, None));
    }
    // Gathered to segments of the usual length.
    let (mut from, mut records) = (copied + 1, Vec::new());
    let write = |from: u64, records: &[u8]| {
        let header = Header { kind: Kind::Segment, lineage, from, to: 0 }.encode();
        write_durably(&copy.wal().join(wal::segment_name(from)), &[&header, records].concat())
    };
    let replayed = wal::replay::<io::Error>(&own, copied, |seq, entries| {
        records.extend(record::record(seq, &entries.into_iter().map(record::owned).collect())?);
        if records.len() >= SEGMENT_BYTES_MAX {
            write(from, &records)?;
            (from, records) = (seq + 1, Vec::new());
        }
        Ok(())
    })?;
    if !records.is_empty() {
        write(from, &records)?;
    }
    Ok((replayed.last, replayed.gap))
}
