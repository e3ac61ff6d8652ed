//! Copying checkpoint and log away, while the store is served or not.
//!
//! Files that are new or differ are copied under another name first. Only once all of them together have been read back do
//! they get their names, and only then are those deleted that the store has no longer: a copy is never worse than it
//! was, whatever has happened to the store.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::verify::existing;
use crate::store::embedded::checkpoint::{self, Inventory};
use crate::store::embedded::folder::files::{
    at, entries, files_in, is_unfinished, remove_file, remove_unfinished, sync, unfinished,
};
use crate::store::embedded::folder::private::{copy_file, create_folder};
use crate::store::embedded::folder::{Folder, OpenError, folder_error};
use crate::store::embedded::wal::{self, SegmentFile};

/// What a copy came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BackedUp {
    /// The number of the last commit in the copy.
    pub commits: u64,
    /// Files of the copy.
    pub files: u64,
    /// Those of them that were copied this time.
    pub copied: u64,
    /// Bytes of the whole copy.
    pub bytes: u64,
}

/// Files are replaced while they are copied; a list of them may be out of date by the time they are opened.
const ATTEMPTS: usize = 20;

/// Copies checkpoint and log of the store in `folder` to `to`, whether or not it is being served. A copy made there
/// earlier is brought up to date. What is copied is read back.
///
/// # Errors
/// [`OpenError`]; what was copied earlier is still whole then.
pub fn backup(folder: &Path, to: &Path) -> Result<BackedUp, OpenError> {
    let store = existing(folder)?;
    if is_inside(to, folder).map_err(folder_error("find", to))? {
        return Err(refused(
            to,
            "it is inside the store's own folder",
            "name a folder outside, on another disk",
        ));
    }
    create_folder(to)?;
    let mut attempts = 1..=ATTEMPTS;
    loop {
        attempts.next();
        match check_and_copy(&store, to) {
            Err(OpenError::Folder { source, .. })
                if source.kind() == io::ErrorKind::NotFound && !attempts.is_empty() => {}
            copied => return copied,
        }
    }
}

fn check_and_copy(store: &Folder, to: &Path) -> Result<BackedUp, OpenError> {
    check_source(store)?;
    check_target(store, to)?;
    let (target, cannot_copy) = (Folder::new(to), folder_error("copy the store to", to));
    let folders = [target.checkpoint(), target.wal()];
    folders.iter().try_for_each(|folder| create_folder(folder))?;
    let clear = || folders.iter().try_for_each(|folder| remove_unfinished(folder));
    clear()?;
    // Of a copy that is damaged, the last commit before the damage.
    let there = Inventory::read(&target).and_then(|found| found.replay()).map_err(cannot_copy)?.last;
    let files = copy_what_differs(store, to).map_err(cannot_copy)?;
    let commits = read_back(&files).inspect_err(|_| drop(clear())).map_err(cannot_copy)?;
    if commits < there {
        clear()?;
        let reason = format!("the copy in it has {there} commits, and the store only {commits}");
        return Err(refused(to, &reason, "if an older store was restored, name a new folder"));
    }
    give_names(&files, &folders).map_err(cannot_copy)?;
    let bytes = files.iter().map(|file| fs::metadata(&file.path).map_or(0, |meta| meta.len())).sum();
    let copied = files.iter().filter(|file| file.unfinished.is_some()).count() as u64;
    Ok(BackedUp { commits, files: files.len() as u64, copied, bytes })
}

fn refused(path: &Path, reason: &str, hint: &'static str) -> OpenError {
    OpenError::Incomplete { path: path.to_owned(), reason: reason.to_owned(), hint }
}

/// Whether a folder that need not exist yet is, or would be, in another.
fn is_inside(path: &Path, folder: &Path) -> io::Result<bool> {
    let path = std::path::absolute(path)?;
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(&path);
    Ok(existing.canonicalize()?.starts_with(folder.canonicalize()?))
}

/// Refuses a store that has nothing to copy: a copy of nothing would look like a success.
fn check_source(store: &Folder) -> Result<(), OpenError> {
    if files_of(store).map_err(folder_error("read", store.path()))?.is_empty() {
        let hint = "start the service once: it brings the folder to the layout of this version";
        return Err(refused(store.path(), "there is neither a log nor a checkpoint in it", hint));
    }
    Ok(())
}

