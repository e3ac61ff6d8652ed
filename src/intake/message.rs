//! The decrypted message: XML or JSON in, a typed [`Message`] out. Documents 92130, 90240, 95796.
//!
//! Deliberately absent: any reaction to an event, and fields that nothing uses.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;

use crate::callback::xml;
use crate::domain::event::{ContactChange, ContactEvent, Event, Kind};
use crate::domain::ids::{CorpId, ExternalUserid, IdError, UserId};
use crate::domain::time::Timestamp;

/// The longest `State` and `WelcomeCode` kept, in bytes. WeCom's own limits are 64 characters and less.
pub(super) const SHORT_TEXT_BYTES_MAX: usize = 256;
/// The latest plausible `CreateTime`, in seconds since the epoch: the year 9999.
pub(super) const CREATE_TIME_MAX: i64 = 253_402_300_799;

/// A parsed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// A change that we act upon.
    Event(Event),
    /// A message that needs no action.
    Ignored(Ignored),
}

impl Message {
    #[cfg(test)]
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Event(event) => event.contact.change.kind(),
            Self::Ignored(ignored) => ignored.kind,
        }
    }
}

/// A message that is acknowledged and counted, nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored {
    /// What kind of message it is.
    pub kind: Kind,
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
    /// `CreateTime` is not a number of seconds.
    #[error("the field CreateTime is not a time in seconds")]
    Time,
    /// `State` or `WelcomeCode` is longer than anything WeCom sends.
    #[error("the field {0} is longer than 256 bytes")]
    Long(&'static str),
}

/// The fields that are used, as text.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Fields<'a> {
    #[serde(borrow)]
    to_user_name: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    create_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    msg_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    change_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    info_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "UserID")]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "ExternalUserID")]
    external_userid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
    #[serde(borrow)]
    welcome_code: Option<Cow<'a, str>>,
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(match value {
        serde_json::Value::String(text) => Some(text.into()),
        serde_json::Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    })
}

/// Parses the text of a verified message. Kinds of events that we do not act upon parse as
/// [`Message::Ignored`].
pub(super) fn parse(message: &[u8]) -> Result<Message, MessageError> {
    let text = xml::from_first_character(message);
    let fields = if text.starts_with(b"{") {
        serde_json::from_slice(text).map_err(|e| MessageError::Unreadable(json_problem(&e)))?
    } else {
        from_xml(text)?
    };
    typed(&fields)
}

/// What is wrong with the JSON, and where. The parser's own message would quote the text, which may name a
/// person.
fn json_problem(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Io | Category::Syntax => "not well-formed JSON",
        Category::Eof => "JSON that ends too early",
        Category::Data => "JSON with a field of another type, or with the same field twice",
    };
    format!("{what}, line {} column {}", error.line(), error.column())
}

fn from_xml(text: &[u8]) -> Result<Fields<'_>, MessageError> {
    xml::gather(text, |fields: &mut Fields<'_>, name, value| {
        let slot = match name {
            "ToUserName" => &mut fields.to_user_name,
            "CreateTime" => &mut fields.create_time,
            "MsgType" => &mut fields.msg_type,
            "Event" => &mut fields.event,
            "ChangeType" => &mut fields.change_type,
            "InfoType" => &mut fields.info_type,
            "UserID" => &mut fields.user_id,
            "ExternalUserID" => &mut fields.external_userid,
            "State" => &mut fields.state,
            "WelcomeCode" => &mut fields.welcome_code,
            _ => return,
        };
        slot.get_or_insert(value);
    })
    .map_err(|e| MessageError::Unreadable(e.to_string()))
}

