//! Comparisons with WeCom's lists: customers of lost callbacks and of before the installation are linked, and
//! followers that have left are removed. Also the dealers as the admin API shows them.

use std::time::Duration;

use serde_json::{Value, json};
use unionlink::domain::explain::Code;
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{Api, By, Change, Options, PageFill, Permission, Person};

use crate::harness::{Setup, World};

/// `contact_list` may be called, or not: then members, customers and groups are read.
const PERMISSIONS: [Permission; 2] = [Permission::Allowed, Permission::Refused(48_002)];
const REFUSED: Permission = Permission::Refused(48_002);

/// A world with `dealers` dealers, all of them known to the service.
async fn with(dealers: usize, change: impl FnOnce(&mut Options)) -> World {
    let mut setup = Setup { dealers, ..Setup::default() };
    change(&mut setup.options);
    let world = World::with(setup).await;
    world.until("/v1/status", |status| status["dealers"]["brand"]["shared"] == dealers).await;
    world
}

/// Compares the customers of all dealers. Returns the result.
async fn reconcile(world: &World) -> Value {
    let (status, run) = world.post("/v1/reconcile", &json!({})).await;
    assert_eq!(status, 202, "{run}");
    world.until("/v1/reconcile", |run| run["running"] == false).await
}

/// The followers of a fan's only link: user id, since when in seconds, `state`.
async fn followers(world: &World, fan: &Person) -> Vec<(String, i64, Option<String>)> {
    let links = world.links(fan).await;
    assert_eq!(links.len(), 1, "{links:?}");
    let follower = |follower: &Value| {
        let added_at: Timestamp = follower["added_at"].as_str().unwrap().parse().unwrap();
        let user_id = follower["user_id"].as_str().unwrap().to_owned();
        (user_id, added_at.as_secs(), follower["state"].as_str().map(str::to_owned))
    };
    let mut followers: Vec<_> = links[0]["followers"].as_array().unwrap().iter().map(follower).collect();
    followers.sort();
    followers
}

/// Whether a fan's only link still has a follower.
async fn has_follower(world: &World, fan: &Person) -> bool {
    !followers(world, fan).await.is_empty()
}

