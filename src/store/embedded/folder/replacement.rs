//! Putting another store in the place of the one in a folder. From the moment it is [begun](begin) it is completed,
//! by the next start if need be: however it is interrupted, there is never a folder that looks like that of no store.

use std::path::{Path, PathBuf};

use super::error::{OpenError, folder_error};
use super::files::{remove_folder, rename, sync};
use super::private::{create_folder, write_durably};

/// What a store's folder has of a store.
const PARTS: [&str; 7] = ["checkpoint", "wal", "index", "index.damaged", "index.sums", "sled", "journal"];
/// The new store, while it is not complete.
pub(crate) const UNFINISHED: &str = "restoring";
/// The new store, while the parts of the previous one are moved aside.
const READY: &str = "restoring.ready";
/// The new store, while its parts are moved to where they belong.
const PLACING: &str = "restoring.placing";
/// In the folder of the new store: the name of the folder that the previous one is moved to.
const ASIDE: &str = "set-aside";

/// Puts the complete store in `new`, a folder inside of `folder`, in the place of the one that is there. Where that is
/// now, if there was one.
pub(crate) fn begin(folder: &Path, new: &Path) -> Result<Option<PathBuf>, OpenError> {
    let mut names = (1_u32..).map(|n| format!("set-aside-{n}"));
    let name = names.find(|name| !folder.join(name).exists()).unwrap_or_default();
    write_durably(&new.join(ASIDE), name.as_bytes())?;
    rename(new, &folder.join(READY))?;
    finish(folder)?;
    let aside = folder.join(name);
    Ok(aside.exists().then_some(aside))
}

/// Completes what was begun, if anything was, and deletes a new store that was never completed.
pub(crate) fn finish(folder: &Path) -> Result<(), OpenError> {
    let (ready, placing) = (folder.join(READY), folder.join(PLACING));
    if ready.is_dir() {
        let path = ready.join(ASIDE);
        let name = std::fs::read_to_string(&path).map_err(folder_error("read", &path))?;
        move_parts(folder, &folder.join(name))?;
        rename(&ready, &placing)?;
    }
    if placing.is_dir() {
        move_parts(&placing, folder)?;
        remove_folder(&placing)?;
        sync(folder)?;
    }
    remove_folder(&folder.join(UNFINISHED))
}

/// Whether there is something to complete.
pub(crate) fn is_begun(folder: &Path) -> bool {
    [READY, PLACING].iter().any(|name| folder.join(name).is_dir())
}

fn move_parts(from: &Path, to: &Path) -> Result<(), OpenError> {
    for name in PARTS.iter().filter(|name| from.join(name).exists()) {
        create_folder(to)?;
        rename(&from.join(name), &to.join(name))?;
        sync(from)?;
    }
    Ok(())
}
