//! What an operator does with a store: compare it with its log, copy it away, restore it from a copy, rewrite it.

mod backup;
mod compact;
mod restore;
#[cfg(test)]
mod tests;
mod verify;

pub use backup::{BackedUp, backup};
pub use compact::{Compacted, compact};
pub use restore::{Restore, Restored, restore};
pub use verify::{Differences, Verified, verify};
