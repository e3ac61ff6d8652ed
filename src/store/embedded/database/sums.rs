//! A checksum of the index's files at a clean stop. sled notices only some of the bits that a disk flips, and then
//! mostly by panicking later; at a start after a clean stop any of them is found.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::store::embedded::folder::files::{files_in, remove_file, sync};
use crate::store::embedded::folder::private::write_durably;
use crate::store::embedded::folder::{Folder, OpenError, folder_error};
use crate::store::rows::records::{Record, decode, encode};

const BUFFER_BYTES: usize = 1 << 20;
const NAME: &[u8] = b"index.sums";

/// Of the names, lengths and contents of all files.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Sum(u32);

impl Record for Sum {}

/// Records the checksum of an index that nobody writes any more.
pub(crate) fn write_sums(folder: &Folder) -> Result<(), OpenError> {
    let sum = encode(NAME, &sum_of(&folder.index())?).map_err(OpenError::Content)?;
    write_durably(&folder.sums(), &sum)
}

/// Whether anything has changed since the checksum was recorded, if one was.
pub(super) fn have_changed(folder: &Folder) -> Result<bool, OpenError> {
    let path = folder.sums();
    let then = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        then => then.map_err(folder_error("read", &path))?,
    };
    // One that is itself damaged, or of another version, tells nothing.
    let Ok(then) = decode::<Sum>(NAME, &then) else { return Ok(false) };
    Ok(then != sum_of(&folder.index())?)
}

/// From here on the index is written.
pub(super) fn forget(folder: &Folder) -> Result<(), OpenError> {
    if folder.sums().exists() {
        remove_file(&folder.sums())?;
        sync(folder.path())?;
    }
    Ok(())
}

fn sum_of(index: &Path) -> Result<Sum, OpenError> {
    let mut hasher = crc32fast::Hasher::new();
    for path in files_in(index)? {
        hasher.update(path.strip_prefix(index).unwrap_or(&path).as_os_str().as_encoded_bytes());
        add_content(&mut hasher, &path).map_err(folder_error("read", &path))?;
    }
    Ok(Sum(hasher.finalize()))
}

fn add_content(hasher: &mut crc32fast::Hasher, path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    hasher.update(&file.metadata()?.len().to_le_bytes());
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    loop {
        let read = file.fill_buf()?;
        if read.is_empty() {
            return Ok(());
        }
        hasher.update(read);
        let count = read.len();
        file.consume(count);
    }
}
