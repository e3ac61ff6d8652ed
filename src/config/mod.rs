//! The configuration: a TOML file, overridden by the environment, checked as a whole before anything starts.
//!
//! `config/default.toml` documents every key. It is part of the binary and the base layer: no default is
//! repeated in code. No other module reads the environment.
//!
//! `check` and `serve` find the same problems; the [`Severity`] of each decides which of them refuses it.

mod admin;
mod alerts;
mod apps;
mod callback_url;
mod checks;
mod environment;
mod folder;
mod reader;
mod reload;
mod secret;
mod sections;
mod shared_keys;
mod sinks;
mod store;
mod suites;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use serde::Serialize;
use toml::Table;

pub use admin::{Admin, AdminAccess, AdminToken};
pub(crate) use admin::{Listen, socket_path};
pub use alerts::Alerts;
pub(crate) use alerts::{AlertLang, Robot};
pub(crate) use apps::Access;
pub use apps::{App, Quota};
pub(crate) use callback_url::CallbackSecrets;
pub(crate) use checks::PreviousKeys;
pub use environment::Environment;
pub use reader::{Problem, Severity};
use reader::{Reading, Section};
pub(crate) use reload::{Changes, Values};
pub use secret::Secret;
pub(crate) use sections::CallbackIps;
pub use sections::{Log, Server, Wecom};
pub use sinks::Sink;
pub(crate) use sinks::{FileTarget, NatsTarget, SinkTarget, WebhookTarget};
pub(crate) use store::Place;
pub use store::Store;
pub use suites::Suite;

/// The configuration file if no other is named.
pub const DEFAULT_PATH: &str = "config/unionlink.toml";

/// The embedded `config/default.toml`: every key, with its default or an example.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The embedded `config/example.toml`: what a new operator fills in.
pub const EXAMPLE: &str = include_str!("../../config/example.toml");

/// A checked configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    pub(crate) server: Server,
    pub(crate) admin: Admin,
    pub(crate) store: Store,
    pub(crate) wecom: Wecom,
    pub(crate) log: Log,
    /// `[[apps]]`, at least one.
    pub apps: Vec<App>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) suites: Vec<Suite>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sinks: Vec<Sink>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) alerts: Vec<Alerts>,
    /// The problems that did not prevent it from being read.
    #[serde(skip)]
    pub(crate) warnings: Vec<Problem>,
    /// Whether a secret is written in the file itself.
    #[serde(skip)]
    holds_a_secret: bool,
    /// The files that secrets were read from.
    #[serde(skip)]
    pub(crate) secret_files: Vec<PathBuf>,
}

impl Config {
    fn read(root: &mut Section<'_>) -> Option<Self> {
        let server = Server::read(&mut root.section("server"));
        let admin = Admin::read(&mut root.section("admin"));
        let store = Store::read(&mut root.section("store"));
        let wecom = Wecom::read(&mut root.section("wecom"));
        let log = Log::read(&mut root.section("log"));
        // An app or sink that is missing here is a problem reported already.
        let (mut suites, mut apps, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
        for mut section in root.sections("suites") {
            let suite = Suite::read(&mut section, &suites);
            suites.extend(suite);
        }
        let sections = root.sections("apps");
        if sections.is_empty() {
            let reason = "is missing: there must be at least one app";
            root.problem("apps", reason, Some("unionlink config example prints one to fill in"));
        }
        for mut section in sections {
            let app = App::read(&mut section, &suites, &apps);
            apps.extend(app);
        }
        for mut section in root.sections("sinks") {
            let sink = Sink::read(&mut section, &sinks);
            sinks.extend(sink);
        }
        let mut sections = root.sections("alerts");
        let alerts = sections.iter_mut().filter_map(Alerts::read).collect();
        drop(sections);
        shared_keys::check_shared_keys(root, &suites, &apps);
        let holds_a_secret = root.reading.holds_a_secret.get();
        let (server, admin, store, wecom, log) = (server?, admin?, store?, wecom?, log?);
        let (warnings, secret_files) = (Vec::new(), root.reading.secret_files.take());
        Some(Self {
            server,
            admin,
            store,
            wecom,
            log,
            apps,
            suites,
            sinks,
            alerts,
            warnings,
            holds_a_secret,
            secret_files,
        })
    }
}

impl Config {
    /// Its values, for comparison with another. Reads the certificates and credentials that sinks name.
    pub(crate) fn values(&self) -> Values {
        let Self { server, admin, store, wecom, log, suites, apps, sinks, alerts, .. } = self;
        Values::of((server, admin, store, wecom, log), suites, apps, (sinks, alerts))
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {}\nhint: unionlink config example prints one to fill in; or name \
         another file with --config",
        path.display()
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// The error of the system.
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
    /// The configuration is invalid.
    #[error("{}", listed(path, problems))]
    Problems {
        /// Which file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
        /// Problems that alone would not prevent it from being read.
        warnings: Vec<Problem>,
    },
}

impl ConfigError {
    /// All that is wrong. That the file itself cannot be used is one problem, with its path as the key.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let (path, reason) = match self {
            Self::Problems { problems, .. } => return problems,
            Self::Read { path, source } => (path, format!("cannot be read: {source}")),
            Self::Syntax { path, line, reason } => (path, format!("is not TOML: line {line}: {reason}")),
        };
        let key = path.display().to_string();
        vec![Problem { severity: Severity::Error, key, reason, hint: None }]
    }
}

