//! Test disks: real file systems, made and mounted over a simulated device, where the machine supports it.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::power_disk::PowerDisk;
use crate::service::PATIENCE;

/// A kind of file system.
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

/// Disk tests run one at a time: each needs the whole machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Exclusive use of the machine, until dropped.
pub struct Machine {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    /// The kinds of file system that can be made here.
    pub kinds: Vec<Kind>,
}

/// Waits for exclusive use of the machine. `None`, with a line on standard error, where these tests cannot
/// run.
pub async fn machine(purpose: &str) -> Option<Machine> {
    let alone = ALONE.lock().await;
    let missing = |reason: &str| say(&format!("SKIPPED: {purpose}: {reason}"));
    // The effective user of this process.
    if std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() != 0) {
        missing("mounting disks needs root");
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

/// Prints to standard error directly: the test harness shows captured output only if a test fails.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Runs a program to its end. The error is what it wrote to standard error.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A mounted file system on a simulated device. Unmounted when dropped.
pub struct Disk {
    pub kind: Kind,
    // Fields are dropped in this order: unmounted before the device goes.
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

    /// The mount point.
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

    /// Mounts what the power cut left. No process may use the disk any more.
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
        // A process that used it may still be ending.
        while let Err(error) = run("umount", &[folder]) {
            if !error.contains("busy") || Instant::now() > give_up {
                say(&format!("{error}; unmounting lazily"));
                let _ = run("umount", &["-l", folder]);
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}
