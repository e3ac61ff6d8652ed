//! Single steps of a group's record.

use super::super::time::HOUR_MS;
use super::*;

mod histories;

const NOW: Timestamp = Timestamp::from_secs(1_000);
const LAG: Timestamp = NOW.plus_ms(CHAT_LAG_MS);

fn version(n: usize) -> MemberVersion {
    MemberVersion(format!("{n:032x}"))
}

fn versions(before: usize) -> Versions {
    Versions { before: version(before), after: version(before + 1) }
}

fn ids(ids: &[&str]) -> Vec<ExternalUserid> {
    ids.iter().map(|id| ExternalUserid::new(id).unwrap()).collect()
}

fn joined(items: &[&str], before: usize) -> ChatChange {
    ChatChange::Joined { items: ids(items), is_complete: true, versions: Some(versions(before)) }
}

fn left(items: &[&str], before: usize) -> ChatChange {
    ChatChange::Left { items: ids(items), is_complete: true, versions: Some(versions(before)) }
}

/// A change of which only the fact is known.
fn unnamed() -> ChatChange {
    ChatChange::Joined { items: Vec::new(), is_complete: false, versions: None }
}

/// A group whose list was read with this version.
fn held(n: usize) -> Chat {
    Chat { version: Some(version(n)), ..Chat::default() }
}

/// The version held, if no reading is due.
fn known(chat: &Chat) -> Option<&MemberVersion> {
    chat.version.as_ref().filter(|_| chat.reading.is_none())
}

fn due_at(chat: &Chat) -> Timestamp {
    chat.reading.as_ref().unwrap().due_at
}

#[test]
fn an_event_from_the_version_held_is_the_whole_change() {
    let mut chat = held(1);
    assert_eq!(chat.apply(&joined(&["wmA", "wmB"], 1), NOW).joined, ids(&["wmA", "wmB"]));
    assert_eq!(known(&chat), Some(&version(2)));
    // The same event again changes nothing.
    chat.apply(&joined(&["wmA", "wmB"], 1), NOW);
    assert_eq!(known(&chat), Some(&version(2)));
    assert_eq!(chat.apply(&left(&["wmA", "member"], 2), NOW).left, ids(&["wmA", "member"]));
    assert_eq!(known(&chat), Some(&version(3)));
}

#[test]
fn a_lost_event_a_doubtful_id_or_an_incomplete_event_leads_to_a_reading() {
    let incomplete =
        ChatChange::Left { items: ids(&["wmA"]), is_complete: false, versions: Some(versions(1)) };
    for (change, customers) in [
        (joined(&["wmA"], 2), 1),
        (joined(&["wmA", "woB"], 1), 1),
        (left(&["wmA"], 2), 0),
        (incomplete, 0),
        (unnamed(), 0),
    ] {
        let mut chat = held(1);
        let effects = chat.apply(&change, NOW);
        assert_eq!((effects.joined.len(), effects.left), (customers, Vec::new()));
        assert_eq!(due_at(&chat), LAG);
    }
}

#[test]
fn a_new_group_is_read_and_a_late_creation_of_one_that_was_read_changes_nothing() {
    let mut chat = Chat::default();
    chat.apply(&ChatChange::Created, NOW);
    assert_eq!(due_at(&chat), LAG);
    assert!(chat.read(Some(version(1)), LAG));
    chat.apply(&ChatChange::Created, LAG);
    assert_eq!(chat, held(1));
}

#[test]
fn no_later_event_makes_a_list_of_a_replaced_version_acceptable() {
    // The ids of two joins, the second of which arrives first, may be members'. Then come a leave that was
    // late, and an event without a version.
    let unversioned = ChatChange::Left { items: ids(&["wmX"]), is_complete: true, versions: None };
    let late = [joined(&["woA"], 2), left(&["wmX"], 1), unversioned];
    for late in [&late[..0], &late[..1], &late[..2], &late[..]] {
        let mut chat = held(1);
        chat.apply(&joined(&["woB"], 3), NOW);
        for change in late {
            chat.apply(change, NOW);
        }
        assert!(!chat.read(Some(version(3)), LAG), "after {late:?}");
        assert!(chat.read(Some(version(4)), due_at(&chat)));
        assert_eq!(known(&chat), Some(&version(4)));
    }
}

#[test]
fn a_list_that_stays_old_is_read_twice_more_and_its_version_is_not_held() {
    let mut chat = held(1);
    chat.apply(&joined(&["woDOUBTFUL"], 1), NOW);
    let mut waits = Vec::new();
    let mut began_at = LAG;
    while !chat.read(Some(version(1)), began_at) {
        waits.push(due_at(&chat).millis_since(began_at));
        began_at = due_at(&chat);
    }
    assert_eq!(waits, [CHAT_LAG_MS, 2 * CHAT_LAG_MS]);
    assert_eq!((&chat.version, &chat.reading), (&None, &None));
    // The next event has the list read.
    chat.apply(&joined(&["wmA"], 2), began_at);
    assert!(chat.read(Some(version(3)), due_at(&chat)));
    assert_eq!(known(&chat), Some(&version(3)));
}

