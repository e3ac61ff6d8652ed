//! The folder of the file sink: appends lines to its newest file, durably, and rotates files.
//!
//! No line is lost or garbled, because:
//! - Lines count as delivered after one write and one fdatasync; until then the cursor does not move past
//!   them.
//! - A file is durable only with its directory entry, so the folder is synced when a file is created, and the
//!   parent folder when the folder is created.
//! - The rest of a failed write is truncated: at once if possible, else when the file is next opened. After a
//!   failed sync the page cache cannot be trusted, so the file is reopened and the lines are written again.
//! - A file that was changed from outside (moved, deleted, truncated) is reopened before the next write.
//!   Whether it is still in its place is checked again after each write.
//!
//! A line may be written twice, with the same id: delivery is at least once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::name::{FileName, day};
use crate::domain::time::Timestamp;

/// How much of a file's end is read when it is opened: many times what one failed write can leave.
const LOOK_BACK_BYTES: u64 = 64 << 20;

/// Where and how files are written.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder; created if it does not exist.
    pub path: PathBuf,
    /// A file that would grow beyond this many bytes is followed by a new one.
    pub rotate_bytes: u64,
    /// Whether each day (UTC) begins a new file.
    pub rotate_daily: bool,
}

/// An operation on a file or folder failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub(super) struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { what, path: path.to_owned(), source }
}

/// A folder of files to which lines are appended.
#[derive(Debug)]
pub(super) struct Folder {
    settings: Settings,
    /// The open file, and its state after the last write.
    current: Option<Current>,
    /// The newest name so far, so that no name is used again after all files were removed.
    newest: Option<FileName>,
}

#[derive(Debug)]
struct Current {
    file: File,
    name: FileName,
    path: PathBuf,
    bytes: u64,
}

impl Folder {
    /// Where the files are.
    pub(super) fn path(&self) -> &Path {
        &self.settings.path
    }

    pub(super) const fn new(settings: Settings) -> Self {
        Self { settings, current: None, newest: None }
    }

    /// Appends whole lines and makes them durable.
    pub(super) fn append(&mut self, lines: &[u8], now: Timestamp) -> Result<(), FileError> {
        // Taken, so that after an error the file is reopened before the next write. A file that was changed
        // from outside is dropped here, which releases its lock, before it is reopened.
        let mut current = match self.current.take().filter(Current::is_unchanged) {
            Some(current) => current,
            None => self.open_newest(now)?,
        };
        if let Some(name) = self.rotation(&current, lines, now) {
            current = self.create(name)?;
        }
        current.append(lines)?;
        self.current = Some(current);
        Ok(())
    }

    /// The name of a new file for these lines; `None` if they go into the current one.
    fn rotation(&self, current: &Current, lines: &[u8], now: Timestamp) -> Option<FileName> {
        let today = day(now);
        // A clock that was set back begins no new file: names have to sort in the order in which files were
        // created.
        if self.settings.rotate_daily && today > current.name.day {
            return Some(FileName::first(today));
        }
        let full = current.bytes.saturating_add(lines.len() as u64) > self.settings.rotate_bytes;
        if full && current.bytes > 0 { following(current.name, today) } else { None }
    }

    fn open_newest(&mut self, now: Timestamp) -> Result<Current, FileError> {
        create_folder(&self.settings.path)?;
        let newest = newest(&self.settings.path).map_err(failed("list", &self.settings.path))?;
        match newest {
            Some(name) if self.newest.is_none_or(|last| last <= name) => {
                self.newest = Some(name);
                Current::open(&self.settings.path, name)
            }
            // There is no file, or the one last written was removed, perhaps by a program that takes all
            // older files for complete: they get no further lines.
            _ => {
                let today = day(now);
                let next = self.newest.map_or(Some(FileName::first(today)), |last| following(last, today));
                self.create(next.unwrap_or_else(|| FileName::first(today)))
            }
        }
    }

    /// Creates a file, readable by this user only whatever the umask.
    fn create(&mut self, name: FileName) -> Result<Current, FileError> {
        let path = self.settings.path.join(name.to_string());
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed("create", &path))?;
        lock(&file).map_err(failed("lock", &path))?;
        sync_folder(&self.settings.path)?;
        self.newest = self.newest.max(Some(name));
        Ok(Current { file, name, path, bytes: 0 })
    }
}

