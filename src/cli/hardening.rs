//! Protects what the process holds in memory and writes to files from other users of the machine.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};

/// Makes new files accessible to this user only, and the memory of this process readable by root only: no
/// core dump, no debugger of the same user. Both belong to the process, so this is to be called before any
/// thread is started.
pub(super) fn harden() {
    // Also for sled, which creates its files with the permissions that the umask leaves.
    umask(Mode::RWXG | Mode::RWXO);
    // Neither fails: a limit may always be lowered.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
