//! The engine under the index: ordered keys, `get · range · apply · flush`.
//!
//! It may lag behind the write-ahead log, and it may be lost: then it is built anew from checkpoint and log.
//! `sled` is the one on disk, [`Memory`] the one of simulations and tests.

pub(crate) mod durable_sync;
mod interface;
mod memory;
pub(crate) mod sled;

pub use interface::EngineError;
pub(crate) use interface::{Engine, PRIVATE, Rows, Write, records};
pub use memory::Memory;
