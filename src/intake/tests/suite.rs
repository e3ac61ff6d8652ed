//! Messages at a suite's URL: the samples of the documents, and what is wrong with others.

use secrecy::ExposeSecret as _;

use crate::domain::event::Kind;
use crate::domain::suite::CodeKind;
use crate::intake::suite::SECRET_BYTES_MAX;
use crate::intake::{AtSuite, SuiteContent, SuiteMessage, at_suite, may_contain_secret};

/// Documents 97173, 100965 and 97175. The space before the first `InfoType` is in the original.
const SAMPLES: [(&str, Kind); 5] = [
    (
        "<xml><SuiteId><![CDATA[ww4asffe99e54c0fxxxx]]></SuiteId><InfoType> <![CDATA[suite_ticket]]></InfoType>\
         <TimeStamp>1403610513</TimeStamp><SuiteTicket><![CDATA[asdfasfdasdfasdf]]></SuiteTicket></xml>",
        Kind::SuiteTicket,
    ),
    (
        "<xml><SuiteId><![CDATA[ww4asffe9xxx4c0f4c]]></SuiteId><AuthCode><![CDATA[AUTHCODE]]></AuthCode>\
         <InfoType><![CDATA[create_auth]]></InfoType><TimeStamp>1403610513</TimeStamp>\
         <State><![CDATA[123]]></State><ExtraInfo></ExtraInfo></xml>",
        Kind::CreateAuth,
    ),
    (
        "<xml><SuiteId><![CDATA[ww4asffe99exxx0f4c]]></SuiteId><InfoType><![CDATA[change_auth]]></InfoType>\
         <TimeStamp>1403610513</TimeStamp><AuthCorpId><![CDATA[wxf8b4f85f3a794e77]]></AuthCorpId>\
         <State><![CDATA[abc]]></State><ExtraInfo></ExtraInfo></xml>",
        Kind::ChangeAuth,
    ),
    (
        "<xml><SuiteId><![CDATA[ww4asffe99e54cxxxx]]></SuiteId><InfoType><![CDATA[cancel_auth]]></InfoType>\
         <TimeStamp>1403610513</TimeStamp><AuthCorpId><![CDATA[wxf8b4f85fxx794xxx]]></AuthCorpId></xml>",
        Kind::CancelAuth,
    ),
    (
        "<xml><SuiteId><![CDATA[dk4asffe9xxx4c0f4c]]></SuiteId><AuthCode><![CDATA[AUTHCODE]]></AuthCode>\
         <InfoType><![CDATA[reset_permanent_code]]></InfoType><TimeStamp>1403610513</TimeStamp></xml>",
        Kind::ResetPermanentCode,
    ),
];

fn own(text: &str) -> SuiteMessage {
    match at_suite(text.as_bytes()) {
        AtSuite::Own(Ok(own)) => own,
        other => panic!("{other:?}: {text}"),
    }
}

/// What the message reports, its secret or corp included.
fn content(message: &SuiteMessage) -> String {
    match &message.content {
        SuiteContent::Ticket(ticket) => format!("ticket {}", ticket.expose_secret()),
        SuiteContent::Code(CodeKind::Create, code) => format!("create {}", code.expose_secret()),
        SuiteContent::Code(CodeKind::Reset, code) => format!("reset {}", code.expose_secret()),
        SuiteContent::Changed(corp_id) => format!("changed {corp_id}"),
        SuiteContent::Cancelled(corp_id) => format!("cancelled {corp_id}"),
        SuiteContent::DealersChanged(corp_id) => format!("dealers of {corp_id}"),
        SuiteContent::Other => "other".to_owned(),
    }
}

#[test]
fn the_published_samples_are_read_with_their_values_trimmed() {
    let contents = [
        "ticket asdfasfdasdfasdf",
        "create AUTHCODE",
        "changed wxf8b4f85f3a794e77",
        "cancelled wxf8b4f85fxx794xxx",
        "reset AUTHCODE",
    ];
    for ((text, kind), expected) in SAMPLES.into_iter().zip(contents) {
        let spaced = text.replace("<![CDATA[", " \n<![CDATA[ ").replace("]]>", " ]]>\t");
        for text in [text, &spaced] {
            let message = own(text);
            assert_eq!(message.content.kind(), kind);
            assert_eq!(content(&message), expected);
            assert_eq!(message.sent_at.as_secs(), 1_403_610_513);
            assert!(text.contains(message.suite_id.as_str()), "{}", message.suite_id);
        }
    }
}

