//! What the machine has to offer: file systems, made and mounted over a disk of ours.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::power_disk::PowerDisk;
use crate::service::PATIENCE;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        })
    }
}

/// Tests that use disks run one at a time: each wants the machine alone.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The machine, for as long as this is kept.
pub struct Machine {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    /// The file systems that can be made here.
    pub kinds: Vec<Kind>,
}

/// The machine, when it is free; nothing, said aloud, where it cannot do what these tests need.
pub async fn machine(purpose: &str) -> Option<Machine> {
    let alone = ALONE.lock().await;
    let missing = |reason: &str| say(&format!("SKIPPED: {purpose}: {reason}"));
    // Whose this process is.
    if std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() != 0) {
        missing("disks are mounted, which takes root");
        return None;
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
            missing(&format!("{device}: {error}"));
            return None;
        }
    }
    let mut kinds = Vec::new();
    for kind in [Kind::Ext4, Kind::Xfs] {
        match Disk::new(kind, 320) {
            Ok(_works) => kinds.push(kind),
            Err(reason) => missing(&format!("nothing on {kind}: {reason}")),
        }
    }
    (!kinds.is_empty()).then_some(Machine { _alone: alone, kinds })
}

/// To standard error itself: what a test prints otherwise is shown only if the test fails.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Runs a program to its end; what it complained of if it failed.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A file system on a disk of ours, mounted. Unmounted and unplugged when dropped.
pub struct Disk {
    pub kind: Kind,
    // Before the device: dropped in this order.
    mounted: Option<Mounted>,
    folder: tempfile::TempDir,
    pub device: PowerDisk,
}

impl Disk {
    pub fn new(kind: Kind, size_mib: usize) -> Result<Self, String> {
        let device = PowerDisk::of_mib(size_mib).map_err(|e| format!("FUSE: {e}"))?;
        let image = device.image();
        let image = image.to_str().unwrap();
        match kind {
            Kind::Ext4 => run(
                "mkfs.ext4",
                &[
                    "-q",
                    "-F",
                    "-E",
                    "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
                    "-m",
                    "0",
                    "-N",
                    "1024",
                    image,
                ],
            ),
            Kind::Xfs => run("mkfs.xfs", &["-q", "-f", "-K", image]),
        }?;
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut disk = Self { kind, mounted: None, folder, device };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub fn mount(&mut self) -> Result<(), String> {
        assert!(self.mounted.is_none());
        let (image, folder) = (self.device.image(), self.folder.path());
        run("mount", &["-t", &self.kind.to_string(), "-o", "loop", path(&image), path(folder)])?;
        self.mounted = Some(Mounted(folder.to_owned()));
        Ok(())
    }

    pub fn unmount(&mut self) {
        drop(self.mounted.take().expect("it is mounted"));
    }

    /// Mounts what the power cut left. Nobody may use the disk any more.
    pub fn power_on(&mut self) -> Result<(), String> {
        self.unmount();
        self.device.power_on();
        self.mount()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        let folder = path(&self.0);
        // Whoever used it may be about to end.
        while let Err(error) = run("umount", &[folder]) {
            if !error.contains("busy") || Instant::now() > give_up {
                say(&format!("{error}; it is left to the kernel"));
                let _ = run("umount", &["-l", folder]);
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}