fn typed(fields: &Fields<'_>) -> Result<Message, MessageError> {
    let kind = kind(fields)?;
    // A suite's own events need not name a corp and carry `TimeStamp` instead of `CreateTime`.
    if kind == Kind::Suite {
        fields.to_user_name.as_deref().map(CorpId::new).transpose().map_err(|e| invalid("ToUserName", e))?;
        return Ok(Message::Ignored(Ignored { kind, created_at: None }));
    }
    let corp_id = CorpId::new(required(fields.to_user_name.as_deref(), "ToUserName")?)
        .map_err(|e| invalid("ToUserName", e))?;
    let created_at = create_time(required(fields.create_time.as_deref(), "CreateTime")?)?;
    let change = match kind {
        Kind::AddExternalContact => ContactChange::Added,
        Kind::AddHalfExternalContact => ContactChange::HalfAdded,
        Kind::DelExternalContact => ContactChange::DeletedByMember,
        Kind::DelFollowUser => ContactChange::DeletedByCustomer,
        Kind::EditExternalContact
        | Kind::TransferFail
        | Kind::MsgAuditApproved
        | Kind::ChangeExternalChat
        | Kind::ShareChainChange
        | Kind::ChangeChain
        | Kind::Suite
        | Kind::OtherEvent
        | Kind::Message => {
            return Ok(Message::Ignored(Ignored { kind, created_at: Some(created_at) }));
        }
    };
    let contact = ContactEvent {
        change,
        user_id: UserId::new(required(fields.user_id.as_deref(), "UserID")?)
            .map_err(|e| invalid("UserID", e))?,
        external_userid: ExternalUserid::new(required(fields.external_userid.as_deref(), "ExternalUserID")?)
            .map_err(|e| invalid("ExternalUserID", e))?,
        state: short(fields.state.as_deref(), "State")?,
        welcome_code: short(fields.welcome_code.as_deref(), "WelcomeCode")?,
    };
    Ok(Message::Event(Event { corp_id, created_at, contact }))
}

const fn invalid(field: &'static str, source: IdError) -> MessageError {
    MessageError::Id { field, source }
}

fn kind(fields: &Fields<'_>) -> Result<Kind, MessageError> {
    if fields.msg_type.is_none() && fields.info_type.is_some() {
        return Ok(Kind::Suite);
    }
    if required(fields.msg_type.as_deref(), "MsgType")? != "event" {
        return Ok(Kind::Message);
    }
    let change = fields.change_type.as_deref().map(str::trim_ascii);
    Ok(match (required(fields.event.as_deref(), "Event")?, change) {
        ("change_external_contact", Some(change)) => match change {
            "add_external_contact" => Kind::AddExternalContact,
            "add_half_external_contact" => Kind::AddHalfExternalContact,
            "edit_external_contact" => Kind::EditExternalContact,
            "del_external_contact" => Kind::DelExternalContact,
            "del_follow_user" => Kind::DelFollowUser,
            "transfer_fail" => Kind::TransferFail,
            "msg_audit_approved" => Kind::MsgAuditApproved,
            _ => Kind::OtherEvent,
        },
        ("change_external_contact", None) => return Err(MessageError::Missing("ChangeType")),
        ("change_external_chat", _) => Kind::ChangeExternalChat,
        ("share_chain_change" | "share_agent_change", _) => Kind::ShareChainChange,
        ("change_chain", _) => Kind::ChangeChain,
        _ => Kind::OtherEvent,
    })
}

fn required<'a>(value: Option<&'a str>, field: &'static str) -> Result<&'a str, MessageError> {
    value.map(str::trim_ascii).filter(|text| !text.is_empty()).ok_or(MessageError::Missing(field))
}

fn create_time(text: &str) -> Result<Timestamp, MessageError> {
    match text.parse() {
        Ok(secs @ 0..=CREATE_TIME_MAX) => Ok(Timestamp::from_secs(secs)),
        _ => Err(MessageError::Time),
    }
}

fn short(value: Option<&str>, field: &'static str) -> Result<Option<String>, MessageError> {
    match value {
        Some(text) if text.len() > SHORT_TEXT_BYTES_MAX => Err(MessageError::Long(field)),
        Some("") | None => Ok(None),
        Some(text) => Ok(Some(text.to_owned())),
    }
}
