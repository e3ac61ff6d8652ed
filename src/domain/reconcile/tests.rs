//! The positions of a traversal in order, and the followers that are removed after it.

use super::*;

const T0: Timestamp = Timestamp::from_secs(1_795_309_323);

fn member(n: usize) -> UserId {
    UserId::new(format!("member{n:04}")).unwrap()
}

fn members(ns: std::ops::Range<usize>) -> Vec<UserId> {
    ns.map(member).collect()
}

fn chats(ns: std::ops::Range<usize>) -> Vec<ChatId> {
    ns.map(|n| ChatId::new(format!("wr{n:04}")).unwrap()).collect()
}

fn in_members() -> ReconcileTask {
    ReconcileTask { place: ReconcilePlace::members(), ..ReconcileTask::new() }
}

/// A task that has read the customers of these members.
fn read(members: &[UserId]) -> ReconcileTask {
    let read = in_members().after_customers(members, String::new(), vec![], T0, false);
    assert!(read.is_read());
    read
}

#[test]
fn members_are_read_a_hundred_at_a_time_and_then_the_groups() {
    let all = members(0..230);
    let (mut task, mut batches) = (in_members(), Vec::new());
    while let ReconcilePlace::Members { after, cursor } = task.place.clone() {
        batches.push(batch_after(&all, after.as_ref()).len());
        // Two pages each.
        let next_cursor = if cursor.is_empty() { "2" } else { "" };
        let page_at = T0.plus_ms(i64::try_from(batches.len()).unwrap());
        task = task.after_customers(&all, next_cursor.to_owned(), vec![member(7)], page_at, true);
    }
    assert_eq!(batches, [100, 100, 100, 100, 30, 30]);
    assert_eq!((task.begun_at, task.unlicensed.as_slice()), (Some(T0.plus_ms(1)), &[member(7)][..]));
    assert_eq!(task.place, ReconcilePlace::Chats { cursor: String::new(), after: None });
    let nobody = in_members().after_customers(&[], String::new(), vec![], T0, false);
    assert!(nobody.is_read(), "without members nothing is to be read");
}

#[test]
fn groups_are_read_one_by_one_and_page_by_page() {
    let pages = [(chats(0..3), "2"), (chats(0..0), "3"), (chats(1..2), "")];
    let mut task = in_members().after_customers(&[], String::new(), vec![], T0, true);
    let mut order = Vec::new();
    for (page, next_cursor) in pages {
        let before = order.len();
        while let ReconcilePlace::Chats { after, .. } = &task.place {
            let chat_id = chat_after(&page, after.as_ref());
            order.extend(chat_id.cloned());
            task = task.after_chat(&page, chat_id, next_cursor);
            if order.len() - before >= page.len() {
                break;
            }
        }
    }
    assert!(task.is_read());
    assert_eq!(order, [chats(0..3), chats(1..2)].concat());
}

#[test]
fn a_traversal_through_contact_list_begins_when_its_first_page_was_read() {
    let first = ReconcileTask::new().after_contacts("2".to_owned(), T0);
    assert_eq!(first.place, ReconcilePlace::Contacts { cursor: "2".to_owned(), since: T0 });
    let mut second = first.after_contacts(String::new(), T0.plus_ms(5));
    assert_eq!((second.begun_at, &second.place), (Some(T0), &ReconcilePlace::Read));
    (second.number, second.unresolved) = (7, 3);
    second.begin_with(&members(0..1));
    second.begin_anew(ReconcilePlace::members());
    let anew = ReconcileTask { number: 7, unresolved: 3, ..in_members() };
    assert_eq!(second, anew);
}

#[test]
fn a_page_is_never_older_than_its_traversal_and_after_a_clock_that_was_set_back_nobody_is_missing() {
    let task = read(&members(0..1));
    let hour_earlier = T0.plus_ms(-HOUR_MS);
    assert_eq!(task.read_at(hour_earlier), T0);
    assert_eq!(task.confirmed_since(hour_earlier), None);
    assert_eq!(task.confirmed_since(T0), Some(T0.plus_ms(-CLOCK_MARGIN_MS)));
}

#[test]
fn lookups_are_waited_for_when_there_are_many_and_at_the_end_for_all() {
    let waits = |task: ReconcileTask, unresolved| ReconcileTask { unresolved, ..task }.waits_for_lookups();
    assert!(!waits(in_members(), UNRESOLVED_MAX) && waits(in_members(), UNRESOLVED_MAX + 1));
    assert!(!waits(read(&[]), 0) && waits(read(&[]), 1));
}

#[test]
fn only_a_follower_whose_member_has_a_licence_is_removed_and_nobody_if_the_members_changed_meanwhile() {
    let removed = |task: &ReconcileTask, listed: &[UserId]| {
        let customer = ExternalUserid::new("wmCUSTOMER").unwrap();
        let missing = (0..5).map(|n| (customer.clone(), member(n))).collect();
        let removed = task.removable(missing, listed).into_iter().map(|(_, member)| member);
        removed.collect::<Vec<_>>()
    };
    let (all, fewer, more) = (members(0..4), members(1..4), members(0..5));
    let through_members = ReconcileTask { unlicensed: vec![member(3)], ..read(&all) };
    assert_eq!(removed(&through_members, &all), members(0..3), "one has no licence, one is not listed");
    let mut through_contacts = ReconcileTask::new();
    through_contacts.begin_with(&all);
    let through_contacts = through_contacts.after_contacts(String::new(), T0);
    assert_eq!(removed(&through_contacts, &all), all);
    for task in [through_members, through_contacts] {
        assert!(removed(&task, &fewer).is_empty() && removed(&task, &more).is_empty());
    }
    let list_unknown = ReconcileTask::new().after_contacts(String::new(), T0);
    assert_eq!(removed(&list_unknown, &all), []);
}

#[test]
fn more_than_half_of_a_dealers_followers_are_not_removed_at_once() {
    assert!(is_plausible(0, 0) && is_plausible(1, 2) && is_plausible(50, 100));
    assert!(!is_plausible(1, 1) && !is_plausible(51, 100));
}

#[test]
fn a_dealer_is_due_at_first_and_some_hours_after_each_comparison() {
    let hours = |hours: i64| T0.plus_ms(hours * HOUR_MS);
    assert!(is_due(None, 24, T0) && !is_due(None, 0, T0));
    assert!(!is_due(Some(T0), 24, hours(23)) && is_due(Some(T0), 24, hours(24)));
    assert!(!is_due(Some(T0), 0, hours(1_000)));
    assert!(is_due(Some(hours(8)), 24, T0), "compared while the clock was ahead");
}
