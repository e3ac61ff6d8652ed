//! Programs that tests use, from `.ci/peers` or from the machine: where they are, and what happens where one is missing.
//! Shared by the unit tests and the test binaries.

use std::io::Write as _;
use std::path::PathBuf;

/// The path of a program that a test starts. `None` where it is not installed: the test is then skipped, with
/// a line on standard error, because `cargo test` needs nothing but Rust. With `UNIONLINK_PEERS=required`, as
/// in `.ci/run`, it fails instead.
#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the service")]
pub(crate) fn peer(name: &str) -> Option<PathBuf> {
    // The test binary is in the build folder, wherever that is.
    let test = std::env::current_exe().unwrap();
    let peers = test.ancestors().map(|folder| folder.join("peers"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = peers.chain(std::env::split_paths(&path));
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()));
    if found.is_none() {
        let required = std::env::var("UNIONLINK_PEERS").is_ok_and(|value| value == "required");
        assert!(!required, "{name} is missing; run .ci/peers, or install it");
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Directly: the test harness shows captured output only if a test fails.
        let _ = writeln!(
            std::io::stderr().lock(),
            "SKIPPED: {test}: {name} is missing; run .ci/peers, or install it"
        );
    }
    found
}
