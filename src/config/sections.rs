//! The tables of the configuration except `[[sinks]]`: their keys, and which values are valid.
//!
//! Deliberately absent: the keys' meanings and defaults, which are in `config/default.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::folder;
use super::reader::{Section, Severity};
use super::secret::{self, Address, Secret};
use crate::callback::AesKey;
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::telemetry::logs::{self, Format};
use crate::worker::apps::ConversionToken;

/// `[server]`: the public listener.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) connections_max: u64,
    pub(crate) header_timeout_ms: u64,
    pub(crate) body_timeout_ms: u64,
    pub(crate) body_bytes_max: u64,
    pub(crate) event_days_max: u64,
    pub(crate) grace_ms: u64,
}

impl Server {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        Some(Self {
            listen: listen(section)?,
            connections_max: section.number("connections_max", 1..=1_000_000)?,
            header_timeout_ms: section.number("header_timeout_ms", 10..=60_000)?,
            body_timeout_ms: section.number("body_timeout_ms", 10..=60_000)?,
            body_bytes_max: section.number("body_bytes_max", 1_024..=1 << 20)?,
            event_days_max: section.number("event_days_max", 0..=3_650)?,
            grace_ms: section.number("grace_ms", 0..=600_000)?,
        })
    }
}

fn listen(section: &mut Section<'_>) -> Option<SocketAddr> {
    section.parse("listen", |text| {
        let hint = Some("write 0.0.0.0:8080".to_owned());
        text.parse().map_err(|_| (format!("{text:?} is not an address and port"), hint))
    })
}

/// `[admin]`: the private listener.
#[derive(Debug, Clone, Serialize)]
pub struct Admin {
    pub(crate) listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Secret>,
    /// In lower case.
    pub(crate) hosts: Vec<String>,
}

impl Admin {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let listen = listen(section)?;
        if !section.has("token") && !listen.ip().is_loopback() {
            let hint = "set token = { env = \"UNIONLINK_ADMIN_TOKEN\" }, or listen on 127.0.0.1";
            let reason = format!("is missing, and {listen} can be reached from other machines");
            section.problem("token", reason, Some(hint));
        }
        let token = secret::read(section, "token");
        let mut hosts = section.texts("hosts")?;
        for host in &mut hosts {
            if !is_host_name(host) {
                let hint = "write only the name, unionlink.example.com: no scheme, no port, no *";
                section.problem("hosts", format!("{host:?} is not a host name"), Some(hint));
            }
            host.make_ascii_lowercase();
        }
        Some(Self { listen, token, hosts })
    }
}

fn is_host_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(is_allowed);
    text.len() <= 253 && text.split('.').all(is_label)
}

/// `[store]`: where state is kept.
#[derive(Debug, Clone, Serialize)]
pub struct Store {
    pub(crate) kind: StoreKind,
    pub(crate) path: PathBuf,
    pub(crate) cache_mb: u64,
    pub(crate) free_mb_min: u64,
    pub(crate) inbox_events_max: u64,
    pub(crate) dedupe_days: u64,
    pub(crate) feed_days: u64,
    pub(crate) journal: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreKind {
    Sled,
}

impl Store {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let path: PathBuf = section.text("path")?;
        if let Some(obstacle) = folder::obstacle(&path) {
            // `serve` finds out for certain, by opening the store.
            let hint =
                "run check as the user that runs unionlink; create the folder for that user, or name another";
            section.report(Severity::Suspect, "path", obstacle, Some(hint));
        }
        Some(Self {
            kind: section.text("kind")?,
            path,
            cache_mb: section.number("cache_mb", 8..=1 << 20)?,
            free_mb_min: section.number("free_mb_min", 1..=1 << 30)?,
            inbox_events_max: section.number("inbox_events_max", 1..=1_000_000_000)?,
            dedupe_days: section.number("dedupe_days", 1..=365)?,
            feed_days: section.number("feed_days", 1..=3_650)?,
            journal: section.flag("journal")?,
        })
    }
}

/// `[wecom]`: how WeCom is reached.
#[derive(Debug, Clone, Serialize)]
pub struct Wecom {
    /// Without a slash at the end.
    pub(crate) api_base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<Address>,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) calls_max: u64,
}

