//! Members and the app's visible range, in conversions.

use super::super::{By, Change, Invisible, MemberChange};
use super::*;

#[tokio::test]
async fn a_customer_converts_while_one_of_the_members_is_in_range() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let corp_id = &dealer.corp_id;
    let (person, other) = (bench.sim.add_person(), bench.sim.add_person());
    bench.mint(&person).await;
    bench.mint(&other).await;
    let id = bench.befriend(&dealer, &person);
    let _ = bench.sim.befriend(corp_id, &person, "lisi", None);
    let other_id = bench.sim.befriend(corp_id, &other, "wangwu", None).external_userid;
    let converted = async || rows(&bench.resolve(&dealer, &[&id, &other_id]).await).len();

    bench.sim.set_member_visible(corp_id, "zhangsan", false);
    assert_eq!(converted().await, 2);
    bench.sim.set_customer_contact(corp_id, "lisi", false);
    assert_eq!(converted().await, 1);
    bench.sim.configure(|options| options.invisible = Invisible::FailBatch(60_011));
    assert_eq!(bench.resolve(&dealer, &[&id, &other_id]).await["errcode"], 60_011);
    assert_eq!(bench.resolve(&dealer, &[&other_id]).await["errcode"], 0);
    bench.sim.set_member_visible(corp_id, "zhangsan", true);
    assert_eq!(converted().await, 2);

    bench.sim.remove_member(corp_id, "wangwu");
    assert_eq!(converted().await, 1);
    assert_eq!(bench.sim.followers(corp_id, &other), []);
    assert_eq!(bench.sim.truth().len(), 2);
}

#[tokio::test]
async fn a_member_of_a_group_converts_while_the_owner_is_in_range_whoever_added_them() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let corp_id = &dealer.corp_id;
    let person = bench.sim.add_person();
    bench.mint(&person).await;
    let id = bench.befriend(&dealer, &person);
    let chat_id = bench.sim.add_chat_owned(corp_id, "laoban");
    let _ = bench.sim.join_chat(&chat_id, std::slice::from_ref(&person));
    let ask = async || {
        let body = json!({ "chat_id": chat_id, "external_userid": [id, "wm-elsewhere"] });
        let answer = bench.ask(&dealer, Api::ExternalUseridToPendingId, body).await;
        (answer["errcode"].as_i64().unwrap(), answer["result"].as_array().map_or(0, Vec::len))
    };

    bench.sim.set_member_visible(corp_id, "zhangsan", false);
    assert_eq!(rows(&bench.resolve(&dealer, &[&id]).await), []);
    assert_eq!(ask().await, (0, 1));
    bench.sim.set_member_visible(corp_id, "laoban", false);
    assert_eq!(ask().await, (0, 0));
    bench.sim.configure(|options| options.invisible = Invisible::FailBatch(60_011));
    assert_eq!(ask().await, (60_011, 0));
    let _ = bench.sim.change_chat_owner(&chat_id, "xinlaoban");
    assert_eq!(ask().await, (0, 1));
    let _ = bench.sim.dismiss_chat(&chat_id);
    assert_eq!(ask().await, (49_008, 0));
}

#[tokio::test]
async fn followers_are_the_friends_of_now_with_the_time_and_state_of_the_last_add() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let corp_id = &dealer.corp_id;
    let person = bench.sim.add_person();
    let start = bench.sim.world().now();
    let _ = bench.sim.befriend(corp_id, &person, "zhangsan", Some("poster"));
    let _ = bench.sim.befriend(corp_id, &person, "lisi", None);
    let _ = bench.sim.befriend_half(corp_id, &person, "wangwu", None);
    bench.clock.advance_ms(5_000);
    let _ = bench.sim.unfriend(corp_id, &person, "lisi", By::Customer);
    let _ = bench.sim.befriend(corp_id, &person, "zhangsan", Some("fair"));
    let again = start.plus_ms(5_000);
    let followers = [("zhangsan".to_owned(), again, Some("fair".to_owned()))];
    assert_eq!(bench.sim.followers(corp_id, &person), followers);
}

#[tokio::test]
async fn an_unverified_corp_cannot_convert() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let person = bench.sim.add_person();
    bench.mint(&person).await;
    let id = bench.befriend(&dealer, &person);
    bench.sim.set_qualification(&dealer.corp_id, 1);
    assert_eq!(bench.resolve(&dealer, &[&id]).await["errcode"], 43_009);
    bench.sim.set_qualification(&dealer.corp_id, 2);
    assert_eq!(rows(&bench.resolve(&dealer, &[&id]).await).len(), 1);
}

#[tokio::test]
async fn a_members_event_is_the_dealers_and_has_the_dealers_agent() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let change = Change::Member { user_id: "lisi".into(), change: MemberChange::Subscribed };
    let event = bench.sim.event(&dealer.corp_id, &change);
    assert_eq!(event.upstream_corp_id, bench.app.corp_id);
    assert_eq!(element(&event.inner, "ToUserName"), Some(dealer.corp_id.as_str()));
    assert_eq!(element(&event.inner, "AgentID"), Some(dealer.agent_id.to_string().as_str()));
}
