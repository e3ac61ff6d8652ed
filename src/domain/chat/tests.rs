//! Single steps, and histories of a group whose events arrive in any order, repeatedly or not at all.

use std::collections::BTreeSet;

use super::*;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

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

/// How an event of the model is delivered.
#[derive(Debug, Clone)]
struct Delivery {
    /// Milliseconds after the change, for each copy; none if the event is lost.
    delays_ms: Vec<i64>,
    has_versions: bool,
    is_complete: bool,
}

/// A change of the model, some time after the one before it: these people leave if they are all members, and
/// else join.
#[derive(Debug, Clone)]
struct Step {
    gap_ms: i64,
    people: BTreeSet<u8>,
    delivery: Delivery,
}

#[derive(Debug, Clone)]
struct History {
    steps: Vec<Step>,
    is_dismissed: bool,
    /// How old the lists are, and how long the calls take, in turn.
    calls: Vec<(i64, i64)>,
}

/// With these lags, in milliseconds, and with or without losses and events without a version.
fn histories(lag_max_ms: i64, with_losses: bool) -> impl Strategy<Value = History> {
    let few = usize::from(!with_losses);
    let delivery = (vec(0_i64..12_000, few..3), any::<bool>(), any::<bool>()).prop_map(move |parts| {
        let (delays_ms, has_versions, is_complete) = parts;
        Delivery { delays_ms, has_versions: has_versions || !with_losses, is_complete }
    });
    let step = (0_i64..4_000, btree_set(0_u8..6, 1..3), delivery)
        .prop_map(|(gap_ms, people, delivery)| Step { gap_ms, people, delivery });
    let calls = vec((0..=lag_max_ms, 0_i64..1_500), 1..12);
    (vec(step, 1..12), any::<bool>(), calls).prop_map(move |(mut steps, is_dismissed, calls)| {
        // The comparison makes up for the loss of the last event.
        let last = steps.last_mut().unwrap();
        if last.delivery.delays_ms.is_empty() {
            last.delivery.delays_ms.push(1_000);
        }
        History { steps, is_dismissed: is_dismissed && with_losses, calls }
    })
}

/// The id of a person. Every second one has the form of a corp member's id (`wo…`).
fn id_of(person: u8) -> ExternalUserid {
    ExternalUserid::new(format!("{}{person}", if person.is_multiple_of(2) { "wm" } else { "wo" })).unwrap()
}

/// WeCom's group: its lists with the instants since when they are valid, the last one `None` if the group was
/// dismissed.
struct Group {
    lists: Vec<(Timestamp, Option<BTreeSet<ExternalUserid>>)>,
    deliveries: Vec<(Timestamp, ChatChange)>,
}

impl Group {
    fn of(history: &History) -> Self {
        let mut group = Self { lists: Vec::new(), deliveries: Vec::new() };
        let (mut now, mut members) = (NOW, BTreeSet::new());
        for (index, Step { gap_ms, people, delivery }) in history.steps.iter().enumerate() {
            now = now.plus_ms(*gap_ms);
            let is_last = index + 1 == history.steps.len();
            let people: BTreeSet<_> = people.iter().copied().map(id_of).collect();
            let items: Vec<_> = people.iter().cloned().collect();
            let versions = index.checked_sub(1).filter(|_| delivery.has_versions).map(versions);
            let is_complete = delivery.is_complete;
            let change = if index == 0 {
                members = people;
                ChatChange::Created
            } else if is_last && history.is_dismissed {
                ChatChange::Dismissed
            } else if people.is_subset(&members) {
                members.retain(|id| !people.contains(id));
                ChatChange::Left { items, is_complete, versions }
            } else {
                let items = people.difference(&members).cloned().collect();
                members.extend(people);
                ChatChange::Joined { items, is_complete, versions }
            };
            let list = (change != ChatChange::Dismissed).then(|| members.clone());
            group.lists.push((now, list));
            let copies = delivery.delays_ms.iter().map(|delay_ms| (now.plus_ms(*delay_ms), change.clone()));
            group.deliveries.extend(copies);
        }
        group.deliveries.sort_by_key(|(at, _)| *at);
        group
    }

    /// The list as of an instant, with its version.
    fn list_at(&self, at: Timestamp) -> Option<(BTreeSet<ExternalUserid>, MemberVersion)> {
        let index = self.lists.iter().rposition(|(since, _)| *since <= at)?;
        Some((self.lists[index].1.clone()?, version(index)))
    }
}

/// What the service holds about the group.
#[derive(Default)]
struct Service {
    chat: Option<Chat>,
    customers: BTreeSet<ExternalUserid>,
}

impl Service {
    fn deliver(&mut self, change: &ChatChange, now: Timestamp) {
        let effects = self.chat.get_or_insert_default().apply(change, now);
        self.customers.extend(effects.joined);
        self.customers.retain(|id| !effects.left.contains(id));
        if effects.is_gone {
            *self = Self::default();
        }
    }

    fn read(&mut self, answer: Option<(BTreeSet<ExternalUserid>, MemberVersion)>, began_at: Timestamp) {
        let Some(chat) = &mut self.chat else { return };
        match answer {
            Some((list, version)) => {
                self.customers.extend(list.iter().cloned());
                if chat.read(Some(version), began_at) {
                    self.customers = list;
                }
            }
            None if chat.not_found(began_at) => *self = Self::default(),
            None => {}
        }
    }
}

/// Delivers the events and makes the readings that are due, in the order of time. Returns the customers held
/// in the end, and the number of readings.
fn play(group: &Group, calls: &[(i64, i64)]) -> (BTreeSet<ExternalUserid>, usize) {
    let (mut service, mut readings) = (Service::default(), 0);
    let mut deliveries = group.deliveries.iter().peekable();
    let (mut free_at, mut found_since) = (NOW, Timestamp::EPOCH);
    loop {
        let reading = service.chat.as_ref().and_then(|chat| chat.reading.as_ref());
        let began_at = reading.map(|reading| reading.due_at.max(free_at));
        if let Some((at, change)) =
            deliveries.next_if(|(at, _)| began_at.is_none_or(|began_at| *at <= began_at))
        {
            service.deliver(change, *at);
            continue;
        }
        let Some(began_at) = began_at else { return (service.customers, readings) };
        let (lag_ms, call_ms) = calls[readings % calls.len()];
        readings += 1;
        let answer = group.list_at(began_at.plus_ms(-lag_ms).max(found_since));
        if answer.is_some() {
            // A group that WeCom has found once is found from then on, its list may be an older one again.
            found_since = group.lists[0].0;
        }
        free_at = began_at.plus_ms(call_ms);
        while let Some((at, change)) = deliveries.next_if(|(at, _)| *at < free_at) {
            service.deliver(change, *at);
        }
        service.read(answer, began_at);
    }
}

fn check(history: &History) -> Result<(), TestCaseError> {
    let group = Group::of(history);
    let (customers, readings) = play(&group, &history.calls);
    let present = group.lists.last().unwrap().1.clone().unwrap_or_default();
    prop_assert_eq!(customers, present);
    let each = usize::try_from(REREADS_MAX).unwrap() + 2;
    prop_assert!(readings <= each * group.deliveries.len(), "{} readings", readings);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn after_any_order_repetition_and_loss_of_events_the_customers_held_are_those_in_the_group(
        history in histories(CHAT_LAG_MS, true)
    ) {
        check(&history)?;
    }

    #[test]
    fn without_losses_that_holds_also_for_lists_that_lag_by_eight_seconds(
        history in histories(4 * CHAT_LAG_MS, false)
    ) {
        check(&history)?;
    }
}
