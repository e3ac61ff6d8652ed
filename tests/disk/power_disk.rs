//! A simulated disk with a volatile write cache: a write survives a power cut for certain only once it is
//! flushed.
//!
//! It is a file served through FUSE by this process; with a loop device and a file system over it, the kernel
//! treats it like any other disk. A test decides when the power is cut and what is lost, and which requests
//! fail, are slow, or are never answered.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;

use crate::blocks::Blocks;

/// Which unflushed writes survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// None.
    Drop,
    /// All.
    Keep,
    /// Random 4 KiB blocks of each write, whatever their order.
    Random,
    /// Random 512-byte sectors of each write.
    Torn,
}

impl Cut {
    pub const ALL: [Self; 4] = [Self::Drop, Self::Keep, Self::Random, Self::Torn];
}

/// A fault of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// Every write fails.
    FailingWrites,
    /// Every flush fails.
    FailingFlushes,
    /// The next flush fails; later ones succeed.
    OneFailingFlush,
    /// Every flush takes this long.
    SlowFlushes(Duration),
    /// Writes and flushes are not answered.
    Stalled,
}

/// A planned power cut.
struct Planned {
    /// The number of writes before it.
    writes: u32,
    cut: Cut,
    seed: u64,
    /// Called at the instant of the cut: everything acknowledged by then must survive.
    at_cut: Box<dyn FnOnce() + Send>,
    happened: oneshot::Sender<()>,
}

struct State {
    /// The content while there is power.
    current: Blocks,
    /// The flushed content.
    stable: Blocks,
    /// Unflushed writes, in order.
    cached: Vec<(u64, Vec<u8>)>,
    fault: Fault,
    planned: Option<Planned>,
    /// The content left by the last cut, until power on. The running process goes on using `current`
    /// meanwhile.
    left: Option<Blocks>,
}

impl State {
    /// The content that a cut at this moment would leave.
    fn after(&self, cut: Cut, seed: u64) -> Blocks {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut left = self.stable.clone();
        for (at, bytes) in &self.cached {
            let piece = match cut {
                Cut::Drop => continue,
                Cut::Keep => bytes.len(),
                Cut::Random => 4096,
                Cut::Torn => 512,
            };
            for (n, piece_bytes) in bytes.chunks(piece).enumerate() {
                if cut == Cut::Keep || rng.random() {
                    left.write(at + (n * piece) as u64, piece_bytes);
                }
            }
        }
        left
    }
}

#[derive(Clone)]
struct Shared(Arc<(Mutex<State>, Condvar)>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// Waits while the disk stalls or is slow. Returns the state and the fault.
    fn answering(&self, is_flush: bool) -> (MutexGuard<'_, State>, Fault) {
        let wake = &self.0.1;
        let mut state = wake.wait_while(self.state(), |state| state.fault == Fault::Stalled).unwrap();
        let fault = state.fault;
        if let (Fault::SlowFlushes(pause), true) = (fault, is_flush) {
            state = wake.wait_timeout_while(state, pause, |state| state.fault == fault).unwrap().0;
        }
        (state, fault)
    }
}

/// The disk. Unmounted from FUSE when dropped.
pub struct PowerDisk {
    shared: Shared,
    folder: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

impl PowerDisk {
    /// An empty disk of this size.
    pub fn of_mib(size_mib: usize) -> std::io::Result<Self> {
        let blocks = Blocks::of_mib(size_mib);
        let state = State {
            current: blocks.clone(),
            stable: blocks,
            cached: Vec::new(),
            fault: Fault::Nothing,
            planned: None,
            left: None,
        };
        let shared = Shared(Arc::new((Mutex::new(state), Condvar::new())));
        let folder = tempfile::tempdir()?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("unionlink-test-disk".to_owned())];
        let session = fuser::spawn_mount(Served(shared.clone()), folder.path(), &config)?;
        Ok(Self { shared, folder, session: Some(session) })
    }

    /// The file that is the disk.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// Plans a power cut after `writes` more writes. The receiver is notified when it has happened.
    pub fn plan_cut(
        &self,
        writes: u32,
        cut: Cut,
        seed: u64,
        at_cut: impl FnOnce() + Send + 'static,
    ) -> oneshot::Receiver<()> {
        let (happened, happens) = oneshot::channel();
        let at_cut = Box::new(at_cut);
        self.shared.state().planned = Some(Planned { writes, cut, seed, at_cut, happened });
        happens
    }

    /// Cuts the power now.
    pub fn cut(&self, cut: Cut, seed: u64) {
        let mut state = self.shared.state();
        state.left = Some(state.after(cut, seed));
    }

    /// Makes what the cut left the content of the disk. Nothing may be mounted from it.
    pub fn power_on(&self) {
        let mut state = self.shared.state();
        let left = state.left.take().expect("the power was cut");
        state.current = left.clone();
        state.stable = left;
        state.cached.clear();
    }

    /// Sets the fault from now on.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.state().fault = fault;
        self.shared.0.1.notify_all();
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // Otherwise requests that wait for it would block unmounting for ever.
        self.set_fault(Fault::Nothing);
        if let Some(session) = self.session.take() {
            drop(session);
        }
    }
}

const NAME: &str = "disk";
const FOLDER: INodeNo = INodeNo(1);
const DISK: INodeNo = INodeNo(2);
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// A folder with one file in it.
struct Served(Shared);

impl Served {
    fn attributes(&self, number: INodeNo) -> FileAttr {
        let is_disk = number == DISK;
        let size = if is_disk { self.0.state().current.bytes() } else { 0 };
        FileAttr {
            ino: number,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: if is_disk { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == FOLDER && name == NAME {
            reply.entry(&KNOWN_FOR, &self.attributes(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KNOWN_FOR, &self.attributes(number));
    }

    /// Bypasses the kernel's page cache, which would be a second volatile cache.
    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        at: u64,
        count: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&self.0.state().current.read(at, count as usize));
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        at: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (mut state, fault) = self.0.answering(false);
        if fault == Fault::FailingWrites {
            return reply.error(Errno::EIO);
        }
        if !state.current.write(at, bytes) {
            return reply.error(Errno::ENOSPC);
        }
        state.cached.push((at, bytes.to_vec()));
        if let Some(mut planned) = state.planned.take() {
            if planned.writes == 0 {
                state.left = Some(state.after(planned.cut, planned.seed));
                (planned.at_cut)();
                let _ = planned.happened.send(());
            } else {
                planned.writes -= 1;
                state.planned = Some(planned);
            }
        }
        drop(state);
        reply.written(u32::try_from(bytes.len()).unwrap());
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let (mut state, fault) = self.0.answering(true);
        match fault {
            Fault::FailingFlushes => return reply.error(Errno::EIO),
            Fault::OneFailingFlush => {
                state.fault = Fault::Nothing;
                return reply.error(Errno::EIO);
            }
            Fault::Nothing | Fault::FailingWrites | Fault::SlowFlushes(_) | Fault::Stalled => {}
        }
        for (at, bytes) in std::mem::take(&mut state.cached) {
            state.stable.write(at, &bytes);
        }
        drop(state);
        reply.ok();
    }

    /// Called when a handle is closed; has nothing to do with durability.
    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
