//! The calls about a dealer's customers: its members, their customers, its groups and the members of one
//! group.

use super::*;
use crate::domain::chat::MemberVersion;
use crate::domain::sighting::{Sighting, SightingPlace};

fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

fn followed(id: &str, by: &str, state: Option<&str>, since: Option<i64>) -> Sighting {
    let place = SightingPlace::Follower { user_id: user(by), state: state.map(str::to_owned) };
    Sighting { external_userid: customer(id), place, since: since.map(Timestamp::from_secs) }
}

fn in_group(id: &str, chat_id: &str, since: Option<i64>) -> Sighting {
    let place = SightingPlace::Chat(chat(chat_id));
    Sighting { external_userid: customer(id), place, since: since.map(Timestamp::from_secs) }
}

#[tokio::test]
async fn members_are_read_with_a_get_and_come_in_the_order_of_their_ids() {
    let (client, script) = client([json!({"errcode": 0, "follow_user": ["woB", "woA", "", 7, "woB"]})]);
    let members = client.members(&app(), &dealer()).await.unwrap();
    assert_eq!(members, [user("woA"), user("woB")]);
    let target = "/cgi-bin/externalcontact/get_follow_user_list?access_token=DEALER".to_owned();
    assert_eq!(script.sent(), [(target, None)]);
}

#[tokio::test]
async fn every_pair_of_member_and_customer_is_a_row() {
    let row = |id: &str, follow_info: Value| {
        let external_contact = json!({"external_userid": id, "type": 2});
        json!({"external_contact": external_contact, "follow_info": follow_info})
    };
    let (client, script) = client([
        json!({
            "errcode": 0,
            "external_contact_list": [
                row("wmA", json!({"userid": "woM1", "createtime": 1_525_881_637, "state": "外联二维码1"})),
                row("wmA", json!({"userid": "woM2", "createtime": "1525881638", "state": ""})),
                row("wmB", json!({"userid": "woM1", "state": "x".repeat(257)})),
                row("", json!({"userid": "woM1"})),
                {"external_contact": {"external_userid": "wmC"}},
            ],
            "next_cursor": "NEXT",
            "fail_info": {"unlicensed_userid_list": ["woM3"]},
        }),
        json!({"errcode": 0, "external_contact_list": null, "next_cursor": "", "fail_info": []}),
    ]);
    let members = [user("woM1"), user("woM2"), user("woM3")];
    let page = client.customers_of(&app(), &dealer(), &members, "").await.unwrap();
    let rows = vec![
        followed("wmA", "woM1", Some("外联二维码1"), Some(1_525_881_637)),
        followed("wmA", "woM2", None, Some(1_525_881_638)),
        followed("wmB", "woM1", None, None),
    ];
    let next_cursor = "NEXT".to_owned();
    assert_eq!(page, CustomerPage { rows, next_cursor, unlicensed: vec![user("woM3")] });
    let last = client.customers_of(&app(), &dealer(), &members, "NEXT").await.unwrap();
    assert_eq!(last, CustomerPage::default());

    let target = "externalcontact/batch/get_by_user?access_token=DEALER";
    let body = json!({"userid_list": ["woM1", "woM2", "woM3"], "limit": 100});
    let mut last_body = body.clone();
    last_body["cursor"] = "NEXT".into();
    assert_eq!(script.sent(), [post(target, body), post(target, last_body)]);
}

#[tokio::test]
async fn a_row_of_a_group_is_a_membership_and_never_a_follower() {
    let (client, script) = client([json!({
        "errcode": 0,
        "info_list": [
            {"is_customer": false, "name": "***开", "follow_userid": "woM1", "chat_name": "外联群1"},
            {"is_customer": true, "external_userid": "wmA", "follow_userid": "woM1", "add_time": 1_694_418},
            {"is_customer": 1, "external_userid": "wmA", "chat_id": "wrG", "add_time": "1694418700"},
            {"is_customer": true, "external_userid": "wmB", "follow_userid": "woM1", "chat_id": "wrG"},
            {"is_customer": true, "external_userid": "wmC", "follow_userid": "woM1", "chat_name": ""},
            {"is_customer": false, "external_userid": "wmD", "follow_userid": "woM1"},
            {"is_customer": true, "follow_userid": "woM1"},
            {"is_customer": true, "external_userid": "wmE"},
            "malformed",
        ],
        "next_cursor": "NEXT",
    })]);
    let page = client.contacts(&app(), &dealer(), "BEFORE").await.unwrap();
    let rows = vec![
        followed("wmA", "woM1", None, Some(1_694_418)),
        in_group("wmA", "wrG", Some(1_694_418_700)),
        in_group("wmB", "wrG", None),
    ];
    assert_eq!(page, CustomerPage { rows, next_cursor: "NEXT".to_owned(), unlicensed: vec![] });
    let target = "externalcontact/contact_list?access_token=DEALER";
    assert_eq!(script.sent(), [post(target, json!({"limit": 1_000, "cursor": "BEFORE"}))]);
}

