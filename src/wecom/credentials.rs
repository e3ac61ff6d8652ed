//! What the client needs to know about an app, a dealer or a suite before it can call WeCom, as traits: the
//! credentials, which for an agency-developed app come with the brand's authorisation, and the quotas.
//!
//! Deliberately absent: access tokens, which are obtained with the credentials (see `obtain`), and where
//! credentials come from.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;

use super::remedy::Remedy;
use crate::domain::ids::{AppName, CorpId, SuiteId};
use crate::domain::quota::Limits;
use crate::domain::time::Timestamp;

/// Who develops an app, which decides where its settings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Development {
    /// The brand itself (自建应用): its settings are in the brand's admin console.
    SelfBuilt,
    /// A service provider (代开发应用): many of its settings are in the provider's console.
    Agency,
}

/// What an app obtains its access tokens with (documents 91039 and 97164).
#[derive(Debug, Clone)]
pub struct AppCredentials {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// The app's id at the brand.
    pub agent_id: i64,
    /// The app's secret; of an agency-developed app, the permanent code.
    pub secret: SecretString,
    /// Increases whenever the secret changes. Tokens of an earlier generation are not used any more.
    pub generation: u32,
    /// Who develops the app.
    pub development: Development,
}

/// A dealer's own authorisation of an agency-developed app: a second way to the dealer's access token.
#[derive(Debug, Clone)]
pub struct DealerCredentials {
    /// The dealer's permanent code.
    pub secret: SecretString,
    /// Changes whenever the secret does.
    pub generation: u32,
}

/// What a suite obtains its access token with (document 97162).
#[derive(Debug, Clone)]
pub struct SuiteCredentials {
    /// The provider's corp. Calls of the suite count against its quota.
    pub provider_corp_id: CorpId,
    /// The suite (代开发应用模版).
    pub suite_id: SuiteId,
    /// The suite's secret.
    pub secret: SecretString,
    /// The newest `suite_ticket`, or why there is none. It is needed for a new access token only.
    pub ticket: Result<SecretString, Unavailable>,
}

/// Why an app or suite has no credentials. Displays as the English remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// It is not in the configuration.
    NotConfigured,
    /// No brand has authorised the suite.
    NotAuthorized,
    /// Several brands have authorised the suite, and the configuration does not say which one is the app's.
    SeveralBrands,
    /// The configuration names another brand than the one whose data is stored under the app's name.
    OtherBrand,
    /// Another app of the suite serves the brand.
    Taken,
    /// The brand has authorised the suite, but the app there has not been read yet.
    Incomplete,
    /// The brand has cancelled its authorisation.
    Cancelled,
    /// The stored permanent code cannot be decrypted.
    Unreadable,
    /// There is no `suite_ticket` that can be used.
    NoTicket {
        /// When WeCom should have sent another.
        until: Timestamp,
    },
}

impl Unavailable {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> Remedy {
        let (en, zh) = match self {
            Self::NotConfigured => (
                "add it to the configuration again: there is no app or suite of this name",
                "请在配置中重新加入：没有该名称的应用或模版",
            ),
            Self::NotAuthorized => (
                "have the brand scan the template's authorisation QR code: no brand has authorised it yet",
                "请品牌企业扫描模版的授权二维码：尚无品牌企业授权",
            ),
            Self::SeveralBrands => (
                "set corp_id of the app: several brands have authorised the template",
                "请为该应用设置 corp_id：已有多个品牌企业授权该模版",
            ),
            Self::OtherBrand => (
                "use another app name for this corp_id: the data under this name is another brand's",
                "请为该 corp_id 使用另一个应用名称：此名称下的数据属于另一个品牌企业",
            ),
            Self::Taken => (
                "give each app of the suite the corp_id of another brand: another app serves this one",
                "请为该模版的每个应用设置不同的 corp_id：已有另一个应用服务该品牌企业",
            ),
            Self::Incomplete => (
                "wait: the corp has authorised the template, and the app there is being read",
                "无需处理：企业已授权，正在读取应用信息",
            ),
            Self::Cancelled => (
                "have the brand scan the template's authorisation QR code again: it has cancelled the \
                 authorisation",
                "请品牌企业重新扫描模版的授权二维码：该企业已取消授权",
            ),
            Self::Unreadable => (
                "set previous_suite_secret to the suite secret before the change, or choose 重新获取 secret in \
                 服务商管理后台: the stored permanent code cannot be decrypted",
                "请将 previous_suite_secret 设为更换前的 suite_secret，或在服务商管理后台“重新获取 secret”：\
                 已存的永久授权码无法解密",
            ),
            Self::NoTicket { .. } => (
                "wait: there is no valid suite_ticket, and WeCom sends one every 10 minutes",
                "无需处理：尚无有效的 suite_ticket，企业微信每 10 分钟推送一次",
            ),
        };
        Remedy { en, zh }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.remedy().en)?;
        match self {
            Self::NoTicket { until } => write!(f, " (the next is due at {})", until.in_china()),
            Self::NotConfigured
            | Self::NotAuthorized
            | Self::SeveralBrands
            | Self::OtherBrand
            | Self::Taken
            | Self::Incomplete
            | Self::Cancelled
            | Self::Unreadable => Ok(()),
        }
    }
}

