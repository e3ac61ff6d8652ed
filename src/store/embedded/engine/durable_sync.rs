//! Makes sled's writes durable on Linux, and proves that it does.
//!
//! sled 0.34.7 syncs its log with `sync_file_range(WAIT_BEFORE | WRITE | WAIT_AFTER)`
//! (`pagecache/iobuf.rs:729-753`): that reaches neither the metadata of a grown file nor the disk's write
//! cache, so a power cut loses data that `flush()` had reported as written. Calling `fdatasync` after `flush()`
//! is not enough: sled's own log positions then run ahead of the disk, and recovery discards what follows a
//! hole. What holds is to make the call itself tell the truth. So this file defines the symbol
//! `sync_file_range` as `fdatasync`; the linker prefers it to libc's, and every log write of sled is durable
//! before sled believes it is. An error goes straight into sled's sticky error.
//!
//! [`proven`] lets the store check at start that the symbol in use is this one.

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::{AtomicU64, Ordering};

    static CALLS: AtomicU64 = AtomicU64::new(0);

    /// Replaces libc's function of this name for the whole program.
    #[unsafe(no_mangle)]
    #[expect(unsafe_code, reason = "the one foreign call of the project; see the file's head")]
    extern "C" fn sync_file_range(
        fd: libc::c_int,
        _offset: libc::off64_t,
        _nbytes: libc::off64_t,
        _flags: libc::c_uint,
    ) -> libc::c_int {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: fdatasync takes any integer and touches no memory of ours; a bad one is an errno.
        unsafe { libc::fdatasync(fd) }
    }

    pub(crate) fn calls() -> u64 {
        CALLS.load(Ordering::Relaxed)
    }
}

/// Whether `write_and_flush` went through this file's sync. Elsewhere than on Linux sled calls the platform's
/// full sync by itself and there is nothing to prove.
pub(crate) fn proven<E>(write_and_flush: impl FnOnce() -> Result<(), E>) -> Result<bool, E> {
    #[cfg(target_os = "linux")]
    {
        let before = linux::calls();
        write_and_flush()?;
        Ok(linux::calls() > before)
    }
    #[cfg(not(target_os = "linux"))]
    write_and_flush().map(|()| true)
}
