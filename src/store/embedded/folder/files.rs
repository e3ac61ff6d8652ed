//! Operations on files and folders, each with an error that names the path. What makes files is beside this, in
//! [`private`](super::private).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{OpenError, folder_error};

/// Adds the path to errors.
pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + Copy + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The folder that a file is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a file or a folder's entries durable.
pub(crate) fn sync(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(folder_error("sync", path))
}

/// Renames; durable in the folder of the new name, which mostly is that of the old one.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    std::fs::rename(from, to).map_err(folder_error("rename", from))?;
    sync(parent(to))
}

/// Deletes a folder with everything in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), OpenError> {
    ignore_missing(std::fs::remove_dir_all(path)).map_err(folder_error("delete", path))
}

/// Deletes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), OpenError> {
    ignore_missing(std::fs::remove_file(path)).map_err(folder_error("delete", path))
}

fn ignore_missing<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}

/// The name of a file while it is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_added_extension("unfinished")
}

pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "unfinished")
}

/// Deletes the files in a folder that were not finished.
pub(crate) fn remove_unfinished(folder: &Path) -> Result<(), OpenError> {
    entries(folder)?.iter().filter(|path| is_unfinished(path)).try_for_each(|path| remove_file(path))
}

/// Makes every file below a folder durable, then the folders.
pub(crate) fn sync_all(folder: &Path) -> Result<(), OpenError> {
    let mut folders = vec![folder.to_owned()];
    for path in files_in(folder)? {
        sync(&path)?;
        if let Some(parent) = path.parent().filter(|parent| !folders.iter().any(|known| known == parent)) {
            folders.push(parent.to_owned());
        }
    }
    folders.iter().try_for_each(|folder| sync(folder))
}

/// The files and folders in a folder; none if there is no such folder.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let paths =
        std::fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    ignore_missing(paths).map_err(folder_error("read", folder))
}

/// Every file below a folder; none if there is no such folder.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let (inner, found): (Vec<_>, Vec<_>) = entries(&folder)?.into_iter().partition(|path| path.is_dir());
        folders.extend(inner);
        files.extend(found);
    }
    files.sort_unstable();
    Ok(files)
}

/// The bytes of every file below a folder.
pub(crate) fn bytes_in(folder: &Path) -> Result<u64, OpenError> {
    let sizes = files_in(folder)?.into_iter();
    Ok(sizes.map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum())
}
