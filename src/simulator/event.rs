//! Events and what they report.
//!
//! Deliberately absent: their text (`xml`), the changes of records that go with them (`members`, `relations`,
//! `groups`), sealing (`seal`), sending (`delivery`).

/// An event ready to be sealed and sent, any number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The upstream corp whose callback URL receives it; of a template's event, the provider.
    pub upstream_corp_id: String,
    /// The corp it is about, or the template: outer `ToUserName`, and if it is a corp, the inner one.
    pub to_user_name: String,
    /// That corp's agent id, for the outer `AgentID`.
    pub agent_id: u64,
    /// The inner XML.
    pub inner: String,
    /// The template whose callback URL and keys are used; `None` for an event of an app.
    pub suite_id: Option<String>,
    /// Whether and how it is sent.
    pub sending: Sending,
}

/// Whether and how an event is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sending {
    /// With the usual time-out.
    #[default]
    Usual,
    /// An acknowledgement after `AgencyOptions::acknowledge_within_ms` is a failure.
    Urgent,
    /// Not at all: the platform has no such event for this kind of app.
    Never,
}

/// What an event reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `change_external_contact`: something between a member and a customer.
    Contact {
        /// The member.
        user_id: String,
        /// The customer.
        external_userid: String,
        /// What happened between the two.
        change: ContactChange,
    },
    /// `change_external_chat`: something about a customer group.
    Chat {
        /// The group.
        chat_id: String,
        /// What happened to it.
        change: ChatChange,
    },
    /// `change_contact`, `subscribe` or `unsubscribe`: something about a member.
    Member {
        /// The member.
        user_id: String,
        /// What happened to the member.
        change: MemberChange,
    },
    /// Something about the app itself.
    App(AppChange),
    /// The set of corps that an app is shared with changed. An event of the upstream corp.
    ShareChainChange {
        /// The upstream corp's agent id.
        agent_id: u64,
    },
    /// The chain itself changed. An event of the upstream corp.
    ChangeChain {
        /// `corp_join`, `update_corp`, `remove_corp` …
        change_type: String,
        /// The chain.
        chain_id: String,
        /// The dealers concerned.
        corp_ids: Vec<String>,
    },
}

/// What happened between a member and a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContactChange {
    /// They are now friends.
    Add {
        /// The `state` of the contact-me way, if any.
        state: Option<String>,
        /// Permission to send one welcome message within 20 seconds, if any.
        welcome_code: Option<String>,
    },
    /// The customer added the member, who has not confirmed yet.
    AddHalf {
        /// The `state` of the contact-me way, if any.
        state: Option<String>,
        /// Permission to send one welcome message within 20 seconds, if any.
        welcome_code: Option<String>,
    },
    /// The member edited the remark, phone or tags of the customer.
    Edit,
    /// The member deleted the customer.
    Del {
        /// `DELETE_BY_TRANSFER` if the customer was transferred to another member.
        source: Option<String>,
    },
    /// The customer deleted the member.
    DelFollowUser,
    /// Transferring the customer to another member failed.
    TransferFail {
        /// `customer_refused` or `customer_limit_exceed`.
        fail_reason: String,
    },
    /// The customer agreed to message archiving.
    MsgAuditApproved {
        /// Permission to send one welcome message within 20 seconds, if any.
        welcome_code: Option<String>,
    },
}

impl ContactChange {
    pub(super) const fn change_type(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add_external_contact",
            Self::AddHalf { .. } => "add_half_external_contact",
            Self::Edit => "edit_external_contact",
            Self::Del { .. } => "del_external_contact",
            Self::DelFollowUser => "del_follow_user",
            Self::TransferFail { .. } => "transfer_fail",
            Self::MsgAuditApproved { .. } => "msg_audit_approved",
        }
    }
}

/// What happened to a customer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatChange {
    /// It was created. The event has neither members nor a version.
    Created,
    /// It was dismissed.
    Dismissed,
    /// Members or customers joined.
    Joined {
        /// 0 invited or through a link, 3 by QR code.
        join_scene: u8,
        /// The change of the member list.
        members: ChatMembers,
    },
    /// Members or customers left.
    Left {
        /// Whether they left on their own or were removed.
        how: Leave,
        /// The change of the member list.
        members: ChatMembers,
    },
    /// It has another owner.
    OwnerChanged,
    /// It has another name.
    NameChanged,
    /// It has another notice.
    NoticeChanged,
}

/// A change of a group's member list, as an event reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMembers {
    /// The ids listed (`MemChangeList`), of members and customers alike.
    pub ids: Vec<String>,
    /// `MemChangeCnt`, which may be more than are listed.
    pub count: usize,
    /// The version of the list before the change.
    pub last_version: String,
    /// The version of the list after the change.
    pub version: String,
}

/// The way in which a person left a customer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// On their own.
    BySelf,
    /// Removed by the owner or an administrator.
    Removed,
}

/// What happened to a member of a corp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// The member entered the visible range of the app (`subscribe`).
    Subscribed,
    /// The member left the visible range of the app (`unsubscribe`).
    Unsubscribed,
    /// The member joined the corp (`change_contact`, `create_user`).
    Created,
    /// The member's data changed (`change_contact`, `update_user`).
    Updated,
    /// The member left the corp (`change_contact`, `delete_user`).
    Deleted,
}

/// A step in the life of an app (document 90240).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppChange {
    /// It will be paused for long disuse.
    InactiveAlert {
        /// When, in seconds since 1970.
        effect_secs: i64,
    },
    /// It is paused for long disuse.
    CloseInactiveAgent,
    /// It is in use again.
    ReopenInactiveAgent {
        /// The member who reopened it.
        user_id: String,
    },
    /// Its access to customer data will be limited for low activity.
    LowActiveAlert {
        /// When, in seconds since 1970.
        effect_secs: i64,
    },
    /// Its access to customer data is limited for low activity.
    LowActive,
    /// Its access to customer data is no longer limited.
    ActiveRestored,
}
