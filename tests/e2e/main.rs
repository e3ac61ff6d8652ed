//! The whole service over real sockets, against the simulated platform.
//!
//! One binary, so that it is linked once; a module for each capability.

#![expect(unreachable_pub, reason = "modules of a test binary")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod admin;
mod door;
mod erasure;
mod events;
mod export;
mod failing_io;
mod fans;
mod feed;
mod forget;
mod harness;
mod kills;
mod ledger;
mod linking;
mod openapi;
mod people;
mod process;
mod receivers;
mod sigkill;
mod sinks;
mod stream;
mod trouble;
