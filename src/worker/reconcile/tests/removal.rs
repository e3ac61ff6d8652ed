//! Who is removed because the lists no longer name them, and who is not.

use super::*;
use crate::domain::event::{ContactChange, Event};
use crate::store::Payload;
use crate::worker::scripted::contact_event;

/// The followers who are removed by a second comparison, after a change at the dealer.
async fn removed(script: Script, change: impl FnOnce(&mut Script)) -> Vec<(ExternalUserid, UserId)> {
    let world = compared(script).await;
    let before = followers(&world).await;
    change(&mut world.wecom.script());
    world.advance(DAY).await;
    begin(&world).await;
    Process::of(&world).finish(&world).await;
    let after = followers(&world).await;
    before.into_iter().filter(|follower| !after.contains(follower)).collect()
}

#[tokio::test]
async fn a_follower_who_is_no_longer_listed_is_removed_unless_something_else_explains_it() {
    let scripts: [fn() -> Script; 2] = [small, || small().without_contact_list()];
    for script in scripts {
        let left = removed(script(), |script| script.follows.retain(|(_, id)| *id != customer(4)));
        assert_eq!(left.await, [(customer(4), member(1))]);
        let narrowed_range = removed(script(), |script| {
            script.members.retain(|id| *id != member(1));
        });
        assert_eq!(narrowed_range.await, []);
        let more_than_half = removed(script(), |script| script.follows.truncate(4));
        assert_eq!(more_than_half.await, []);
    }
    let no_licence = removed(small().without_contact_list(), |script| script.unlicensed.push(member(1)));
    assert_eq!(no_licence.await, []);
}

#[tokio::test]
async fn members_without_a_licence_are_a_trouble_of_the_dealer() {
    let world = compared(small().without_contact_list()).await;
    let missing = || world.context.activity.missing_licences(&app(), world.context.now());
    assert_eq!(missing(), []);
    for unlicensed in [vec![member(1)], vec![]] {
        world.wecom.script().unlicensed.clone_from(&unlicensed);
        world.advance(DAY).await;
        begin(&world).await;
        Process::of(&world).finish(&world).await;
        let trouble = activity(&world).await.trouble.unwrap();
        assert_eq!(trouble.errcode, Some(701_008));
        assert_eq!(missing().len(), unlicensed.len());
    }
}

#[tokio::test]
async fn one_who_is_added_while_the_lists_are_read_or_just_before_is_not_removed() {
    for script in [small(), small().without_contact_list()] {
        let world = compared(script).await;
        world.advance(DAY).await;
        begin(&world).await;
        let mut process = Process::of(&world);
        for (n, seconds_ago) in [(0, 120), (1, 0)] {
            assert!(process.read_page(&world).await);
            let contact = contact_event(ContactChange::Added, member(n), customer(8));
            let created_at = world.context.now().plus_ms(-seconds_ago * SECOND_MS);
            world.append(Payload::Event(Event { corp_id: dealer(), created_at, contact })).await;
            world.resolve().await;
        }
        process.finish(&world).await;
        assert!(activity(&world).await.trouble.is_none());
        let of_customer = followers(&world).await.into_iter().filter(|(id, _)| *id == customer(8));
        let members: Vec<_> = of_customer.map(|(_, member)| member).collect();
        assert_eq!(members, [member(0), member(1), member(2)]);
    }
}

#[tokio::test]
async fn that_more_than_half_are_missing_is_reported() {
    let world = compared(small()).await;
    world.wecom.script().follows.truncate(2);
    world.advance(DAY).await;
    begin(&world).await;
    Process::of(&world).finish(&world).await;
    let trouble = activity(&world).await.trouble.unwrap();
    assert!(trouble.text.starts_with("7 of 9 followers are missing"), "{}", trouble.text);
}

#[tokio::test]
async fn a_visible_range_that_changes_while_the_lists_are_read_removes_nobody() {
    let without = |n: usize| (0..3).filter(|of| *of != n).map(member).collect::<Vec<_>>();
    let all = without(3);
    let scripts: [fn() -> Script; 2] = [small, || small().without_contact_list()];
    for script in scripts {
        for (at_first, later) in [(&without(1), &all), (&all, &without(2)), (&without(2), &without(0))] {
            let world = compared(script()).await;
            let before = followers(&world).await;
            world.wecom.script().members.clone_from(at_first);
            world.advance(DAY).await;
            begin(&world).await;
            let mut process = Process::of(&world);
            assert!(process.read_page(&world).await);
            world.wecom.script().members.clone_from(later);
            process.finish(&world).await;
            let activity = activity(&world).await;
            assert_eq!((activity.reconciled_at, activity.trouble), (Some(world.context.now()), None));
            assert_eq!(followers(&world).await, before, "from {at_first:?} to {later:?}");
        }
    }
}

#[tokio::test]
async fn where_only_the_list_of_members_may_not_be_read_customers_are_found_and_nobody_is_removed() {
    let world = compared(small()).await;
    let mut before = followers(&world).await;
    world.wecom.script().refused.insert("members", 48_002);
    world.wecom.script().follows[0] = (member(1), customer(10));
    world.advance(DAY).await;
    begin(&world).await;
    assert_eq!(Process::of(&world).finish(&world).await.customers_new, 1);
    assert!(activity(&world).await.trouble.is_none());
    before.push((customer(10), member(1)));
    before.sort();
    assert_eq!(followers(&world).await, before);
}
