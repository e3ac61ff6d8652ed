//! The real binary on a disk that loses power, fails, fills up and stalls.
//!
//! The disk is real where it matters: the kernel's ext4 and XFS over a loop device. Only the device under them is ours,
//! a file served through FUSE whose write cache is volatile, so that a test decides what a power cut leaves and when
//! the device fails. That needs Linux, root, `/dev/fuse` and loop devices; where they are missing the tests say so
//! on standard error and pass.
//!
//! One binary, so that it is linked once; the tests run one after the other, because each wants the machine alone.

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
