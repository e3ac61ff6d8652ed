//! Properties that hold for messages of any bytes; see [`crate::properties`].

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::message::{CREATE_TIME_MAX, Ignored, Message, SHORT_TEXT_BYTES_MAX, parse};
use super::suite::{AtSuite, SECRET_BYTES_MAX, SuiteContent, SuiteMessage, at_suite};
use crate::callback::properties::cdata;
use crate::domain::chat::{CHAT_ITEMS_MAX, ChatChange, ChatEvent, MemberVersion, Versions};
use crate::domain::event::{AppAlarm, Event, Kind};
use crate::domain::ids::{ChatId, CorpId, ExternalUserid, SuiteId, UserId};
use crate::domain::suite::CodeKind;
use crate::domain::time::Timestamp;

/// Any message: one that parses is within bounds and parses the same when it is written again; the error of
/// one that does not is short and in our own words.
///
/// # Panics
/// When that does not hold.
pub fn message(text: &[u8]) {
    suite_message(text);
    let message = match parse(text) {
        Ok(message) => message,
        Err(error) => return assert!(error.to_string().len() <= 120, "{error}"),
    };
    let corp_id = message.corp_id();
    if let Some(corp_id) = corp_id {
        bounded(corp_id.as_str(), CorpId::BYTES_MAX);
    }
    let (created_at, fields) = match &message {
        Message::Event(event) => (event.created_at, contact(event)),
        Message::Chat(event) => (event.created_at, chat(event)),
        Message::Visibility { kind: Kind::ChangeContact, created_at, .. } => {
            (*created_at, vec![("Event", "change_contact".to_owned())])
        }
        Message::Visibility { kind, created_at, .. } => {
            assert_eq!(*kind, Kind::Subscription);
            (*created_at, vec![("Event", "subscribe".to_owned())])
        }
        Message::Alarm(alarm) => (alarm.created_at, life_cycle(alarm)),
        Message::Ignored(Ignored { kind, created_at, .. }) => {
            let is_of_suite = *kind == Kind::Suite;
            assert!(created_at.is_none() == is_of_suite && (corp_id.is_some() || is_of_suite));
            return assert!(created_at.is_none_or(in_bounds), "{created_at:?}");
        }
    };
    assert!(in_bounds(created_at), "{created_at}");
    let mut all = vec![
        ("ToUserName", corp_id.map(ToString::to_string).unwrap_or_default()),
        ("CreateTime", created_at.as_secs().to_string()),
        ("MsgType", "event".to_owned()),
    ];
    all.extend(fields);
    let items = match &message {
        Message::Chat(ChatEvent {
            change: ChatChange::Joined { items, .. } | ChatChange::Left { items, .. },
            ..
        }) => items.as_slice(),
        _ => &[],
    };
    for again in [in_xml(&all, items), in_json(&all, items)] {
        assert_eq!(parse(again.as_bytes()).as_ref(), Ok(&message), "{again}");
    }
}

/// The same for a message at a suite's URL.
fn suite_message(text: &[u8]) {
    match at_suite(text) {
        AtSuite::Own(Ok(own)) => {
            let all = suite_fields(&own);
            assert!(in_bounds(own.sent_at), "{}", own.sent_at);
            bounded(own.suite_id.as_str(), SuiteId::BYTES_MAX);
            for again in [in_xml(&all, &[]), in_json(&all, &[])] {
                let AtSuite::Own(Ok(own)) = at_suite(again.as_bytes()) else { panic!("{again}") };
                assert_eq!(suite_fields(&own), all, "{again}");
            }
        }
        AtSuite::App(about) => bounded(about.as_str(), CorpId::BYTES_MAX),
        AtSuite::Own(Err(why)) | AtSuite::NotUnderstood(why) => assert!(why.len() <= 120, "{why}"),
    }
}

fn suite_fields(own: &SuiteMessage) -> Vec<(&'static str, String)> {
    let secret = |secret: &SecretString| {
        let text = secret.expose_secret().to_owned();
        assert!((1..=SECRET_BYTES_MAX).contains(&text.len()), "a secret of {} bytes", text.len());
        text
    };
    let (info_type, field) = match &own.content {
        SuiteContent::Ticket(ticket) => ("suite_ticket", Some(("SuiteTicket", secret(ticket)))),
        SuiteContent::Code(CodeKind::Create, code) => ("create_auth", Some(("AuthCode", secret(code)))),
        SuiteContent::Code(CodeKind::Reset, code) => {
            ("reset_permanent_code", Some(("AuthCode", secret(code))))
        }
        SuiteContent::Changed(corp_id) => ("change_auth", Some(("AuthCorpId", corp_id.to_string()))),
        SuiteContent::Cancelled(corp_id) => ("cancel_auth", Some(("AuthCorpId", corp_id.to_string()))),
        SuiteContent::DealersChanged(corp_id) => {
            ("share_chain_change", Some(("CorpId", corp_id.to_string())))
        }
        SuiteContent::Other => ("other", None),
    };
    let mut fields = vec![
        ("SuiteId", own.suite_id.to_string()),
        ("InfoType", info_type.to_owned()),
        ("TimeStamp", own.sent_at.as_secs().to_string()),
    ];
    fields.extend(field);
    fields
}

