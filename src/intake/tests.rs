//! Messages in every form WeCom sends, and in forms it does not.

use std::convert::Infallible;
use std::fmt::Write as _;

use super::message::{Message, parse};
use super::{AgeLimit, Classified, Recipients, classify};
use crate::callback::VerifiedMessage;
use crate::callback::properties::ADD;
use crate::domain::chat::{CHAT_ITEMS_MAX, ChatChange, ChatEvent};
use crate::domain::event::{AppAlarmKind, ContactChange, Kind, QuarantineReason};
use crate::domain::ids::CorpId;
use crate::domain::time::Timestamp;

/// A member list's change in the form that was seen in production.
const JOINED: &str = "<xml><ToUserName><![CDATA[wpDEALER]]></ToUserName>\
    <FromUserName><![CDATA[sys]]></FromUserName><CreateTime>1403610513</CreateTime>\
    <MsgType><![CDATA[event]]></MsgType>\
    <Event><![CDATA[change_external_chat]]></Event><ChatId><![CDATA[wrINVENTED]]></ChatId>\
    <ChangeType><![CDATA[update]]></ChangeType><UpdateDetail><![CDATA[add_member]]></UpdateDetail>\
    <JoinScene>3</JoinScene><MemChangeCnt>1</MemChangeCnt>\
    <MemChangeList><Item><![CDATA[wmINVENTED-1]]></Item></MemChangeList>\
    <LastMemVer><![CDATA[9c3f]]></LastMemVer><CurMemVer><![CDATA[7121]]></CurMemVer></xml>";
/// The list in it, with its count.
const LIST: &str = "<MemChangeCnt>1</MemChangeCnt>\
    <MemChangeList><Item><![CDATA[wmINVENTED-1]]></Item></MemChangeList>";

fn chat(text: &str) -> ChatEvent {
    match parse(text.as_bytes()) {
        Ok(Message::Chat(event)) => event,
        other => panic!("{other:?} from {text}"),
    }
}

/// The ids in a join, and whether they are all.
fn joined(text: &str) -> (Vec<String>, bool) {
    match chat(text).change {
        ChatChange::Joined { items, is_complete, .. } => {
            (items.iter().map(|id| id.as_str().to_owned()).collect(), is_complete)
        }
        other => panic!("{other:?} from {text}"),
    }
}

/// The versions in a join or a leave.
fn versions(text: &str) -> Option<(String, String)> {
    match chat(text).change {
        ChatChange::Joined { versions, .. } | ChatChange::Left { versions } => {
            versions.map(|versions| (versions.before.0, versions.after.0))
        }
        other => panic!("{other:?} from {text}"),
    }
}

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

#[test]
fn a_join_is_parsed_in_the_form_seen_in_production() {
    let ChatEvent { corp_id, created_at, chat_id, change } = chat(JOINED);
    assert_eq!((corp_id.as_str(), chat_id.as_str()), ("wpDEALER", "wrINVENTED"));
    assert_eq!(created_at, Timestamp::from_secs(1_403_610_513));
    assert!(matches!(change, ChatChange::Joined { .. }));
    assert_eq!(joined(JOINED), (vec!["wmINVENTED-1".to_owned()], true));
    assert_eq!(versions(JOINED), Some(("9c3f".to_owned(), "7121".to_owned())));
}

#[test]
fn a_join_is_parsed_in_the_documented_form_whose_count_is_not_that_of_the_list() {
    let list = "<QuitScene>0</QuitScene><MemChangeCnt>10</MemChangeCnt>\
        <MemChangeList><Item>Jack</Item><Item>Rose</Item></MemChangeList>";
    let documented = JOINED.replace(LIST, list).replace("<![CDATA[", "").replace("]]>", "");
    assert_eq!(joined(&documented), (vec!["Jack".to_owned(), "Rose".to_owned()], false));
    assert_eq!(versions(&documented), versions(JOINED));
}

