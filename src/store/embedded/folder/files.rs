//! Operations on files, each with an error that names the file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{OpenError, folder_error};

/// Adds the path to an error.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a file or a folder's entries durable.
pub(crate) fn sync(path: &Path) -> Result<(), OpenError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(folder_error("sync", path))
}

/// Renames, durably. Both are in `folder`.
pub(crate) fn rename(folder: &Path, from: &Path, to: &Path) -> Result<(), OpenError> {
    std::fs::rename(from, to).map_err(folder_error("rename", from))?;
    sync(folder)
}

/// Deletes a folder with everything in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), OpenError> {
    ignore_missing(std::fs::remove_dir_all(path)).map_err(folder_error("delete", path))
}

/// Deletes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), OpenError> {
    ignore_missing(std::fs::remove_file(path)).map_err(folder_error("delete", path))
}

fn ignore_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
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

/// Every file below a folder; none if there is no such folder.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(folder_error("read", &folder))?,
        };
        for entry in entries {
            let path = entry.map_err(folder_error("read", &folder))?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The bytes of every file below a folder.
pub(crate) fn bytes_in(folder: &Path) -> Result<u64, OpenError> {
    let sizes = files_in(folder)?.into_iter();
    Ok(sizes.map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum())
}
