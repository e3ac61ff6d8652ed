//! What the machine gives this process: open files, memory, disk and clock. Reads only.
//!
//! Deliberately absent: what is too little (see [`crate::domain::finding`]).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::domain::finding::{BackupFacts, DiskFacts, Filesystem, HostFacts};
use crate::domain::sync_times::SyncTimes;
use crate::domain::time::Timestamp;

/// What this process asks of its machine.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The folder of the embedded store, if there is one.
    pub store: Option<PathBuf>,
    /// What has to stay free on its disk, in bytes.
    pub free_bytes_min: u64,
    /// Open files: connections, and what else is kept open.
    pub files: u64,
    /// Memory, in bytes: twice the cache of the store.
    pub memory_bytes: u64,
}

impl Wanted {
    /// How the machine is.
    #[must_use]
    pub fn host(&self) -> HostFacts {
        HostFacts {
            files: (getrlimit(Resource::Nofile).current, self.files),
            memory: (memory_limit(), self.memory_bytes),
            clock_synced: clock_is_synced(),
        }
    }

    /// How the disk of the embedded store is. `syncs` and `taken_a_day` are what the service has counted.
    #[must_use]
    pub fn disk(&self, syncs: SyncTimes, taken_a_day: i64) -> Option<DiskFacts> {
        let path = self.store.as_deref()?;
        let stat = rustix::fs::statvfs(path).ok();
        Some(DiskFacts {
            filesystem: filesystem_of(path),
            free_bytes: stat.as_ref().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)),
            free_bytes_min: self.free_bytes_min,
            taken_a_day,
            // File systems without a table of them say 0 of 0.
            free_inodes: stat.as_ref().filter(|stat| stat.f_files > 0).map(|stat| stat.f_favail),
            syncs,
            backup: last_backup(path),
        })
    }
}

/// The kind of the file system of a folder.
#[must_use]
pub fn filesystem_of(path: &Path) -> Option<Filesystem> {
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a magic number of 32 bits")]
    Some(match kind as u32 {
        0x0000_6969 => Filesystem::Network("NFS"),
        0xFF53_4D42 | 0xFE53_4D42 | 0x0000_517B => Filesystem::Network("SMB"),
        0x00C3_6400 => Filesystem::Network("Ceph"),
        0x0102_1997 => Filesystem::Network("9p"),
        0x6573_5546 => Filesystem::Network("FUSE"),
        0x0102_1994 => Filesystem::Memory("tmpfs"),
        0x8584_58F6 => Filesystem::Memory("ramfs"),
        0x794C_7630 => Filesystem::Overlay,
        _ => Filesystem::Local,
    })
}

/// The memory that the container or service may use, in bytes; `None` if that has no limit.
fn memory_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().trim_end_matches('/');
    let limits = [
        format!("/sys/fs/cgroup{own}/memory.max"),
        "/sys/fs/cgroup/memory.max".to_owned(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ];
    let read = |path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Version 1 says a huge number where there is none.
    limits.into_iter().find_map(read).filter(|bytes| *bytes < 1 << 50)
}

/// Whether the kernel holds the clock to be synchronised with another; `None` where it cannot be asked.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library has this call without it")]
fn clock_is_synced() -> Option<bool> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: with `modes` 0 the call only writes into the struct, which is ours.
    let state = unsafe { libc::adjtimex(&raw mut time) };
    (state >= 0).then_some(time.status & libc::STA_UNSYNC == 0)
}

#[cfg(not(target_os = "linux"))]
fn clock_is_synced() -> Option<bool> {
    None
}

/// The name of the note that a backup leaves in the folder of the store.
const LAST_BACKUP: &str = "last-backup.json";

/// The last backup of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct BackupNote {
    at_ms: i64,
    bytes: u64,
    same_device: bool,
}

/// Notes in the folder of a store that it was backed up to another.
///
/// # Errors
/// When the note cannot be written.
pub fn note_backup(store: &Path, to: &Path, bytes: u64, at: Timestamp) -> std::io::Result<()> {
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
    let same_device = device(store) == device(to);
    let note = BackupNote { at_ms: at.as_millis(), bytes, same_device };
    // At once or not at all: the service reads it.
    let mut file = tempfile::NamedTempFile::new_in(store)?;
    serde_json::to_writer(&mut file, &note)?;
    // The service may run as another user; the folder is its own.
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(store.join(LAST_BACKUP)).map_err(|error| error.error)?;
    Ok(())
}

fn last_backup(store: &Path) -> Option<BackupFacts> {
    let note = std::fs::read(store.join(LAST_BACKUP)).ok()?;
    let BackupNote { at_ms, bytes, same_device } = serde_json::from_slice(&note).ok()?;
    Some(BackupFacts { at: Timestamp::from_millis(at_ms), bytes, same_device })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted { store: Some(folder.path().to_owned()), ..Wanted::default() };
        let disk = wanted.disk(SyncTimes::default(), 0).unwrap();
        assert!(disk.free_bytes.is_some_and(|bytes| bytes > 0));
        assert!(disk.filesystem.is_some());
        assert_eq!(disk.backup, None);
        let at = Timestamp::from_secs(1_700_000_000);
        note_backup(folder.path(), folder.path(), 7, at).unwrap();
        let backup = wanted.disk(SyncTimes::default(), 0).unwrap().backup;
        assert_eq!(backup, Some(BackupFacts { at, bytes: 7, same_device: true }));
        assert_eq!(Wanted::default().disk(SyncTimes::default(), 0), None);
        assert!(wanted.host().files.0.is_none_or(|files| files > 0));
        if cfg!(target_os = "linux") {
            assert!(wanted.host().clock_synced.is_some());
            assert_eq!(filesystem_of(Path::new("/dev/shm")), Some(Filesystem::Memory("tmpfs")));
        }
    }
}