#[test]
fn a_join_is_complete_if_the_list_has_as_many_valid_ids_as_the_count_says() {
    for (list, ids, is_complete) in [
        (
            "<MemChangeCnt>2</MemChangeCnt>\
             <MemChangeList>\n<Item>wmA</Item>\n <Item><![CDATA[wmB]]></Item></MemChangeList>",
            &["wmA", "wmB"][..],
            true,
        ),
        ("<MemChangeList><Item>wmA</Item></MemChangeList><MemChangeCnt> 1 </MemChangeCnt>", &["wmA"], true),
        ("<MemChangeList><Item> wmA </Item></MemChangeList>", &["wmA"], false),
        ("<MemChangeCnt>one</MemChangeCnt><MemChangeList><Item>wmA</Item></MemChangeList>", &["wmA"], false),
        (
            "<MemChangeCnt>1</MemChangeCnt><MemChangeList><Item>wmA</Item><Item/></MemChangeList>",
            &["wmA"],
            false,
        ),
        (
            "<MemChangeCnt>2</MemChangeCnt><MemChangeList><Item>wmA</Item><Item/></MemChangeList>",
            &["wmA"],
            false,
        ),
        (
            "<MemChangeCnt>2</MemChangeCnt><MemChangeList><Item>a b</Item><Item>wmA</Item></MemChangeList>",
            &["wmA"],
            false,
        ),
        (
            "<MemChangeCnt>1</MemChangeCnt><MemChangeList><Item><Id>wmA</Id></Item></MemChangeList>",
            &[],
            false,
        ),
        ("<MemChangeCnt>1</MemChangeCnt><MemChangeList>wmA</MemChangeList>", &[], false),
        ("<MemChangeCnt>2</MemChangeCnt><MemChangeList><![CDATA[wmA,wmB]]></MemChangeList>", &[], false),
        ("<MemChangeCnt>0</MemChangeCnt><MemChangeList/>", &[], false),
        ("<MemChangeCnt>0</MemChangeCnt><MemChangeList></MemChangeList>", &[], false),
        ("<MemChangeCnt>1</MemChangeCnt>", &[], false),
        ("", &[], false),
    ] {
        let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(joined(&JOINED.replace(LIST, list)), (ids, is_complete), "{list}");
    }
}

#[test]
fn of_a_long_list_a_bounded_number_of_ids_is_kept() {
    for (count, is_complete) in [(CHAT_ITEMS_MAX, true), (CHAT_ITEMS_MAX + 1, false), (2_000, false)] {
        let items = (0..count).fold(String::new(), |mut items, n| {
            let _ = write!(items, "<Item>wm{n}</Item>");
            items
        });
        let list = format!("<MemChangeCnt>{count}</MemChangeCnt><MemChangeList>{items}</MemChangeList>");
        let (ids, complete) = joined(&JOINED.replace(LIST, &list));
        assert_eq!((ids.len(), complete), (CHAT_ITEMS_MAX, is_complete), "{count}");
    }
}

#[test]
fn the_order_of_a_group_events_fields_does_not_matter() {
    let (start, rest) = JOINED.split_at("<xml>".len());
    let (names, list) = rest.split_at(rest.find("<MemChangeList>").unwrap());
    let (list, end) = list.split_at(list.find("</xml>").unwrap());
    let reordered = [start, list, names, end].concat();
    assert_ne!(reordered, JOINED);
    assert_eq!(chat(&reordered), chat(JOINED));
}

