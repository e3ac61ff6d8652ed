//! From callback to link: every acknowledged customer whose fan is known is linked, once, to the right
//! person.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::{Setup, World};
use serde_json::json;
use unionlink::simulator::{Api, By, Change, ContactChange, Copies, Fault, Options, Person, TokenRule};

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_added_by_a_dealer_is_linked_to_the_fan() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let external_userid = world.add(0, &fans[0], "zhangsan").await;
    let links = world.linked(&fans[0], 1).await;
    let link = &links[0];
    assert_eq!(link["unionid"], json!(fans[0].unionid));
    assert_eq!(link["external_userid"], json!(external_userid));
    assert_eq!(link["corp_id"], json!(world.dealers[0].corp_id));
    assert_eq!(link["corp_name"], "Dealer 0");
    assert_eq!(link["pending_id"], json!(world.wecom.pending_ids(&world.corp.corp_id, &fans[0])[0]));
    assert_eq!(link["source"], "callback");
    assert_eq!(link["followers"][0]["user_id"], "zhangsan");
    assert_eq!(link["followers"][0]["state"], "spring");
    assert!(link["welcome_code"].is_string(), "a welcome code travels with the link: {link}");
    let path =
        format!("/v1/links?external_userid={external_userid}&corp_id={}&app=brand", world.dealers[0].corp_id);
    assert_eq!(world.get(&path).await["links"], json!(links));
    let path = format!("/v1/links?pending_id={}", link["pending_id"].as_str().unwrap());
    assert_eq!(world.get(&path).await["links"], json!(links));
    let entry = &world.feed(1).await[0];
    assert_eq!(
        (&entry["seq"], &entry["type"], &entry["app"]),
        (&json!(1), &json!("link.created"), &json!("brand"))
    );
    assert_eq!(entry["data"], *link);
    // After twenty seconds the code is no longer valid and no longer reported.
    world.clock.skip(Duration::from_secs(20));
    assert_eq!(world.feed(1).await[0]["data"]["welcome_code"], json!(null));
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_registered_after_the_customer_was_added_is_linked() {
    // The platform still knows the pending id although it was minted after the add.
    let options = Options { late_mint_resolves: true, ..Setup::default().options };
    let world =
        World::with(Setup { options, app: "existing_customers = false".into(), ..Setup::default() }).await;
    let people = world.wecom.add_people(2);
    world.add(0, &people[0], "zhangsan").await;
    world.settle().await;
    assert_eq!(world.get("/v1/status").await["contacts"]["waiting"], 1);
    world.register(&people).await;
    world.until("/v1/status", |s| s["fans"]["minted"] == 2).await;
    assert!(world.links(&people[0]).await.is_empty());
    // Asked again a minute later.
    world.clock.skip(Duration::from_mins(1));
    world.linked(&people[0], 1).await;
    world.check_links(&people).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_customer_is_found_when_the_fan_registers() {
    let world = World::usual().await;
    let people = world.wecom.add_people(2);
    world.befriend(0, &people[0], "zhangsan");
    world.befriend(1, &people[0], "lisi");
    world.register(&people).await;
    let links = world.linked(&people[0], 2).await;
    assert!(links.iter().all(|link| link["source"] == "existing"));
    // Further events about such a customer cost no call.
    world.until("/v1/status", |s| s["calls"]["unionid_to_external_userid"] == 2).await;
    world.add(0, &people[0], "wangwu").await;
    world.settle().await;
    assert_eq!(world.wecom.counters().calls_of(Api::ExternalUseridToPendingId), 0);
    assert_eq!(world.feed_types(3).await[2..], ["link.follower_added"]);
    world.check_links(&people).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_callback_is_acknowledged_and_counts_once() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let (_, event) = world.befriend(0, &fans[0], "zhangsan");
    for copies in [Copies::Identical, Copies::Resealed] {
        for delivery in world.wecom.deliver_copies(&event, 5, copies).await {
            assert!(delivery.acknowledged && delivery.answer == "success");
        }
    }
    world.linked(&fans[0], 1).await;
    let status = world.settle().await;
    assert_eq!(
        (&status["callbacks"]["accepted"], &status["callbacks"]["duplicates"]),
        (&json!(1), &json!(9))
    );
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_customers_added_by_one_member_in_one_second_are_both_linked() {
    let world = World::usual().await;
    let fans = world.mint(2).await;
    let events: Vec<_> = fans.iter().map(|fan| world.befriend(0, fan, "zhangsan").1).collect();
    let second =
        |inner: &str| inner.split("<CreateTime>").nth(1).and_then(|t| t.get(..10)).map(str::to_owned);
    assert!(second(&events[0].inner).is_some());
    for event in &events {
        world.deliver(event).await;
    }
    for fan in &fans {
        world.linked(fan, 1).await;
    }
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_at_two_dealers_has_two_links() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let ids = [world.add(0, &fans[0], "zhangsan").await, world.add(1, &fans[0], "lisi").await];
    assert_ne!(ids[0], ids[1]);
    world.linked(&fans[0], 2).await;
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_right_whatever_order_the_events_arrive_in() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let (external_userid, added) = world.befriend(0, &fans[0], "zhangsan");
    world.clock.skip(Duration::from_secs(2));
    let (_, second) = world.befriend(0, &fans[0], "lisi");
    world.clock.skip(Duration::from_secs(2));
    let dealer = &world.dealers[0].corp_id;
    let left = world.wecom.unfriend(dealer, &fans[0], "zhangsan", By::Customer);
    // The newest event arrives first.
    world.deliver(&left).await;
    world.deliver(&second).await;
    world.linked(&fans[0], 1).await;
    world.deliver(&added).await;
    world.settle().await;
    let links = world.links(&fans[0]).await;
    assert_eq!(links[0]["external_userid"], json!(external_userid));
    let followers: Vec<_> = links[0]["followers"].as_array().unwrap().iter().map(|f| &f["user_id"]).collect();
    assert_eq!(followers, ["lisi"]);
    let deleted = world.wecom.unfriend(dealer, &fans[0], "lisi", By::Member);
    world.deliver(&deleted).await;
    world.settle().await;
    assert_eq!(world.links(&fans[0]).await[0]["followers"], json!([]), "the link stays");
    assert_eq!(world.feed_types(2).await, ["link.created", "link.follower_removed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_added_customer_is_linked_once_the_member_confirms() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let half = world.wecom.befriend_half(&world.dealers[0].corp_id, &fans[0], "zhangsan", None);
    world.deliver(&half.event).await;
    world.settle().await;
    assert!(world.links(&fans[0]).await.is_empty());
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_costs_one_call_per_hundred_customers() {
    let world = World::with(Setup { dealers: 1, ..Setup::default() }).await;
    let fans = world.mint(301).await;
    world.add(0, &fans[300], "zhangsan").await;
    world.linked(&fans[300], 1).await;
    world.wecom.reset_counters();
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(1_500), Some(1));
    let events: Vec<_> = fans[..300].iter().map(|fan| world.befriend(0, fan, "zhangsan").1).collect();
    assert!(world.wecom.deliver_all(events, 64).await.iter().all(|d| d.acknowledged));
    world.until("/v1/status", |s| s["links"] == 301).await;
    let counters = world.wecom.counters();
    assert!(counters.calls_of(Api::ExternalUseridToPendingId) <= 4, "{counters:?}");
    assert_eq!(counters.max_batch, 100);
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dealers_backlog_does_not_delay_another_dealers_customer() {
    let world = World::with(Setup { wecom: "calls_max = 1".into(), ..Setup::default() }).await;
    let people = world.wecom.add_people(1_301);
    let (before, after) = (400, 900);
    // The whole backlog is in the inbox before the second call.
    world.wecom.inject(Api::ExternalUseridToPendingId, Fault::Latency(4_000), Some(1));
    let of_one = |people: &[Person]| people.iter().map(|p| world.befriend(0, p, "zhangsan").1).collect();
    for events in [
        of_one(&people[..before]),
        vec![world.befriend(1, &people[before], "lisi").1],
        of_one(&people[before + 1..]),
    ] {
        assert!(world.wecom.deliver_all(events, 64).await.iter().all(|delivery| delivery.acknowledged));
    }
    world.settle().await;
    let calls = world.wecom.calls();
    let calls = calls.iter().filter(|call| call.api == Api::ExternalUseridToPendingId);
    let others = world.dealers[1].corp_id.as_str();
    let ids_before: usize =
        calls.take_while(|call| call.corp_id.as_deref() != Some(others)).map(|call| call.ids).sum();
    // The events before it, and the batches of one or two calls already in flight.
    assert!(ids_before <= before + 300, "{ids_before} of {} came first", before + after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dealer_unknown_until_its_first_event_is_looked_up() {
    let mut world = World::usual().await;
    let fans = world.mint(1).await;
    world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 2).await;
    let newcomer = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer");
    world.dealers.push(newcomer);
    world.add(2, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dealers_are_listed_again_when_the_chain_changes() {
    let world = World::usual().await;
    let listed =
        async |count: usize| world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == count).await;
    listed(2).await;
    let newcomer = world.wecom.add_dealer(&world.corp.corp_id, "Newcomer");
    world.clock.skip(Duration::from_mins(1));
    world
        .deliver(&world.wecom.event(&world.dealers[0].corp_id, &Change::ShareChainChange { agent_id: 1 }))
        .await;
    let status = listed(3).await;
    let dealer = world.get(&format!("/v1/dealers/{}", newcomer.corp_id)).await;
    assert_eq!((&dealer["corp_name"], &dealer["state"]), (&json!("Newcomer"), &json!("shared")));
    let tasks: Vec<_> = status["tasks"].as_array().unwrap().iter().map(|task| &task["state"]).collect();
    assert!(tasks.len() >= 6 && tasks.iter().all(|state| *state == "running"), "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_that_converts_is_detected_and_remembered() {
    for (rule, setting, remembered) in [
        (TokenRule::Downstream, "auto", json!("downstream")),
        (TokenRule::Upstream, "auto", json!("upstream")),
        (TokenRule::Downstream, "downstream", json!(null)),
        (TokenRule::Upstream, "upstream", json!(null)),
    ] {
        let options = Options { token_rule: rule, ..Setup::default().options };
        let app = format!("conversion_token = \"{setting}\"");
        let world = World::with(Setup { options, app, dealers: 1, ..Setup::default() }).await;
        let fans = world.mint(6).await;
        for fan in &fans[..3] {
            world.add(0, fan, "zhangsan").await;
            world.linked(fan, 1).await;
        }
        world.until("/v1/status", |s| s["dealers"]["brand"]["shared"] == 1).await;
        let dealers = world.get("/v1/dealers").await;
        assert_eq!(dealers["dealers"][0]["token"], remembered, "{rule:?} {setting}");
        // With the token known, each customer costs one call.
        world.wecom.reset_counters();
        for fan in &fans[3..] {
            world.add(0, fan, "zhangsan").await;
            world.linked(fan, 1).await;
        }
        assert_eq!(world.wecom.counters().calls_of(Api::ExternalUseridToPendingId), 3, "{rule:?} {setting}");
        world.check_links(&fans).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brands_own_customers_are_converted_with_its_own_token() {
    let world = World::usual().await;
    let fans = world.mint(1).await;
    let brand = &world.corp.corp_id;
    let friendship = world.wecom.befriend(brand, &fans[0], "staff", None);
    world.deliver(&friendship.event).await;
    assert_eq!(world.linked(&fans[0], 1).await[0]["corp_id"], json!(brand));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_need_no_action_are_acknowledged_and_counted() {
    let world = World::usual().await;
    let person = world.wecom.add_person();
    let (external_userid, _) = world.befriend(0, &person, "zhangsan");
    let dealer = world.dealers[0].corp_id.clone();
    let contact = |change| Change::Contact {
        user_id: "zhangsan".into(),
        external_userid: external_userid.clone(),
        change,
    };
    let changes = [
        contact(ContactChange::Edit),
        contact(ContactChange::TransferFail { fail_reason: "customer_refused".into() }),
        Change::ShareChainChange { agent_id: 1 },
        Change::ChangeChain {
            change_type: "corp_join".into(),
            chain_id: "c".into(),
            corp_ids: vec![dealer.clone()],
        },
    ];
    for change in &changes {
        world.deliver(&world.wecom.event(&dealer, change)).await;
    }
    let status = world.get("/v1/status").await;
    assert_eq!((&status["callbacks"]["ignored"], &status["inbox"]["waiting"]), (&json!(4), &json!(0)));
    let metrics =
        world.http.get(format!("{}/metrics", world.admin)).send().await.unwrap().text().await.unwrap();
    for kind in ["edit_external_contact", "transfer_fail", "share_chain_change", "change_chain"] {
        assert!(
            metrics.contains(&format!("unionlink_events_total{{type=\"{kind}\"}} 1")),
            "{kind}: {metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_callbacks_across_a_restart_end_in_the_right_links() {
    let mut world = World::with(Setup { dealers: 3, ..Setup::default() }).await;
    let fans = world.mint(60).await;
    let mut events = Vec::new();
    for (n, fan) in fans.iter().enumerate() {
        for dealer in 0..=(n % 3) {
            let event = world.befriend(dealer, fan, "zhangsan").1;
            events.extend([event.clone(), event]);
        }
    }
    let rest = events.split_off(events.len() / 2);
    assert!(world.wecom.deliver_all(events, 16).await.iter().all(|d| d.acknowledged));
    world.restart().await;
    assert!(world.wecom.deliver_all(rest, 16).await.iter().all(|d| d.acknowledged));
    for (n, fan) in fans.iter().enumerate() {
        world.linked(fan, n % 3 + 1).await;
    }
    world.settle().await;
    world.check_links(&fans).await;
    let feed = world.feed(1).await;
    let ids: BTreeSet<_> = feed.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), feed.len(), "every entry has an id of its own");
}
