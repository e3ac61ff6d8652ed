//! The lists of members and customers.

use super::super::{By, Invisible, PageFill, Permission};
use super::*;
use crate::domain::time::HOUR_MS;

/// `(user id, external_userid)` of the rows of `batch/get_by_user`.
fn pairs(answer: &Value) -> Vec<(String, String)> {
    let rows = answer["external_contact_list"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pair = |row: &Value| {
        (text(&row["follow_info"]["userid"]), text(&row["external_contact"]["external_userid"]))
    };
    rows.iter().map(pair).collect()
}

/// Every page of a list, whose `body` gets the cursors.
async fn pages(bench: &Bench, dealer: &Dealer, api: Api, mut body: Value) -> Vec<Value> {
    let mut pages = Vec::new();
    loop {
        let page = bench.ask(dealer, api, body.clone()).await;
        assert_eq!(page["errcode"], 0, "{page}");
        body["cursor"] = page["next_cursor"].clone();
        pages.push(page);
        if body["cursor"] == "" {
            return pages;
        }
    }
}

async fn follow_users(bench: &Bench, dealer: &Dealer) -> Value {
    let token = bench.dealer_token(dealer).await;
    bench.get(Api::GetFollowUserList, &format!("access_token={token}")).await["follow_user"].clone()
}

async fn customers_of(bench: &Bench, dealer: &Dealer, user_id: &str) -> Value {
    let token = bench.dealer_token(dealer).await;
    bench.get(Api::ExternalContactList, &format!("access_token={token}&userid={user_id}")).await
}

#[tokio::test]
async fn members_are_listed_while_they_are_visible_and_have_customer_contact() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let corp_id = &dealer.corp_id;
    bench.befriend(&dealer, &bench.sim.add_person());
    for user_id in ["lisi", "wangwu", "zhaoliu"] {
        bench.sim.set_member_visible(corp_id, user_id, true);
    }
    bench.sim.set_member_visible(corp_id, "lisi", false);
    bench.sim.set_customer_contact(corp_id, "wangwu", false);
    bench.sim.remove_member(corp_id, "zhaoliu");
    assert_eq!(follow_users(&bench, &dealer).await, json!(["zhangsan"]));
    // The upstream token lists the upstream corp's own members.
    let own = bench.get(Api::GetFollowUserList, &format!("access_token={}", bench.token().await)).await;
    assert_eq!(own["follow_user"], json!([]));
}

#[tokio::test]
async fn a_member_without_customers_is_an_error_with_an_empty_list() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let corp_id = &dealer.corp_id;
    let person = bench.sim.add_person();
    let id = bench.befriend(&dealer, &person);
    let _ = bench.sim.befriend_half(corp_id, &bench.sim.add_person(), "zhangsan", None);
    let answer = customers_of(&bench, &dealer, "zhangsan").await;
    assert_eq!((&answer["errcode"], &answer["external_userid"]), (&json!(0), &json!([id])));
    // A customer that deleted the member is still listed; one that the member deleted is not.
    let _ = bench.sim.unfriend(corp_id, &person, "zhangsan", By::Customer);
    assert_eq!(customers_of(&bench, &dealer, "zhangsan").await["external_userid"], json!([id]));
    let _ = bench.sim.unfriend(corp_id, &person, "zhangsan", By::Member);
    let answer = customers_of(&bench, &dealer, "zhangsan").await;
    assert_eq!((&answer["errcode"], &answer["external_userid"]), (&json!(84_061), &json!([])));
    assert_eq!(customers_of(&bench, &dealer, "nobody").await["errcode"], 60_111);
    bench.sim.set_member_visible(corp_id, "zhangsan", false);
    assert_eq!(customers_of(&bench, &dealer, "zhangsan").await["errcode"], 60_011);
}

#[tokio::test]
async fn get_by_user_has_one_row_for_each_member_and_customer_over_all_pages() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let people = bench.sim.add_people(130);
    let mut expected = Vec::new();
    for person in &people {
        let id = bench.sim.befriend(&dealer.corp_id, person, "zhangsan", Some("poster")).external_userid;
        expected.push(("zhangsan".to_owned(), id));
    }
    bench.clock.advance_ms(7_000);
    for person in &people[..90] {
        let id = bench.sim.befriend(&dealer.corp_id, person, "lisi", None).external_userid;
        expected.push(("lisi".to_owned(), id));
    }
    expected.sort_unstable();
    // More than 100 rows a page are clipped, not refused; members may be named twice.
    let body = json!({ "userid_list": ["zhangsan", "lisi", "lisi"], "limit": 1_000 });
    let pages = pages(&bench, &dealer, Api::GetByUser, body).await;
    assert_eq!(pages.iter().map(|page| pairs(page).len()).collect::<Vec<_>>(), [100, 100, 20]);
    let mut listed: Vec<_> = pages.iter().flat_map(pairs).collect();
    listed.sort_unstable();
    assert_eq!(listed, expected);
    for row in pages.iter().flat_map(|page| page["external_contact_list"].as_array().unwrap()) {
        let info = &row["follow_info"];
        let (state, since) = match info["userid"].as_str().unwrap() {
            "lisi" => (None, 1_795_309_330),
            _ => (Some(json!("poster")), 1_795_309_323),
        };
        assert_eq!((info.get("state"), &info["createtime"]), (state.as_ref(), &json!(since)));
    }
    let calls = bench.sim.calls().into_iter().filter(|call| call.api == Api::GetByUser);
    let of_dealer = (Some(dealer.corp_id.clone()), 3);
    assert_eq!(calls.map(|call| (call.corp_id, call.ids)).collect::<Vec<_>>(), vec![of_dealer; 3]);
}