#[tokio::test]
async fn lists_answer_84061_if_there_are_no_customers() {
    for refusal in [
        json!({"errcode": 84_061, "errmsg": "not external contact", "external_userid": []}),
        json!({"errcode": 84_061, "follow_user": [], "external_contact_list": [], "info_list": []}),
        json!({"errcode": 84_061}),
    ] {
        let (client, _) = client(vec![refusal; 4]);
        assert!(client.members(&app(), &dealer()).await.unwrap().is_empty());
        let page = client.customers_of(&app(), &dealer(), &[user("woM1")], "").await.unwrap();
        assert_eq!(page, CustomerPage::default());
        assert_eq!(client.contacts(&app(), &dealer(), "").await.unwrap(), CustomerPage::default());
        // For a group, 84061 is an error.
        assert!(client.chat(&app(), &dealer(), &chat("wrG")).await.is_err());
    }
}

#[tokio::test]
async fn groups_are_listed_in_the_order_of_the_answer() {
    let (client, script) = client([
        json!({
            "errcode": 0,
            "group_chat_list": [{"chat_id": "wrB", "status": 0}, {"chat_id": ""}, {"chat_id": "wrA"}],
            "next_cursor": "NEXT",
        }),
        json!({"errcode": 0}),
    ]);
    let page = client.chats(&app(), &dealer(), "").await.unwrap();
    assert_eq!(page, (vec![chat("wrB"), chat("wrA")], "NEXT".to_owned()));
    assert_eq!(client.chats(&app(), &dealer(), "NEXT").await.unwrap(), (vec![], String::new()));
    let target = "externalcontact/groupchat/list?access_token=DEALER";
    let bodies = [
        json!({"status_filter": 0, "limit": 1_000}),
        json!({"status_filter": 0, "limit": 1_000, "cursor": "NEXT"}),
    ];
    assert_eq!(script.sent(), bodies.map(|body| post(target, body)));
}

#[tokio::test]
async fn of_a_group_the_customers_are_read_and_the_version() {
    for (version, expected) in [
        (json!("71217227bbd112ecfe3a49c482195cb4"), Some("71217227bbd112ecfe3a49c482195cb4")),
        (json!(""), None),
        (json!("v".repeat(129)), None),
        (json!(null), None),
    ] {
        let (client, script) = client([json!({"errcode": 0, "group_chat": {
            "chat_id": "wrG",
            "owner": "woM1",
            "member_list": [
                {"userid": "woM1", "type": 1, "join_time": 1_572_505_491},
                {"userid": "wmA", "type": 2, "join_time": 1_572_505_491, "join_scene": 1},
                {"userid": "wmB", "type": "2", "join_time": 0},
                {"userid": "", "type": 2},
                {"userid": "wmC"},
            ],
            "member_version": version,
        }})]);
        let members = client.chat(&app(), &dealer(), &chat("wrG")).await.unwrap();
        assert_eq!(
            members.customers,
            [in_group("wmA", "wrG", Some(1_572_505_491)), in_group("wmB", "wrG", None)]
        );
        assert_eq!(members.version, expected.map(|text| MemberVersion(text.to_owned())));
        let target = "externalcontact/groupchat/get?access_token=DEALER";
        assert_eq!(script.sent(), [post(target, json!({"chat_id": "wrG", "need_name": 0}))]);
    }
    // An answer without the group is not an empty group.
    let (client, _) = client([json!({"errcode": 0})]);
    assert!(client.chat(&app(), &dealer(), &chat("wrG")).await.is_err());
}

#[tokio::test]
async fn a_page_that_is_followed_by_itself_or_has_an_endless_cursor_is_an_error() {
    let endless = "x".repeat(4_097);
    for next in ["SAME", endless.as_str()] {
        let (client, _) = client(vec![json!({"errcode": 0, "next_cursor": next}); 3]);
        let results = [
            client.customers_of(&app(), &dealer(), &[], "SAME").await.map(drop),
            client.contacts(&app(), &dealer(), "SAME").await.map(drop),
            client.chats(&app(), &dealer(), "SAME").await.map(drop),
        ];
        let is_body = |result: &Result<(), CallError>| {
            matches!(result, Err(CallError::Transport { cause: Transport::Body, .. }))
        };
        assert!(results.iter().all(is_body), "{results:?}");
    }
}
