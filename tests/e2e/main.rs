//! The whole service over real sockets, against the simulated platform.
//!
//! One binary, so that it is linked once; a module for each capability.

#![expect(unreachable_pub, reason = "modules of a test binary")]

mod admin;
mod door;
mod harness;
mod linking;
mod process;
