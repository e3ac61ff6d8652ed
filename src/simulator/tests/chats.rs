//! Customer groups.

use super::super::{Event, ItemForm, Leave};
use super::*;

async fn get(bench: &Bench, dealer: &Dealer, chat_id: &str) -> Value {
    bench.ask(dealer, Api::GroupChatGet, json!({ "chat_id": chat_id, "need_name": 1 })).await
}

/// The ids in the member list of an answer, which are sorted.
fn members(answer: &Value) -> Vec<&str> {
    let list = answer["group_chat"]["member_list"].as_array().unwrap_or_else(|| panic!("{answer}"));
    list.iter().map(|member| member["userid"].as_str().unwrap()).collect()
}

fn versions(event: &Event) -> [String; 2] {
    ["LastMemVer", "CurMemVer"].map(|name| element(&event.inner, name).unwrap().to_owned())
}

#[tokio::test]
async fn a_group_lists_its_members_by_kind_and_its_version_follows_every_change() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let people = bench.sim.add_people(2);
    bench.mint(&people[0]).await;
    let chat_id = bench.sim.add_chat_owned(&dealer.corp_id, "laoban");
    let created = bench.sim.chat_created(&chat_id);
    assert_eq!(element(&created.inner, "ChangeType"), Some("create"));
    let founded = bench.sim.chat_version(&chat_id);
    bench.clock.advance_ms(5_000);
    let joined = bench.sim.join_chat(&chat_id, &people);
    let invited = bench.sim.join_chat_members(&chat_id, &["xiaoli"]);
    let ids: Vec<String> =
        people.iter().map(|person| bench.sim.external_userid(&dealer.corp_id, person).unwrap()).collect();

    let answer = get(&bench, &dealer, &chat_id).await;
    let mut all = [ids[0].as_str(), ids[1].as_str(), "laoban", "xiaoli"];
    all.sort_unstable();
    assert_eq!(members(&answer), all);
    let group = &answer["group_chat"];
    assert_eq!(
        (group["owner"].as_str(), group["create_time"].as_i64()),
        (Some("laoban"), Some(1_795_309_323))
    );
    for member in group["member_list"].as_array().unwrap() {
        let is_customer = ids.iter().any(|id| member["userid"] == json!(id));
        assert_eq!(member["type"], if is_customer { 2 } else { 1 });
        let joined_later = member["userid"] != "laoban";
        assert_eq!(member["join_time"], 1_795_309_323 + 5 * i64::from(joined_later));
        assert!(member["name"].is_string() && member.get("unionid").is_none());
    }

    let body = json!({ "chat_id": chat_id, "external_userid": [ids[0]] });
    let converted =
        async || rows(&bench.ask(&dealer, Api::ExternalUseridToPendingId, body.clone()).await).len();
    assert_eq!(converted().await, 1);
    let left = bench.sim.leave_chat(&chat_id, &people[0], Leave::BySelf);
    assert_eq!(members(&get(&bench, &dealer, &chat_id).await).len(), 3);
    let seen = [versions(&joined), versions(&invited), versions(&left)];
    assert_eq!(seen[0][0], founded);
    assert_eq!([&seen[0][1], &seen[1][1]], [&seen[1][0], &seen[2][0]]);
    assert_eq!(seen[2][1], bench.sim.chat_version(&chat_id));
    let mut distinct: Vec<&String> = seen.iter().flatten().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() == 4 && distinct.iter().all(|version| version.len() == 32), "{distinct:?}");
    assert_eq!(converted().await, 0);
}

#[tokio::test]
async fn an_event_may_list_fewer_members_than_it_counts() {
    let options = Options { chat_items_max: Some(2), item_form: ItemForm::Cdata, ..Options::default() };
    let bench = Bench::start(options).await;
    let dealer = bench.dealer();
    let chat_id = bench.sim.add_chat(&dealer.corp_id);
    let joined = bench.sim.join_chat(&chat_id, &bench.sim.add_people(3));
    assert_eq!(element(&joined.inner, "MemChangeCnt"), Some("3"));
    assert_eq!(joined.inner.matches("<Item><![CDATA[wm").count(), 2);
    assert_eq!(element(&joined.inner, "QuitScene"), None);
    assert_eq!(members(&get(&bench, &dealer, &chat_id).await).len(), 4);
}

#[tokio::test]
async fn reading_a_group_lags_behind_the_event() {
    let bench = Bench::start(Options { chat_lag_ms: 2_000, ..Options::default() }).await;
    let dealer = bench.dealer();
    let chat_id = bench.sim.add_chat(&dealer.corp_id);
    let seen = async || {
        let answer = get(&bench, &dealer, &chat_id).await;
        let version = answer["group_chat"]["member_version"].as_str().unwrap().to_owned();
        (members(&answer).len(), version)
    };
    let empty = bench.sim.chat_version(&chat_id);
    let _ = bench.sim.join_chat(&chat_id, &bench.sim.add_people(2));
    let first = bench.sim.chat_version(&chat_id);
    bench.clock.advance_ms(1_000);
    let _ = bench.sim.join_chat(&chat_id, &bench.sim.add_people(1));
    let second = bench.sim.chat_version(&chat_id);
    bench.clock.advance_ms(999);
    assert_eq!(seen().await, (1, empty));
    bench.clock.advance_ms(1);
    assert_eq!(seen().await, (3, first.clone()));
    bench.clock.advance_ms(999);
    assert_eq!(seen().await, (3, first));
    bench.clock.advance_ms(1);
    assert_eq!(seen().await, (4, second));
}

