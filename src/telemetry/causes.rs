//! An error in one line.

use std::error::Error;

/// The error, and behind it each cause: `the database cannot be used: db error: FATAL: password authentication failed`.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
