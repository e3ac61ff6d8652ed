//! What is read, what that costs, and where the next process goes on.

use super::*;

#[tokio::test]
async fn a_large_dealer_with_nothing_new_costs_a_call_a_hundred_rows_and_a_group_and_no_lookup() {
    let mut script = Script::new(30, 6_000).without_contact_list();
    for n in 0..40 {
        script.chats.insert(chat_id(n), (0..50).map(|of| customer(n * 50 + of)).collect());
    }
    let world = compared(script).await;
    world.advance(Duration::from_hours(23)).await;
    begin(&world).await;
    let mut process = Process::of(&world);
    let run = process.finish(&world).await;
    let calls = world.take_calls();
    let count = |name: &str| calls.iter().filter(|call| call.starts_with(name)).count();
    assert_eq!(["members", "customers", "chats", "chat "].map(count), [1, 60, 1, 40]);
    assert_eq!(calls.len(), 61 + 41);
    assert_eq!((process.lookups, run.customers_new, run.customers_seen), (0, 0, 6_000 + 40 * 50));
    assert_eq!(activity(&world).await.reconciled_at, Some(world.context.now()));
}

#[tokio::test]
async fn customers_are_found_through_contact_list_or_else_through_members_and_groups() {
    for script in [small(), small().without_contact_list()] {
        let has_contact_list = script.refused.is_empty();
        let world = World::new(script).await;
        begin(&world).await;
        let mut process = Process::of(&world);
        let run = process.finish(&world).await;
        assert_eq!((run.customers_seen, run.customers_new, process.lookups), (12, 11, 11));
        assert_eq!(followers(&world).await.len(), 9);
        let calls = world.take_calls();
        if has_contact_list {
            let cursors = ["", " 2", " 4", " 6", " 8", " 10"];
            assert_eq!(calls[0], "members");
            assert_eq!(calls[1..], cursors.map(|cursor| format!("contact_list{cursor}")));
        } else {
            assert_eq!(calls[..3], ["members", "contact_list", "customers member000"]);
            assert_eq!(calls[7..], ["chats", "chat wr000", "chat wr001"]);
            // Not asked for again within a day.
            begin(&world).await;
            process.finish(&world).await;
            assert_eq!(world.take_calls()[0], "members");
        }
    }
}

#[tokio::test]
async fn a_dealer_without_customers_or_without_members_is_compared_at_once() {
    for (members, calls) in [(3, 4), (0, 3)] {
        let world = World::new(Script::new(members, 0).without_contact_list()).await;
        begin(&world).await;
        Process::of(&world).finish(&world).await;
        assert_eq!(world.take_calls().len(), calls, "contact_list, members, their customers, groups");
        assert!(activity(&world).await.reconciled_at.is_some());
    }
}

#[tokio::test]
async fn a_group_that_is_gone_is_left_out_and_so_are_groups_that_may_not_be_read() {
    for (name, errcode, found) in [("chat wr000", 49_008, 10), ("chats", 48_002, 9), ("chat", 48_002, 9)] {
        let mut script = small().without_contact_list();
        script.refused.insert(name, errcode);
        let world = compared(script).await;
        assert_eq!((run(&world).await.customers_new, name), (found, name));
        assert!(activity(&world).await.reconciled_at.is_some());
    }
    let mut world = World::new(small()).await;
    world.change_rules(|rules| rules.customer_groups = false);
    begin(&world).await;
    assert_eq!(Process::of(&world).finish(&world).await.customers_new, 9);
}

#[tokio::test]
async fn the_next_process_goes_on_and_reads_no_page_twice() {
    for script in [small(), small().without_contact_list()] {
        let mut world = World::new(script).await;
        begin(&world).await;
        while Process::of(&world).read_page(&world).await {
            world = world.restart().await;
        }
        let mut pages = world.take_calls();
        pages.retain(|call| call != "members" && call != "chats");
        let count = pages.len();
        pages.sort();
        pages.dedup();
        assert_eq!(pages.len(), count, "{pages:?}");
        assert_eq!((run(&world).await.customers_seen, run(&world).await.customers_new), (12, 11));
    }
}

#[tokio::test]
async fn a_list_of_members_that_changed_over_a_restart_is_read_from_its_beginning() {
    let world = World::new(small().without_contact_list()).await;
    begin(&world).await;
    let mut process = Process::of(&world);
    for _ in 0..2 {
        assert!(process.read_page(&world).await);
    }
    let world = world.restart().await;
    world.wecom.script().members.remove(0);
    world.take_calls();
    Process::of(&world).finish(&world).await;
    assert_eq!(world.take_calls()[..2], ["members", "customers member001"]);
}

#[tokio::test]
async fn a_place_that_can_no_longer_be_used_is_given_up_for_the_beginning() {
    let first_pages = async |refused: bool| {
        let world = World::new(small()).await;
        begin(&world).await;
        let mut process = Process::of(&world);
        process.read_page(&world).await;
        if refused {
            world.wecom.script().next_refused.push_back(60_268);
        } else {
            world.advance(Duration::from_hours(4)).await;
        }
        process.finish(&world).await;
        assert!(activity(&world).await.reconciled_at.is_some());
        let calls = world.take_calls();
        // The members are read again too.
        assert_eq!((&*calls[0], calls.iter().filter(|call| *call == "members").count()), ("members", 2));
        calls.into_iter().filter(|call| call != "members").take(4).collect::<Vec<_>>()
    };
    let refused = ["contact_list", "contact_list 2", "contact_list", "contact_list 2"];
    assert_eq!(first_pages(true).await, refused);
    let too_old = ["contact_list", "contact_list", "contact_list 2", "contact_list 4"];
    assert_eq!(first_pages(false).await, too_old);
    // But not again and again.
    let mut script = small();
    script.refused.insert("contact_list 2", 60_268);
    let world = compared(script).await;
    let activity = activity(&world).await;
    assert_eq!((activity.reconciled_at, activity.trouble.unwrap().errcode), (None, Some(60_268)));
}