fn listed(path: &Path, problems: &[Problem]) -> String {
    let plural = if problems.len() == 1 { "" } else { "s" };
    let head = format!("{} problem{plural} in {}", problems.len(), path.display());
    let lines = problems.iter().map(|problem| match &problem.hint {
        Some(hint) => format!("\n  {problem}\n    hint: {hint}"),
        None => format!("\n  {problem}"),
    });
    std::iter::once(head).chain(lines).collect()
}

/// Reads and checks the configuration in `path`, to run the service.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigError> {
    load_unless(Severity::Error, path, environment)
}

/// As [`load`], but also refuses what is very probably a mistake.
pub(crate) fn check(path: &Path, environment: &Environment) -> Result<Config, ConfigError> {
    load_unless(Severity::Suspect, path, environment)
}

/// Reads the configuration in `path`. Problems of the severity `refused` or higher are errors, the others are
/// warnings.
fn load_unless(refused: Severity, path: &Path, environment: &Environment) -> Result<Config, ConfigError> {
    let mut config = parse_unless(refused, &text(path)?, path, environment)?;
    let exposed = exposed(path, &config);
    config.warnings.extend(exposed);
    Ok(config)
}

/// Checks the configuration in `text`, which came from `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Config, ConfigError> {
    parse_unless(Severity::Error, text, path, environment)
}

fn parse_unless(
    refused: Severity,
    text: &str,
    path: &Path,
    environment: &Environment,
) -> Result<Config, ConfigError> {
    let (config, warnings) = read(text, path, environment, None, refused, Config::read)?;
    Ok(Config { warnings, ..config })
}

/// Reads only `[admin]` of the configuration in `path`; none of the other secrets need be available.
pub(crate) fn load_admin(path: &Path, environment: &Environment) -> Result<AdminAccess, ConfigError> {
    let (access, _) = read(&text(path)?, path, environment, Some("admin"), Severity::Error, admin_access)?;
    Ok(access)
}

fn admin_access(root: &mut Section<'_>) -> Option<AdminAccess> {
    AdminAccess::read(&mut root.section("admin"))
}

/// Reads only `[store]` of the configuration in `path`; none of the secrets need be available.
pub(crate) fn load_store(path: &Path, environment: &Environment) -> Result<Store, ConfigError> {
    let (store, _) = read(&text(path)?, path, environment, Some("store"), Severity::Error, |root| {
        Store::read(&mut root.section("store"))
    })?;
    Ok(store)
}

/// A warning if the file in `path` holds a secret and every user of the machine can read it.
fn exposed(path: &Path, config: &Config) -> Option<Problem> {
    let mode = File::open(path).and_then(|file| secret::open_to_all(&file)).ok().flatten()?;
    config.holds_a_secret.then(|| Problem {
        severity: Severity::Warning,
        key: path.display().to_string(),
        reason: format!("holds a secret and is open to every user of the machine (mode {mode:04o})"),
        hint: Some(format!(
            "chmod 600 {}, or 640 for a group; or write {{ env = \"NAME\" }} or {{ file = \"path\" }} \
             instead of the secret",
            path.display()
        )),
    })
}

/// The text of the configuration file, which may hold secrets.
fn text(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    text.map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// Reads the configuration in `text`, which came from `path`; the section `only` and no other if there is
/// one. Problems of the severity `refused` or higher are errors, the others are returned.
fn read<T>(
    text: &str,
    path: &Path,
    environment: &Environment,
    only: Option<&str>,
    refused: Severity,
    convert: impl FnOnce(&mut Section<'_>) -> Option<T>,
) -> Result<(T, Vec<Problem>), ConfigError> {
    let mut table = text.parse::<Table>().map_err(|error| not_toml(text, path, &error))?;
    table.retain(|name, _| only.is_none_or(|only| name == only));
    let reading = Reading::new(&mut table, environment, only);
    let mut root = Section::root(table, defaults(), &reading);
    let found = convert(&mut root);
    drop(root);
    let problems = reading.into_problems().into_iter();
    let (problems, warnings): (Vec<_>, Vec<_>) = problems.partition(|problem| problem.severity >= refused);
    match found {
        Some(found) if problems.is_empty() => Ok((found, warnings)),
        _ => Err(ConfigError::Problems { path: path.to_owned(), problems, warnings }),
    }
}

fn not_toml(text: &str, path: &Path, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let (line, reason) = (before.matches('\n').count() + 1, error.message().to_owned());
    ConfigError::Syntax { path: path.to_owned(), line, reason }
}

/// The base layer: `default.toml`, with its sections `[[apps]]` and `[[sinks]]`. These are commented out with
/// a bare `#`, because there are none by default. Comments and examples begin with `# ` and stay comments.
fn defaults() -> Table {
    let lines = DEFAULTS.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if !key.starts_with([' ', '#']) => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n").parse().unwrap_or_default()
}
