//! `[[apps]]`: the apps that receive callbacks and call WeCom, self-built or agency-developed (代开发).
//!
//! Deliberately absent: the keys' meanings and defaults, which are in `config/default.toml`.

use serde::Serialize;

use super::checks::{PreviousKeys, check_callback_token, check_corp_id, read_callback_keys};
use super::reader::Section;
use super::secret::{self, Secret};
use super::sections::unique_name;
use super::suites::Suite;
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::worker::apps::ConversionToken;

/// One of `[[apps]]`.
#[derive(Debug, Clone, Serialize)]
pub struct App {
    pub(crate) name: AppName,
    /// Flattened as in the file, when the configuration is printed.
    #[serde(flatten)]
    pub(crate) access: Access,
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

/// How an app calls WeCom, and what its callbacks are verified with.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Access {
    SelfBuilt(SelfBuilt),
    Agency(Agency),
}

/// A self-built app (自建应用).
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SelfBuilt {
    pub(crate) corp_id: CorpId,
    pub(crate) agent_id: i64,
    pub(crate) secret: Secret,
    pub(crate) callback_token: Secret,
    /// Valid: [`AesKey::decode`] accepts it.
    pub(crate) encoding_aes_key: Secret,
    #[serde(flatten)]
    pub(crate) previous: PreviousKeys,
}

/// An agency-developed app (代开发应用). Its secret and agent id come with a brand's authorisation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Agency {
    pub(crate) suite: AppName,
    /// The brand; `None`: the only one that has authorised the suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) corp_id: Option<CorpId>,
    /// Where it differs from the suite's. With one of the two, the app has a callback URL of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) callback_token: Option<Secret>,
    /// Valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoding_aes_key: Option<Secret>,
    #[serde(flatten)]
    pub(crate) previous: PreviousKeys,
}

impl App {
    /// Reads an app; `others` are the apps before it.
    pub(super) fn read(section: &mut Section<'_>, suites: &[Suite], others: &[Self]) -> Option<Self> {
        let is_taken = |name: &AppName| {
            others.iter().any(|app| app.name == *name) || suites.iter().any(|suite| suite.name == *name)
        };
        let name = unique_name(section, "app or suite", is_taken);
        let access = if section.has("suite") {
            Agency::read(section, suites, others).map(Access::Agency)
        } else {
            SelfBuilt::read(section).map(Access::SelfBuilt)
        };
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
            access: access?,
        })
    }

    const fn agency(&self) -> Option<&Agency> {
        match &self.access {
            Access::Agency(agency) => Some(agency),
            Access::SelfBuilt(_) => None,
        }
    }
}

/// Where WeCom's admin console shows the value of a key.
const PLACES_IN_CONSOLE: [(&str, &str); 5] = [
    ("corp_id", "我的企业 → 企业信息 → 企业ID"),
    ("agent_id", "应用管理 → the app → AgentId"),
    ("secret", "应用管理 → the app → Secret"),
    ("callback_token", "the app → 接收消息 → Token"),
    ("encoding_aes_key", "the app → 接收消息 → EncodingAESKey"),
];

impl SelfBuilt {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        section.places = &PLACES_IN_CONSOLE;
        for (key, _) in PLACES_IN_CONSOLE.iter().filter(|(key, _)| !section.has(key)) {
            section.problem(key, "is missing", None);
        }
        let corp_id: Option<CorpId> = section.text("corp_id");
        if let Some(corp_id) = &corp_id {
            check_corp_id(section, "corp_id", corp_id.as_str());
        }
        let agent_id = section.number("agent_id", 1..=1 << 53);
        let secret = secret::read(section, "secret");
        let (callback_token, encoding_aes_key, previous) = read_callback_keys(section);
        if let Some(token) = &callback_token {
            check_callback_token(section, token);
        }
        Some(Self {
            corp_id: corp_id?,
            agent_id: agent_id?,
            secret: secret?,
            callback_token: callback_token?,
            encoding_aes_key: encoding_aes_key?,
            previous,
        })
    }
}

impl Agency {
    fn read(section: &mut Section<'_>, suites: &[Suite], others: &[App]) -> Option<Self> {
        let suite = section.parse("suite", |text| {
            let known = suites.iter().find(|suite| suite.name.as_str() == text);
            known.map(|suite| suite.name.clone()).ok_or_else(|| {
                (
                    format!("{text:?} is no [[suites]] of this configuration"),
                    Some("name one of them".to_owned()),
                )
            })
        });
        for key in ["secret", "agent_id"] {
            if section.has(key) {
                let hint = "remove it: an agency-developed app gets it with the brand's authorisation";
                section.problem(key, "is of a self-built app", Some(hint));
            }
            section.discard(key);
        }
        let corp_id: Option<CorpId> = section.text("corp_id");
        if let Some(corp_id) = &corp_id {
            check_corp_id(section, "corp_id", corp_id.as_str());
        }
        let siblings = others.iter().filter_map(|other| Some((&other.name, other.agency()?)));
        for (name, other) in siblings.filter(|(_, other)| Some(&other.suite) == suite.as_ref()) {
            match (&other.corp_id, &corp_id) {
                (None, None) => {
                    let reason =
                        format!("is missing, and so is that of app {name}, which is of the same suite");
                    section.problem(
                        "corp_id",
                        reason,
                        Some("tell the apps of a suite apart by their brands"),
                    );
                }
                (Some(theirs), Some(ours)) if theirs.same_corp(ours.as_str()) => {
                    section.problem(
                        "corp_id",
                        format!("is that of app {name}, which is of the same suite"),
                        None,
                    );
                }
                (Some(_) | None, _) => {}
            }
        }
        let (callback_token, encoding_aes_key, previous) = read_callback_keys(section);
        if let Some(token) = &callback_token {
            check_callback_token(section, token);
        }
        let has_url = callback_token.is_some() || encoding_aes_key.is_some();
        for key in ["previous_callback_token", "previous_encoding_aes_key"] {
            if section.has(key) && !has_url {
                let hint = "set it in [[suites]], or give the app a token or key of its own";
                section.problem(key, "is of an app that has its suite's token and key", Some(hint));
            }
        }
        Some(Self { suite: suite?, corp_id, callback_token, encoding_aes_key, previous })
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
