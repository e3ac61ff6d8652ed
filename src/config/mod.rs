//! The configuration: a TOML file, the environment over it, checked as a whole before anything starts.
//!
//! The file `config/default.toml` documents every key and is part of the binary; a test proves that it says what
//! the code does. This is the only module that reads the environment.

mod admin;
mod reader;
mod secret;
mod sections;
mod sinks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::Table;

pub use admin::{AdminAccess, load_admin, load_store};
pub use reader::Problem;
use reader::Section;
pub use secret::Secret;
pub use sinks::{Address, FileTarget, NatsTarget, Sink, SinkTarget, WebhookTarget};

use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::telemetry::logs::Format;
use crate::worker::ConversionToken;

/// Every key with its default, as text.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// A checked configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// The public listener.
    pub server: Server,
    /// The private listener.
    pub admin: Admin,
    /// Where state is kept.
    pub store: Store,
    /// How WeCom is reached.
    pub wecom: Wecom,
    /// How the service talks.
    pub log: Log,
    /// The brand's apps.
    pub apps: Vec<App>,
    /// Where link changes go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<Sink>,
}

/// The public listener.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    /// Address and port.
    pub listen: SocketAddr,
    /// Open connections.
    pub connections_max: u64,
    /// For a request's head.
    pub header_timeout_ms: u64,
    /// For its body.
    pub body_timeout_ms: u64,
    /// The largest body.
    pub body_bytes_max: u64,
    /// For what is under way when the service is told to stop.
    pub grace_ms: u64,
}

/// The private listener.
#[derive(Debug, Clone, Serialize)]
pub struct Admin {
    /// Address and port.
    pub listen: SocketAddr,
    /// Bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// Where state is kept.
#[derive(Debug, Clone, Serialize)]
pub struct Store {
    /// `sled`.
    pub kind: &'static str,
    /// The folder.
    pub path: PathBuf,
    /// sled's page cache.
    pub cache_mb: u64,
    /// Free disk space below which nothing is written.
    pub free_mb_min: u64,
    /// Events the inbox may hold.
    pub inbox_events_max: u64,
    /// How long a message is remembered.
    pub dedupe_days: u64,
    /// How long an entry of the feed is kept that every sink has.
    pub feed_days: u64,
    /// Whether a redo journal is kept beside the database.
    pub journal: bool,
}

/// How WeCom is reached.
#[derive(Debug, Clone, Serialize)]
pub struct Wecom {
    /// Scheme and host.
    pub api_base: String,
    /// HTTP proxy; may hold a password.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "without_password")]
    pub proxy: Option<String>,
    /// For connecting.
    pub connect_timeout_ms: u64,
    /// For a whole call.
    pub timeout_ms: u64,
    /// Calls under way at once, per kind of work.
    pub calls_max: u64,
}

/// How the service talks.
#[derive(Debug, Clone, Serialize)]
pub struct Log {
    /// Level, or target=level pairs.
    pub filter: String,
    /// Text or JSON.
    #[serde(serialize_with = "format_name")]
    pub format: Format,
}

/// One app of the brand.
#[derive(Debug, Clone, Serialize)]
pub struct App {
    /// The `{app}` of the callback URL.
    pub name: AppName,
    /// The brand's corp.
    pub corp_id: CorpId,
    /// The app's id there.
    pub agent_id: i64,
    /// The app's secret.
    pub secret: Secret,
    /// The callback's token.
    pub callback_token: Secret,
    /// The callback's key, checked to be one.
    pub encoding_aes_key: Secret,
    /// Further receive ids.
    pub accept_receive_ids: Vec<String>,
    /// Whose token converts.
    #[serde(serialize_with = "conversion_name")]
    pub conversion_token: ConversionToken,
    /// Whether WeCom is asked which dealers have a new fan already.
    pub existing_customers: bool,
    /// Whose pending ids are renewed before their end.
    #[serde(serialize_with = "renew_name")]
    pub renew: Renew,
    /// Whether WeCom prolongs a pending id that it gives again before its end.
    pub same_id_extends: bool,
    /// Budget of each conversion with one of its own.
    pub quota: Quota,
}

/// Budget of each conversion with one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// In any hour.
    pub per_hour: u32,
    /// In any 24 hours.
    pub per_day: u32,
    /// In any 30 days.
    pub per_month: u32,
    /// Percent of each kept for those who register now.
    pub reserve_percent: u8,
}