fn in_xml(fields: &[(&str, String)], items: &[ExternalUserid]) -> String {
    let fields = fields.iter().map(|(name, text)| format!("<{name}>{}</{name}>", cdata(text)));
    let items = items.iter().map(|id| format!("<Item>{}</Item>", cdata(id.as_str())));
    let (fields, items): (String, String) = (fields.collect(), items.collect());
    format!("<xml>{fields}<MemChangeList>{items}</MemChangeList></xml>")
}

fn in_json(fields: &[(&str, String)], items: &[ExternalUserid]) -> String {
    let mut object: serde_json::Map<_, _> =
        fields.iter().map(|(name, text)| ((*name).to_owned(), text.as_str().into())).collect();
    let items: Vec<_> = items.iter().map(ExternalUserid::as_str).collect();
    object.insert("MemChangeList".to_owned(), json!({ "Item": items }));
    serde_json::Value::from(object).to_string()
}

fn in_bounds(at: Timestamp) -> bool {
    (0..=CREATE_TIME_MAX).contains(&at.as_secs())
}

fn bounded(id: &str, bytes_max: usize) {
    assert!((1..=bytes_max).contains(&id.len()), "an id of {} bytes", id.len());
    assert!(!id.chars().any(|c| c.is_control() || c.is_whitespace()), "{id:?}");
}

fn contact(event: &Event) -> Vec<(&'static str, String)> {
    let contact = &event.contact;
    bounded(contact.user_id.as_str(), UserId::BYTES_MAX);
    bounded(contact.external_userid.as_str(), ExternalUserid::BYTES_MAX);
    for text in contact.state.iter().chain(&contact.welcome_code) {
        assert!((1..=SHORT_TEXT_BYTES_MAX).contains(&text.len()), "a text of {} bytes", text.len());
    }
    vec![
        ("Event", "change_external_contact".to_owned()),
        ("ChangeType", <&str>::from(contact.change.kind()).to_owned()),
        ("UserID", contact.user_id.as_str().to_owned()),
        ("ExternalUserID", contact.external_userid.as_str().to_owned()),
        ("State", contact.state.clone().unwrap_or_default()),
        ("WelcomeCode", contact.welcome_code.clone().unwrap_or_default()),
    ]
}

/// All but the members.
fn chat(event: &ChatEvent) -> Vec<(&'static str, String)> {
    bounded(event.chat_id.as_str(), ChatId::BYTES_MAX);
    let (change, detail, versions) = match &event.change {
        ChatChange::Created => ("create", "", None),
        ChatChange::Dismissed => ("dismiss", "", None),
        ChatChange::Joined { versions, .. } => ("update", "add_member", versions.as_ref()),
        ChatChange::Left { versions, .. } => ("update", "del_member", versions.as_ref()),
    };
    let mut fields = vec![
        ("Event", "change_external_chat".to_owned()),
        ("ChatId", event.chat_id.to_string()),
        ("ChangeType", change.to_owned()),
        ("UpdateDetail", detail.to_owned()),
    ];
    if let Some(Versions { before, after }) = versions {
        for (name, MemberVersion(text)) in [("LastMemVer", before), ("CurMemVer", after)] {
            assert!((1..=MemberVersion::BYTES_MAX).contains(&text.len()), "{text:?}");
            fields.push((name, text.clone()));
        }
    }
    if let ChatChange::Joined { items, is_complete, .. } | ChatChange::Left { items, is_complete, .. } =
        &event.change
    {
        assert!(items.len() <= CHAT_ITEMS_MAX && (!is_complete || !items.is_empty()));
        for id in items {
            bounded(id.as_str(), ExternalUserid::BYTES_MAX);
        }
        let missing = usize::from(!is_complete);
        fields.push(("MemChangeCnt", (items.len() + missing).to_string()));
    }
    fields
}

fn life_cycle(alarm: &AppAlarm) -> Vec<(&'static str, String)> {
    let mut fields = vec![("Event", <&str>::from(alarm.kind).to_owned())];
    if let Some(effect_at) = alarm.effect_at {
        assert!(in_bounds(effect_at), "{effect_at}");
        fields.push(("EffectTime", effect_at.as_secs().to_string()));
    }
    fields
}
