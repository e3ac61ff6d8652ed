//! The store is for one user alone: its folder 0700, its files 0600.
//!
//! sled makes its files for whoever the umask lets in, so the commands that open a store set one; what an earlier
//! version, a copy or a careless hand left wider is narrowed here when the store is opened. Only what is known to be the
//! store's own is touched: whoever names the wrong folder must not find its files changed.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::error::{OpenError, folder_error};
use super::files::{at, entries, parent, sync};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What is in the folder of a store; `sled` and `journal` are of earlier versions.
const OURS: [&str; 7] = ["ballast", "checkpoint", "index", "journal", "lock", "sled", "wal"];
/// The beginnings of the names of whatever else is.
const BEGINNINGS: [&str; 5] = ["index.", "sled.", "journal.", "set-aside-", "restoring"];

/// Makes a folder, and those above it, unless they are there.
pub(crate) fn create_folder(path: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
    made.map_err(folder_error("create the folder", path))
}

/// Makes a file, in place of one that is there: that may be a link, and emptying it would empty what it leads to.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Writes a file, in place of one that is there. Durable when it returns.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> Result<(), OpenError> {
    let written =
        create_file(path).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(folder_error("write", path))?;
    sync(parent(path))
}

/// Copies a file, replacing one that is there, and keeps the time of its last change: a checkpoint that is older than an
/// erasure may still contain the erased person. The content is durable when it returns.
pub(crate) fn copy_file(from: &mut File, to: &Path) -> io::Result<()> {
    let copied = create_file(to).and_then(|mut copy| {
        let modified = from.metadata()?.modified()?;
        io::copy(from, &mut copy)?;
        copy.set_modified(modified)?;
        copy.sync_all()
    });
    copied.map_err(at(to))
}

/// Opens a file to lock it, and makes it if need be. Its content is left alone.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(no_follow);
    options.open(path).map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => io::Error::other("it is a symbolic link; delete it"),
        _ => error,
    })
}

/// Checks that a folder belongs to the user of this process, or to root, as volumes of containers do. In another
/// user's folder root would make files that the owner's process cannot open, and the owner could place links.
pub(crate) fn check_owner(folder: &Path) -> Result<(), OpenError> {
    let metadata = std::fs::metadata(folder).map_err(folder_error("read", folder))?;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if may_use(owner, user) { Ok(()) } else { Err(OpenError::Owner { path: folder.to_owned(), owner, user }) }
}

const fn may_use(owner: u32, user: u32) -> bool {
    owner == user || owner == 0
}

/// Narrows what others can get at. A folder that cannot be narrowed, because it belongs to somebody else, is told of.
pub(crate) fn narrow(folder: &Path) {
    let (mut narrowed, mut only_ours) = (0_u64, true);
    let mut done = entries(folder).map_err(io::Error::from).and_then(|paths| {
        let (ours, others): (Vec<_>, Vec<_>) = paths.iter().partition(|path| is_ours(path));
        only_ours = others.iter().all(|path| path.ends_with("lost+found"));
        ours.into_iter().try_for_each(|path| narrow_all(path, &mut narrowed))
    });
    if only_ours {
        let metadata = std::fs::metadata(folder);
        done = done.and(metadata.and_then(|metadata| narrow_one(folder, &metadata, &mut narrowed)));
    } else if std::fs::metadata(folder).is_ok_and(|metadata| is_wide(&metadata)) {
        tracing::warn!(folder = %folder.display(), "the store's folder is open to others and holds other things too; give the store one of its own");
    }
    if narrowed > 0 {
        tracing::warn!(narrowed, folder = %folder.display(), "files of the store were open to others; now they are not");
    }
    if let Err(error) = done {
        tracing::warn!(%error, folder = %folder.display(), "files of the store may be open to others");
    }
}

fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    OURS.contains(&&*name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

fn narrow_all(path: &Path, narrowed: &mut u64) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    // What a link leads to is not in the folder.
    if metadata.is_symlink() {
        return Ok(());
    }
    if metadata.is_dir() {
        entries(path)?.iter().try_for_each(|path| narrow_all(path, narrowed))?;
    }
    narrow_one(path, &metadata, narrowed)
}

fn narrow_one(path: &Path, metadata: &Metadata, narrowed: &mut u64) -> io::Result<()> {
    if is_wide(metadata) {
        let mode = if metadata.is_dir() { FOLDER_MODE } else { FILE_MODE };
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        *narrowed += 1;
    }
    Ok(())
}

fn is_wide(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o077 != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn make(path: &Path, mode: u32) {
        std::fs::write(path, "").unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_the_stores_is_narrowed_and_nothing_else() {
        let outer = tempfile::tempdir().unwrap();
        let (folder, stranger) = (outer.path().join("data"), outer.path().join("stranger"));
        make(&stranger, 0o644);
        std::fs::create_dir_all(folder.join("sled/blobs")).unwrap();
        for path in [&folder, &folder.join("sled"), &folder.join("sled/blobs")] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        for name in ["lock", "sled/db", "sled/blobs/1"] {
            make(&folder.join(name), 0o664);
        }
        symlink(&stranger, folder.join("sled/link")).unwrap();
        narrow(&folder);
        for name in ["", "sled", "sled/blobs"] {
            assert_eq!(mode(&folder.join(name)), 0o700, "{name}");
        }
        for name in ["lock", "sled/db", "sled/blobs/1"] {
            assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&stranger), 0o644);

        // With something else in it, the folder itself may be meant for others.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        make(&folder.join("notes"), 0o644);
        make(&folder.join("ballast"), 0o644);
        narrow(&folder);
        let modes = ["", "notes", "ballast"].map(|name| mode(&folder.join(name)));
        assert_eq!(modes, [0o755, 0o644, 0o600]);
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_what_it_leads_to_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, path) = (folder.path().join("victim"), folder.path().join("ballast"));
        std::fs::write(&victim, "precious").unwrap();
        for place_link in
            [|to: &Path, at: &Path| symlink(to, at), |to: &Path, at: &Path| std::fs::hard_link(to, at)]
        {
            place_link(&victim, &path).unwrap();
            create_file(&path).unwrap().set_len(3).unwrap();
            assert!(!path.is_symlink() && std::fs::metadata(&path).unwrap().len() == 3);
            std::fs::remove_file(&path).unwrap();
            place_link(&victim, &path).unwrap();
            // A lock is never written to.
            assert_eq!(open_lock(&path).is_err(), path.is_symlink());
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn the_folder_of_another_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        check_owner(folder.path()).unwrap();
        for (owner, user, allowed) in [(7, 7, true), (0, 7, true), (0, 0, true), (7, 0, false), (7, 8, false)]
        {
            assert_eq!(may_use(owner, user), allowed, "{owner} {user}");
        }
        // Only root can give a folder away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
            let refused = check_owner(folder.path()).unwrap_err().to_string();
            assert!(refused.contains("belongs to the user 12345"), "{refused}");
            assert!(refused.contains("hint: run it as that user"), "{refused}");
        }
    }
}
