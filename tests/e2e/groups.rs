//! Customer groups: every fan that joins one is linked, with the group's id in the calls and in the link.

use serde_json::{Value, json};
use unionlink::clock::Clock as _;
use unionlink::simulator::{Api, Call, Event, ItemForm, Options, Person};

use crate::harness::{Setup, World};

async fn with_options(change: impl FnOnce(&mut Options)) -> World {
    let mut setup = Setup { dealers: 1, ..Setup::default() };
    change(&mut setup.options);
    World::with(setup).await
}

fn calls_of(world: &World, api: Api) -> Vec<Call> {
    world.wecom.calls().into_iter().filter(|call| call.api == api).collect()
}

/// Waits until every fan is linked once, and checks that it was through this group.
async fn linked_through(world: &World, chat_id: &str, people: &[Person]) {
    for person in people {
        let links = world.linked(person, 1).await;
        assert_eq!((&links[0]["source"], &links[0]["chat_id"]), (&json!("chat"), &json!(chat_id)));
    }
    world.check_links(people).await;
}

/// Reports that a new group was created, and waits until its member list has been read: groups that were due
/// before have been read by then, because the lists of one corp are read one after the other.
async fn another_group_is_read(world: &World) {
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    world.deliver(&world.wecom.chat_created(&chat_id)).await;
    let reads = || calls_of(world, Api::GroupChatGet);
    let is_read = || reads().iter().any(|call| call.chat_id.as_ref() == Some(&chat_id));
    world.until("/v1/status", |_| is_read()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_230_people_of_one_event_are_linked_in_three_calls_with_the_groups_id() {
    let world = with_options(|options| options.item_form = ItemForm::Cdata).await;
    let fans = world.mint(230).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    world.deliver(&world.wecom.join_chat(&chat_id, &fans)).await;
    world.until("/v1/status", |status| status["links"] == 230).await;
    let calls = calls_of(&world, Api::ExternalUseridToPendingId);
    let mut ids: Vec<_> = calls.iter().map(|call| call.ids).collect();
    ids.sort_unstable();
    assert_eq!(ids, [30, 100, 100]);
    assert!(calls.iter().all(|call| call.chat_id.as_ref() == Some(&chat_id)), "{calls:?}");
    world.durable().await;
    for fan in &fans {
        let links = world.links(fan).await;
        assert_eq!((&links[0]["source"], &links[0]["chat_id"]), (&json!("chat"), &json!(chat_id)));
    }
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_groups_list_is_read_after_two_seconds_and_the_people_in_it_are_linked() {
    let world = with_options(|_| {}).await;
    let fans = world.mint(3).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    // The only event is that of the creation, which has no version.
    let _ = world.wecom.join_chat(&chat_id, &fans);
    let delivered_at = world.machine.now();
    world.deliver(&world.wecom.chat_created(&chat_id)).await;
    linked_through(&world, &chat_id, &fans).await;
    let reads = calls_of(&world, Api::GroupChatGet);
    assert_eq!(reads.len(), 1, "{reads:?}");
    let waited_ms = reads[0].at.millis_since(delivered_at);
    assert!(waited_ms >= 2_000, "{waited_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_follows_the_known_version_needs_no_reading_of_the_list() {
    let world = with_options(|_| {}).await;
    let fans = world.mint(2).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    let _ = world.wecom.join_chat(&chat_id, &fans[..1]);
    world.deliver(&world.wecom.chat_created(&chat_id)).await;
    linked_through(&world, &chat_id, &fans[..1]).await;
    let joined = world.wecom.join_chat(&chat_id, &fans[1..]);
    world.deliver(&joined).await;
    linked_through(&world, &chat_id, &fans).await;
    another_group_is_read(&world).await;
    let reads = calls_of(&world, Api::GroupChatGet);
    assert_eq!(reads.len(), 2, "one of each group: {reads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_repeated_and_late_group_events_link_everybody_once() {
    let world = with_options(|_| {}).await;
    let fans = world.mint(9).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    let joins: Vec<Event> = fans.chunks(3).map(|three| world.wecom.join_chat(&chat_id, three)).collect();
    // The second event is lost; the third one is delivered twice, and before the first.
    for event in [&joins[2], &joins[2], &joins[0]] {
        world.deliver(event).await;
    }
    linked_through(&world, &chat_id, &fans).await;
    let status = world.settle().await;
    assert_eq!(status["callbacks"]["duplicates"], 1, "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_still_lacks_the_change_is_read_once_more() {
    let world = with_options(|options| {
        // The event names no member, and after two seconds WeCom still answers the old list.
        options.chat_items_max = Some(0);
        options.chat_lag_ms = 3_900;
    })
    .await;
    let fans = world.mint(3).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    world.deliver(&world.wecom.join_chat(&chat_id, &fans)).await;
    linked_through(&world, &chat_id, &fans).await;
    let reads = calls_of(&world, Api::GroupChatGet);
    assert_eq!(reads.len(), 2, "{reads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_dismissed_breaks_nothing_and_loses_nobody() {
    let world = with_options(|_| {}).await;
    let fans = world.mint(2).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    world.deliver(&world.wecom.join_chat(&chat_id, &fans[..1])).await;
    linked_through(&world, &chat_id, &fans[..1]).await;
    // The second fan is looked up only after the group was dismissed, without success.
    let late = world.wecom.join_chat(&chat_id, &fans[1..]);
    world.deliver(&world.wecom.dismiss_chat(&chat_id)).await;
    world.deliver(&late).await;
    let refused =
        |api: Api| calls_of(&world, api).iter().any(|call| call.errcode.is_some_and(|code| code != 0));
    world.until("/v1/status", |_| refused(Api::ExternalUseridToPendingId)).await;
    world.until("/v1/status", |_| refused(Api::GroupChatGet)).await;
    let customer = world.wecom.external_userid(&world.dealers[0].corp_id, &fans[1]).unwrap();
    world.until(&format!("/v1/explain/{customer}"), |answer| answer["code"] == "no_pending_id").await;
    let status = world.settle().await;
    assert_eq!((&status["paused"], &status["inbox"]["dead"]), (&json!([]), &json!(0)), "{status:#}");
    // As a friend this person can be looked up.
    world.add(0, &fans[1], "zhangsan").await;
    world.linked(&fans[1], 1).await;
    assert_eq!(world.links(&fans[0]).await.len(), 1);
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_customer_groups_their_events_are_counted_and_nobody_is_linked_through_them() {
    let app = "customer_groups = false".to_owned();
    let world = World::with(Setup { dealers: 1, app, ..Setup::default() }).await;
    let fans = world.mint(2).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    world.deliver(&world.wecom.chat_created(&chat_id)).await;
    world.deliver(&world.wecom.join_chat(&chat_id, &fans)).await;
    world.add(0, &fans[1], "zhangsan").await;
    assert_eq!(world.linked(&fans[1], 1).await[0]["source"], "callback");
    let status = world.settle().await;
    assert_eq!((&status["callbacks"]["ignored"], &status["contacts"]["known"]), (&json!(2), &json!(1)));
    assert!(world.links(&fans[0]).await.is_empty());
    assert!(calls_of(&world, Api::GroupChatGet).is_empty());
    let (_, metrics) = world.text("/metrics").await;
    assert!(metrics.contains("unionlink_events_total{type=\"change_external_chat\"} 2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_is_both_friend_and_member_of_a_group_has_one_link_whichever_comes_first() {
    let world = with_options(|_| {}).await;
    let fans = world.mint(2).await;
    let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    world.deliver(&world.wecom.join_chat(&chat_id, &fans)).await;
    world.linked(&fans[1], 1).await;
    world.add(0, &fans[1], "zhangsan").await;
    world.settle().await;
    for (fan, source, of_chat) in [(&fans[0], "callback", Value::Null), (&fans[1], "chat", json!(chat_id))] {
        let links = world.links(fan).await;
        assert_eq!(links.len(), 1, "{links:?}");
        assert_eq!((&links[0]["source"], &links[0]["chat_id"]), (&json!(source), &of_chat));
        assert_eq!(links[0]["followers"][0]["user_id"], "zhangsan");
    }
    assert_eq!(world.feed_types(3).await, ["link.created", "link.created", "link.follower_added"]);
    world.check_links(&fans).await;
}
