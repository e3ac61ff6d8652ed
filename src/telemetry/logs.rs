//! Log lines on standard error: the filter, and the two formats.
//!
//! A level in the filter is that of this program's own lines. Libraries, such as the database and the TLS
//! stack, stay at `info` whatever the filter: below it, they log keys, values and headers. What is added to the
//! audit trail is logged under the target `audit`, also with a filter such as `warn`.
//!
//! Free text, such as an error, is recorded as a string, because the text format quotes strings but not what is
//! recorded by its `Display`. Durations are recorded as whole numbers of milliseconds, named `…_ms`.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How to write a filter.
pub const FILTER_HINT: &str =
    "write a level (debug), with target=level pairs for parts of it (info,unionlink::wecom=debug)";

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
    #[error("log.filter {0:?} is not a filter\nhint: {FILTER_HINT}")]
    Filter(String),
    /// Logging was set up before in this process.
    #[error("logging was set up twice")]
    Twice,
    /// The filter cannot be replaced.
    #[error("the log filter cannot be replaced")]
    Replace(#[source] reload::Error),
}

/// Replaces the filter while the process runs.
pub struct FilterHandle(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl FilterHandle {
    /// Uses another filter from the next log line on.
    ///
    /// # Errors
    /// [`LogError::Filter`], or [`LogError::Replace`]; the filter is then as it was.
    pub fn replace(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse(filter).ok_or_else(|| LogError::Filter(filter.to_owned()))?;
        (self.0)(parsed).map_err(LogError::Replace)
    }
}

/// Sets up logging to standard error, once per process.
///
/// # Errors
/// [`LogError`], usually because of the filter.
pub fn start(filter: &str, format: Format) -> Result<FilterHandle, LogError> {
    let parsed = parse(filter).ok_or_else(|| LogError::Filter(filter.to_owned()))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        Format::Text => {
            let lines = lines.with_target(false).with_filter_reloading();
            let filter = lines.reload_handle();
            install(lines.finish(), move |other| filter.reload(other))
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let filter = lines.reload_handle();
            install(lines.finish(), move |other| filter.reload(other))
        }
    }
}

/// Whether `filter` can be used: levels, and targets with a level of their own.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    parse(filter).is_some()
}

pub(super) fn parse(filter: &str) -> Option<EnvFilter> {
    // A word alone would be the name of a target, which is a misspelt level rather.
    let mut parts = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).peekable();
    parts.peek()?;
    let has_a_level = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    if parts.all(has_a_level) { EnvFilter::try_new(directives(filter)).ok() } else { None }
}

fn install(
    lines: impl Subscriber + Send + Sync + 'static,
    replace: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
) -> Result<FilterHandle, LogError> {
    lines.with(filter_fn(can_be_logged)).try_init().map_err(|_| LogError::Twice)?;
    Ok(FilterHandle(Box::new(replace)))
}

/// False for the debug and trace lines of other crates. Those of sled hold keys and values, and come from
/// destructors of thread-local values too, where writing a line aborts the process.
pub(super) fn can_be_logged(metadata: &Metadata<'_>) -> bool {
    is_ours(metadata.target()) || *metadata.level() <= Level::INFO
}

/// Whether a target, of a line or in a filter, is this program or a part of it.
fn is_ours(target: &str) -> bool {
    target.strip_prefix("unionlink").is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// The first target of another crate that `filter` sets to more than `info`, which has no effect.
#[must_use]
pub fn too_verbose(filter: &str) -> Option<&str> {
    let named = filter.split(',').filter_map(|part| part.trim().split_once('='));
    let is_too_verbose =
        |level: &str| level.parse::<LevelFilter>().is_ok_and(|level| level > LevelFilter::INFO);
    named
        .map(|(target, level)| (target.trim(), level.trim()))
        .find_map(|(target, level)| (!is_ours(target) && is_too_verbose(level)).then_some(target))
}

/// The directives that a filter stands for: a level applies to this program, and to other crates up to
/// `info`. The lines of the audit trail are logged at any level but `off`. Directives with a target come last, because the last one for a target counts.
fn directives(filter: &str) -> String {
    let parts = || filter.split(',').map(str::trim).filter(|part| !part.is_empty());
    let levels = parts().filter_map(|part| part.parse::<LevelFilter>().ok());
    let levels = levels.map(|level| {
        let others = level.min(LevelFilter::INFO);
        let audit = if level == LevelFilter::OFF { level } else { LevelFilter::INFO };
        format!("{others},audit={audit},unionlink={level}")
    });
    let named = parts().filter(|part| part.parse::<LevelFilter>().is_err());
    let named = named.map(|part| match too_verbose(part) {
        Some(target) => format!("{target}=info"),
        None => part.to_owned(),
    });
    levels.chain(named).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::captured_log::CapturedLog;

    #[test]
    fn other_crates_log_nothing_below_info_whatever_the_filter() {
        let log = CapturedLog::begin_with("trace,sled=trace,hyper=debug");
        tracing::trace!("ours");
        tracing::trace!(target: "sled::pagecache", "CANARY");
        tracing::debug!(target: "hyper::proto", "CANARY");
        tracing::debug!(target: "unionlinkish", "CANARY");
        tracing::info!(target: "sled", "opened");
        let log = log.text();
        assert!(log.contains("ours") && log.contains("opened") && !log.contains("CANARY"), "{log}");
    }

    #[test]
    fn a_level_is_that_of_our_own_lines_and_other_crates_stay_at_info() {
        for (filter, expected) in [
            ("info", "info,audit=info,unionlink=info"),
            ("debug", "info,audit=info,unionlink=debug"),
            ("TRACE", "info,audit=info,unionlink=trace"),
            ("warn", "warn,audit=info,unionlink=warn"),
            ("off", "off,audit=off,unionlink=off"),
            ("debug,sled=debug", "info,audit=info,unionlink=debug,sled=info"),
            ("debug,hyper=warn", "info,audit=info,unionlink=debug,hyper=warn"),
            ("unionlink::worker=trace, info", "info,audit=info,unionlink=info,unionlink::worker=trace"),
            ("unionlink=debug,warn,", "warn,audit=info,unionlink=warn,unionlink=debug"),
        ] {
            assert_eq!(directives(filter), expected, "{filter:?}");
            assert!(is_filter(filter), "{filter:?}");
        }
        for misspelt in ["", " , ", "inf", "loud", "info,hyper", "info,sled=verbose"] {
            assert!(!is_filter(misspelt), "{misspelt:?}");
        }
    }
}
