//! The events that WeCom reports, typed. Shapes: WeCom documents 92130 (customers), 95796 and 90240 (chains,
//! life of an app), 96302 (members). The events of customer groups are in [`chat`](super::chat).
//!
//! Deliberately absent: XML and JSON (see [`crate::intake`]), and the reaction to an event (see
//! [`crate::worker`]).

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};
use utoipa::ToSchema;

use super::ids::{CorpId, ExternalUserid, UserId};
use super::time::Timestamp;

/// How long a `WelcomeCode` can be used after the event it came with (document 92137).
pub const WELCOME_CODE_LIFE_MS: i64 = 20_000;

/// A change between a member and a customer, and where and when it happened. The order of the fields is the
/// stored format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The message's `ToUserName`: the corp where it happened, a dealer or the brand itself.
    pub corp_id: CorpId,
    /// The message's `CreateTime`, whole seconds: when it happened according to WeCom.
    pub created_at: Timestamp,
    /// What happened.
    pub contact: ContactEvent,
}

/// A change between a member and a customer that matters to a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactEvent {
    /// Added, half added, or deleted.
    pub change: ContactChange,
    /// The member.
    pub user_id: UserId,
    /// The customer.
    pub external_userid: ExternalUserid,
    /// The `state` of the contact-me code, or the `customer_channel` of the link, through which the customer
    /// was added.
    pub state: Option<String>,
    /// Usable once, within [`WELCOME_CODE_LIFE_MS`] of the event.
    pub welcome_code: Option<String>,
}

/// The change types of `change_external_contact` that we act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContactChange {
    /// `add_external_contact`: member and customer are friends now.
    Added,
    /// `add_half_external_contact`: the customer added the member, who has not confirmed yet.
    HalfAdded,
    /// `del_external_contact`: the member deleted the customer.
    DeletedByMember,
    /// `del_follow_user`: the customer deleted the member.
    DeletedByCustomer,
}

impl ContactChange {
    /// Whether the member follows the customer after this change.
    #[must_use]
    pub const fn is_add(self) -> bool {
        match self {
            Self::Added | Self::HalfAdded => true,
            Self::DeletedByMember | Self::DeletedByCustomer => false,
        }
    }

    /// The kind of event that reports this change.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Added => Kind::AddExternalContact,
            Self::HalfAdded => Kind::AddHalfExternalContact,
            Self::DeletedByMember => Kind::DelExternalContact,
            Self::DeletedByCustomer => Kind::DelFollowUser,
        }
    }
}

/// The kind of a message. A closed set, because it becomes a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// `change_external_contact` / `add_external_contact`.
    AddExternalContact,
    /// `change_external_contact` / `add_half_external_contact`.
    AddHalfExternalContact,
    /// `change_external_contact` / `edit_external_contact`.
    EditExternalContact,
    /// `change_external_contact` / `del_external_contact`.
    DelExternalContact,
    /// `change_external_contact` / `del_follow_user`.
    DelFollowUser,
    /// `change_external_contact` / `transfer_fail`.
    TransferFail,
    /// `change_external_contact` / `msg_audit_approved`.
    MsgAuditApproved,
    /// `change_external_chat`, any change type.
    ChangeExternalChat,
    /// `change_contact`: a member or department of a corp changed.
    ChangeContact,
    /// `subscribe` or `unsubscribe`: a member entered or left the app's visible range.
    Subscription,
    /// The app is, or will be, limited or paused for want of use; or no longer is.
    AppLifeCycle,
    /// `unlicensed_notify`: a member at a corp has no licence for the app.
    UnlicensedNotify,
    /// `share_chain_change` or `share_agent_change`.
    ShareChainChange,
    /// `change_chain`, any change type.
    ChangeChain,
    /// A suite's `suite_ticket`.
    SuiteTicket,
    /// A suite's `create_auth`: a corp has authorised it.
    CreateAuth,
    /// A suite's `change_auth`: its app at a corp has changed.
    ChangeAuth,
    /// A suite's `cancel_auth`: a corp has removed its app.
    CancelAuth,
    /// A suite's `reset_permanent_code`.
    ResetPermanentCode,
    /// Another `InfoType` of a suite, or any one that reaches an app.
    Suite,
    /// An event of another name, or another change type of a known one.
    OtherEvent,
    /// A message that a person wrote to the app: its `MsgType` is not `event`.
    Message,
}