#[test]
fn a_chain_of_events_to_a_version_that_is_replaced_already_leads_to_a_reading() {
    let mut chat = held(1);
    chat.apply(&joined(&["wmC"], 3), NOW);
    // This list lacks two changes, the events of which are not known yet.
    assert!(chat.read(Some(version(1)), LAG));
    chat.apply(&joined(&["wmA"], 1), LAG);
    assert_eq!(known(&chat), Some(&version(2)));
    chat.apply(&joined(&["wmB"], 2), LAG);
    assert_eq!(known(&chat), None, "the next change was reported before");
}

#[test]
fn a_burst_does_not_put_the_reading_off_and_what_came_after_it_is_read_too() {
    let mut chat = Chat::default();
    for n in 0..10 {
        chat.apply(&unnamed(), NOW.plus_ms(n * 1_000));
    }
    assert_eq!(due_at(&chat), LAG);
    assert!(!chat.read(Some(version(1)), LAG));
    let last = NOW.plus_ms(9_000 + CHAT_LAG_MS);
    assert_eq!(due_at(&chat), last);
    assert!(chat.read(Some(version(2)), last));
    assert_eq!(chat, held(2));
}

#[test]
fn a_list_requested_too_soon_after_any_event_is_provisional() {
    let mut chat = held(1);
    chat.apply(&unnamed(), NOW);
    chat.apply(&joined(&["wmA"], 1), NOW.plus_ms(1));
    assert!(!chat.read(Some(version(9)), LAG));
    assert!(chat.read(Some(version(9)), LAG.plus_ms(1)));
}

#[test]
fn a_new_group_that_does_not_exist_yet_is_read_twice_more_and_one_that_was_read_has_ended() {
    let mut chat = Chat::default();
    chat.apply(&ChatChange::Created, NOW);
    assert!(!chat.not_found(LAG));
    let second = due_at(&chat);
    assert_eq!(second, LAG.plus_ms(CHAT_LAG_MS));
    let mut other = chat.clone();
    assert!(other.read(Some(version(1)), second));
    assert_eq!(other, held(1));
    assert!(!chat.not_found(second));
    assert!(chat.not_found(due_at(&chat)));

    let mut chat = held(1);
    chat.apply(&unnamed(), NOW);
    // What was reported after the request is answered by the next one.
    chat.apply(&unnamed(), LAG);
    assert!(!chat.not_found(LAG));
    assert!(chat.not_found(due_at(&chat)));
}

#[test]
fn a_list_of_a_group_that_was_forgotten_meanwhile_is_not_applied() {
    let mut chat = Chat::default();
    assert!(!chat.read(Some(version(1)), NOW) && !chat.not_found(NOW));
    assert_eq!(chat, Chat::default());
}

#[test]
fn the_number_of_replaced_versions_kept_is_bounded() {
    let mut chat = held(0);
    for n in 0..1_000 {
        chat.apply(&joined(&["wmA"], n), NOW);
    }
    assert_eq!(known(&chat), Some(&version(1_000)));
    assert_eq!(chat.replaced.len(), REPLACED_MAX);
    assert_eq!(chat.replaced.last(), Some(&version(999)));
}

#[test]
fn a_list_requested_before_a_comparison_found_another_customer_is_provisional() {
    let mut chat = held(1);
    chat.apply(&unnamed(), NOW);
    let found_at = LAG.plus_ms(300);
    assert!(chat.note_found(found_at) && !chat.note_found(NOW));
    assert!(!chat.read(Some(version(2)), LAG));
    assert_eq!(due_at(&chat), found_at.plus_ms(CHAT_LAG_MS));
    assert!(chat.read(Some(version(2)), due_at(&chat)));
    assert_eq!(known(&chat), Some(&version(2)));
}

#[test]
fn a_comparison_that_finds_another_customer_has_the_list_read() {
    // The customer left after the comparison's list was requested, and the event was received before it.
    let mut chat = held(1);
    assert!(chat.note_found(NOW) && !chat.note_found(NOW));
    assert_eq!(due_at(&chat), NOW.plus_ms(CHAT_LAG_MS));
    assert!(chat.read(Some(version(1)), due_at(&chat)), "the list replaces what is held");
    assert_eq!(chat, held(1));
}

#[test]
fn no_clock_that_was_set_back_delays_a_reading_by_more_than_a_minute() {
    let mut chat = held(1);
    chat.apply(&unnamed(), NOW);
    chat.note_found(NOW.plus_ms(8 * HOUR_MS));
    assert!(!chat.read(Some(version(2)), LAG));
    assert_eq!(due_at(&chat), LAG.plus_ms(MINUTE_MS));
    assert!(chat.read(Some(version(2)), due_at(&chat)));
}

#[test]
fn a_leave_of_many_is_read_in_the_list() {
    let many: Vec<_> = (0..=LEFT_MAX).map(|n| format!("wm{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let mut chat = held(1);
    assert_eq!(chat.apply(&left(&many[1..], 1), NOW).left.len(), LEFT_MAX);
    assert_eq!(known(&chat), Some(&version(2)));
    assert_eq!(chat.apply(&left(&many, 2), NOW), ChatEffects::default());
    assert_eq!(due_at(&chat), LAG);
}
