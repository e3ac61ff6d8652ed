//! The real binary on a disk that loses power, fails, fills up and stalls.
//!
//! The file systems are the kernel's ext4 and XFS over a loop device. Only the device under them is
//! simulated: a file served through FUSE with a volatile write cache, so that a test decides what a power cut
//! leaves and when the device fails. That needs Linux, root, `/dev/fuse` and loop devices; where they are
//! missing the tests print that they are skipped and pass.
//!
//! One test binary, because linking it takes long; the tests run one at a time, because each needs the whole
//! machine.

#![cfg(target_os = "linux")]
#![expect(unreachable_pub, reason = "modules of a test binary")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod blocks;
mod faults;
mod full;
mod ledger;
mod load;
mod machine;
mod power;
mod power_disk;
mod service;
mod slow;
mod world;
