//! The fields of an app's message that are used, as text: from XML, or from the same in JSON.
//!
//! Deliberately absent: which of them an event needs, and whether they are valid (see
//! [`message`](super::message)), and the fields of a suite's own messages (see [`suite`](super::suite)).

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use crate::callback::xml::{self, XmlError};

/// The most elements of a message: the event of a customer group lists the members that changed.
pub(super) const ELEMENTS_MAX: usize = 4_096;
/// Replaces an `Item` that is not a text, or a list in an unknown notation. Not a valid id, so the list
/// counts as incomplete.
const UNREADABLE: Cow<'static, str> = Cow::Borrowed("");

/// The fields that are used.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) to_user_name: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    pub(super) create_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) msg_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) change_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) info_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "UserID")]
    pub(super) user_id: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "ExternalUserID")]
    pub(super) external_userid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) state: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) welcome_code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) chat_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) update_detail: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    pub(super) mem_change_cnt: Option<Cow<'a, str>>,
    /// The `Item`s of `MemChangeList`.
    #[serde(borrow, rename = "MemChangeList", deserialize_with = "items")]
    pub(super) items: Vec<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    pub(super) last_mem_ver: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    pub(super) cur_mem_ver: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "text_or_number")]
    pub(super) effect_time: Option<Cow<'a, str>>,
}

impl<'a> Fields<'a> {
    /// The fields of a message, or why it cannot be read.
    pub(super) fn read(message: &'a [u8]) -> Result<Self, String> {
        read(message, from_xml)
    }
}

/// The fields of a message in JSON, or in XML as `from_xml` reads it; or why it cannot be read.
pub(super) fn read<'a, F: Deserialize<'a>>(
    message: &'a [u8],
    from_xml: impl FnOnce(&'a [u8]) -> Result<F, XmlError>,
) -> Result<F, String> {
    let text = xml::from_first_character(message);
    if text.starts_with(b"{") {
        serde_json::from_slice(text).map_err(|error| json_problem(&error))
    } else {
        from_xml(text).map_err(|error| error.to_string())
    }
}

fn from_xml(text: &[u8]) -> Result<Fields<'_>, XmlError> {
    xml::gather(text, ELEMENTS_MAX, |fields: &mut Fields<'_>, parent, name, value| {
        let slot = match (parent, name) {
            (None, "ToUserName") => &mut fields.to_user_name,
            (None, "CreateTime") => &mut fields.create_time,
            (None, "MsgType") => &mut fields.msg_type,
            (None, "Event") => &mut fields.event,
            (None, "ChangeType") => &mut fields.change_type,
            (None, "InfoType") => &mut fields.info_type,
            (None, "UserID") => &mut fields.user_id,
            (None, "ExternalUserID") => &mut fields.external_userid,
            (None, "State") => &mut fields.state,
            (None, "WelcomeCode") => &mut fields.welcome_code,
            (None, "ChatId") => &mut fields.chat_id,
            (None, "UpdateDetail") => &mut fields.update_detail,
            (None, "MemChangeCnt") => &mut fields.mem_change_cnt,
            (None, "LastMemVer") => &mut fields.last_mem_ver,
            (None, "CurMemVer") => &mut fields.cur_mem_ver,
            (None, "EffectTime") => &mut fields.effect_time,
            (Some("MemChangeList"), "Item") => return fields.items.push(value),
            (None, "MemChangeList") if !value.trim().is_empty() => return fields.items.push(UNREADABLE),
            _ => return,
        };
        slot.get_or_insert(value);
    })
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

/// A text, or a number as text; `None` for anything else.
pub(super) fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) => Some(text.into()),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    })
}

/// `MemChangeList` in JSON: `{"Item": ["…"]}`, `{"Item": "…"}` or `["…"]`.
fn items<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Cow<'static, str>>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Null => Vec::new(),
        Value::String(text) if text.trim().is_empty() => Vec::new(),
        Value::Array(items) => items.into_iter().map(item).collect(),
        Value::Object(mut list) => match list.remove("Item") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items.into_iter().map(item).collect(),
            Some(single) => vec![item(single)],
        },
        Value::String(_) | Value::Bool(_) | Value::Number(_) => vec![UNREADABLE],
    })
}

fn item(value: Value) -> Cow<'static, str> {
    match value {
        Value::String(text) => text.into(),
        _ => UNREADABLE,
    }
}
