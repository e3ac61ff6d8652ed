//! The form of a finding.

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::domain::ids::{AppName, CorpId};
use crate::domain::text::Text;
use crate::domain::time::Timestamp;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// What it is, for programs. The codes are stable.
    #[schema(value_type = String, example = "suite.app_waiting")]
    pub code: FindingCode,
    /// How bad it is.
    #[schema(inline)]
    pub state: FindingState,
    /// What it is about.
    pub subject: Subject,
    /// Since when it is so, if that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// What was seen.
    pub seen: Text,
    /// What follows from it.
    pub means: Text,
    /// What to do.
    pub todo: Todo,
}

/// What to do about a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Todo {
    /// For people.
    pub text: Text,
}

/// What a finding is about; what does not apply is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Subject {
    /// The suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "agency")]
    pub suite: Option<AppName>,
    /// The app.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "brand")]
    pub app: Option<AppName>,
    /// The corp; absent if it is about several.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub corp_id: Option<CorpId>,
    /// The corp's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corp_name: Option<String>,
}

/// How bad a finding is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, IntoStaticStr, VariantArray, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FindingState {
    /// It may end by itself, or stops only a part.
    Warn,
    /// Something does not work until somebody acts.
    Fail,
}

/// What a finding is, for programs. Serialised as its name with the area before it, such as `suite.ticket`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, IntoStaticStr, VariantArray,
)]
#[serde(into = "&'static str")]
pub enum FindingCode {
    /// The suite has no ticket that can be used.
    #[strum(serialize = "suite.ticket")]
    Ticket,
    /// WeCom refuses the suite's id or secret.
    #[strum(serialize = "suite.secret")]
    Secret,
    /// WeCom refuses our IP address.
    #[strum(serialize = "suite.trusted_ip")]
    TrustedIp,
    /// Auth codes were used up by calls without an answer.
    #[strum(serialize = "suite.auth_code_lost")]
    AuthCodeLost,
    /// Auth codes were not exchanged in time.
    #[strum(serialize = "suite.auth_code_expired")]
    AuthCodeExpired,
    /// WeCom refused auth codes.
    #[strum(serialize = "suite.auth_code_refused")]
    AuthCodeRefused,
    /// No brand that the app could serve has authorised the suite.
    #[strum(serialize = "suite.app_waiting")]
    AppWaiting,
    /// Several brands have authorised the suite, and the app is configured for none of them.
    #[strum(serialize = "suite.app_ambiguous")]
    AppAmbiguous,
    /// The app is configured for another brand than the one whose data is stored under its name.
    #[strum(serialize = "suite.app_of_other_brand")]
    AppOfOtherBrand,
    /// Another app of the suite serves the app's brand.
    #[strum(serialize = "suite.app_taken")]
    AppTaken,
    /// A brand has authorised the suite, and no app serves it.
    #[strum(serialize = "suite.brand_without_app")]
    BrandWithoutApp,
    /// The brand of an app has cancelled.
    #[strum(serialize = "suite.cancelled")]
    Cancelled,
    /// The app at corps could not be read yet.
    #[strum(serialize = "suite.incomplete")]
    Incomplete,
    /// The app may not read customers.
    #[strum(serialize = "suite.permission")]
    Permission,
    /// WeCom has not verified corps.
    #[strum(serialize = "suite.unverified")]
    Unverified,
    /// Stored secrets cannot be decrypted.
    #[strum(serialize = "suite.sealed")]
    Sealed,
    /// API licences are missing.
    #[strum(serialize = "suite.licence")]
    Licence,
    /// WeCom checked a callback URL for a receive id that is not accepted there.
    #[strum(serialize = "app.receive_id")]
    ReceiveId,
}
