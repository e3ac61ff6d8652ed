//! Group events (`change_external_chat`): lists of new members in every form, versions, and other changes.

use std::fmt::Write as _;

use super::super::Classified;
use super::super::message::{Message, parse};
use super::{JOINED, classified, event};
use crate::domain::chat::{CHAT_ITEMS_MAX, ChatChange, ChatEvent};
use crate::domain::event::Kind;
use crate::domain::ids::CorpId;
use crate::domain::time::Timestamp;

/// The member list in [`JOINED`], with its count.
const LIST: &str = "<MemChangeCnt>1</MemChangeCnt>\
    <MemChangeList><Item><![CDATA[wmINVENTED-1]]></Item></MemChangeList>";

fn chat(text: &str) -> ChatEvent {
    match parse(text.as_bytes()) {
        Ok(Message::Chat(event)) => event,
        other => panic!("{other:?} from {text}"),
    }
}

/// The new members in an event, and whether the list of them is complete.
fn listed(text: &str) -> (Vec<String>, bool) {
    match chat(text).change {
        ChatChange::Joined { items, is_complete, .. } | ChatChange::Left { items, is_complete, .. } => {
            (items.iter().map(|id| id.as_str().to_owned()).collect(), is_complete)
        }
        other => panic!("{other:?} from {text}"),
    }
}

/// The versions of the member list before and after the change.
fn versions(text: &str) -> Option<(String, String)> {
    match chat(text).change {
        ChatChange::Joined { versions, .. } | ChatChange::Left { versions, .. } => {
            versions.map(|versions| (versions.before.0, versions.after.0))
        }
        other => panic!("{other:?} from {text}"),
    }
}

#[test]
fn a_join_is_parsed_in_the_form_seen_in_production() {
    let ChatEvent { corp_id, created_at, chat_id, change } = chat(JOINED);
    assert_eq!((corp_id.as_str(), chat_id.as_str()), ("wpDEALER", "wrINVENTED"));
    assert_eq!(created_at, Timestamp::from_secs(1_403_610_513));
    assert!(matches!(change, ChatChange::Joined { .. }));
    assert_eq!(listed(JOINED), (vec!["wmINVENTED-1".to_owned()], true));
    assert_eq!(versions(JOINED), Some(("9c3f".to_owned(), "7121".to_owned())));
}

#[test]
fn a_join_is_parsed_in_the_documented_form_whose_count_is_not_that_of_the_list() {
    let list = "<QuitScene>0</QuitScene><MemChangeCnt>10</MemChangeCnt>\
        <MemChangeList><Item>Jack</Item><Item>Rose</Item></MemChangeList>";
    let documented = JOINED.replace(LIST, list).replace("<![CDATA[", "").replace("]]>", "");
    assert_eq!(listed(&documented), (vec!["Jack".to_owned(), "Rose".to_owned()], false));
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
        assert_eq!(listed(&JOINED.replace(LIST, list)), (ids, is_complete), "{list}");
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
        let (ids, complete) = listed(&JOINED.replace(LIST, &list));
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
        assert_eq!(listed(&json), (ids, is_complete), "{list}");
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
    let nobody = ChatChange::Left { items: Vec::new(), is_complete: false, versions: None };
    assert_eq!(chat(&left).change, nobody);
    let left = JOINED.replace("add_member", "del_member").replace("<JoinScene>3</JoinScene>", "");
    assert_eq!(versions(&left), Some(("9c3f".to_owned(), "7121".to_owned())));
    assert_eq!(listed(&left), (vec!["wmINVENTED-1".to_owned()], true));
    // An update of an unknown kind may be a join.
    assert_eq!(listed(&bare("update", "")), (Vec::new(), false));
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
