//! Messages in every form WeCom sends, and in forms it does not.

use super::message::{Message, parse};
use crate::callback::properties::ADD;
use crate::domain::event::{ContactChange, Kind};

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
fn cdata_and_white_space_do_not_matter() {
    let plain = ADD.replace("<![CDATA[", "").replace("]]>", "").replace("test&state", "test&amp;state");
    assert_eq!(parse(plain.as_bytes()), parse(ADD.as_bytes()));
    let spaced = ADD.replace("><", ">\n  <");
    let spaced = format!("\u{feff}<?xml version=\"1.0\"?>\n{spaced}\n");
    assert_eq!(parse(spaced.as_bytes()), parse(ADD.as_bytes()));
}

#[test]
fn every_change_type_has_its_own_kind() {
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
        assert_eq!(parse(xml.as_bytes()).unwrap().kind(), kind);
    }
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
    assert!(error("</xml>", &format!("{}</xml>", "<a/>".repeat(300))).contains("more than 256"));
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