/// Refuses a folder that holds something else.
fn check_target(store: &Folder, to: &Path) -> Result<(), OpenError> {
    let copy = Folder::new(to);
    let lineage = |folder: &Folder| Inventory::read(folder)?.lineage();
    let own = lineage(store).map_err(folder_error("read", store.path()))?;
    let there = lineage(&copy).map_err(folder_error("read", to))?;
    if there.is_some() && there != own {
        return Err(refused(to, "the copy in that folder is of another store", "name a new folder"));
    }
    // What an earlier attempt has left unfinished is in nobody's way.
    let is_begun = |path: &PathBuf| {
        is_unfinished(path) && (path.starts_with(copy.wal()) || path.starts_with(copy.checkpoint()))
    };
    let is_ours = files_in(to)?.iter().all(is_begun);
    if there.is_none() && !is_ours {
        let hint = "name a folder that is empty or new, or one that this store was copied to before";
        return Err(refused(to, "there is something else in that folder", hint));
    }
    Ok(())
}

/// The files of checkpoint and log, as they are at this moment.
fn files_of(store: &Folder) -> io::Result<Vec<PathBuf>> {
    let Inventory { checkpoint, segments, .. } = Inventory::read(store)?;
    let segments = segments.into_iter().map(|segment| segment.path);
    Ok(checkpoint.map(|checkpoint| checkpoint.path).into_iter().chain(segments).collect())
}

/// A file of the copy.
struct Copied {
    /// Where it is, or will be.
    path: PathBuf,
    /// Where its content is until then, if it is new.
    unfinished: Option<PathBuf>,
}

impl Copied {
    fn content(&self) -> &Path {
        self.unfinished.as_deref().unwrap_or(&self.path)
    }

    fn is_checkpoint(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "checkpoint")
    }
}

/// Gives the files of the copy their names, and deletes those that the store has no longer.
fn give_names(files: &[Copied], folders: &[PathBuf]) -> io::Result<()> {
    for Copied { path, unfinished } in files {
        if let Some(unfinished) = unfinished {
            fs::rename(unfinished, path).map_err(at(path))?;
        }
    }
    for folder in folders {
        sync(folder)?;
        for path in entries(folder)?.iter().filter(|path| is_ours(path)) {
            if !files.iter().any(|file| file.path == *path) {
                remove_file(path)?;
            }
        }
    }
    Ok(())
}

fn copy_what_differs(store: &Folder, to: &Path) -> io::Result<Vec<Copied>> {
    // Opened all at once: what is deleted from here on is still read to its end.
    let mut open = Vec::new();
    for path in files_of(store)? {
        open.push((File::open(&path).map_err(at(&path))?, path));
    }
    let mut files = Vec::new();
    for (mut from, source) in open {
        let path = to.join(source.strip_prefix(store.path()).unwrap_or(&source));
        if is_equal(&mut from, &path).map_err(at(&source))? {
            files.push(Copied { path, unfinished: None });
            continue;
        }
        let unfinished = unfinished(&path);
        io::Seek::rewind(&mut from).map_err(at(&source))?;
        copy_file(&mut from, &unfinished)?;
        files.push(Copied { path, unfinished: Some(unfinished) });
    }
    Ok(files)
}

/// Whether a file that was copied earlier has the same content. One may have been replaced by another of its name and
/// length; and a copy may have been damaged since.
fn is_equal(file: &mut File, copy: &Path) -> io::Result<bool> {
    let there = match File::open(copy) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        there => there?,
    };
    let length = file.metadata()?.len();
    if there.metadata()?.len() != length {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (BufReader::new(file).take(length), BufReader::new(there));
    let (mut our_bytes, mut their_bytes) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = ours.read(&mut our_bytes)?;
        theirs.read_exact(&mut their_bytes[..read])?;
        if our_bytes[..read] != their_bytes[..read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

fn is_ours(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["wal", "log", "checkpoint"].iter().any(|ours| extension == *ours))
}

/// Reads copied files from front to back. The number of the last record.
fn read_back(files: &[Copied]) -> io::Result<u64> {
    let mut seq = 0;
    for file in files.iter().filter(|file| file.is_checkpoint()) {
        seq = seq.max(checkpoint::verify(file.content())?);
    }
    let segments = files.iter().filter(|file| !file.is_checkpoint()).filter_map(|file| {
        let from = SegmentFile::parse(file.path.clone())?.from;
        Some(SegmentFile { from, path: file.content().to_owned() })
    });
    let replayed = wal::replay::<io::Error>(&segments.collect::<Vec<_>>(), seq, |_, _| Ok(()))?;
    match replayed.gap {
        Some(gap) => Err(io::Error::new(io::ErrorKind::InvalidData, gap.to_string())),
        None => Ok(replayed.last),
    }
}
