//! Log lines on standard error: the filter, and the two formats.
//!
//! Free text, such as an error, is recorded as a string, because the text format quotes strings but not what is
//! recorded by its `Display`. Durations are recorded as whole numbers of milliseconds, named `…_ms`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Time, level, message and `name=value` fields, for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configured filter cannot be parsed.
    #[error(
        "log.filter {filter:?} is not a filter\nhint: write a level (info) or target=level pairs (info,unionlink=debug)"
    )]
    Filter {
        /// The configured filter.
        filter: String,
        /// The parser's error.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before in this process.
    #[error("logging was set up twice")]
    Twice,
}

/// Sets up logging to standard error, once per process.
///
/// # Errors
/// [`LogError`], usually because of the filter.
pub fn start(filter: &str, format: Format) -> Result<(), LogError> {
    // sled also logs from destructors of thread-local values, at trace. A log line there aborts the process,
    // because the subscriber's own thread-local buffer may be gone.
    let parsed = EnvFilter::try_new(format!("{filter},sled=info"))
        .map_err(|source| LogError::Filter { filter: filter.to_owned(), source })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        Format::Text => lines.with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| LogError::Twice)
}