/// The current credentials. They are asked for before each call, and may change between two calls.
pub trait Credentials: Send + Sync + 'static {
    /// The credentials of an app.
    ///
    /// # Errors
    /// [`Unavailable`] while the app cannot call WeCom.
    fn of_app(&self, app: &AppName) -> Result<AppCredentials, Unavailable>;

    /// The dealer's own authorisation of an app, if there is one.
    fn of_dealer(&self, app: &AppName, dealer: &CorpId) -> Option<DealerCredentials>;

    /// The credentials of a suite.
    ///
    /// # Errors
    /// [`Unavailable`] while the suite cannot call WeCom, as it is at `now`.
    fn of_suite(&self, suite: &AppName, now: Timestamp) -> Result<SuiteCredentials, Unavailable>;
}

/// Self-built apps, whose credentials are configured and do not change.
impl Credentials for BTreeMap<AppName, AppCredentials> {
    fn of_app(&self, app: &AppName) -> Result<AppCredentials, Unavailable> {
        self.get(app).cloned().ok_or(Unavailable::NotConfigured)
    }

    fn of_dealer(&self, _app: &AppName, _dealer: &CorpId) -> Option<DealerCredentials> {
        None
    }

    fn of_suite(&self, _suite: &AppName, _now: Timestamp) -> Result<SuiteCredentials, Unavailable> {
        Err(Unavailable::NotConfigured)
    }
}

/// The current limits of the conversions' quotas.
pub trait QuotaLimits: Send + Sync + 'static {
    /// The limits of a corp; one that has none of its own has the documented ones.
    fn of(&self, corp: &CorpId) -> Limits;

    /// The corps that have limits of their own.
    fn corps(&self) -> Vec<CorpId>;
}

impl QuotaLimits for BTreeMap<CorpId, Limits> {
    fn of(&self, corp: &CorpId) -> Limits {
        self.get(corp).copied().unwrap_or(Limits::DOCUMENTED)
    }

    fn corps(&self) -> Vec<CorpId> {
        self.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_names_an_action_in_both_languages() {
        let until = Timestamp::from_secs(1_700_000_000);
        for why in [
            Unavailable::NotConfigured,
            Unavailable::NotAuthorized,
            Unavailable::SeveralBrands,
            Unavailable::OtherBrand,
            Unavailable::Taken,
            Unavailable::Incomplete,
            Unavailable::Cancelled,
            Unavailable::Unreadable,
            Unavailable::NoTicket { until },
        ] {
            let Remedy { en, zh } = why.remedy();
            let waits = matches!(why, Unavailable::Incomplete | Unavailable::NoTicket { .. });
            assert_eq!(en.starts_with("wait: "), waits, "{en}");
            assert_eq!(zh.starts_with("无需处理："), waits, "{zh}");
            assert!(waits || zh.starts_with('请'), "{zh}");
            assert!(why.to_string().starts_with(en), "{why}");
        }
        let text = Unavailable::NoTicket { until }.to_string();
        assert!(text.ends_with("(the next is due at 2023-11-15 06:13:20 +08:00)"), "{text}");
    }
}