/// WeCom reports a change of the dealers, and the next reading of their list is due.
async fn dealers_change(world: &World) {
    world.clock.skip(Duration::from_mins(1));
    let change = Change::ShareChainChange { agent_id: 1 };
    world.deliver(&world.wecom.event(&world.dealers[0].corp_id, &change)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_of_lost_callbacks_are_linked_once_with_the_right_followers() {
    for permission in PERMISSIONS {
        let world = with(2, |options| options.contact_list = permission).await;
        let fans = world.mint(60).await;
        // One in ten.
        let is_lost = |n: usize, user_id: &str| n.is_multiple_of(11) || user_id == "wangwu";
        let mut events = Vec::new();
        for (n, fan) in fans.iter().enumerate() {
            let user_id = ["zhangsan", "lisi"][n / 2 % 2];
            let (corp_id, state) = (&world.dealers[n % 2].corp_id, format!("state {n}"));
            let friendship = world.wecom.befriend(corp_id, fan, user_id, Some(&state));
            events.extend(Some(friendship.event).filter(|_| !is_lost(n, user_id)));
        }
        // The second follower of a known customer.
        let _ = world.wecom.befriend(&world.dealers[1].corp_id, &fans[1], "wangwu", Some("autumn"));
        assert!(world.wecom.deliver_all(events, 16).await.iter().all(|d| d.acknowledged));
        world.until("/v1/status", |status| status["links"] == 54).await;
        let run = reconcile(&world).await;
        for (field, wanted) in [
            ("dealers_total", 2),
            ("dealers_done", 2),
            ("customers_seen", 61),
            ("customers_new", 6),
            ("links_made", 6),
        ] {
            assert_eq!(run[field], wanted, "{permission:?} {field}: {run:#}");
        }
        world.check_links(&fans).await;
        for (n, fan) in fans.iter().enumerate() {
            let source = if n.is_multiple_of(11) { "reconcile" } else { "callback" };
            assert_eq!(world.links(fan).await[0]["source"], source);
            let truth = world.wecom.followers(&world.dealers[n % 2].corp_id, fan).into_iter();
            let wanted: Vec<_> = truth
                .map(|(user_id, since, state)| {
                    // contact_list has no state.
                    let is_known = permission == REFUSED || !is_lost(n, &user_id);
                    (user_id, since.as_secs(), state.filter(|_| is_known))
                })
                .collect();
            assert_eq!(followers(&world, fan).await, wanted, "{permission:?} {n}");
        }
        let counters = world.wecom.counters();
        let calls = (counters.calls_of(Api::ContactList), counters.calls_of(Api::GetByUser));
        assert_eq!(calls, if permission == REFUSED { (2, 2) } else { (2, 0) });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_with_nothing_new_costs_the_lists_and_no_conversion() {
    let world = with(1, |options| options.contact_list = REFUSED).await;
    let (people, dealer) = (world.wecom.add_people(300), &world.dealers[0].corp_id);
    for (n, person) in people[..200].iter().enumerate() {
        world.befriend(0, person, ["zhangsan", "lisi", "wangwu"][n % 3]);
    }
    for members in people.chunks(75) {
        let chat_id = world.wecom.add_chat(dealer);
        let _ = world.wecom.join_chat(&chat_id, members);
    }
    let first = reconcile(&world).await;
    assert_eq!((&first["customers_seen"], &first["customers_new"]), (&json!(500), &json!(300)));
    world.wecom.reset_counters();
    let second = reconcile(&world).await;
    assert_eq!((&second["customers_seen"], &second["customers_new"]), (&json!(500), &json!(0)));
    let counters = world.wecom.counters();
    for (api, calls) in [
        (Api::GetFollowUserList, 1),
        (Api::GetByUser, 2),
        (Api::GroupChatList, 1),
        (Api::GroupChatGet, 4),
        // The refusal is remembered for a day.
        (Api::ContactList, 0),
        (Api::ExternalContactList, 0),
        (Api::ExternalUseridToPendingId, 0),
    ] {
        assert_eq!(counters.calls_of(api), calls, "{api:?}: {counters:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_groups_whose_events_were_lost_are_linked_with_the_groups_id() {
    for permission in PERMISSIONS {
        let world = with(1, |options| options.contact_list = permission).await;
        let fans = world.mint(3).await;
        let chat_id = world.wecom.add_chat(&world.dealers[0].corp_id);
        let _ = world.wecom.join_chat(&chat_id, &fans);
        let run = reconcile(&world).await;
        assert_eq!(run["links_made"], 3, "{permission:?}: {run:#}");
        for fan in &fans {
            let links = world.links(fan).await;
            assert_eq!((&links[0]["source"], &links[0]["chat_id"]), (&json!("reconcile"), &json!(chat_id)));
            // The `follow_userid` of a group's row is the owner of the group.
            assert_eq!(links[0]["followers"], json!([]), "{permission:?}");
        }
        world.check_links(&fans).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_comparison_begins_by_itself_and_links_known_fans_who_were_customers_before() {
    let app = "existing_customers = false\nreconcile_hours = 0".to_owned();
    let mut world = World::with(Setup { app, ..Setup::default() }).await;
    let fans = world.mint(10).await;
    for (n, fan) in fans.iter().enumerate() {
        world.befriend(n % 2, fan, "zhangsan");
    }
    // This person was a customer before a pending id was minted.
    let late = world.wecom.add_person();
    let (customer, _) = world.befriend(0, &late, "zhangsan");
    world.register(std::slice::from_ref(&late)).await;
    world.until(&format!("/v1/fans/{}", late.unionid), |fan| fan["state"] == "minted").await;
    assert_eq!(world.get("/v1/reconcile").await["started_at"], json!(null));
    world.stop().await.unwrap();
    world.setup.app = "existing_customers = false\nreconcile_hours = 24".to_owned();
    world.start().await;
    let is_over = |run: &Value| run["started_at"].is_string() && run["running"] == false;
    let run = world.until("/v1/reconcile", is_over).await;
    assert_eq!((&run["dealers_done"], &run["links_made"]), (&json!(2), &json!(10)), "{run:#}");
    for fan in &fans {
        assert_eq!(world.linked(fan, 1).await[0]["source"], "reconcile");
    }
    world.check_links(&fans).await;
    let answer = world.get(&format!("/v1/explain/{customer}")).await;
    assert_eq!(answer["code"], json!(Code::NoPendingId), "{answer:#}");
    let hint = answer["hint"]["en"].as_str().unwrap();
    assert!(hint.contains("existing_customers = false"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_goes_on_after_a_restart_and_does_nothing_twice() {
    let mut world = with(1, |options| {
        options.contact_list = REFUSED;
        options.page_fill = PageFill::PerMember;
    })
    .await;
    let fans = world.mint(30).await;
    for (n, fan) in fans.iter().enumerate() {
        world.befriend(0, fan, &format!("member{}", n % 6));
    }
    world.wecom.configure(|options| options.latency_ms = 500);
    let (status, begun) = world.post("/v1/reconcile", &json!({})).await;
    assert_eq!(status, 202);
    world.until("/v1/reconcile", |run| run["customers_seen"].as_u64() > Some(0)).await;
    world.restart().await;
    let run = world.get("/v1/reconcile").await;
    assert_eq!((&run["running"], &run["started_at"]), (&json!(true), &begun["started_at"]), "{run:#}");
    let run = world.until("/v1/reconcile", |run| run["running"] == false).await;
    assert_eq!(run["started_at"], begun["started_at"]);
    for (field, wanted) in
        [("dealers_total", 1), ("dealers_done", 1), ("customers_seen", 30), ("customers_new", 30)]
    {
        assert_eq!(run[field], wanted, "{field}: {run:#}");
    }
    // Six pages; the one that was being read at the stop may have been read again.
    let pages = world.wecom.counters().calls_of(Api::GetByUser);
    assert!((6..=7).contains(&pages), "{pages} pages");
    for fan in &fans {
        assert_eq!(world.linked(fan, 1).await[0]["source"], "reconcile");
    }
    world.check_links(&fans).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_leaves_only_once_the_lists_no_longer_have_the_relation() {
    for permission in PERMISSIONS {
        let world = with(1, |options| options.contact_list = permission).await;
        let fans = world.mint(4).await;
        for fan in &fans {
            world.add(0, fan, "zhangsan").await;
            world.linked(fan, 1).await;
        }
        let dealer = &world.dealers[0].corp_id;
        // Both events are lost.
        let _ = world.wecom.unfriend(dealer, &fans[0], "zhangsan", By::Customer);
        let _ = world.wecom.unfriend(dealer, &fans[1], "zhangsan", By::Member);
        world.clock.skip(Duration::from_mins(10));
        reconcile(&world).await;
        assert!(has_follower(&world, &fans[0]).await, "the lists still have this relation: {permission:?}");
        assert!(!has_follower(&world, &fans[1]).await, "{permission:?}");
        world.wecom.configure(|options| options.lists_deleted_by_customer = false);
        world.clock.skip(Duration::from_mins(10));
        reconcile(&world).await;
        assert!(!has_follower(&world, &fans[0]).await, "{permission:?}");
        for fan in &fans[2..] {
            assert!(has_follower(&world, fan).await, "{permission:?}");
        }
        assert_eq!(world.feed_types(6).await[4..], ["link.follower_removed", "link.follower_removed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrowed_visible_range_removes_nobody() {
    for permission in PERMISSIONS {
        let world = with(1, |options| options.contact_list = permission).await;
        let fans = world.mint(8).await;
        for (n, fan) in fans.iter().enumerate() {
            world.add(0, fan, if n < 3 { "zhangsan" } else { "lisi" }).await;
            world.linked(fan, 1).await;
        }
        world.wecom.set_member_visible(&world.dealers[0].corp_id, "zhangsan", false);
        world.clock.skip(Duration::from_mins(10));
        let run = reconcile(&world).await;
        assert_eq!(run["customers_seen"], 5, "{permission:?}: {run:#}");
        for fan in &fans {
            assert!(has_follower(&world, fan).await, "{permission:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_more_than_half_of_a_dealers_followers_are_missing_nobody_is_removed() {
    let world = with(1, |options| options.contact_list = REFUSED).await;
    let fans = world.mint(4).await;
    for fan in &fans {
        world.add(0, fan, "zhangsan").await;
        world.linked(fan, 1).await;
    }
    let dealer = &world.dealers[0].corp_id;
    for fan in &fans[..3] {
        let _ = world.wecom.unfriend(dealer, fan, "zhangsan", By::Member);
    }
    world.clock.skip(Duration::from_mins(10));
    reconcile(&world).await;
    for fan in &fans {
        assert!(has_follower(&world, fan).await);
    }
    let shown = world.get(&format!("/v1/dealers/{dealer}")).await;
    let trouble = shown["trouble"]["text"].as_str().unwrap();
    assert!(trouble.starts_with("3 of 4 followers are missing"), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reconcile_command_prints_a_summary() {
    let world = with(2, |_| {}).await;
    let fans = world.mint(3).await;
    for (n, fan) in fans.iter().enumerate() {
        world.befriend(n % 2, fan, "zhangsan");
    }
    let ran = world.unionlink(&["reconcile"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("2 dealers compared in "), "{ran:?}");
    assert!(ran.stdout.trim_end().ends_with(" s: 3 customers seen, 3 new, 3 linked"), "{ran:?}");
    world.check_links(&fans).await;
    let ran = world.unionlink(&["reconcile", "--corp-id", &world.dealers[0].corp_id, "--json"]).await;
    let run = ran.json();
    assert_eq!((ran.code, &run["dealers_total"], &run["customers_new"]), (0, &json!(1), &json!(0)));
    assert_eq!(world.unionlink(&["reconcile", "--corp-id", "wpNOBODY"]).await.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn dealers_are_shown_with_what_happens_at_them() {
    let world = with(3, |_| {}).await;
    let fans = world.mint(1).await;
    world.add(0, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    let path = format!("/v1/dealers/{}", world.dealers[0].corp_id);
    let is_recorded =
        |dealer: &Value| dealer["last_callback_at"].is_string() && dealer["qualification"].is_string();
    let dealer = world.until(&path, is_recorded).await;
    for (field, wanted) in [
        ("corp_name", json!("Dealer 0")),
        ("state", json!("shared")),
        ("token", json!("downstream")),
        ("qualification", json!("certified")),
        ("silent", json!(false)),
        ("customers", json!(1)),
        ("links", json!(1)),
        ("reconciled_at", json!(null)),
        ("trouble", json!(null)),
        ("first_callback_at", dealer["last_callback_at"].clone()),
    ] {
        assert_eq!(dealer[field], wanted, "{field}: {dealer:#}");
    }
    let days = dealer["days"].as_array().unwrap();
    assert_eq!(days.len(), 31);
    assert_eq!(days.iter().map(|day| day["callbacks"].as_u64().unwrap()).sum::<u64>(), 1);
    reconcile(&world).await;
    let dealers = world.get("/v1/dealers").await;
    let dealers = dealers["dealers"].as_array().unwrap();
    assert!(dealers.len() == 3 && dealers.iter().all(|dealer| dealer["reconciled_at"].is_string()));
    assert_eq!(world.text("/v1/dealers/wpNOBODY").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dealer_that_left_keeps_its_links_and_takes_up_its_work_when_it_is_back() {
    let world = with(3, |_| {}).await;
    let (fans, dealer) = (world.mint(2).await, world.dealers[2].corp_id.clone());
    world.add(2, &fans[0], "zhangsan").await;
    world.linked(&fans[0], 1).await;
    world.wecom.share(&dealer, false);
    dealers_change(&world).await;
    let path = format!("/v1/dealers/{dealer}");
    world.until(&path, |dealer| dealer["state"] == "left").await;
    let left = world.get("/v1/dealers?state=left").await;
    assert_eq!((left["dealers"].as_array().unwrap().len(), &left["dealers"][0]["links"]), (1, &json!(1)));
    let calls = || world.wecom.counters().calls_of(Api::ExternalUseridToPendingId);
    let calls_before = calls();
    world.add(2, &fans[1], "zhangsan").await;
    let is_held_back = |status: &Value| {
        status["paused"].as_array().unwrap().iter().any(|paused| paused["corp_id"] == json!(dealer))
    };
    world.until("/v1/status", is_held_back).await;
    assert_eq!(calls(), calls_before, "no call is made for a dealer that has left");
    assert_eq!(world.links(&fans[0]).await.len(), 1);
    world.wecom.share(&dealer, true);
    dealers_change(&world).await;
    world.linked(&fans[1], 1).await;
    assert_eq!(world.get(&path).await["state"], "shared");
    world.check_links(&fans).await;
}
