//! Forgetting a person, over HTTP and by command: what is erased, and what receipt and log may contain.

use std::time::Duration;

use serde_json::{Value, json};
use unionlink::simulator::Person;

use crate::harness::{LOG_EVERYTHING, Setup, World};
use crate::process::Process;

/// A fan linked at both dealers, a second fan that is kept, and every id of the first.
async fn with_two_fans() -> (World, Vec<Person>, Vec<String>) {
    let world = World::usual().await;
    let fans = world.mint(2).await;
    let mut ids = vec![world.add(0, &fans[0], "zhangsan").await, world.add(1, &fans[0], "lisi").await];
    world.linked(&fans[0], 2).await;
    world.add(0, &fans[1], "zhangsan").await;
    world.linked(&fans[1], 1).await;
    world.feed(3).await;
    ids.push(fans[0].unionid.clone());
    ids.push(fans[0].openid.clone());
    ids.extend(world.wecom.pending_ids(&world.corp.corp_id, &fans[0]));
    (world, fans, ids)
}

/// Asserts that nothing of the first fan is left in any response, and that the second is still linked.
async fn assert_first_fan_is_erased(world: &World, fans: &[Person], ids: &[String]) {
    assert!(world.links(&fans[0]).await.is_empty());
    assert_eq!(world.get(&format!("/v1/fans/{}", fans[0].unionid)).await["code"], "not_found");
    assert_eq!(world.links(&fans[1]).await.len(), 1);
    let feed = world.feed(5).await;
    let erased: Vec<_> = feed.iter().filter(|entry| entry["type"] == "link.erased").collect();
    assert_eq!(erased.iter().map(|e| e["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 4, 5]);
    for entry in erased {
        let fields: Vec<_> = entry["data"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["link_id"], "{entry}");
    }
    for path in ["/v1/links/feed?limit=1000", "/v1/links/export", "/v1/links/export?format=csv", "/v1/status"]
    {
        let (status, text) = world.text(path).await;
        assert_eq!(status, 200);
        for id in ids {
            assert!(!text.contains(id.as_str()), "{id} is in {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_fan_leaves_nothing_and_the_receipt_holds_no_id() {
    let (world, fans, ids) = with_two_fans().await;
    let wanted = json!({"unionid": fans[0].unionid, "request": "ticket 4711"});
    let (status, receipt) = world.post("/v1/forget", &wanted).await;
    assert_eq!(status, 200, "{receipt}");
    let erased = &receipt["erased"];
    assert_eq!(
        (&erased["fans"], &erased["contacts"], &erased["links"], &erased["feed_entries"]),
        (&json!(1), &json!(2), &json!(2), &json!(2))
    );
    assert_eq!(receipt["request"], "ticket 4711");
    assert_first_fan_is_erased(&world, &fans, &ids).await;
    let name = receipt["receipt"].as_str().unwrap();
    assert_eq!(world.get(&format!("/v1/forget/{name}")).await, receipt);
    for id in &ids {
        assert!(!receipt.to_string().contains(id.as_str()), "{id} is on the receipt");
    }
    // A second request erases nothing, and its receipt has the same subject.
    let (_, again) = world.post("/v1/forget", &json!({"unionid": fans[0].unionid})).await;
    assert_eq!((&again["subject"], &again["erased"]["links"]), (&receipt["subject"], &json!(0)));
    assert_ne!(again["receipt"], receipt["receipt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_a_customer_forgets_the_fan_too() {
    let (mut world, fans, ids) = with_two_fans().await;
    let (status, receipt) = world.post("/v1/forget", &json!({"external_userid": ids[1]})).await;
    assert_eq!((status, &receipt["erased"]["links"]), (200, &json!(2)), "{receipt}");
    assert_eq!(receipt["request"], Value::Null);
    assert_first_fan_is_erased(&world, &fans, &ids).await;
    world.restart().await;
    assert_first_fan_is_erased(&world, &fans, &ids).await;
    assert_eq!(world.get(&format!("/v1/forget/{}", receipt["receipt"].as_str().unwrap())).await, receipt);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_callbacks_of_a_forgotten_person_are_linked_only_after_a_new_registration() {
    let (world, fans, _) = with_two_fans().await;
    assert_eq!(world.post("/v1/forget", &json!({"unionid": fans[0].unionid})).await.0, 200);
    world.clock.skip(Duration::from_secs(5));
    world.add(0, &fans[0], "wangwu").await;
    world.until("/v1/status", |s| s["inbox"]["waiting"] == 0 && s["contacts"]["known"] == 2).await;
    assert!(world.links(&fans[0]).await.is_empty());
    assert_eq!(world.get("/v1/status").await["feed_head"], 5);
    world.clock.skip(Duration::from_secs(5));
    world.register(&fans[..1]).await;
    world.linked(&fans[0], 2).await;
    let types = world.feed_types(7).await;
    assert_eq!(&types[5..], ["link.created", "link.created"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_about_a_forgotten_person_is_quarantined_only_if_it_was_sent_later() {
    let world = World::usual().await;
    let person = world.wecom.add_person();
    let (customer, before) = world.befriend(0, &person, "zhangsan");
    assert_eq!(world.post("/v1/forget", &json!({"external_userid": customer})).await.0, 200);
    world.clock.skip(Duration::from_secs(5));
    let (_, after) = world.befriend(0, &person, "lisi");
    for (event, quarantined) in [(before, 0), (after, 1)] {
        let stray = world.wecom.seal_with(&event, "wwSOMEBODYELSE000");
        assert!(world.wecom.post(&stray).await.acknowledged);
        assert_eq!(world.get("/v1/status").await["inbox"]["quarantined"], quarantined);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forget_request_must_name_exactly_one_valid_id() {
    let world = World::usual().await;
    for body in [
        json!({}),
        json!({"unionid": "oA", "external_userid": "wmA"}),
        json!({"unionid": null}),
        json!({"unionid": ""}),
        json!({"unionid": 7}),
        json!({"unionid": "o A"}),
        json!({"unionid": "oA", "openid": "oB"}),
        json!({"unionid": "oA", "request": "x".repeat(201)}),
        json!(["oA"]),
    ] {
        let (status, problem) = world.post("/v1/forget", &body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("bad_request")), "{body}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let (status, problem) = world.post("/v1/forget", &json!({"unionid": "x".repeat(70_000)})).await;
    assert_eq!((status, &problem["code"]), (413, &json!("body_too_large")));
    for name in ["rcp_0123456789abcdef01234567", "rcp_", "4711"] {
        assert_eq!(world.text(&format!("/v1/forget/{name}")).await.0, 404, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_forgets_and_prints_the_receipt() {
    let (world, fans, ids) = with_two_fans().await;
    let ran = world
        .unionlink(&["forget", "--external-userid", &ids[0], "--request", "ticket 4711", "--json"])
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let receipt = ran.json();
    assert_eq!(world.get(&format!("/v1/forget/{}", receipt["receipt"].as_str().unwrap())).await, receipt);
    assert_first_fan_is_erased(&world, &fans, &ids).await;
    let ran = world.unionlink(&["forget", "--unionid", &fans[1].unionid]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.starts_with("receipt       rcp_") && ran.stdout.contains("links               1\n"),
        "{ran:?}"
    );
    assert!(world.links(&fans[1]).await.is_empty());
    for arguments in [&["forget"][..], &["forget", "--unionid", "oA", "--external-userid", "wmA"]] {
        assert_eq!(world.unionlink(arguments).await.code, 2, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_log_holds_no_personal_id() {
    let setup = Setup { app: format!("[log]\nfilter = \"{LOG_EVERYTHING}\""), ..Setup::default() };
    let mut process = Process::with(setup).await;
    let log = process.start_logging().await;
    let world = &process.world;
    let fans = world.mint(3).await;
    let mut ids: Vec<_> = fans.iter().flat_map(|fan| [fan.unionid.clone(), fan.openid.clone()]).collect();
    for fan in &fans {
        ids.push(world.add(0, fan, "zhangsan").await);
        ids.extend(world.wecom.pending_ids(&world.corp.corp_id, fan));
    }
    for fan in &fans {
        world.linked(fan, 1).await;
    }
    // Every kind of request that names a person.
    let external_userid = ids[6].clone();
    for id in [&fans[0].unionid, &external_userid] {
        assert_eq!(world.get(&format!("/v1/explain/{id}")).await["code"], "linked");
    }
    world.get(&format!("/v1/links?external_userid={external_userid}")).await;
    assert_eq!(world.unionlink(&["explain", &fans[1].unionid]).await.code, 0);
    assert_eq!(world.text("/v1/links/export?format=csv").await.0, 200);
    assert_eq!(world.post("/v1/forget", &json!({"unionid": fans[0].unionid})).await.0, 200);
    let (id, event) = world.befriend(1, &fans[1], "lisi");
    world.wecom.poison_with(&id, 40_058);
    world.deliver(&event).await;
    ids.push(id.clone());
    world.until("/v1/status", |status| status["inbox"]["dead"] == 1).await;
    assert_eq!(world.post("/v1/forget", &json!({"external_userid": id})).await.0, 200);
    process.stop().await;
    let log = log.await.unwrap();
    for expected in ["DEBUG", "audit: erase", "dead letter"] {
        assert!(log.contains(expected), "{expected:?} is not in the log:\n{log}");
    }
    for id in ids {
        let line = log.lines().find(|line| line.contains(&id));
        assert_eq!(line, None, "{id} is in the log");
    }
}