impl Kind {
    /// Whether it reports that an app's dealers have changed.
    #[must_use]
    pub const fn changes_dealers(self) -> bool {
        matches!(self, Self::ShareChainChange | Self::ChangeChain)
    }
}

/// A warning about the use of an app at a corp, or its end (document 90240), for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppAlarm {
    /// The corp where the app is affected: the brand or a dealer.
    pub corp_id: CorpId,
    /// What happens to the app.
    pub kind: AppAlarmKind,
    /// When the event was created.
    pub created_at: Timestamp,
    /// When it takes effect, for a warning.
    pub effect_at: Option<Timestamp>,
}

/// What WeCom reports about the use of an app: a warning, a limit, or the end of others
/// ([`AppAlarmKind::ends`]).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, IntoStaticStr, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AppAlarmKind {
    /// It will be paused for long disuse.
    InactiveAlert,
    /// It is paused.
    CloseInactiveAgent,
    /// It is no longer paused.
    ReopenInactiveAgent,
    /// Its access to customer data will be limited for want of use.
    LowActiveAlert,
    /// Its access to customer data is limited.
    LowActive,
    /// Its access to customer data is no longer limited.
    ActiveRestored,
}

impl AppAlarmKind {
    /// The alarms that this event ends; empty if it is one itself.
    #[must_use]
    pub const fn ends(self) -> &'static [Self] {
        match self {
            Self::ReopenInactiveAgent => &[Self::InactiveAlert, Self::CloseInactiveAgent],
            Self::ActiveRestored => &[Self::LowActiveAlert, Self::LowActive],
            Self::InactiveAlert | Self::CloseInactiveAgent | Self::LowActiveAlert | Self::LowActive => &[],
        }
    }

    /// What to do about it, and why, in English and in Chinese.
    #[must_use]
    pub const fn remedy(self) -> (&'static str, &'static str) {
        match self {
            Self::InactiveAlert => (
                "have members open the app in WeCom's 工作台: it will be paused because nobody uses it",
                "请成员在企业微信“工作台”中打开该应用：长期无人使用，应用将被停用",
            ),
            Self::CloseInactiveAgent => (
                "have an administrator enable the app again in 应用管理: it is paused because nobody used it",
                "请管理员在“应用管理”中重新启用该应用：长期无人使用，应用已被停用",
            ),
            Self::LowActiveAlert => (
                "have members open the app in WeCom's 工作台: its access to customers will be limited because \
                 few members use it",
                "请成员在企业微信“工作台”中打开该应用：使用人数过少，应用将无法获取客户数据",
            ),
            Self::LowActive => (
                "have members open the app in WeCom's 工作台: its access to customers is limited because few \
                 members use it",
                "请成员在企业微信“工作台”中打开该应用：使用人数过少，应用获取客户数据受限",
            ),
            Self::ReopenInactiveAgent | Self::ActiveRestored => {
                ("do nothing: the limit has ended", "无需处理：限制已解除")
            }
        }
    }
}

/// Why a verified message waits for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum QuarantineReason {
    /// Encrypted for a corp or suite that the app does not accept.
    ReceiveId,
    /// The message cannot be parsed; the reason does not quote it.
    NotUnderstood(String),
    /// The event is too old, or more than a day in the future.
    FarOff {
        /// Its `CreateTime`.
        created_at: Timestamp,
    },
    /// At the URL of a suite, or of an app of one that serves no brand yet: about a corp that no app serves.
    /// Redriven without an operator once one does.
    Unrouted {
        /// The corp that the message is about.
        corp_id: CorpId,
    },
}

impl QuarantineReason {
    /// Details that the reason's name does not give, if there are any.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::ReceiveId => None,
            Self::NotUnderstood(why) => Some(why.clone()),
            Self::FarOff { created_at } => Some(format!("CreateTime {}", created_at.in_china())),
            Self::Unrouted { corp_id } => Some(corp_id.to_string()),
        }
    }
}
