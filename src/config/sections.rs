//! One function a section: what its keys are, what they default to, what is wrong with them.

use std::net::SocketAddr;

use secrecy::ExposeSecret;

use super::reader::Section;
use super::secret::{self, Secret};
use super::{Admin, App, Environment, Log, Quota, Server, Store, Wecom};
use crate::callback::AesKey;
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::telemetry::logs::Format;
use crate::worker::ConversionToken;

fn address(section: &mut Section, default: &str) -> Option<SocketAddr> {
    let text = section.text("listen").unwrap_or_else(|| default.to_owned());
    let parsed = text.parse();
    if parsed.is_err() {
        section.problem("listen", format!("{text:?} is not an address and port"), Some("write 0.0.0.0:8080"));
    }
    parsed.ok()
}

pub(super) fn server(section: &mut Section) -> Option<Server> {
    let listen = address(section, "0.0.0.0:8080");
    let connections_max = section.number("connections_max", 4_096, 1..=1_000_000);
    let header_timeout_ms = section.number("header_timeout_ms", 5_000, 10..=60_000);
    let body_timeout_ms = section.number("body_timeout_ms", 5_000, 10..=60_000);
    let body_bytes_max = section.number("body_bytes_max", 65_536, 1_024..=1 << 20);
    let grace_ms = section.number("grace_ms", 10_000, 0..=600_000);
    let listen = listen?;
    Some(Server { listen, connections_max, header_timeout_ms, body_timeout_ms, body_bytes_max, grace_ms })
}

pub(super) fn admin(section: &mut Section, environment: &Environment) -> Option<Admin> {
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

pub(super) fn store(section: &mut Section) -> Store {
    Store {
        kind: section.choice("kind", &[("sled", "sled")]),
        path: section.text("path").unwrap_or_else(|| "data".to_owned()).into(),
        cache_mb: section.number("cache_mb", 256, 8..=1 << 20),
        free_mb_min: section.number("free_mb_min", 256, 1..=1 << 30),
        inbox_events_max: section.number("inbox_events_max", 1_000_000, 1..=1_000_000_000),
        dedupe_days: section.number("dedupe_days", 7, 1..=365),
        feed_days: section.number("feed_days", 30, 1..=3650),
        journal: section.flag("journal", true),
    }
}

pub(super) fn wecom(section: &mut Section) -> Wecom {
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

pub(super) fn log(section: &mut Section) -> Log {
    Log {
        filter: section.text("filter").unwrap_or_else(|| "info".to_owned()),
        format: section.choice("format", &[("text", Format::Text), ("json", Format::Json)]),
    }
}

pub(super) fn app(section: &mut Section, environment: &Environment, known: &[&App]) -> Option<App> {
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
    let renew = section
        .choice("renew", &[("all", Renew::All), ("unlinked", Renew::Unlinked), ("never", Renew::Never)]);
    let same_id_extends = section.flag("same_id_extends", false);
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
        renew,
        same_id_extends,
        quota,
    })
}

pub(super) fn name(section: &mut Section) -> Option<AppName> {
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

fn quota(section: &mut Section) -> Quota {
    let mut number = |name, default: u32| {
        let value = section.number(name, u64::from(default), 1..=u64::from(u32::MAX));
        u32::try_from(value).unwrap_or(default)
    };
    let per_hour = number("per_hour", Limits::DOCUMENTED.per_hour);
    let per_day = number("per_day", Limits::DOCUMENTED.per_day);
    let per_month = number("per_month", Limits::DOCUMENTED.per_month);
    let reserve_percent = u8::try_from(section.number("reserve_percent", 1, 0..=90)).unwrap_or(1);
    Quota { per_hour, per_day, per_month, reserve_percent }
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
