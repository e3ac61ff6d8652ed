//! Checksums of the index's files at a clean stop. sled notices only some of the bits that a disk flips, and then
//! mostly by panicking later; at a start after a clean stop any of them is found.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::store::embedded::folder::files::{at, files_in, remove_file, sync};
use crate::store::embedded::folder::private::write_durably;
use crate::store::embedded::folder::{Folder, OpenError, folder_error};

const BUFFER_BYTES: usize = 1 << 20;

/// Records the checksums of an index that nobody writes any more.
pub(crate) fn write_sums(folder: &Folder) -> Result<(), OpenError> {
    write_durably(&folder.sums(), sums_of(&folder.index())?.as_bytes())
}

/// What has changed since the checksums were recorded: the name of a file, or nothing; nothing either if none were.
pub(super) fn changed(folder: &Folder) -> Result<Option<String>, OpenError> {
    let path = folder.sums();
    let then = match std::fs::read_to_string(&path) {
        Ok(then) => then,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Not one of ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        Err(error) => return Err(folder_error("read", &path)(error)),
    };
    if !is_whole(&then) {
        return Ok(None);
    }
    let now = sums_of(&folder.index())?;
    let differs = then.lines().chain(now.lines()).find(|line| {
        then.lines().filter(|other| other == line).count()
            != now.lines().filter(|other| other == line).count()
    });
    Ok(differs.map(|line| line.split_once(' ').map_or(line, |(_, name)| name).to_owned()))
}

/// From here on the index is written.
pub(super) fn forget(folder: &Folder) -> Result<(), OpenError> {
    if folder.sums().exists() {
        remove_file(&folder.sums())?;
        sync(folder.path())?;
    }
    Ok(())
}

/// Whether the list of checksums is as it was written: its last line is a checksum of the others.
fn is_whole(sums: &str) -> bool {
    let Some((lines, last)) = sums.trim_end().rsplit_once('\n') else { return false };
    last == total(lines)
}

fn total(lines: &str) -> String {
    format!("{:08x} total", crc32fast::hash(lines.as_bytes()))
}

/// A line for each file: its checksum and length, and its name; then a checksum of the lines.
fn sums_of(index: &Path) -> Result<String, OpenError> {
    let mut lines = Vec::new();
    for path in files_in(index)? {
        let (crc, length) = sum(&path).map_err(folder_error("read", &path))?;
        let name = path.strip_prefix(index).unwrap_or(&path).display().to_string();
        lines.push(format!("{crc:08x}-{length} {name}"));
    }
    let lines = lines.join("\n");
    Ok(format!("{lines}\n{}\n", total(&lines)))
}

fn sum(path: &Path) -> io::Result<(u32, u64)> {
    let (mut file, mut hasher, mut length) =
        (File::open(path).map_err(at(path))?, crc32fast::Hasher::new(), 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hasher.finalize(), length));
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
    }
}