#[test]
fn the_form_of_third_party_suites_reports_a_change_of_dealers() {
    // Document 93373, with the broken CDATA section of the original.
    let text = "<xml><SuiteId><![CDATA[dk1]]></SuiteId><InfoType><![CDATA[share_chain_change]]></InfoType>\
        <TimeStamp>1403610513</TimeStamp><AppId>11</AppId><CorpId>![CDATA[wpBRAND]]</CorpId>\
        <AgentId>11</AgentId></xml>";
    assert_eq!(content(&own(text)), "dealers of wpBRAND");
    let other = text.replace("share_chain_change", "create_tag");
    assert_eq!(content(&own(&other)), "other");
}

#[test]
fn json_says_the_same() {
    for time in ["1403610513", "\"1403610513\""] {
        let text = format!(
            r#"{{"SuiteId":"dk1","AuthCode":" AUTHCODE","InfoType":"create_auth ","TimeStamp":{time},"State":""}}"#
        );
        assert_eq!(content(&own(&text)), "create AUTHCODE");
    }
}

#[test]
fn what_is_missing_or_invalid_is_named_and_not_quoted() {
    let ticket = SAMPLES[0].0;
    let long = "x".repeat(SECRET_BYTES_MAX + 1);
    for (text, why) in [
        (ticket.replace("SuiteId>", "Suite>"), "the field SuiteId is missing"),
        (ticket.replace("ww4asffe99e54c0fxxxx", "a b"), "the field SuiteId contains white space"),
        (ticket.replace("TimeStamp>", "Time>"), "the field TimeStamp is missing"),
        (ticket.replace("1403610513", "yesterday"), "the field TimeStamp is not a time in seconds"),
        (ticket.replace("asdfasfdasdfasdf", " "), "the field SuiteTicket is missing"),
        (ticket.replace("asdfasfdasdfasdf", &long), "the field SuiteTicket is longer than 1024 bytes"),
        (SAMPLES[1].0.replace("AuthCode>", "Code>"), "the field AuthCode is missing"),
        (SAMPLES[3].0.replace("AuthCorpId>", "Corp>"), "the field AuthCorpId is missing"),
        (SAMPLES[3].0.replace("wxf8b4f85fxx794xxx", "a b"), "the field AuthCorpId contains white space"),
    ] {
        let AtSuite::Own(Err(error)) = at_suite(text.as_bytes()) else { panic!("{text}") };
        assert!(error.starts_with(why), "{error}");
    }
}

#[test]
fn an_apps_message_is_about_the_corp_in_it_whatever_else_it_has() {
    let text = "<xml><ToUserName> <![CDATA[wpDEALER]]></ToUserName><MsgType>event</MsgType>\
        <Event>change_chain</Event><InfoType>suite_ticket</InfoType><CorpId>1</CorpId></xml>";
    assert!(matches!(at_suite(text.as_bytes()), AtSuite::App(about) if about.as_str() == "wpDEALER"));
    for (text, why) in [
        ("<xml><MsgType>text</MsgType></xml>", "the field ToUserName is missing"),
        ("<xml><MsgType>event</MsgType></xml>", "the field Event is missing"),
        ("<xml></xml>", "the field MsgType is missing"),
        ("<xml><SuiteTicket>", "not a readable message: not well-formed XML"),
        ("{", "not a readable message: JSON that ends too early, line 1 column 1"),
    ] {
        assert!(
            matches!(at_suite(text.as_bytes()), AtSuite::NotUnderstood(why_not) if why_not == why),
            "{text}"
        );
    }
}

#[test]
fn no_ticket_and_no_code_is_printed() {
    for (text, _) in &SAMPLES {
        let text = text.replace("asdfasfdasdfasdf", "CANARY").replace("AUTHCODE", "CANARY");
        let printed = format!("{:?}", at_suite(text.as_bytes()));
        assert!(printed.contains("SuiteMessage") && !printed.contains("CANARY"), "{printed}");
    }
}

#[test]
fn what_may_contain_a_secret_is_recognised_unread() {
    for text in [SAMPLES[0].0, SAMPLES[1].0, SAMPLES[4].0, "<AUTHCODE", r#"{"suiteticket":1"#] {
        assert!(may_contain_secret(text.as_bytes()), "{text}");
    }
    for text in [SAMPLES[2].0, SAMPLES[3].0, "<Auth><Code>", ""] {
        assert!(!may_contain_secret(text.as_bytes()), "{text}");
    }
}
