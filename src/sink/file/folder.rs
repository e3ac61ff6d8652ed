//! The folder and its newest file, which lines are appended to so that none is ever lost or garbled.
//!
//! What makes it hold:
//! - Lines count as written after one write and one fdatasync; before that the worker still has the entries.
//! - A file is durable only with its entry in the folder, so the folder is synced when a file is made, and the
//!   folders above it when the folder is.
//! - What a broken write leaves is cut off: at once where that is possible, else when the file is opened next. After
//!   a failed sync the page cache may lie, so the file is opened afresh and the lines are written anew.
//! - A file that is not as it was left (moved, deleted, cut short by somebody else) is opened afresh before the write;
//!   whether it still was in its place is looked at once more after it.
//!
//! Whole lines may stand there twice, under the same id; that is what "at least once" means.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Settings;
use super::name::{FileName, day};
use crate::domain::time::Timestamp;

/// How far back from its end a file is looked at on opening: many times what one write may have left broken.
const LOOK_BACK_BYTES: u64 = 64 << 20;

/// Something that could not be done to a file.
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

/// A folder that lines are appended in.
#[derive(Debug)]
pub(super) struct Folder {
    settings: Settings,
    /// The file being written, as it was left.
    current: Option<Current>,
    /// The newest name so far: should somebody take all files away, names still go on from there.
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
    pub(super) const fn new(settings: Settings) -> Self {
        Self { settings, current: None, newest: None }
    }

    /// Appends whole lines and makes them durable.
    pub(super) fn append(&mut self, lines: &[u8], now: Timestamp) -> Result<(), FileError> {
        // Taken out: only a file that took the lines without any trouble is trusted with the next ones.
        // One that is not as it was left is closed, and its lock given up, before it is opened afresh.
        let mut current = match self.current.take().filter(Current::is_as_left) {
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

    /// The name of the next file, if these lines are not to go into the current one.
    fn rotation(&self, current: &Current, lines: &[u8], now: Timestamp) -> Option<FileName> {
        let today = day(now);
        // A clock that was set back begins no new day: names must sort as the files were begun.
        if self.settings.rotate_daily && today > current.name.day {
            return Some(FileName::first(today));
        }
        let full = current.bytes.saturating_add(lines.len() as u64) > self.settings.rotate_bytes;
        if full && current.bytes > 0 { following(current.name, today) } else { None }
    }

    fn open_newest(&mut self, now: Timestamp) -> Result<Current, FileError> {
        make_folder(&self.settings.path)?;
        let newest = newest(&self.settings.path).map_err(failed("list", &self.settings.path))?;
        match newest {
            Some(name) if self.newest.is_none_or(|last| last <= name) => {
                self.newest = Some(name);
                Current::open(&self.settings.path, name)
            }
            // There is none, or the one that was written has been taken away: whoever did so may think that those
            // before it are complete.
            _ => {
                let today = day(now);
                let next = self.newest.map_or(Some(FileName::first(today)), |last| following(last, today));
                self.create(next.unwrap_or_else(|| FileName::first(today)))
            }
        }
    }

    /// For this user alone, whatever the umask.
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

/// The name after `last`, today; `None` if the day has no more.
fn following(last: FileName, today: u32) -> Option<FileName> {
    if today > last.day { Some(FileName::first(today)) } else { last.next() }
}

impl Current {
    /// Opens a file that is there and cuts off what a broken write left at its end.
    fn open(folder: &Path, name: FileName) -> Result<Self, FileError> {
        let path = folder.join(name.to_string());
        let mut file =
            OpenOptions::new().read(true).append(true).open(&path).map_err(failed("open", &path))?;
        lock(&file).map_err(failed("lock", &path))?;
        let bytes = file.metadata().map_err(failed("look at", &path))?.len();
        let sound = sound_bytes(&mut file, bytes).map_err(failed("read", &path))?;
        if sound < bytes {
            tracing::warn!(
                file = %path.display(), cut_bytes = bytes - sound,
                "a half-written line was cut off; its entry is delivered again"
            );
            file.set_len(sound).map_err(failed("cut", &path))?;
        }
        // Lines found here may have been written by a process that died before it could sync them.
        file.sync_all().map_err(failed("sync", &path))?;
        sync_folder(folder)?;
        Ok(Self { file, name, path, bytes: sound })
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), FileError> {
        let written = self.file.write_all(lines).map_err(failed("write to", &self.path));
        let durable = written.and_then(|()| self.file.sync_data().map_err(failed("sync", &self.path)));
        if let Err(error) = durable {
            // Should this fail as well, the half line is cut off when the file is opened next.
            let _ = self.file.set_len(self.bytes).and_then(|()| self.file.sync_all());
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        if self.is_as_left() {
            return Ok(());
        }
        let elsewhere = io::Error::other("it was moved, deleted or changed while it was being written");
        Err(failed("rely on", &self.path)(elsewhere))
    }

    /// Whether the file in its place is the one that is open, and as long as it was left.
    fn is_as_left(&self) -> bool {
        match (fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(open)) => {
                (there.dev(), there.ino()) == (open.dev(), open.ino()) && open.len() == self.bytes
            }
            _ => false,
        }
    }
}

impl Drop for Current {
    /// Closing alone would leave the lock with a process that is being started just now and inherited the file.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Two processes that write one file would cut off each other's lines.
fn lock(file: &File) -> io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        rustix::io::Errno::WOULDBLOCK => {
            io::Error::other("another process, or another sink, writes in this folder")
        }
        other => other.into(),
    })
}

/// How many bytes from the start are whole lines.
fn sound_bytes(file: &mut File, bytes: u64) -> io::Result<u64> {
    // A file is read from its start only if there is no line within reach of its end.
    let mut sound = 0;
    for start in [bytes.saturating_sub(LOOK_BACK_BYTES), 0] {
        sound = sound_after(file, start)?;
        if sound > 0 {
            break;
        }
    }
    Ok(sound)
}

/// Where the last whole line after `start` ends; 0 if there is none. After a power failure a file may be as long as
/// the last write would have made it, with zeros where its data should be. JSON has no zero byte, and whatever stands
/// behind one belongs to the same unfinished write.
fn sound_after(file: &mut File, start: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(start))?;
    let (mut sound, mut at) = (0, start);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        let chunk = &buffer[..read];
        let hole = chunk.iter().position(|byte| *byte == 0);
        let whole = &chunk[..hole.unwrap_or(read)];
        if let Some(newline) = whole.iter().rposition(|byte| *byte == b'\n') {
            sound = at + newline as u64 + 1;
        }
        if read == 0 || hole.is_some() {
            return Ok(sound);
        }
        at += read as u64;
    }
}

/// The newest of our files.
fn newest(folder: &Path) -> io::Result<Option<FileName>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_str().and_then(FileName::parse);
        newest = newest.max(name);
    }
    Ok(newest)
}

/// Makes the folder, and those above it, for this user alone, durably.
fn make_folder(folder: &Path) -> Result<(), FileError> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<_> = folder.ancestors().take_while(missing).collect();
    for path in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make the folder", path)(error));
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