#[tokio::test]
async fn groups_are_listed_in_pages_while_their_owner_is_visible() {
    let bench = Bench::start(Options::default()).await;
    let (dealer, other) = (bench.dealer(), bench.dealer());
    let corp_id = &dealer.corp_id;
    let mine: Vec<String> = (0..3).map(|_| bench.sim.add_chat_owned(corp_id, "laoban")).collect();
    let his = bench.sim.add_chat_owned(corp_id, "laowang");
    let _ = bench.sim.add_chat(&other.corp_id);
    let dismissed = bench.sim.add_chat_owned(corp_id, "laoban");
    let _ = bench.sim.dismiss_chat(&dismissed);
    let list = async |body: Value| bench.ask(&dealer, Api::GroupChatList, body).await;
    let ids = |answer: &Value| -> Vec<(String, u64)> {
        let chats = answer["group_chat_list"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let id = |chat: &Value| chat["chat_id"].as_str().unwrap().to_owned();
        chats.iter().map(|chat| (id(chat), chat["status"].as_u64().unwrap())).collect()
    };

    let mut seen = Vec::new();
    let mut cursor = String::new();
    for chats in [2, 2] {
        let page = list(json!({ "limit": 2, "cursor": cursor })).await;
        assert_eq!(ids(&page).len(), chats);
        seen.extend(ids(&page).into_iter().map(|(id, _)| id));
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
    }
    assert_eq!(cursor, "");
    assert_eq!(seen, [mine.clone(), vec![his.clone()]].concat());

    bench.sim.set_member_visible(corp_id, "laoban", false);
    assert_eq!(ids(&list(json!({ "limit": 9 })).await), [(his.clone(), 0)]);
    // The groups of an owner that has left are listed only if asked for.
    bench.sim.remove_member(corp_id, "laowang");
    assert_eq!(ids(&list(json!({ "limit": 9 })).await), []);
    let filter = json!({ "userid_list": ["laowang", "laoban"] });
    let body = json!({ "limit": 9, "owner_filter": filter, "status_filter": 1 });
    assert_eq!(ids(&list(body).await), [(his, 1)]);
}

#[tokio::test]
async fn the_group_list_refuses_what_the_documents_refuse() {
    let bench = Bench::start(Options { chat_range_members_max: 2, ..Options::default() }).await;
    let dealer = bench.dealer();
    let errcode = async |body: Value| bench.ask(&dealer, Api::GroupChatList, body).await["errcode"].clone();
    let too_many = vec!["u"; 101];
    for body in [
        json!({}),
        json!({ "limit": 1_001 }),
        json!({ "limit": 9, "status_filter": 4 }),
        json!({ "limit": 9, "owner_filter": { "userid_list": too_many } }),
    ] {
        assert_eq!(errcode(body).await, 40_058);
    }
    assert_eq!(errcode(json!({ "limit": 9, "cursor": "7" })).await, 50_100);
    for user_id in ["one", "two"] {
        bench.sim.set_member_visible(&dealer.corp_id, user_id, true);
    }
    assert_eq!(errcode(json!({ "limit": 9 })).await, 0);
    bench.sim.set_member_visible(&dealer.corp_id, "three", true);
    assert_eq!(errcode(json!({ "limit": 9 })).await, 81_017);
    assert_eq!(errcode(json!({ "limit": 9, "owner_filter": { "userid_list": ["one"] } })).await, 0);
}

#[tokio::test]
async fn a_group_that_cannot_be_read_says_why() {
    let bench = Bench::start(Options::default()).await;
    let (dealer, other) = (bench.dealer(), bench.dealer());
    let chat_id = bench.sim.add_chat_owned(&dealer.corp_id, "laoban");
    let errcode = async |dealer: &Dealer| get(&bench, dealer, &chat_id).await["errcode"].clone();
    assert_eq!(bench.ask(&dealer, Api::GroupChatGet, json!({})).await["errcode"], 40_058);
    assert_eq!(get(&bench, &dealer, "wr-nobody").await["errcode"], 40_050);
    assert_eq!(errcode(&other).await, 92_002);
    assert_eq!(errcode(&dealer).await, 0);
    bench.sim.set_member_visible(&dealer.corp_id, "laoban", false);
    assert_eq!(errcode(&dealer).await, 60_011);
    bench.sim.set_member_visible(&dealer.corp_id, "laoban", true);
    bench.sim.set_chat_error(&chat_id, Some(90_501));
    assert_eq!(errcode(&dealer).await, 90_501);
    bench.sim.set_chat_error(&chat_id, None);
    let renamed = bench.sim.rename_chat(&chat_id, "Neighbours");
    assert_eq!(element(&renamed.inner, "UpdateDetail"), Some("change_name"));
    let noticed = bench.sim.change_chat_notice(&chat_id, "be kind");
    assert_eq!(element(&noticed.inner, "UpdateDetail"), Some("change_notice"));
    let group = get(&bench, &dealer, &chat_id).await["group_chat"].clone();
    assert_eq!((group["name"].as_str(), group["notice"].as_str()), (Some("Neighbours"), Some("be kind")));
    let dismissed = bench.sim.dismiss_chat(&chat_id);
    assert_eq!(element(&dismissed.inner, "ChangeType"), Some("dismiss"));
    assert_eq!(errcode(&dealer).await, 49_008);
}
