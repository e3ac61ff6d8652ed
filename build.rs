//! Gives the program the commit that it is built from, for `--version` and metrics: the environment variable
//! `UNIONLINK_COMMIT`, else the HEAD of this git checkout, else `unknown`, as in a source archive.
//!
//! Deliberately absent: dates and the names of machines, so that builds are reproducible.

use std::path::Path;
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "the environment of the build, not of the service")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=UNIONLINK_COMMIT");
    // This log has a new line after every commit and checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists());
    if let Some(log) = log {
        println!("cargo::rerun-if-changed={log}");
    }
    let given = std::env::var("UNIONLINK_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(head).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=UNIONLINK_COMMIT={commit}");
}

/// The HEAD of this checkout; `None` if there is none, also if this folder is part of another project's.
fn head() -> Option<String> {
    let is_top_level = git(&["rev-parse", "--show-prefix"])?.is_empty();
    if is_top_level { git(&["rev-parse", "--short=12", "HEAD"]) } else { None }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
