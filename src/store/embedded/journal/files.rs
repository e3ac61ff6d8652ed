//! The journal's files: their names, what of them is needed, and the few steps that make a change of them durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::super::private::create_file;
use super::block::Kind;

/// What is not yet whole has this at the end of its name.
const UNFINISHED: &str = ".unfinished";

/// A file of the journal, as its name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// The number of its first batch.
    pub(super) from: u64,
    /// The number of its last batch, where the name tells.
    pub(super) to: Option<u64>,
}

pub(super) fn segment_name(from: u64) -> String {
    format!("{from:020}.log")
}

pub(super) fn sorted_name(from: u64, to: u64) -> String {
    format!("{from:020}-{to:020}.sorted")
}

fn parse(path: PathBuf) -> Option<Piece> {
    let name = path.file_name()?.to_str()?;
    let (kind, from, to) = if let Some(from) = name.strip_suffix(".log") {
        (Kind::Segment, from.parse().ok()?, None)
    } else {
        let (from, to) = name.strip_suffix(".sorted")?.split_once('-')?;
        (Kind::Sorted, from.parse().ok()?, Some(to.parse().ok()?))
    };
    Some(Piece { path, kind, from, to })
}

/// The files of a journal, oldest first: sorted ones that no larger one replaces, then the segments behind them. None
/// if there is no such folder.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pieces),
        entries => entries.map_err(at(folder))?,
    };
    for entry in entries {
        pieces.extend(parse(entry.map_err(at(folder))?.path()));
    }
    let sorted: Vec<(u64, u64)> = pieces.iter().filter_map(|piece| Some((piece.from, piece.to?))).collect();
    let behind = sorted.iter().map(|(_, to)| *to).max().unwrap_or(0);
    // Where a crash came between writing the larger one and deleting what it replaces, both are there.
    let replaced = |from: u64, to: u64| {
        sorted.iter().any(|(low, high)| *low <= from && to <= *high && (*low, *high) != (from, to))
    };
    pieces.retain(|piece| match piece.to {
        Some(to) => !replaced(piece.from, to),
        None => piece.from > behind,
    });
    pieces.sort_by_key(|piece| (piece.from, piece.to));
    Ok(pieces)
}

/// Deletes what a crash left unfinished, and what another file replaces. Only whoever writes the journal may. What is not
/// of a journal stays.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    let wanted: Vec<PathBuf> = list(folder)?.into_iter().map(|piece| piece.path).collect();
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        let is_ours = parse(finished(&path).unwrap_or_else(|| path.clone())).is_some();
        if is_ours && !wanted.contains(&path) {
            std::fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// Deletes what was begun and not finished.
pub(super) fn clear_unfinished(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        if finished(&path).and_then(parse).is_some() {
            std::fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// The name that an unfinished file is to get.
fn finished(path: &Path) -> Option<PathBuf> {
    path.to_str()?.strip_suffix(UNFINISHED).map(PathBuf::from)
}

/// Where a file is written until it is whole.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Gives a file that is whole, and synced, its name.
pub(super) fn finish(path: &Path) -> io::Result<()> {
    std::fs::rename(unfinished(path), path).map_err(at(path))?;
    sync(path.parent().unwrap_or(Path::new(".")))
}

/// A new file that its owner alone may read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    create_file(path).map_err(at(path))
}

pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

/// Adds the path to an error.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