impl Quota {
    /// The limits alone.
    #[must_use]
    pub const fn limits(self) -> Limits {
        let Self { per_hour, per_day, per_month, .. } = self;
        Limits { per_hour, per_day, per_month }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde wants")]
fn format_name<S: serde::Serializer>(format: &Format, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match format {
        Format::Text => "text",
        Format::Json => "json",
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde wants")]
fn conversion_name<S: serde::Serializer>(token: &ConversionToken, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match token {
        ConversionToken::Auto => "auto",
        ConversionToken::Downstream => "downstream",
        ConversionToken::Upstream => "upstream",
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde wants")]
fn renew_name<S: serde::Serializer>(renew: &Renew, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match renew {
        Renew::All => "all",
        Renew::Unlinked => "unlinked",
        Renew::Never => "never",
    })
}

#[expect(clippy::ref_option, reason = "the signature serde wants")]
fn without_password<S: serde::Serializer>(url: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    let url = url.as_deref().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => to.serialize_str(&format!("{scheme}://[redacted]@{host}")),
        _ => to.serialize_str(url),
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}\nhint: copy config/example.toml there, or name another file with --config", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML. The line itself is not shown: it may hold a secret.
    #[error("{} is not TOML: line {line}: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The content does not do.
    #[error("{}", listed(path, problems))]
    Problems {
        /// Which file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

fn listed(path: &Path, problems: &[Problem]) -> String {
    let head = format!("{} problem(s) in {}", problems.len(), path.display());
    let lines = problems.iter().map(|Problem { key, reason, hint }| match hint {
        Some(hint) => format!("\n  {key} {reason}\n    hint: {hint}"),
        None => format!("\n  {key} {reason}"),
    });
    std::iter::once(head).chain(lines).collect()
}

/// The environment, as far as it concerns us; a value, so that tests bring their own.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn overrides(&self) -> Vec<(String, String)> {
        let ours = |(name, value): (&String, &String)| {
            Some((name.strip_prefix("UNIONLINK__")?.to_owned(), value.clone()))
        };
        self.0.iter().filter_map(ours).collect()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// Reads and checks the configuration in `path`.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path, environment)
}

/// Checks the configuration in `text`, which came from `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Config, ConfigError> {
    let (config, problems) = check(table(text, path)?, environment);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Problems { path: path.to_owned(), problems }),
    }
}

fn table(text: &str, path: &Path) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let (line, reason) = (before.matches('\n').count() + 1, error.message().to_owned());
        ConfigError::Syntax { path: path.to_owned(), line, reason }
    })
}

fn check(table: Table, environment: &Environment) -> (Option<Config>, Vec<Problem>) {
    let (mut root, shared) = Section::root(table, environment.overrides());
    let server = sections::server(&mut root.section("server"));
    let admin = sections::admin(&mut root.section("admin"), environment);
    let store = sections::store(&mut root.section("store"));
    let wecom = sections::wecom(&mut root.section("wecom"));
    let log = sections::log(&mut root.section("log"));
    let mut apps = Vec::new();
    let app_sections = root.sections("apps");
    if app_sections.is_empty() {
        root.problem("apps", "is missing: there must be at least one app", Some("see config/example.toml"));
    }
    for mut section in app_sections {
        let known: Vec<&App> = apps.iter().flatten().collect();
        apps.push(sections::app(&mut section, environment, &known));
    }
    let mut sinks: Vec<Option<Sink>> = Vec::new();
    for mut section in root.sections("sinks") {
        let known: Vec<&Sink> = sinks.iter().flatten().collect();
        sinks.push(sinks::sink(&mut section, environment, &known));
    }
    drop(root);
    let apps: Option<Vec<_>> = apps.into_iter().collect();
    let sinks: Option<Vec<_>> = sinks.into_iter().collect();
    let config =
        (|| Some(Config { server: server?, admin: admin?, store, wecom, log, apps: apps?, sinks: sinks? }))();
    (config, shared.into_problems())
}

/// Where the configuration is when nobody says.
pub const DEFAULT_PATH: &str = "config/unionlink.toml";