#[tokio::test]
async fn pages_may_be_short_or_empty_with_others_to_follow() {
    let bench = Bench::start(Options { page_fill: PageFill::PerMember, ..Options::default() }).await;
    let dealer = bench.dealer();
    bench.sim.set_member_visible(&dealer.corp_id, "lisi", true);
    for person in &bench.sim.add_people(3) {
        let _ = bench.sim.befriend(&dealer.corp_id, person, "an", None);
        bench.befriend(&dealer, person);
    }
    let body = json!({ "userid_list": ["an", "lisi", "zhangsan"], "limit": 2 });
    let pages = pages(&bench, &dealer, Api::GetByUser, body).await;
    assert_eq!(pages.iter().map(|page| pairs(page).len()).collect::<Vec<_>>(), [2, 1, 0, 2, 1]);
}

#[tokio::test]
async fn get_by_user_leaves_out_members_outside_the_range_or_fails() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let person = bench.sim.add_person();
    let id = bench.befriend(&dealer, &person);
    let _ = bench.sim.befriend(&dealer.corp_id, &person, "lisi", None);
    bench.sim.set_member_visible(&dealer.corp_id, "lisi", false);
    let ask = async || {
        let body = json!({ "userid_list": ["zhangsan", "lisi", "nobody"] });
        bench.ask(&dealer, Api::GetByUser, body).await
    };
    assert_eq!(pairs(&ask().await), [("zhangsan".to_owned(), id)]);
    bench.sim.configure(|options| options.unlisted_member = Invisible::FailBatch(60_011));
    assert_eq!(ask().await["errcode"], 60_011);
    for (body, errcode) in [
        (json!({ "userid_list": [] }), 40_058),
        (json!({ "userid_list": vec!["u"; 101] }), 40_058),
        (json!({ "userid_list": ["zhangsan"], "cursor": "not a cursor" }), 50_100),
    ] {
        assert_eq!(bench.ask(&dealer, Api::GetByUser, body).await["errcode"], errcode);
    }
}

#[tokio::test]
async fn contact_list_has_friends_groups_and_people_who_are_no_customers() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let corp_id = &dealer.corp_id;
    let (friend, guest) = (bench.sim.add_person(), bench.sim.add_person());
    let friend_id = bench.befriend(&dealer, &friend);
    let _ = bench.sim.befriend_half(corp_id, &bench.sim.add_person(), "zhangsan", None);
    let chat_id = bench.sim.add_chat(corp_id);
    bench.clock.advance_ms(60_000);
    let _ = bench.sim.befriend(corp_id, &friend, "zhangsan", None);
    let _ = bench.sim.join_chat(&chat_id, &[friend.clone(), guest.clone()]);
    let hidden = bench.sim.add_chat_owned(corp_id, "laoban");
    let _ = bench.sim.join_chat(&hidden, std::slice::from_ref(&guest));
    bench.sim.set_member_visible(corp_id, "laoban", false);
    let guest_id = bench.sim.external_userid(corp_id, &guest).unwrap();

    let pages = pages(&bench, &dealer, Api::ContactList, json!({ "limit": 2 })).await;
    assert_eq!(pages.len(), 3);
    let rows: Vec<&Value> = pages.iter().flat_map(|page| page["info_list"].as_array().unwrap()).collect();
    let (customers, strangers): (Vec<&Value>, Vec<&Value>) =
        rows.into_iter().partition(|row| row["is_customer"] == true);
    assert_eq!(strangers.len(), 3);
    assert!(strangers.iter().all(|row| row["name"].is_string() && row.get("external_userid").is_none()));
    assert_eq!(strangers.iter().filter(|row| row.get("chat_name").is_some()).count(), 1);
    let mut seen: Vec<_> = customers
        .iter()
        .map(|row| {
            (row["external_userid"].as_str().unwrap(), row["chat_id"].as_str(), row["add_time"].as_i64())
        })
        .collect();
    seen.sort_unstable();
    // The time of a friend is that of the first add, although there was a later one.
    let mut expected = [
        (friend_id.as_str(), None, Some(1_795_309_323)),
        (friend_id.as_str(), Some(chat_id.as_str()), Some(1_795_309_383)),
        (guest_id.as_str(), Some(chat_id.as_str()), Some(1_795_309_383)),
    ];
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let friend_row = customers.iter().find(|row| row.get("chat_id").is_none()).unwrap();
    assert_eq!(friend_row["follow_userid"], "zhangsan");
}

#[tokio::test]
async fn a_cursor_of_contact_list_lives_four_hours_and_the_call_can_be_refused() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    for person in &bench.sim.add_people(3) {
        bench.befriend(&dealer, person);
    }
    let first = bench.ask(&dealer, Api::ContactList, json!({ "limit": 1 })).await;
    let next = async || {
        let body = json!({ "limit": 1, "cursor": first["next_cursor"] });
        bench.ask(&dealer, Api::ContactList, body).await["errcode"].clone()
    };
    bench.clock.advance_ms(4 * HOUR_MS - 1);
    assert_eq!(next().await, 0);
    bench.clock.advance_ms(1);
    assert_eq!(next().await, 60_268);
    // The cursor of another list is refused.
    let other = json!({ "userid_list": ["zhangsan"], "limit": 1 });
    let other = bench.ask(&dealer, Api::GetByUser, other).await["next_cursor"].clone();
    let answer = bench.ask(&dealer, Api::ContactList, json!({ "cursor": other })).await;
    assert_eq!(answer["errcode"], 50_100);
    bench.sim.configure(|options| options.contact_list = Permission::Refused(48_002));
    assert_eq!(bench.ask(&dealer, Api::ContactList, json!({})).await["errcode"], 48_002);
}
