//! Messages in every form WeCom sends, and in forms it does not. Group events are in `chats`, those
//! of suites in `suite`.

mod chats;
mod suite;

use std::convert::Infallible;

use super::message::{Message, created_at, parse};
use super::{AgeLimit, Classified, Recipients, classify};
use crate::callback::VerifiedMessage;
use crate::callback::properties::ADD;
use crate::domain::event::{AppAlarmKind, ContactChange, Kind, QuarantineReason};
use crate::domain::ids::CorpId;
use crate::domain::time::Timestamp;

/// A `change_external_chat` event about one new member, in the form that was seen in production.
const JOINED: &str = "<xml><ToUserName><![CDATA[wpDEALER]]></ToUserName>\
    <FromUserName><![CDATA[sys]]></FromUserName><CreateTime>1403610513</CreateTime>\
    <MsgType><![CDATA[event]]></MsgType>\
    <Event><![CDATA[change_external_chat]]></Event><ChatId><![CDATA[wrINVENTED]]></ChatId>\
    <ChangeType><![CDATA[update]]></ChangeType><UpdateDetail><![CDATA[add_member]]></UpdateDetail>\
    <JoinScene>3</JoinScene><MemChangeCnt>1</MemChangeCnt>\
    <MemChangeList><Item><![CDATA[wmINVENTED-1]]></Item></MemChangeList>\
    <LastMemVer><![CDATA[9c3f]]></LastMemVer><CurMemVer><![CDATA[7121]]></CurMemVer></xml>";
/// A message for the brand's app, of which `wpDEALER` is a known dealer.
async fn classified(receive_id: &str, text: &str, age_limit: Option<AgeLimit>) -> Classified {
    let corp_id = CorpId::new("ww00000000000000aa").unwrap();
    let recipients = Recipients { corp_id, accept_receive_ids: vec!["dkSUITE".to_owned()] };
    let message = VerifiedMessage::from_quarantine(receive_id, text.as_bytes().to_vec());
    let is_dealer = async |corp_id: &CorpId| Ok::<_, Infallible>(corp_id.as_str() == "wpDEALER");
    classify(&message, &recipients, age_limit, is_dealer).await.unwrap()
}

/// An event of `corp` that has no fields of its own.
fn event(corp: &str, name: &str) -> String {
    format!(
        "<xml><ToUserName>{corp}</ToUserName><FromUserName>sys</FromUserName>\
         <CreateTime>1403610513</CreateTime><MsgType>event</MsgType><Event>{name}</Event></xml>"
    )
}

#[test]
fn an_add_is_parsed_with_all_its_fields() {
    let Ok(Message::Event(event)) = parse(ADD.as_bytes()) else { panic!("not an event") };
    assert_eq!(event.corp_id.as_str(), "wpDEALER");
    assert_eq!(event.created_at.as_secs(), 1_403_610_513);
    let contact = event.contact;
    assert_eq!(contact.change, ContactChange::Added);
    assert_eq!(contact.user_id.as_str(), "zhangsan");
    assert_eq!(contact.external_userid.as_str(), "wmINVENTED");
    assert_eq!(contact.state.as_deref(), Some("test&state"));
    assert_eq!(contact.welcome_code.as_deref(), Some("WELCOME"));
}

