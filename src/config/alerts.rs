//! `[[alerts]]`: group robots that are told when a finding turns to `fail`, and when it does not any more.

use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::reader::{Section, Severity};
use super::secret::{self, Secret};
use crate::reach::Host;

/// A robot of a group chat.
#[derive(Debug, Clone, Serialize)]
pub struct Alerts {
    pub(crate) kind: Robot,
    /// Its webhook, which has its key in it.
    pub(crate) url: Secret,
    pub(crate) lang: AlertLang,
}

/// Whose robot it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Robot {
    /// 企业微信群机器人.
    Wecom,
    /// 钉钉自定义机器人.
    Dingtalk,
    /// 飞书自定义机器人.
    Feishu,
}

/// The language of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AlertLang {
    Zh,
    En,
    Both,
}

impl Alerts {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let (kind, lang) = (section.text("kind"), section.text("lang"));
        let hint = "copy the whole Webhook address from the robot's page";
        section.require("url", hint);
        let url = secret::read_checked(section, "url", robot_url, hint);
        let is_open = url.as_ref().is_some_and(|url| {
            let url = reqwest::Url::parse(url.value.expose_secret());
            url.is_ok_and(|url| url.scheme() == "http" && Host::of(&url) != Host::Private)
        });
        if is_open {
            let reason = "would be called without TLS";
            section.report(Severity::Error, "url", reason, Some("write https://"));
        }
        Some(Self { kind: kind?, url: url?, lang: lang? })
    }
}

fn robot_url(text: &str) -> Result<(), &'static str> {
    let url = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
    url.filter(reqwest::Url::has_host).map(drop).ok_or("is not a URL of https")
}
