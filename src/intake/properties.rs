//! Properties that hold for messages of any bytes; see [`crate::properties`].

use super::message::{CREATE_TIME_MAX, Ignored, Message, SHORT_TEXT_BYTES_MAX, parse};
use crate::callback::properties::cdata;
use crate::domain::event::{Event, Kind};
use crate::domain::ids::{CorpId, ExternalUserid, UserId};
use crate::domain::time::Timestamp;

/// Any message: one that parses is within bounds and parses the same when it is written again; the error of
/// one that does not is short and in our own words.
///
/// # Panics
/// When that does not hold.
pub fn message(text: &[u8]) {
    let event = match parse(text) {
        Ok(Message::Event(event)) => event,
        Ok(Message::Ignored(Ignored { kind, created_at })) => {
            assert_eq!(created_at.is_none(), kind == Kind::Suite);
            return assert!(created_at.is_none_or(in_bounds), "{created_at:?}");
        }
        Err(error) => return assert!(error.to_string().len() <= 120, "{error}"),
    };
    let Event { corp_id, created_at, contact } = &event;
    bounded(corp_id.as_str(), CorpId::BYTES_MAX);
    assert!(in_bounds(*created_at), "{created_at}");
    bounded(contact.user_id.as_str(), UserId::BYTES_MAX);
    bounded(contact.external_userid.as_str(), ExternalUserid::BYTES_MAX);
    for text in contact.state.iter().chain(&contact.welcome_code) {
        assert!((1..=SHORT_TEXT_BYTES_MAX).contains(&text.len()), "a text of {} bytes", text.len());
    }
    let fields = fields(&event);
    let json: serde_json::Map<_, _> =
        fields.iter().map(|(name, text)| ((*name).to_owned(), text.as_str().into())).collect();
    let xml = fields.map(|(name, text)| format!("<{name}>{}</{name}>", cdata(&text)));
    let expected = Ok(Message::Event(event));
    for again in [format!("<xml>{}</xml>", xml.concat()), serde_json::Value::from(json).to_string()] {
        assert_eq!(parse(again.as_bytes()), expected, "{again}");
    }
}

fn in_bounds(created_at: Timestamp) -> bool {
    (0..=CREATE_TIME_MAX).contains(&created_at.as_secs())
}

fn bounded(id: &str, bytes_max: usize) {
    assert!((1..=bytes_max).contains(&id.len()), "an id of {} bytes", id.len());
    assert!(!id.chars().any(|c| c.is_control() || c.is_whitespace()), "{id:?}");
}

fn fields(event: &Event) -> [(&'static str, String); 9] {
    let contact = &event.contact;
    [
        ("ToUserName", event.corp_id.to_string()),
        ("CreateTime", event.created_at.as_secs().to_string()),
        ("MsgType", "event".to_owned()),
        ("Event", "change_external_contact".to_owned()),
        ("ChangeType", <&str>::from(contact.change.kind()).to_owned()),
        ("UserID", contact.user_id.as_str().to_owned()),
        ("ExternalUserID", contact.external_userid.as_str().to_owned()),
        ("State", contact.state.clone().unwrap_or_default()),
        ("WelcomeCode", contact.welcome_code.clone().unwrap_or_default()),
    ]
}
