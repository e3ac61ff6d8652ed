//! The decrypted message: XML or JSON in, a typed [`Message`] out. Documents 92130, 90240, 95796, 96302.
//!
//! Deliberately absent: any reaction to an event, and the formats (see [`fields`](super::fields)).

use super::fields::Fields;
use crate::domain::chat::{CHAT_ITEMS_MAX, ChatChange, ChatEvent, MemberVersion, Versions};
use crate::domain::event::{AppAlarm, AppAlarmKind, ContactChange, ContactEvent, Event, Kind};
use crate::domain::ids::{ChatId, CorpId, ExternalUserid, IdError, UserId};
use crate::domain::time::Timestamp;

/// The longest `State` and `WelcomeCode` kept, in bytes. WeCom's own limits are 64 characters and less.
pub(super) const SHORT_TEXT_BYTES_MAX: usize = 256;
/// The latest plausible `CreateTime`, in seconds since the epoch: the year 9999.
pub(super) const CREATE_TIME_MAX: i64 = 253_402_300_799;

/// A parsed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// A change between a member and a customer.
    Event(Event),
    /// A change of a customer group.
    Chat(ChatEvent),
    /// The visible range of the app at a corp may have changed.
    Visibility { kind: Kind, corp_id: CorpId, created_at: Timestamp },
    /// A warning about the use of the app at a corp, or its end.
    Alarm(AppAlarm),
    /// A message that needs no action.
    Ignored(Ignored),
}

impl Message {
    /// The corp that the message is about.
    pub(super) const fn corp_id(&self) -> Option<&CorpId> {
        match self {
            Self::Event(Event { corp_id, .. })
            | Self::Chat(ChatEvent { corp_id, .. })
            | Self::Visibility { corp_id, .. }
            | Self::Alarm(AppAlarm { corp_id, .. }) => Some(corp_id),
            Self::Ignored(ignored) => ignored.corp_id.as_ref(),
        }
    }
}

/// A message that is acknowledged and counted, nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// What kind of message it is.
    pub kind: Kind,
    /// The corp that it is about; `None` for a suite's event that names none.
    pub corp_id: Option<CorpId>,
    /// Its `CreateTime`; `None` for a suite's events, which have none.
    pub created_at: Option<Timestamp>,
}

