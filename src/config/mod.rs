//! The configuration: a TOML file, the environment over it, checked as a whole before anything starts.
//!
//! The file `config/default.toml` documents every key and is part of the binary; a test proves that it says what
//! the code does. This is the only module that reads the environment.

mod reader;
mod secret;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::Table;

pub use reader::Problem;
use reader::Section;
pub use secret::Secret;

use crate::callback::AesKey;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::telemetry::logs::Format;
use crate::worker::ConversionToken;
use secrecy::ExposeSecret;

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
}

/// How WeCom is reached.
#[derive(Debug, Clone, Serialize)]
pub struct Wecom {
    /// Scheme and host.
    pub api_base: String,
    /// HTTP proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// Budget of each conversion with one of its own.
    pub quota: Limits,
}

/// Where link changes go.
#[derive(Debug, Clone, Serialize)]
pub struct Sink {
    /// Its name.
    pub name: AppName,
    /// `webhook`.
    pub kind: &'static str,
    /// Where to.
    pub url: String,
    /// For the signature.
    pub secret: Secret,
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
    /// The file is not TOML.
    #[error("{} is not TOML", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        source: toml::de::Error,
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
    let table: Table =
        text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })?;
    let (config, problems) = check(table, environment);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Problems { path: path.to_owned(), problems }),
    }
}

fn check(table: Table, environment: &Environment) -> (Option<Config>, Vec<Problem>) {
    let (mut root, shared) = Section::root(table, environment.overrides());
    let server = server(&mut root.section("server"));
    let admin = admin(&mut root.section("admin"), environment);
    let store = store(&mut root.section("store"));
    let wecom = wecom(&mut root.section("wecom"));
    let log = log(&mut root.section("log"));
    let mut apps = Vec::new();
    let app_sections = root.sections("apps");
    if app_sections.is_empty() {
        root.problem("apps", "is missing: there must be at least one app", Some("see config/example.toml"));
    }
    for mut section in app_sections {
        let known: Vec<&App> = apps.iter().flatten().collect();
        apps.push(app(&mut section, environment, &known));
    }
    let mut sinks = Vec::new();
    for mut section in root.sections("sinks") {
        sinks.push(sink(&mut section, environment));
    }
    drop(root);
    let apps: Option<Vec<_>> = apps.into_iter().collect();
    let sinks: Option<Vec<_>> = sinks.into_iter().collect();
    let config =
        (|| Some(Config { server: server?, admin: admin?, store, wecom, log, apps: apps?, sinks: sinks? }))();
    (config, shared.into_problems())
}

fn address(section: &mut Section, default: &str) -> Option<SocketAddr> {
    let text = section.text("listen").unwrap_or_else(|| default.to_owned());
    let parsed = text.parse();
    if parsed.is_err() {
        section.problem("listen", format!("{text:?} is not an address and port"), Some("write 0.0.0.0:8080"));
    }
    parsed.ok()
}

fn server(section: &mut Section) -> Option<Server> {
    let listen = address(section, "0.0.0.0:8080");
    let connections_max = section.number("connections_max", 4_096, 1..=1_000_000);
    let header_timeout_ms = section.number("header_timeout_ms", 5_000, 10..=60_000);
    let body_timeout_ms = section.number("body_timeout_ms", 5_000, 10..=60_000);
    let body_bytes_max = section.number("body_bytes_max", 65_536, 1_024..=1 << 20);
    let grace_ms = section.number("grace_ms", 10_000, 0..=600_000);
    let listen = listen?;
    Some(Server { listen, connections_max, header_timeout_ms, body_timeout_ms, body_bytes_max, grace_ms })
}

fn admin(section: &mut Section, environment: &Environment) -> Option<Admin> {
    let listen = address(section, "127.0.0.1:8081");
    let written = section.value_is_there("token");
    let token = secret::read(section, "token", environment);
    let listen = listen?;
    if token.is_none() && !written && !listen.ip().is_loopback() {
        section.problem(
            "token",
            format!("is missing, and {listen} can be reached from other machines"),
            Some("set token = { env = \"UNIONLINK_ADMIN_TOKEN\" }, or listen on 127.0.0.1"),
        );
    }
    Some(Admin { listen, token })
}

fn store(section: &mut Section) -> Store {
    Store {
        kind: section.choice("kind", &[("sled", "sled")]),
        path: section.text("path").unwrap_or_else(|| "data".to_owned()).into(),
        cache_mb: section.number("cache_mb", 256, 8..=1 << 20),
        free_mb_min: section.number("free_mb_min", 256, 1..=1 << 30),
        inbox_events_max: section.number("inbox_events_max", 1_000_000, 1..=1_000_000_000),
        dedupe_days: section.number("dedupe_days", 7, 1..=365),
    }
}