impl Wecom {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let schemes = &["http", "https"];
        let api_base = Address::read(section, "api_base", schemes, "https://qyapi.weixin.qq.com")?;
        let proxy = Address::read(section, "proxy", schemes, "http://proxy.example.com:3128");
        if section.overridden("proxy").is_none() && proxy.as_ref().is_some_and(Address::has_login) {
            section.reading.holds_a_secret.set(true);
        }
        Some(Self {
            api_base: api_base.0.as_str().trim_end_matches('/').to_owned(),
            proxy,
            connect_timeout_ms: section.number("connect_timeout_ms", 10..=10_000)?,
            // At most `quota::FLIGHT_MS`: the ledger relies on WeCom having counted every call by then.
            timeout_ms: section.number("timeout_ms", 10..=10_000)?,
            calls_max: section.number("calls_max", 1..=1_000)?,
        })
    }
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone, Serialize)]
pub struct Log {
    pub(crate) filter: String,
    pub(crate) format: Format,
}

impl Log {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let filter = section.parse("filter", |text: String| {
            if logs::is_filter(&text) {
                return Ok(text);
            }
            Err((format!("{text:?} is not a filter"), Some(logs::FILTER_HINT.to_owned())))
        });
        Some(Self { filter: filter?, format: section.text("format")? })
    }
}

/// One of `[[apps]]`: an app of the brand.
#[derive(Debug, Clone, Serialize)]
pub struct App {
    pub(crate) name: AppName,
    pub(crate) corp_id: CorpId,
    pub(crate) agent_id: i64,
    pub(crate) secret: Secret,
    pub(crate) callback_token: Secret,
    /// Valid: [`AesKey::decode`] accepts it.
    pub(crate) encoding_aes_key: Secret,
    pub(crate) accept_receive_ids: Vec<String>,
    pub(crate) conversion_token: ConversionToken,
    pub(crate) existing_customers: bool,
    pub(crate) customer_groups: bool,
    pub(crate) reconcile_hours: u32,
    pub(crate) silent_days: u32,
    pub(crate) renew: Renew,
    pub(crate) same_id_extends: bool,
    pub(crate) quota: Quota,
}

/// The `corp_id` of `example.toml`.
const PLACEHOLDER_CORP_ID: &str = "ww0000000000000000";

/// Shorter callback tokens are reported: a token is the key of every signature.
const TOKEN_CHARS_MIN: usize = 8;

/// Where WeCom's admin console shows the value of a key.
const PLACES_IN_CONSOLE: [(&str, &str); 5] = [
    ("corp_id", "我的企业 → 企业信息 → 企业ID"),
    ("agent_id", "应用管理 → the app → AgentId"),
    ("secret", "应用管理 → the app → Secret"),
    ("callback_token", "the app → 接收消息 → Token"),
    ("encoding_aes_key", "the app → 接收消息 → EncodingAESKey"),
];

impl App {
    /// Reads an app; `others` are the apps before it.
    pub(super) fn read(section: &mut Section<'_>, others: &[Self]) -> Option<Self> {
        section.places = &PLACES_IN_CONSOLE;
        for (key, _) in PLACES_IN_CONSOLE.iter().filter(|(key, _)| !section.has(key)) {
            section.problem(key, "is missing", None);
        }
        let name = unique_name(section, "app", |name: &AppName| others.iter().any(|app| app.name == *name));
        let corp_id: Option<CorpId> = section.text("corp_id");
        if let Some(corp_id) = &corp_id {
            check_corp_id(section, corp_id.as_str());
        }
        let agent_id = section.number("agent_id", 1..=1 << 53);
        let secret = secret::read(section, "secret");
        let callback_token = secret::read(section, "callback_token");
        let hint = "copy all 43 characters";
        let encoding_aes_key = secret::read_checked(section, "encoding_aes_key", AesKey::decode, hint);
        if let Some(token) = &callback_token {
            check_callback_keys(section, token, encoding_aes_key.as_ref(), others);
        }
        // Every key is checked before a `?` returns: a key with a default always has a value, and the `?` of
        // the others come last.
        Some(Self {
            accept_receive_ids: section.texts("accept_receive_ids")?,
            conversion_token: section.text("conversion_token")?,
            existing_customers: section.flag("existing_customers")?,
            customer_groups: section.flag("customer_groups")?,
            reconcile_hours: section.number("reconcile_hours", 0..=8_760)?,
            silent_days: section.number("silent_days", 0..=365)?,
            renew: section.text("renew")?,
            same_id_extends: section.flag("same_id_extends")?,
            quota: Quota::read(&mut section.section("quota"))?,
            name: name?,
            corp_id: corp_id?,
            agent_id: agent_id?,
            secret: secret?,
            callback_token: callback_token?,
            encoding_aes_key: encoding_aes_key?,
        })
    }
}