#[test]
fn the_time_of_a_message_is_read_whatever_else_is_wrong_with_it() {
    let sent_at = Some(Timestamp::from_secs(1_403_610_513));
    let without_corp = ADD.replace("ToUserName", "Other");
    assert!(parse(without_corp.as_bytes()).is_err());
    for (text, expected) in [
        (ADD, sent_at),
        (&without_corp, sent_at),
        ("{\"CreateTime\": 1403610513}", sent_at),
        (&ADD.replace("CreateTime", "Created"), None),
        (&ADD.replace("1403610513", "yesterday"), None),
        ("not a message at all", None),
    ] {
        assert_eq!(created_at(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn cdata_and_white_space_do_not_matter() {
    let plain = ADD.replace("<![CDATA[", "").replace("]]>", "").replace("test&state", "test&amp;state");
    assert_eq!(parse(plain.as_bytes()), parse(ADD.as_bytes()));
    let spaced = ADD.replace("><", ">\n  <");
    let spaced = format!("\u{feff}<?xml version=\"1.0\"?>\n{spaced}\n");
    assert_eq!(parse(spaced.as_bytes()), parse(ADD.as_bytes()));
}

#[tokio::test]
async fn every_change_type_has_its_own_kind() {
    for (change, kind) in [
        ("add_external_contact", Kind::AddExternalContact),
        ("add_half_external_contact", Kind::AddHalfExternalContact),
        ("edit_external_contact", Kind::EditExternalContact),
        ("del_external_contact", Kind::DelExternalContact),
        ("del_follow_user", Kind::DelFollowUser),
        ("transfer_fail", Kind::TransferFail),
        ("msg_audit_approved", Kind::MsgAuditApproved),
        ("something_new", Kind::OtherEvent),
    ] {
        let xml = ADD.replace("add_external_contact", change);
        assert_eq!(classified("wpDEALER", &xml, None).await.kind().map(|(kind, _)| kind), Some(kind));
    }
    let notice = ADD.replace("change_external_contact", "unlicensed_notify");
    let classified = classified("wpDEALER", &notice, None).await;
    assert_eq!(classified.kind().map(|(kind, _)| kind), Some(Kind::UnlicensedNotify));
}

#[test]
fn a_parse_error_names_the_field_and_the_reason() {
    let error = |from: &str, to: &str| parse(ADD.replace(from, to).as_bytes()).unwrap_err().to_string();
    assert_eq!(error("wmINVENTED", ""), "the field ExternalUserID is missing");
    assert_eq!(error("wmINVENTED", &"x".repeat(200)), "the field ExternalUserID is longer than 128 bytes");
    assert_eq!(error("1403610513", "soon"), "the field CreateTime is not a time in seconds");
    assert_eq!(error("1403610513", "-1"), "the field CreateTime is not a time in seconds");
    assert!(error("<xml>", "<!DOCTYPE x [<!ENTITY a \"b\">]><xml>").contains("document type"));
    assert!(error("<xml>", &"<a>".repeat(20)).contains("nested deeper"));
    assert!(error("</xml>", &format!("{}</xml>", "<a/>".repeat(4_096))).contains("more than 4096"));
    assert!(error("</xml>", "").contains("well-formed"));
    assert!(error("test&state]]>", "]]>&undefined;").contains("well-formed"));
}

#[test]
fn a_parse_error_does_not_quote_the_json() {
    for (json, what) in [
        (r#"{"UserID":4711}"#, "of another type"),
        (r#"{"UserID":"4711","UserID":"4711"}"#, "field twice"),
        (r#"{"Other":4711x}"#, "not well-formed"),
        (r#"{"UserID":"4711"#, "ends too early"),
    ] {
        let error = parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what) && !error.contains("4711"), "{error}");
    }
}

#[test]
fn a_json_event_is_parsed_like_an_xml_one() {
    let json = r#"{"ToUserName":"wpDEALER","CreateTime":1403610513,"MsgType":"event","AgentID":7,
        "Event":"change_external_contact","ChangeType":"add_external_contact","UserID":"zhangsan",
        "ExternalUserID":"wmINVENTED","State":"test&state","WelcomeCode":"WELCOME"}"#;
    assert_eq!(parse(json.as_bytes()), parse(ADD.as_bytes()));
}

#[tokio::test]
async fn events_about_members_and_the_visible_range_name_their_corp() {
    for (name, expected) in [
        ("change_contact", Kind::ChangeContact),
        ("subscribe", Kind::Subscription),
        ("unsubscribe", Kind::Subscription),
    ] {
        let Classified::Visibility { kind, corp_id, created_at } =
            classified("wpDEALER", &event("wpDEALER", name), None).await
        else {
            panic!("{name}")
        };
        assert_eq!((kind, corp_id.as_str()), (expected, "wpDEALER"));
        assert_eq!(created_at, Timestamp::from_secs(1_403_610_513));
    }
}

#[tokio::test]
async fn events_of_the_apps_life_are_alarms_with_or_without_a_time() {
    for (kind, effect) in [
        (AppAlarmKind::InactiveAlert, "1764518400"),
        (AppAlarmKind::CloseInactiveAgent, ""),
        (AppAlarmKind::ReopenInactiveAgent, ""),
        (AppAlarmKind::LowActiveAlert, "1764518400"),
        (AppAlarmKind::LowActiveAlert, "soon"),
        (AppAlarmKind::LowActive, ""),
        (AppAlarmKind::ActiveRestored, ""),
    ] {
        let text = event("wpDEALER", kind.into())
            .replace("</xml>", &format!("<EffectTime>{effect}</EffectTime><AgentID>7</AgentID></xml>"));
        let classified = classified("wpDEALER", &text, None).await;
        let Classified::Alarm(alarm) = &classified else { panic!("{classified:?}") };
        assert_eq!((alarm.kind, alarm.corp_id.as_str()), (kind, "wpDEALER"));
        assert_eq!(alarm.effect_at, effect.parse().ok().map(Timestamp::from_secs));
        assert_eq!(classified.kind(), Some((Kind::AppLifeCycle, Some(alarm.created_at))));
    }
}

#[tokio::test]
async fn a_broken_cdata_section_around_the_corp_is_removed() {
    for corp in ["![CDATA[wpDEALER]]", "![CDATA[wpDEALER]", "<![CDATA[wpDEALER]]>"] {
        let classified = classified("wpDEALER", &event(corp, "change_chain"), None).await;
        assert_eq!(classified.corp_id().map(CorpId::as_str), Some("wpDEALER"), "{corp}");
    }
}

#[tokio::test]
async fn a_message_is_accepted_if_sealed_for_the_corp_it_is_about_and_not_if_for_a_third() {
    let chain = event("wpNEW", "change_chain");
    let text = chain.replace("<MsgType>event", "<MsgType>text");
    let messages = [
        ADD.replace("wpDEALER", "wpNEW"),
        ADD.replace("wpDEALER", "wpNEW").replace("add_external_contact", "edit_external_contact"),
        JOINED.replace("wpDEALER", "wpNEW"),
        event("wpNEW", "subscribe"),
        event("wpNEW", "low_active"),
        chain,
        text,
    ];
    let refused = Classified::Quarantine { reason: QuarantineReason::ReceiveId, event: None };
    for message in &messages {
        for accepted in ["ww00000000000000aa", "WW00000000000000AA", "dkSUITE", "wpDEALER", "wpNEW"] {
            let classified = classified(accepted, message, None).await;
            let corp_id = classified.corp_id().map(CorpId::as_str);
            assert_eq!(corp_id, Some("wpNEW"), "{accepted}: {message}");
        }
        for stranger in ["wpOTHER", "wpnew", "", "wpNEW ", "\u{0}"] {
            assert_eq!(classified(stranger, message, None).await, refused, "{stranger}: {message}");
        }
    }
    // A message that names no corp is not accepted for an unknown corp.
    assert_eq!(classified("wpNEW", "<xml>wpNEW</xml>", None).await, refused);
}

#[tokio::test]
async fn the_age_limit_is_for_contact_events() {
    let limit = Some(AgeLimit { days_max: 7, now: Timestamp::from_secs(1_764_518_400) });
    let created_at = Timestamp::from_secs(1_403_610_513);
    let far_off = classified("wpDEALER", ADD, limit).await;
    assert!(
        matches!(&far_off, Classified::Quarantine { reason, event: Some(_) }
            if *reason == QuarantineReason::FarOff { created_at }),
        "{far_off:?}"
    );
    assert_eq!(far_off.kind(), Some((Kind::AddExternalContact, Some(created_at))));
    for text in [JOINED, &event("wpDEALER", "change_contact"), &event("wpDEALER", "low_active")] {
        let classified = classified("wpDEALER", text, limit).await;
        assert!(classified.corp_id().is_some(), "{classified:?}");
    }
}
