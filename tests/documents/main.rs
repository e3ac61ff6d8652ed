//! The documents are true: their commands run and print what is shown, tables and help texts equal the program's,
//! links resolve, English and Chinese correspond, and the files of the store import each other as designed.
//!
//! `UNIONLINK_DOCUMENTS=write` rewrites the generated parts instead of comparing them.

#![expect(unreachable_pub, reason = "modules of a test binary")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that panics has failed, and prints what it did"
)]

mod commands;
mod generated;
mod imports;
mod markdown;
mod monitoring;
#[path = "../peers/mod.rs"]
mod peers;
mod source;
mod structure;

/// A variable of the environment.
#[expect(clippy::disallowed_methods, reason = "a test's own settings are no configuration of the service")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
