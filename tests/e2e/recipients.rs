//! Which callbacks are accepted: for whom they are encrypted, which dealer they are about, and which events
//! are stored. Redriving quarantined messages is in `events`.

use std::time::Duration;

use serde_json::json;
use unionlink::simulator::Change;

use crate::callback::post;
use crate::harness::World;

const STRAY: &str = "wwSOMEBODYELSE000";

/// Waits until the app has this many dealers.
async fn dealers_listed(world: &World, count: usize) {
    world.until("/v1/status", |status| status["dealers"]["brand"]["shared"] == count).await;
}

/// An event of `corp_id` with these further fields.
fn event(corp_id: &str, name: &str, fields: &str) -> String {
    format!(
        "<xml><ToUserName><![CDATA[{corp_id}]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>\
         <CreateTime>1403610513</CreateTime><MsgType><![CDATA[event]]></MsgType>\
         <Event><![CDATA[{name}]]></Event>{fields}</xml>"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_an_unknown_receive_id_and_malformed_ones_are_quarantined_once() {
    let world = World::usual().await;
    let (_, event) = world.befriend(0, &world.wecom.add_person(), "zhangsan");
    let stray = world.wecom.seal_with(&event, STRAY);
    assert_eq!(post(&world, &stray).await, (200, "success".to_owned()));
    assert_eq!(post(&world, &stray).await, (200, "success".to_owned()));
    let gibberish = world.wecom.seal_text(&world.corp.corp_id, "not an event at all");
    assert_eq!(post(&world, &gibberish).await, (200, "success".to_owned()));
    let quarantined = world.get("/v1/events?state=quarantined").await["events"].clone();
    let rows = quarantined.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["reason"], &rows[0]["receive_id"]), (&json!("receive_id"), &json!(STRAY)));
    assert_eq!(rows[1]["reason"], "not_understood");
    assert!(rows[1]["detail"].as_str().unwrap().contains("XML"), "{}", rows[1]);
    let row = rows[0]["id"].as_str().unwrap();
    let (status, problem) = world.post(&format!("/v1/events/{row}/redrive"), &json!(null)).await;
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
    assert!(problem["hint"].as_str().unwrap().contains("accept_receive_ids"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redriving_a_change_of_the_chain_has_the_dealers_listed_again() {
    let mut world = World::usual().await;
    let change = world.wecom.event(&world.dealers[0].corp_id, &Change::ShareChainChange { agent_id: 1 });
    let stray = world.wecom.seal_with(&change, STRAY);
    assert_eq!(post(&world, &stray).await, (200, "success".to_owned()));
    world.stop().await.unwrap();
    world.setup.app = format!("accept_receive_ids = [\"{STRAY}\"]");
    world.start().await;
    dealers_listed(&world, 2).await;
    let _ = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer");
    world.clock.skip(Duration::from_mins(1));
    let (_, answer) = world.post("/v1/events/redrive", &json!({})).await;
    assert_eq!(answer["redriven"], 1, "{answer}");
    dealers_listed(&world, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dealers_corp_id_is_accepted_as_receive_id() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    dealers_listed(&world, 2).await;
    let (_, event) = world.befriend(0, &fans[0], "zhangsan");
    let sealed = world.wecom.seal_with(&event, &world.dealers[0].corp_id);
    assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
    world.linked(&fans[0], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_of_a_new_dealer_is_accepted_under_its_own_id_and_linked() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    dealers_listed(&world, 2).await;
    let newcomer = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer");
    let friendship = world.wecom.befriend(&newcomer.corp_id, &fans[0], "zhangsan", Some("spring"));
    let sealed = world.wecom.seal_with(&friendship.event, &newcomer.corp_id);
    assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
    world.linked(&fans[0], 1).await;
    assert_eq!(world.get("/v1/status").await["callbacks"]["quarantined"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_event_of_a_new_dealer_has_the_dealers_listed_again() {
    let world = World::usual().await;
    dealers_listed(&world, 2).await;
    let newcomer = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer").corp_id;
    world.clock.skip(Duration::from_mins(1));
    let text = event(&newcomer, "enter_agent", "");
    let sealed = world.wecom.seal_text(&world.corp.corp_id, &text);
    assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
    dealers_listed(&world, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_groups_ranges_and_the_app_are_accepted_once() {
    let world = World::usual().await;
    let group = "<ChatId>wrINVENTED</ChatId><ChangeType>update</ChangeType>\
         <UpdateDetail>add_member</UpdateDetail><MemChangeCnt>1</MemChangeCnt>\
         <MemChangeList><Item>wmINVENTED</Item></MemChangeList>\
         <LastMemVer>1</LastMemVer><CurMemVer>2</CurMemVer>";
    for (name, fields) in [("change_external_chat", group), ("subscribe", ""), ("low_active", "")] {
        let text = event(&world.dealers[0].corp_id, name, fields);
        let sealed = world.wecom.seal_text(&world.corp.corp_id, &text);
        for _ in 0..2 {
            assert_eq!(post(&world, &sealed).await, (200, "success".to_owned()));
        }
    }
    let status = world.get("/v1/status").await;
    let outcomes =
        ["accepted", "duplicates", "ignored"].map(|name| status["callbacks"][name].as_u64().unwrap());
    assert_eq!(outcomes, [3, 3, 0]);
}