/// The name that follows `last`; `None` if there are no more names for the day.
fn following(last: FileName, today: u32) -> Option<FileName> {
    if today > last.day { Some(FileName::first(today)) } else { last.next() }
}

impl Current {
    /// Opens an existing file and truncates what a failed write left at its end.
    fn open(folder: &Path, name: FileName) -> Result<Self, FileError> {
        let path = folder.join(name.to_string());
        let mut file =
            OpenOptions::new().read(true).append(true).open(&path).map_err(failed("open", &path))?;
        lock(&file).map_err(failed("lock", &path))?;
        let bytes = file.metadata().map_err(failed("read the size of", &path))?.len();
        let intact = intact_bytes(&mut file, bytes).map_err(failed("read", &path))?;
        if intact < bytes {
            tracing::warn!(
                file = %path.display(), truncated_bytes = bytes - intact,
                "truncated an incomplete write at the end of a file; its entries are delivered again"
            );
            file.set_len(intact).map_err(failed("truncate", &path))?;
        }
        // The lines in it may have been written by a process that died before it synced them.
        file.sync_all().map_err(failed("sync", &path))?;
        sync_folder(folder)?;
        Ok(Self { file, name, path, bytes: intact })
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        let written = self.file.write_all(lines).map_err(failed("write to", &self.path));
        let durable = written.and_then(|()| self.file.sync_data().map_err(failed("sync", &self.path)));
        if let Err(error) = durable {
            // If this fails too, the incomplete line is truncated when the file is next opened.
            let _ = self.file.set_len(self.bytes).and_then(|()| self.file.sync_all());
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        if self.is_unchanged() {
            return Ok(());
        }
        let changed = io::Error::other("it was moved, deleted or changed while it was being written");
        Err(failed("rely on", &self.path)(changed))
    }

    /// Whether the file at this path is still the open one, and as long as after the last write.
    fn is_unchanged(&self) -> bool {
        match (fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(at_path), Ok(open)) => {
                (at_path.dev(), at_path.ino()) == (open.dev(), open.ino()) && open.len() == self.bytes
            }
            _ => false,
        }
    }
}

impl Drop for Current {
    /// Closing the file alone would leave the lock with a child process that is just being spawned and
    /// inherited it.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

/// Locks a file: two processes that write to it would truncate each other's lines.
fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            io::Error::other("another process, or another sink, writes to this folder")
        }
        TryLockError::Error(error) => error,
    })
}

/// How many bytes from the start are complete lines.
fn intact_bytes(file: &mut File, bytes: u64) -> io::Result<u64> {
    // The whole file is read only if there is no complete line near its end.
    let mut intact = 0;
    for start in [bytes.saturating_sub(LOOK_BACK_BYTES), 0] {
        intact = intact_after(file, start)?;
        if intact > 0 {
            break;
        }
    }
    Ok(intact)
}

/// Where the last complete line after `start` ends; 0 if there is none. After a power failure a file may have
/// the length of the last write with zeros in place of its data. JSON contains no zero byte, so everything
/// behind one belongs to that write.
fn intact_after(file: &mut File, start: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(start))?;
    let (mut intact, mut at) = (0, start);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        let chunk = &buffer[..read];
        let zero = chunk.iter().position(|byte| *byte == 0);
        let written = &chunk[..zero.unwrap_or(read)];
        if let Some(newline) = written.iter().rposition(|byte| *byte == b'\n') {
            intact = at + newline as u64 + 1;
        }
        if read == 0 || zero.is_some() {
            return Ok(intact);
        }
        at += read as u64;
    }
}

/// The name of the newest file of this sink.
fn newest(folder: &Path) -> io::Result<Option<FileName>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_str().and_then(FileName::parse);
        newest = newest.max(name);
    }
    Ok(newest)
}

/// Creates the folder and missing parents, accessible to this user only, durably.
fn create_folder(folder: &Path) -> Result<(), FileError> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<_> = folder.ancestors().take_while(missing).collect();
    for path in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create the folder", path)(error));
            }
            _ => {}
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_folder(parent.unwrap_or_else(|| Path::new(".")))?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(failed("sync the folder", folder))
}
