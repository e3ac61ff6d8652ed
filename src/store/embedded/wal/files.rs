//! The names of segments, and which there are.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::embedded::folder::OpenError;
use crate::store::embedded::folder::files::{at, entries, remove_file};

const SUFFIX: &str = ".wal";
/// That of versions before 0.3.
const OLD_SUFFIX: &str = ".log";

/// A segment of the log, as its name tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentFile {
    /// The number of its first record.
    pub(crate) from: u64,
    pub(crate) path: PathBuf,
}

impl SegmentFile {
    pub(crate) fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let from = name.strip_suffix(SUFFIX).or_else(|| name.strip_suffix(OLD_SUFFIX))?.parse().ok()?;
        Some(Self { from, path })
    }

    pub(crate) fn bytes(&self) -> io::Result<u64> {
        std::fs::metadata(&self.path).map(|meta| meta.len()).map_err(at(&self.path))
    }
}

/// The name of the segment that begins with this record.
pub(crate) fn segment_name(from: u64) -> String {
    format!("{from:020}{SUFFIX}")
}

/// The segments in a folder, oldest first; none if there is no such folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<SegmentFile>, OpenError> {
    let mut segments: Vec<_> = entries(folder)?.into_iter().filter_map(SegmentFile::parse).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Deletes the segments that end with `seq` or before it; never the last one, which is being written.
pub(crate) fn delete_up_to(folder: &Path, seq: u64) -> io::Result<()> {
    for [segment, next] in list(folder)?.array_windows() {
        if next.from > seq.saturating_add(1) {
            break;
        }
        remove_file(&segment.path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_listed_in_the_order_of_their_records_and_deleted_once_covered_but_for_the_last() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(list(&folder.path().join("none")).unwrap(), []);
        for from in [100, 1, 20] {
            std::fs::write(folder.path().join(segment_name(from)), "").unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        let left = || list(folder.path()).unwrap().iter().map(|segment| segment.from).collect::<Vec<_>>();
        assert_eq!(left(), [1, 20, 100]);
        delete_up_to(folder.path(), 18).unwrap();
        assert_eq!(left(), [1, 20, 100]);
        delete_up_to(folder.path(), 19).unwrap();
        assert_eq!(left(), [20, 100]);
        delete_up_to(folder.path(), 1_000).unwrap();
        assert_eq!(left(), [100]);
    }
}