#[test]
fn a_group_event_in_json_is_parsed_like_one_in_xml() {
    let json = r#"{"ToUserName":"wpDEALER","CreateTime":1403610513,"MsgType":"event",
        "Event":"change_external_chat","ChatId":"wrINVENTED","ChangeType":"update",
        "UpdateDetail":"add_member","JoinScene":3,"MemChangeCnt":1,
        "MemChangeList":{"Item":["wmINVENTED-1"]},"LastMemVer":"9c3f","CurMemVer":"7121"}"#;
    assert_eq!(chat(json), chat(JOINED));
    for (list, ids, is_complete) in [
        (r#"{"Item":"wmINVENTED-1"}"#, &["wmINVENTED-1"][..], true),
        (r#"["wmINVENTED-1"]"#, &["wmINVENTED-1"], true),
        (r#"["wmINVENTED-1","wmINVENTED-2"]"#, &["wmINVENTED-1", "wmINVENTED-2"], false),
        (r#"{"Item":["wmINVENTED-1",4711]}"#, &["wmINVENTED-1"], false),
        (r#"{"Item":[{}]}"#, &[], false),
        (r#"{"Item":null}"#, &[], false),
        ("{}", &[], false),
        (r#""wmINVENTED-1""#, &[], false),
        (r#""""#, &[], false),
        ("null", &[], false),
        ("4711", &[], false),
    ] {
        let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
        let json = json.replace(r#"{"Item":["wmINVENTED-1"]}"#, list);
        assert_eq!(joined(&json), (ids, is_complete), "{list}");
    }
}

#[test]
fn creation_dismissal_and_leaving_need_no_list_and_no_version() {
    let bare = |change: &str, detail: &str| {
        event("wpDEALER", "change_external_chat").replace(
            "</xml>",
            &format!("<ChatId>wrINVENTED</ChatId><ChangeType>{change}</ChangeType>{detail}</xml>"),
        )
    };
    assert_eq!(chat(&bare("create", "")).change, ChatChange::Created);
    assert_eq!(chat(&bare("dismiss", "")).change, ChatChange::Dismissed);
    let left = bare("update", "<UpdateDetail>del_member</UpdateDetail>");
    assert_eq!(chat(&left).change, ChatChange::Left { versions: None });
    let left = JOINED.replace("add_member", "del_member").replace("<JoinScene>3</JoinScene>", "");
    assert_eq!(versions(&left), Some(("9c3f".to_owned(), "7121".to_owned())));
    // An update of an unknown kind may be a join.
    assert_eq!(joined(&bare("update", "")), (Vec::new(), false));
}

#[test]
fn the_versions_of_a_group_count_only_together() {
    let with = |before: &str| versions(&JOINED.replace("<![CDATA[9c3f]]>", before));
    let long = "x".repeat(128);
    assert_eq!(with(&long), Some((long.clone(), "7121".to_owned())));
    for before in ["", " ", &format!("{long}x")] {
        assert_eq!(with(before), None, "{before:?}");
    }
    assert_eq!(versions(&JOINED.replace("CurMemVer", "OtherVer")), None);
}

#[tokio::test]
async fn changes_of_a_group_that_change_no_members_are_ignored() {
    for (from, to) in [
        ("add_member", "change_owner"),
        ("add_member", "change_name"),
        ("add_member", "change_notice"),
        ("add_member", "something_new"),
        ("[update]", "[something_new]"),
    ] {
        let classified = classified("wpDEALER", &JOINED.replace(from, to), None).await;
        assert!(matches!(&classified, Classified::Ignored(_)), "{to}: {classified:?}");
        let created_at = Timestamp::from_secs(1_403_610_513);
        assert_eq!(classified.kind(), Some((Kind::ChangeExternalChat, Some(created_at))));
        assert_eq!(classified.corp_id().map(CorpId::as_str), Some("wpDEALER"));
    }
}

#[test]
fn a_group_event_without_a_valid_group_or_change_type_is_an_error() {
    let error = |from: &str, to: &str| parse(JOINED.replace(from, to).as_bytes()).unwrap_err().to_string();
    for change in ["update", "create", "dismiss"] {
        let text = JOINED.replace("[update]", &format!("[{change}]")).replace("wrINVENTED", "");
        assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), "the field ChatId is missing");
    }
    assert_eq!(error("wrINVENTED", &"x".repeat(200)), "the field ChatId is longer than 128 bytes");
    assert_eq!(error("ChangeType", "Other"), "the field ChangeType is missing");
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
    // What does not name its corp is not accepted for a corp that nobody knows.
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
