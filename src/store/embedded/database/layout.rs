//! The folder of a store of versions before 0.3, brought to the present layout. Every step can be repeated, so that
//! an interruption does no harm.
//!
//! | before | now |
//! | --- | --- |
//! | `sled/` | `index/` |
//! | `journal/*.log` | `wal/` |
//! | `journal/*.sorted` | one file in `checkpoint/` |

use std::io;
use std::path::{Path, PathBuf};

use crate::store::embedded::checkpoint::{self, CheckpointWriter, Entries, SortedReader};
use crate::store::embedded::folder::files::{entries, files_in, remove_file, remove_folder, rename};
use crate::store::embedded::folder::private::{create_folder, write_durably};
use crate::store::embedded::folder::{Folder, OpenError, folder_error};

/// Takes the place of `sled/`, so that a version before 0.3 does not begin an empty store beside this one.
const NOTICE: &str = "This store was upgraded by unionlink 0.3 or later; earlier versions cannot open it.\n";

/// Upgrades the folder if it has the earlier layout.
pub(crate) fn upgrade(folder: &Folder) -> Result<(), OpenError> {
    let old = |name: &str| folder.path().join(name);
    let (sled, journal) = (old("sled"), old("journal"));
    end_compaction(folder, &sled)?;
    if journal.is_dir() && is_absent_or_empty(&folder.wal())? {
        tracing::info!(folder = %folder.path().display(), "the store is being upgraded to the layout of this version");
        create_folder(&folder.checkpoint())?;
        convert(&journal, &folder.checkpoint())?;
        remove_folder(&folder.wal())?;
        rename(&journal, &folder.wal())?;
    } else if journal.is_dir() {
        // Somebody else's: an earlier version has begun one anew, or an operator has put one there.
        tracing::warn!(folder = %journal.display(), "this folder is left alone: the store has a log already");
    }
    if folder.wal().is_dir() {
        for (_, _, path) in runs(&folder.wal())? {
            remove_file(&path)?;
        }
    }
    if sled.is_dir() {
        rename(&sled, &folder.index())?;
    }
    Ok(())
}

fn is_absent_or_empty(path: &Path) -> Result<bool, OpenError> {
    Ok(files_in(path)?.is_empty())
}

/// Keeps versions before 0.3 from opening the folder.
pub(super) fn keep_earlier_versions_out(folder: &Folder) -> Result<(), OpenError> {
    let path = folder.path().join("sled");
    if path.exists() { Ok(()) } else { write_durably(&path, NOTICE.as_bytes()) }
}

/// Ends a compaction that was interrupted: forwards once the copy was complete, backwards before.
fn end_compaction(folder: &Folder, sled: &Path) -> Result<(), OpenError> {
    let (copy, old) =
        (folder.path().join("sled.being-compacted"), folder.path().join("sled.before-compaction"));
    if old.is_dir() && !sled.exists() {
        rename(if copy.is_dir() { &copy } else { &old }, sled)?;
    }
    [copy, old, folder.path().join("sled.being-rebuilt")].iter().try_for_each(|path| remove_folder(path))
}

/// Writes a checkpoint from the sorted files of a journal; none if they have a gap or are damaged: then the index has
/// what they held.
fn convert(journal: &Path, to: &Path) -> Result<(), OpenError> {
    let mut runs = runs(journal)?;
    // Where a crash came between writing a larger one and deleting what it replaces, both are there.
    let all = runs.clone();
    runs.retain(|(from, to, path)| {
        !all.iter().any(|(low, high, other)| low <= from && to <= high && other != path)
    });
    let follow = runs.array_windows().all(|[(_, to, _), (from, ..)]| to + 1 == *from);
    let Some((1, ..)) = runs.first().filter(|_| follow) else { return Ok(()) };
    let Some((_, last, _)) = runs.last() else { return Ok(()) };
    match write(&runs, to, *last) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(%error, "a file of the journal is damaged");
            Ok(())
        }
        written => written.map_err(folder_error("write a checkpoint in", to)),
    }
}

fn write(runs: &[(u64, u64, PathBuf)], to: &Path, last: u64) -> io::Result<()> {
    let readers: Vec<_> =
        runs.iter().map(|(_, _, path)| SortedReader::open(path)).collect::<io::Result<_>>()?;
    let Some(first) = readers.first() else { return Ok(()) };
    let mut writer = CheckpointWriter::create(to, first.header.lineage, last)?;
    let sources = readers.into_iter().map(|reader| Box::new(reader) as Entries).collect();
    for row in checkpoint::live(checkpoint::newest(sources)) {
        let (key, value) = row?;
        writer.push(&key, &value)?;
    }
    let (checkpoint, _) = writer.finish()?;
    // It may contain persons who were erased after its oldest source was written.
    let oldest = runs
        .iter()
        .map(|(_, _, path)| std::fs::metadata(path)?.modified())
        .collect::<io::Result<Vec<_>>>()?;
    let file = std::fs::File::options().write(true).open(&checkpoint.path)?;
    oldest.into_iter().min().map_or(Ok(()), |oldest| file.set_modified(oldest))
}

/// The sorted files of a journal, by the numbers of their first and last records.
fn runs(journal: &Path) -> Result<Vec<(u64, u64, PathBuf)>, OpenError> {
    let run = |path: PathBuf| {
        let (from, to) = path.file_name()?.to_str()?.strip_suffix(".sorted")?.split_once('-')?;
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        Some((from, to, path))
    };
    let mut runs: Vec<_> = entries(journal)?.into_iter().filter_map(run).collect();
    runs.sort_unstable();
    Ok(runs)
}
