//! Messages at a suite's URL: the suite's own ones (documents 97173, 100965, 97175 and 93373), typed, and the
//! corp that an app's message is about.
//!
//! The tickets and auth codes in them are secrets. They stay in a [`SecretString`], and a message that may
//! contain one is recognised even where it cannot be read ([`may_contain_secret`]), so that it is never stored
//! unencrypted.
//!
//! Deliberately absent: whether the suite is ours and the message meant for it (see `http::doors`), sealing
//! (see [`crate::at_rest`]), and what an app's message means (see [`classify`](super::classify)).

use std::borrow::Cow;

use secrecy::SecretString;
use serde::Deserialize;

use super::fields::{ELEMENTS_MAX, read, text_or_number};
use super::message::{MessageError, corp_id, invalid, parse, required, seconds};
use crate::callback::xml::{self, XmlError};
use crate::domain::event::Kind;
use crate::domain::ids::{CorpId, SuiteId};
use crate::domain::suite::CodeKind;
use crate::domain::time::Timestamp;

/// The longest ticket and auth code kept, in bytes. WeCom's own limits are 512.
pub(super) const SECRET_BYTES_MAX: usize = 1_024;

/// A message at a suite's URL.
#[derive(Debug)]
pub enum AtSuite {
    /// One of the suite's own messages, or why it cannot be read, in our own words.
    Own(Result<SuiteMessage, String>),
    /// A message of an app, about this corp.
    App(CorpId),
    /// A message that names no corp or cannot be read, and why, in our own words.
    NotUnderstood(String),
}

/// One of a suite's own messages. It is about the suite and the corps that have authorised it, and has an
/// `InfoType`.
#[derive(Debug)]
pub struct SuiteMessage {
    /// The suite that it names.
    pub suite_id: SuiteId,
    /// Its `TimeStamp`: when WeCom sent it.
    pub sent_at: Timestamp,
    /// What it reports.
    pub content: SuiteContent,
}

/// What a suite's message reports.
#[derive(Debug)]
pub enum SuiteContent {
    /// `suite_ticket`: another ticket.
    Ticket(SecretString),
    /// `create_auth` or `reset_permanent_code`: an auth code. It does not name the corp.
    Code(CodeKind, SecretString),
    /// `change_auth`: the app at this corp has changed.
    Changed(CorpId),
    /// `cancel_auth`: this corp has removed the app.
    Cancelled(CorpId),
    /// `share_chain_change` or `share_agent_change` in the form of a suite's messages: the dealers of this
    /// corp's app have changed.
    DealersChanged(CorpId),
    /// A message that needs no action.
    Other,
}

impl SuiteContent {
    /// The kind of the message.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Ticket(_) => Kind::SuiteTicket,
            Self::Code(CodeKind::Create, _) => Kind::CreateAuth,
            Self::Code(CodeKind::Reset, _) => Kind::ResetPermanentCode,
            Self::Changed(_) => Kind::ChangeAuth,
            Self::Cancelled(_) => Kind::CancelAuth,
            Self::DealersChanged(_) => Kind::ShareChainChange,
            Self::Other => Kind::Suite,
        }
    }
}

/// The fields that are used.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SuiteFields<'a> {
    #[serde(borrow)]
    to_user_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    msg_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    info_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    suite_id: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    time_stamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    suite_ticket: Option<Cow<'a, str>>,
    #[serde(borrow)]
    auth_code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    auth_corp_id: Option<Cow<'a, str>>,
    /// Of `share_chain_change`. In an app's message of that name it may be anything.
    #[serde(borrow, deserialize_with = "text_or_number")]
    corp_id: Option<Cow<'a, str>>,
}

fn from_xml(text: &[u8]) -> Result<SuiteFields<'_>, XmlError> {
    xml::gather(text, ELEMENTS_MAX, |fields: &mut SuiteFields<'_>, parent, name, value| {
        let slot = match (parent, name) {
            (None, "ToUserName") => &mut fields.to_user_name,
            (None, "MsgType") => &mut fields.msg_type,
            (None, "InfoType") => &mut fields.info_type,
            (None, "SuiteId") => &mut fields.suite_id,
            (None, "TimeStamp") => &mut fields.time_stamp,
            (None, "SuiteTicket") => &mut fields.suite_ticket,
            (None, "AuthCode") => &mut fields.auth_code,
            (None, "AuthCorpId") => &mut fields.auth_corp_id,
            (None, "CorpId") => &mut fields.corp_id,
            _ => return,
        };
        slot.get_or_insert(value);
    })
}

/// Reads a verified message that arrived at a suite's URL.
#[must_use]
pub fn at_suite(message: &[u8]) -> AtSuite {
    let fields = match read(message, from_xml) {
        Ok(fields) => fields,
        Err(why) => return AtSuite::NotUnderstood(MessageError::Unreadable(why).to_string()),
    };
    // As in an app's messages, a `MsgType` decides.
    if fields.msg_type.is_none() && fields.info_type.is_some() {
        return AtSuite::Own(own(&fields).map_err(|error| error.to_string()));
    }
    let about = required(fields.to_user_name.as_deref(), "ToUserName");
    match about.and_then(|about| corp_id(about, "ToUserName")) {
        Ok(about) => AtSuite::App(about),
        // If more is wrong with it, that comes first, as everywhere.
        Err(error) => AtSuite::NotUnderstood(parse(message).err().unwrap_or(error).to_string()),
    }
}

fn own(fields: &SuiteFields<'_>) -> Result<SuiteMessage, MessageError> {
    let suite_id =
        SuiteId::new(required(fields.suite_id.as_deref(), "SuiteId")?).map_err(|e| invalid("SuiteId", e))?;
    let sent_at = seconds(required(fields.time_stamp.as_deref(), "TimeStamp")?, "TimeStamp")?;
    let auth_code = || secret(fields.auth_code.as_deref(), "AuthCode");
    let auth_corp_id = || corp_id(required(fields.auth_corp_id.as_deref(), "AuthCorpId")?, "AuthCorpId");
    let content = match required(fields.info_type.as_deref(), "InfoType")? {
        "suite_ticket" => SuiteContent::Ticket(secret(fields.suite_ticket.as_deref(), "SuiteTicket")?),
        "create_auth" => SuiteContent::Code(CodeKind::Create, auth_code()?),
        "reset_permanent_code" => SuiteContent::Code(CodeKind::Reset, auth_code()?),
        "change_auth" => SuiteContent::Changed(auth_corp_id()?),
        "cancel_auth" => SuiteContent::Cancelled(auth_corp_id()?),
        "share_chain_change" | "share_agent_change" => {
            SuiteContent::DealersChanged(corp_id(required(fields.corp_id.as_deref(), "CorpId")?, "CorpId")?)
        }
        _ => SuiteContent::Other,
    };
    Ok(SuiteMessage { suite_id, sent_at, content })
}

fn secret(value: Option<&str>, field: &'static str) -> Result<SecretString, MessageError> {
    let text = required(value, field)?;
    if text.len() > SECRET_BYTES_MAX {
        return Err(MessageError::Long { field, max: SECRET_BYTES_MAX });
    }
    Ok(text.into())
}

/// Whether a message may contain a ticket or an auth code, readable or not.
#[must_use]
pub fn may_contain_secret(message: &[u8]) -> bool {
    let has = |name: &[u8]| message.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name));
    has(b"SuiteTicket") || has(b"AuthCode")
}