fn wecom(section: &mut Section) -> Wecom {
    let base = section.text("api_base").unwrap_or_else(|| "https://qyapi.weixin.qq.com".to_owned());
    url(section, "api_base", &base);
    let proxy = section.text("proxy");
    if let Some(proxy) = &proxy {
        url(section, "proxy", proxy);
    }
    Wecom {
        api_base: base.trim_end_matches('/').to_owned(),
        proxy,
        connect_timeout_ms: section.number("connect_timeout_ms", 3_000, 10..=10_000),
        // The quota ledger counts on a call being over by then.
        timeout_ms: section.number("timeout_ms", 10_000, 10..=10_000),
        calls_max: section.number("calls_max", 32, 1..=1_000),
    }
}

fn url(section: &Section, name: &str, text: &str) {
    let parsed = reqwest::Url::parse(text);
    if !parsed.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        section.problem(name, format!("{text:?} is not an http or https URL"), None);
    }
}

fn log(section: &mut Section) -> Log {
    Log {
        filter: section.text("filter").unwrap_or_else(|| "info".to_owned()),
        format: section.choice("format", &[("text", Format::Text), ("json", Format::Json)]),
    }
}

fn app(section: &mut Section, environment: &Environment, known: &[&App]) -> Option<App> {
    let name = name(section);
    if let Some(name) = &name
        && known.iter().any(|app| app.name == *name)
    {
        section.problem("name", format!("{name} is taken by another app"), None);
    }
    let corp_id = match section.text("corp_id").map(|text| (CorpId::new(&text), text)) {
        Some((Ok(corp_id), _)) => Some(corp_id),
        Some((Err(error), text)) => {
            section.problem("corp_id", format!("{text:?} {error}"), None);
            None
        }
        None => {
            missing(section, "corp_id", "我的企业 → 企业信息 → 企业ID");
            None
        }
    };
    let agent_id = section.number("agent_id", 0, 1..=1 << 53);
    if agent_id == 0 {
        missing(section, "agent_id", "应用管理 → the app → AgentId");
    }
    let secret = required_secret(section, "secret", environment, "应用管理 → the app → Secret");
    let token = required_secret(section, "callback_token", environment, "the app → 接收消息 → Token");
    let aes_key =
        required_secret(section, "encoding_aes_key", environment, "the app → 接收消息 → EncodingAESKey");
    if let Some(Err(error)) = aes_key.as_ref().map(|key| AesKey::decode(key.value.expose_secret())) {
        section.problem("encoding_aes_key", error.to_string(), Some("copy all 43 characters from 接收消息"));
    }
    let accept_receive_ids = section.texts("accept_receive_ids");
    let conversion_token = section.choice(
        "conversion_token",
        &[
            ("auto", ConversionToken::Auto),
            ("downstream", ConversionToken::Downstream),
            ("upstream", ConversionToken::Upstream),
        ],
    );
    let existing_customers = section.flag("existing_customers", true);
    let quota = quota(&mut section.section("quota"));
    Some(App {
        name: name?,
        corp_id: corp_id?,
        agent_id: i64::try_from(agent_id).ok()?,
        secret: secret?,
        callback_token: token?,
        encoding_aes_key: aes_key?,
        accept_receive_ids,
        conversion_token,
        existing_customers,
        quota,
    })
}

fn name(section: &mut Section) -> Option<AppName> {
    let Some(text) = section.text("name") else {
        section.problem("name", "is missing", None);
        return None;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match AppName::new(&text) {
        Ok(name) if text.chars().all(plain) => Some(name),
        _ => {
            section.problem(
                "name",
                format!("{text:?} is not a name"),
                Some("use up to 64 of A-Z a-z 0-9 - _ ."),
            );
            None
        }
    }
}

fn quota(section: &mut Section) -> Limits {
    let mut number = |name, default: u32| {
        let value = section.number(name, u64::from(default), 1..=u64::from(u32::MAX));
        u32::try_from(value).unwrap_or(default)
    };
    Limits {
        per_hour: number("per_hour", Limits::DOCUMENTED.per_hour),
        per_day: number("per_day", Limits::DOCUMENTED.per_day),
        per_month: number("per_month", Limits::DOCUMENTED.per_month),
    }
}

fn sink(section: &mut Section, environment: &Environment) -> Option<Sink> {
    let name = name(section);
    let kind = section.choice("kind", &[("webhook", "webhook")]);
    let target = section.text("url");
    match &target {
        Some(target) => url(section, "url", target),
        None => section.problem("url", "is missing", None),
    }
    let secret =
        required_secret(section, "secret", environment, "whsec_ and 24 to 64 random bytes in base64");
    Some(Sink { name: name?, kind, url: target?, secret: secret? })
}

fn required_secret(
    section: &mut Section,
    name: &'static str,
    environment: &Environment,
    whence: &str,
) -> Option<Secret> {
    if !section.value_is_there(name) {
        missing(section, name, whence);
    }
    secret::read(section, name, environment)
}

fn missing(section: &Section, name: &str, whence: &str) {
    section.problem(name, "is missing", Some(&format!("you find it under {whence}")));
}

/// Where the configuration is when nobody says.
pub const DEFAULT_PATH: &str = "config/unionlink.toml";
