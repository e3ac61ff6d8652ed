//! The version of this program, and the commit that it was built from.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit; `unknown` if it was not known at build time. `build.rs` sets it.
pub const COMMIT: &str = env!("UNIONLINK_COMMIT");

/// Version and commit, as `--version` shows them.
pub const VERSION_AND_COMMIT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("UNIONLINK_COMMIT"), ")");
