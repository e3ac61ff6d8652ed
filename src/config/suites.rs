//! `[[suites]]`: the templates of agency-developed apps (代开发应用模版) of a service provider.
//!
//! Deliberately absent: the keys' meanings and defaults, which are in `config/default.toml`.

use serde::Serialize;

use super::checks::{PreviousKeys, check_callback_token, check_corp_id, read_callback_keys};
use super::reader::{Section, Severity};
use super::secret::{self, Secret};
use super::sections::unique_name;
use crate::domain::ids::{AppName, CorpId, SuiteId};

/// One of `[[suites]]`.
#[derive(Debug, Clone, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the keys")]
pub struct Suite {
    pub(crate) name: AppName,
    pub(crate) provider_corp_id: CorpId,
    pub(crate) suite_id: SuiteId,
    pub(crate) suite_secret: Secret,
    /// While `suite_secret` is changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous_suite_secret: Option<Secret>,
    pub(crate) callback_token: Secret,
    /// Valid.
    pub(crate) encoding_aes_key: Secret,
    #[serde(flatten)]
    pub(crate) previous: PreviousKeys,
}

/// Where the provider's console shows the value of a key.
const PLACES_IN_CONSOLE: [(&str, &str); 5] = [
    ("provider_corp_id", "服务商管理后台 → 服务商信息 → 基本信息"),
    ("suite_id", "服务商管理后台 → 应用代开发 → the template"),
    ("suite_secret", "服务商管理后台 → 应用代开发 → the template"),
    ("callback_token", "服务商管理后台 → 应用代开发 → the template → 回调配置 → Token"),
    ("encoding_aes_key", "服务商管理后台 → 应用代开发 → the template → 回调配置 → EncodingAESKey"),
];

impl Suite {
    /// Reads a suite; `others` are the suites before it.
    pub(super) fn read(section: &mut Section<'_>, others: &[Self]) -> Option<Self> {
        section.places = &PLACES_IN_CONSOLE;
        for (key, _) in PLACES_IN_CONSOLE.iter().filter(|(key, _)| !section.has(key)) {
            section.problem(key, "is missing", None);
        }
        let name = unique_name(section, "suite", |name| others.iter().any(|other| other.name == *name));
        let provider_corp_id: Option<CorpId> = section.text("provider_corp_id");
        if let Some(corp_id) = &provider_corp_id {
            check_corp_id(section, "provider_corp_id", corp_id.as_str());
        }
        let suite_id: Option<SuiteId> = section.text("suite_id");
        if let Some(suite_id) = &suite_id {
            check_suite_id(section, suite_id, others);
        }
        let suite_secret = secret::read(section, "suite_secret");
        let previous_suite_secret = secret::read(section, "previous_suite_secret");
        let (callback_token, encoding_aes_key, previous) = read_callback_keys(section);
        if let Some(token) = &callback_token {
            check_callback_token(section, token);
        }
        Some(Self {
            name: name?,
            provider_corp_id: provider_corp_id?,
            suite_id: suite_id?,
            suite_secret: suite_secret?,
            previous_suite_secret,
            callback_token: callback_token?,
            encoding_aes_key: encoding_aes_key?,
            previous,
        })
    }
}

/// Reports the id of another suite, and one of another kind.
fn check_suite_id(section: &Section<'_>, suite_id: &SuiteId, others: &[Suite]) {
    if let Some(other) = others.iter().find(|other| other.suite_id == *suite_id) {
        section.problem("suite_id", format!("is that of suite {}", other.name), None);
    }
    if !suite_id.as_str().starts_with("dk") {
        let reason = "is not of a template of agency-developed apps: these begin with dk";
        let hint = "third-party suites (第三方应用) are not supported; create a 代开发应用模版";
        section.report(Severity::Suspect, "suite_id", reason, Some(hint));
    }
}
