//! Files that commands write personal data to: accessible to their owner only, and never written through a
//! symbolic link, which another user may have placed.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::geteuid;
use tempfile::NamedTempFile;

const MODE: u32 = 0o600;

/// Opens `path` to append to it, and creates it if need be. A file of this user that others can read is
/// closed to them.
///
/// # Errors
/// Also where `path` is a link or the file of another user. What is in `/dev`, such as `/dev/stderr`, is a link
/// and is opened.
pub(super) fn append(path: &Path) -> io::Result<File> {
    let is_device = path.starts_with("/dev") || path.starts_with("/proc/self/fd");
    let flags = if is_device { OFlags::empty() } else { OFlags::NOFOLLOW };
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE).custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => io::Error::other("it is a symbolic link; name the file itself"),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        if metadata.uid() != geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        if metadata.nlink() > 1 {
            return Err(io::Error::other("it is a file with several names; name another one"));
        }
        if metadata.mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(MODE))?;
        }
    }
    Ok(file)
}

/// A new file that is to replace `path` once it is complete: in the same folder, under a random name, deleted
/// when dropped.
pub(super) fn replacement(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    tempfile::Builder::new()
        .prefix(".unionlink-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_appended_to_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rejects");
        append(&path).unwrap().write_all(b"one ").unwrap();
        assert_eq!(mode(&path), MODE);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        append(&path).unwrap().write_all(b"two").unwrap();
        assert_eq!((mode(&path), std::fs::read_to_string(&path).unwrap().as_str()), (MODE, "one two"));
        append(Path::new("/dev/null")).unwrap().write_all(b"three").unwrap();
    }

    #[test]
    fn nothing_is_written_through_a_symbolic_link() {
        let folder = tempfile::tempdir().unwrap();
        let (link, victim) = (folder.path().join("link"), folder.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(append(&link).unwrap_err().to_string().contains("symbolic link"));
        let second = folder.path().join("second");
        std::fs::hard_link(&victim, &second).unwrap();
        assert!(append(&second).unwrap_err().to_string().contains("several names"));
        let mut new = replacement(&link).unwrap();
        new.write_all(b"new").unwrap();
        assert_eq!(mode(new.path()), MODE);
        let mut kept = new.persist(&link).unwrap();
        assert!(!link.is_symlink(), "the link is replaced");
        let mut text = String::new();
        io::Seek::rewind(&mut kept).unwrap();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), std::fs::read_to_string(&victim).unwrap().as_str()), ("new", "precious"));
    }
}