/// Reports a corp id that is the example's, or that cannot be a corp's.
fn check_corp_id(section: &Section<'_>, corp_id: &str) {
    if corp_id == PLACEHOLDER_CORP_ID {
        section.problem("corp_id", "is the placeholder of the example", None);
    } else if !is_corp_id(corp_id) {
        let reason = "is not a corp id: these are ww, wx or wp and 6 to 62 of A-Z a-z 0-9 - _";
        section.report(Severity::Suspect, "corp_id", reason, None);
    }
}

/// The form is not documented; every id seen so far has it.
fn is_corp_id(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let rest = ["ww", "wx", "wp"].into_iter().find_map(|prefix| text.strip_prefix(prefix));
    rest.is_some_and(|rest| (6..=62).contains(&rest.len()) && rest.chars().all(is_allowed))
}

/// Reports a callback token that is easy to guess, and one that another app has together with the key.
fn check_callback_keys(section: &Section<'_>, token: &Secret, key: Option<&Secret>, others: &[App]) {
    let token = token.value.expose_secret();
    if token.chars().count() < TOKEN_CHARS_MIN {
        let reason = format!("has fewer than {TOKEN_CHARS_MIN} characters, which is easy to guess");
        let hint = "set a longer one, in the console and here";
        section.report(Severity::Warning, "callback_token", reason, Some(hint));
    }
    let Some(key) = key.map(|key| key.value.expose_secret()) else { return };
    let is_same = |other: &&App| {
        other.callback_token.value.expose_secret() == token
            && other.encoding_aes_key.value.expose_secret() == key
    };
    if let Some(other) = others.iter().find(is_same) {
        let reason = format!(
            "and encoding_aes_key are those of app {}: a callback for one app verifies at the other",
            other.name
        );
        section.report(Severity::Suspect, "callback_token", reason, Some("give each app its own"));
    }
}

/// An app's `quota`: the calls that its corp may make to each conversion API.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quota {
    pub(crate) per_hour: u32,
    pub(crate) per_day: u32,
    pub(crate) per_month: u32,
    pub(crate) reserve_percent: u8,
}

impl Quota {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        Some(Self {
            per_hour: section.number("per_hour", 1..=u32::MAX)?,
            per_day: section.number("per_day", 1..=u32::MAX)?,
            per_month: section.number("per_month", 1..=u32::MAX)?,
            reserve_percent: section.number("reserve_percent", 0..=90)?,
        })
    }

    pub(crate) const fn limits(self) -> Limits {
        let Self { per_hour, per_day, per_month, .. } = self;
        Limits { per_hour, per_day, per_month }
    }
}

/// Reads the name of an app or a sink, as `of` says, which must not be `taken` by another.
pub(super) fn unique_name<T: TryFrom<String>>(
    section: &mut Section<'_>,
    of: &str,
    taken: impl Fn(&T) -> bool,
) -> Option<T> {
    let hint = "use up to 64 of A-Z a-z 0-9 - _ .";
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    section.require("name", hint);
    section.parse("name", |text| match T::try_from(text.clone()) {
        Ok(name) if taken(&name) => Err((format!("{text} is taken by another {of}"), None)),
        Ok(name) if text.chars().all(is_plain) => Ok(name),
        _ => Err((format!("{text:?} is not a name"), Some(hint.to_owned()))),
    })
}
