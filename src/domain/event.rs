//! What a callback says happened, typed. Shapes: WeCom documents 92130 (customers), 95796 and 90240 (chains).
//!
//! Deliberately absent: XML and JSON (see [`crate::callback::message`]), and what is done about an event
//! (see [`crate::worker`]).

use serde::{Deserialize, Serialize};

use super::ids::{CorpId, ExternalUserid, UserId};
use super::time::Timestamp;

/// How long a `WelcomeCode` can be used after the event it came with (document 92137).
pub const WELCOME_CODE_LIFE_MS: i64 = 20_000;

/// One event as the app of a corp received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Inner `ToUserName`: the corp this happened at. For a dealer's event that is the dealer.
    pub corp_id: CorpId,
    /// Inner `CreateTime`, whole seconds; when it happened according to WeCom.
    pub created_at: Timestamp,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A customer was added or left: acted upon.
    Contact(ContactEvent),
    /// Something known or unknown that is acknowledged and counted only.
    Ignored(Kind),
}

/// A change between a member and a customer that matters to a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactEvent {
    /// Added, half added, or gone.
    pub change: ContactChange,
    /// The member.
    pub user_id: UserId,
    /// The customer.
    pub external_userid: ExternalUserid,
    /// The `state` of the contact-me code or the `customer_channel` of the link through which they met.
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
}

/// Every kind of event we can name, for counting. A closed set: it becomes a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// `share_chain_change` or `share_agent_change`.
    ShareChainChange,
    /// `change_chain`, any change type.
    ChangeChain,
    /// A suite's `InfoType` event (ticket, authorisation).
    Suite,
    /// An event of another name, or another change type of a known one.
    OtherEvent,
    /// A message somebody wrote to the app (`MsgType` other than `event`).
    Message,
}

impl Kind {
    /// The name used in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AddExternalContact => "add_external_contact",
            Self::AddHalfExternalContact => "add_half_external_contact",
            Self::EditExternalContact => "edit_external_contact",
            Self::DelExternalContact => "del_external_contact",
            Self::DelFollowUser => "del_follow_user",
            Self::TransferFail => "transfer_fail",
            Self::MsgAuditApproved => "msg_audit_approved",
            Self::ChangeExternalChat => "change_external_chat",
            Self::ShareChainChange => "share_chain_change",
            Self::ChangeChain => "change_chain",
            Self::Suite => "suite",
            Self::OtherEvent => "other_event",
            Self::Message => "message",
        }
    }
}

impl What {
    /// The kind, for counting.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Contact(event) => match event.change {
                ContactChange::Added => Kind::AddExternalContact,
                ContactChange::HalfAdded => Kind::AddHalfExternalContact,
                ContactChange::DeletedByMember => Kind::DelExternalContact,
                ContactChange::DeletedByCustomer => Kind::DelFollowUser,
            },
            Self::Ignored(kind) => *kind,
        }
    }
}