/// Why a verified message cannot be parsed. It is quarantined, not lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// Not UTF-8, not XML, not JSON.
    #[error("not a readable message: {0}")]
    Unreadable(String),
    /// A field that this kind of event requires is missing.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field is not a valid id.
    #[error("the field {field} {source}")]
    Id { field: &'static str, source: IdError },
    /// A time is not a number of seconds.
    #[error("the field {0} is not a time in seconds")]
    Time(&'static str),
    /// A text is longer than anything WeCom sends.
    #[error("the field {field} is longer than {max} bytes")]
    Long { field: &'static str, max: usize },
}

/// Parses the text of a verified message. Kinds of events that we do not act upon parse as
/// [`Message::Ignored`].
pub(super) fn parse(message: &[u8]) -> Result<Message, MessageError> {
    typed(&Fields::read(message).map_err(MessageError::Unreadable)?)
}

/// The `CreateTime` of a message, whatever else is wrong with it; `None` if it has none or cannot be read.
#[must_use]
pub fn created_at(message: &[u8]) -> Option<Timestamp> {
    let fields = Fields::read(message).ok()?;
    time(required(fields.create_time.as_deref(), "CreateTime").ok()?).ok()
}

/// The kind of a message, from the names in it.
enum Subject {
    Contact(ContactChange),
    Chat,
    Visibility(Kind),
    Alarm(AppAlarmKind),
    Other(Kind),
}

fn typed(fields: &Fields<'_>) -> Result<Message, MessageError> {
    let subject = subject(fields)?;
    // A suite's own events need not name a corp and carry `TimeStamp` instead of `CreateTime`.
    if let Subject::Other(kind @ Kind::Suite) = subject {
        let corp_id = fields.to_user_name.as_deref().map(to_user_name).transpose()?;
        return Ok(Message::Ignored(Ignored { kind, corp_id, created_at: None }));
    }
    let corp_id = to_user_name(required(fields.to_user_name.as_deref(), "ToUserName")?)?;
    let created_at = time(required(fields.create_time.as_deref(), "CreateTime")?)?;
    let ignored = |kind, corp_id| {
        Message::Ignored(Ignored { kind, corp_id: Some(corp_id), created_at: Some(created_at) })
    };
    Ok(match subject {
        Subject::Contact(change) => {
            Message::Event(Event { corp_id, created_at, contact: contact(fields, change)? })
        }
        Subject::Chat => match chat_change(fields)? {
            Some(change) => {
                let chat_id = ChatId::new(required(fields.chat_id.as_deref(), "ChatId")?)
                    .map_err(|e| invalid("ChatId", e))?;
                Message::Chat(ChatEvent { corp_id, created_at, chat_id, change })
            }
            None => ignored(Kind::ChangeExternalChat, corp_id),
        },
        Subject::Visibility(kind) => Message::Visibility { kind, corp_id, created_at },
        Subject::Alarm(kind) => {
            // An alarm matters more than the time it gives.
            let effect_at = fields.effect_time.as_deref().and_then(|text| time(text.trim_ascii()).ok());
            Message::Alarm(AppAlarm { corp_id, kind, created_at, effect_at })
        }
        Subject::Other(kind) => ignored(kind, corp_id),
    })
}

fn subject(fields: &Fields<'_>) -> Result<Subject, MessageError> {
    if fields.msg_type.is_none() && fields.info_type.is_some() {
        return Ok(Subject::Other(Kind::Suite));
    }
    if required(fields.msg_type.as_deref(), "MsgType")? != "event" {
        return Ok(Subject::Other(Kind::Message));
    }
    Ok(match required(fields.event.as_deref(), "Event")? {
        "change_external_contact" => match required(fields.change_type.as_deref(), "ChangeType")? {
            "add_external_contact" => Subject::Contact(ContactChange::Added),
            "add_half_external_contact" => Subject::Contact(ContactChange::HalfAdded),
            "del_external_contact" => Subject::Contact(ContactChange::DeletedByMember),
            "del_follow_user" => Subject::Contact(ContactChange::DeletedByCustomer),
            "edit_external_contact" => Subject::Other(Kind::EditExternalContact),
            "transfer_fail" => Subject::Other(Kind::TransferFail),
            "msg_audit_approved" => Subject::Other(Kind::MsgAuditApproved),
            _ => Subject::Other(Kind::OtherEvent),
        },
        "change_external_chat" => Subject::Chat,
        "change_contact" => Subject::Visibility(Kind::ChangeContact),
        "subscribe" | "unsubscribe" => Subject::Visibility(Kind::Subscription),
        "inactive_alert" => Subject::Alarm(AppAlarmKind::InactiveAlert),
        "close_inactive_agent" => Subject::Alarm(AppAlarmKind::CloseInactiveAgent),
        "reopen_inactive_agent" => Subject::Alarm(AppAlarmKind::ReopenInactiveAgent),
        "low_active_alert" => Subject::Alarm(AppAlarmKind::LowActiveAlert),
        "low_active" => Subject::Alarm(AppAlarmKind::LowActive),
        "active_restored" => Subject::Alarm(AppAlarmKind::ActiveRestored),
        "unlicensed_notify" => Subject::Other(Kind::UnlicensedNotify),
        "share_chain_change" | "share_agent_change" => Subject::Other(Kind::ShareChainChange),
        "change_chain" => Subject::Other(Kind::ChangeChain),
        _ => Subject::Other(Kind::OtherEvent),
    })
}

fn contact(fields: &Fields<'_>, change: ContactChange) -> Result<ContactEvent, MessageError> {
    Ok(ContactEvent {
        change,
        user_id: UserId::new(required(fields.user_id.as_deref(), "UserID")?)
            .map_err(|e| invalid("UserID", e))?,
        external_userid: ExternalUserid::new(required(fields.external_userid.as_deref(), "ExternalUserID")?)
            .map_err(|e| invalid("ExternalUserID", e))?,
        state: short(fields.state.as_deref(), "State")?,
        welcome_code: short(fields.welcome_code.as_deref(), "WelcomeCode")?,
    })
}

/// What happened to a customer group; `None` if its members did not change.
fn chat_change(fields: &Fields<'_>) -> Result<Option<ChatChange>, MessageError> {
    Ok(match required(fields.change_type.as_deref(), "ChangeType")? {
        "create" => Some(ChatChange::Created),
        "dismiss" => Some(ChatChange::Dismissed),
        "update" => match fields.update_detail.as_deref().map(str::trim_ascii) {
            Some("add_member") => {
                let (items, is_complete) = items(fields);
                Some(ChatChange::Joined { items, is_complete, versions: versions(fields) })
            }
            Some("del_member") => {
                let (items, is_complete) = items(fields);
                Some(ChatChange::Left { items, is_complete, versions: versions(fields) })
            }
            // It may be a join: without ids and versions, the member list is read.
            Some("") | None => {
                Some(ChatChange::Joined { items: Vec::new(), is_complete: false, versions: None })
            }
            Some(_) => None,
        },
        _ => None,
    })
}

/// The ids in a join or a leave, and whether they are the whole change.
fn items(fields: &Fields<'_>) -> (Vec<ExternalUserid>, bool) {
    let ids = fields.items.iter().filter_map(|item| ExternalUserid::new(item.trim_ascii()).ok());
    let items: Vec<_> = ids.take(CHAT_ITEMS_MAX).collect();
    let count = fields.mem_change_cnt.as_deref().and_then(|count| count.trim_ascii().parse::<usize>().ok());
    // A change without any id is incomplete too.
    let is_complete =
        !items.is_empty() && items.len() == fields.items.len() && count == Some(fields.items.len());
    (items, is_complete)
}

fn versions(fields: &Fields<'_>) -> Option<Versions> {
    let before = version(fields.last_mem_ver.as_deref()?)?;
    let after = version(fields.cur_mem_ver.as_deref()?)?;
    Some(Versions { before, after })
}

fn version(text: &str) -> Option<MemberVersion> {
    let text = text.trim_ascii();
    (1..=MemberVersion::BYTES_MAX).contains(&text.len()).then(|| MemberVersion(text.to_owned()))
}

fn to_user_name(text: &str) -> Result<CorpId, MessageError> {
    corp_id(text, "ToUserName")
}

/// The corp id in a field. Samples in documents 95796 and 93373 have a broken CDATA section, `![CDATA[…]]`.
pub(super) fn corp_id(text: &str, field: &'static str) -> Result<CorpId, MessageError> {
    let inner = text.trim_start_matches("![CDATA[");
    let id = if inner.len() < text.len() { inner.trim_end_matches(']') } else { text };
    CorpId::new(id).map_err(|e| invalid(field, e))
}

pub(super) const fn invalid(field: &'static str, source: IdError) -> MessageError {
    MessageError::Id { field, source }
}

pub(super) fn required<'a>(value: Option<&'a str>, field: &'static str) -> Result<&'a str, MessageError> {
    value.map(str::trim_ascii).filter(|text| !text.is_empty()).ok_or(MessageError::Missing(field))
}

fn time(text: &str) -> Result<Timestamp, MessageError> {
    seconds(text, "CreateTime")
}

/// The seconds since the epoch in a field.
pub(super) fn seconds(text: &str, field: &'static str) -> Result<Timestamp, MessageError> {
    match text.parse() {
        Ok(secs @ 0..=CREATE_TIME_MAX) => Ok(Timestamp::from_secs(secs)),
        _ => Err(MessageError::Time(field)),
    }
}

fn short(value: Option<&str>, field: &'static str) -> Result<Option<String>, MessageError> {
    match value {
        Some(text) if text.len() > SHORT_TEXT_BYTES_MAX => {
            Err(MessageError::Long { field, max: SHORT_TEXT_BYTES_MAX })
        }
        Some("") | None => Ok(None),
        Some(text) => Ok(Some(text.to_owned())),
    }
}
