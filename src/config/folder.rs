//! Whether this process can use a folder, or create it. Only looks: nothing is created.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::{Access, access};

/// Why `folder` can be neither used nor created, if so.
pub(super) fn obstacle(folder: &Path) -> Option<String> {
    // The folder itself, or else the innermost folder above it that exists.
    for place in folder.ancestors() {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        let problem = match fs::metadata(place) {
            Ok(found) if !found.is_dir() => "is not a folder".to_owned(),
            Ok(_) => match access(place, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => return None,
                Err(error) => format!("cannot be written: {}", io::Error::from(error)),
            },
            // A link that leads nowhere is in the way, too.
            Err(error) if is_missing(&error) && !place.is_symlink() => continue,
            Err(error) => format!("cannot be opened: {error}"),
        };
        let action = if place == folder { "used" } else { "created" };
        return Some(format!("{} cannot be {action}: {} {problem}", folder.display(), place.display()));
    }
    None
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_folder_that_exists_or_can_be_created_has_no_obstacle_and_is_not_created() {
        let root = tempfile::tempdir().unwrap();
        for folder in [root.path().to_owned(), root.path().join("data"), root.path().join("a/b/data")] {
            assert_eq!(obstacle(&folder), None);
        }
        assert_eq!(obstacle(Path::new("data")), None);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let (file, link, locked) = (root.path().join("f"), root.path().join("l"), root.path().join("locked"));
        fs::write(&file, "").unwrap();
        symlink("nowhere", &link).unwrap();
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
        let says = |folder: &Path| obstacle(folder).unwrap_or_default();
        assert_eq!(says(&file), format!("{0} cannot be used: {0} is not a folder", file.display()));
        let below = file.join("a/data");
        let wanted = format!("{} cannot be created: {} is not a folder", below.display(), file.display());
        assert_eq!(says(&below), wanted);
        assert!(says(&link).contains("cannot be used"), "{}", says(&link));
        // Nothing is closed to root.
        if !rustix::process::geteuid().is_root() {
            assert!(says(&locked).contains("cannot be written: Permission denied"), "{}", says(&locked));
            let below = locked.join("data");
            assert!(says(&below).contains("cannot be created"), "{}", says(&below));
        }
    }
}
