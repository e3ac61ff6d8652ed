//! Histories of a group whose events arrive in any order, repeatedly or not at all, with comparisons in
//! between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

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
    /// When comparisons store a list, in milliseconds since the beginning, and how old it is then.
    comparisons: Vec<(i64, i64)>,
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
    let comparisons = vec((0_i64..50_000, 0_i64..4_000), 0..6);
    (vec(step, 1..12), any::<bool>(), comparisons, calls).prop_map(move |parts| {
        let (mut steps, is_dismissed, comparisons, calls) = parts;
        // The comparison makes up for the loss of the last event.
        let last = steps.last_mut().unwrap();
        if last.delivery.delays_ms.is_empty() {
            last.delivery.delays_ms.push(1_000);
        }
        let (is_dismissed, mut comparisons) = (is_dismissed && with_losses, comparisons);
        for (_, age_ms) in &mut comparisons {
            // Nothing corrects a list that is older than the end of its group.
            *age_ms = if is_dismissed { 0 } else { *age_ms };
        }
        History { steps, is_dismissed, comparisons, calls }
    })
}

/// The id of a person. Every second one has the form of a corp member's id (`wo…`).
fn id_of(person: u8) -> ExternalUserid {
    ExternalUserid::new(format!("{}{person}", if person.is_multiple_of(2) { "wm" } else { "wo" })).unwrap()
}

/// What the service learns without asking.
enum Input {
    Event(ChatChange),
    /// A comparison stores a list that is this many milliseconds old.
    Comparison(i64),
}

/// WeCom's group: its lists with the instants since when they are valid, the last one `None` if the group was
/// dismissed.
struct Group {
    lists: Vec<(Timestamp, Option<BTreeSet<ExternalUserid>>)>,
    inputs: Vec<(Timestamp, Input)>,
}

impl Group {
    fn of(history: &History) -> Self {
        let mut group = Self { lists: Vec::new(), inputs: Vec::new() };
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
            let copy = |delay_ms: &i64| (now.plus_ms(*delay_ms), Input::Event(change.clone()));
            group.inputs.extend(delivery.delays_ms.iter().map(copy));
        }
        let comparison = |(at, age_ms): &(i64, i64)| (NOW.plus_ms(*at), Input::Comparison(*age_ms));
        group.inputs.extend(history.comparisons.iter().map(comparison));
        group.inputs.sort_by_key(|(at, _)| *at);
        group
    }

    /// The list as of an instant, with its version.
    fn list_at(&self, at: Timestamp) -> Option<(BTreeSet<ExternalUserid>, MemberVersion)> {
        let index = self.lists.iter().rposition(|(since, _)| *since <= at)?;
        Some((self.lists[index].1.clone()?, version(index)))
    }

    /// Whether somebody is in the group from an instant on.
    fn has_since(&self, at: Timestamp, id: &ExternalUserid) -> bool {
        let index = self.lists.iter().rposition(|(since, _)| *since <= at).unwrap_or(0);
        self.lists[index..].iter().all(|(_, list)| list.as_ref().is_some_and(|list| list.contains(id)))
    }
}

/// What the service holds about the group.
#[derive(Default)]
struct Service {
    chat: Option<Chat>,
    customers: BTreeSet<ExternalUserid>,
    /// The customers that a comparison was the first to list, each with its time.
    found: BTreeMap<ExternalUserid, Timestamp>,
    /// The customers that a list removed from the group although a comparison had seen them there and they stayed.
    wronged: Vec<ExternalUserid>,
}

impl Service {
    fn take_in(&mut self, group: &Group, input: &Input, now: Timestamp) {
        match input {
            Input::Event(change) => self.deliver(change, now),
            Input::Comparison(age_ms) => {
                let read_at = now.plus_ms(-age_ms);
                for id in group.list_at(read_at).map(|(list, _)| list).unwrap_or_default() {
                    if self.customers.insert(id.clone()) {
                        if let Some(chat) = &mut self.chat {
                            chat.note_found(read_at);
                        }
                        self.found.insert(id, read_at);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, change: &ChatChange, now: Timestamp) {
        let effects = self.chat.get_or_insert_default().apply(change, now);
        self.customers.extend(effects.joined);
        self.customers.retain(|id| !effects.left.contains(id));
        if effects.is_gone {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.chat = None;
        self.customers.clear();
    }

    fn read(
        &mut self,
        group: &Group,
        answer: Option<(BTreeSet<ExternalUserid>, MemberVersion)>,
        began_at: Timestamp,
    ) {
        let Some(chat) = &mut self.chat else { return };
        match answer {
            Some((list, version)) => {
                self.customers.extend(list.iter().cloned());
                if chat.read(Some(version), began_at) {
                    let is_wronged = |id: &&ExternalUserid| {
                        self.found.get(*id).is_some_and(|found_at| group.has_since(*found_at, id))
                    };
                    self.wronged.extend(self.customers.difference(&list).filter(is_wronged).cloned());
                    self.customers = list;
                }
            }
            None if chat.not_found(began_at) => self.forget(),
            None => {}
        }
    }
}

/// Delivers the events and makes the comparisons and the readings that are due, in the order of time. Returns
/// the service as it is in the end, and the number of readings.
fn play(group: &Group, calls: &[(i64, i64)]) -> (Service, usize) {
    let (mut service, mut readings) = (Service::default(), 0);
    let mut inputs = group.inputs.iter().peekable();
    let (mut free_at, mut found_since) = (NOW, Timestamp::EPOCH);
    loop {
        let reading = service.chat.as_ref().and_then(|chat| chat.reading.as_ref());
        let began_at = reading.map(|reading| reading.due_at.max(free_at));
        if let Some((at, input)) = inputs.next_if(|(at, _)| began_at.is_none_or(|began_at| *at <= began_at)) {
            service.take_in(group, input, *at);
            continue;
        }
        let Some(began_at) = began_at else { return (service, readings) };
        let (lag_ms, call_ms) = calls[readings % calls.len()];
        readings += 1;
        let answer = group.list_at(began_at.plus_ms(-lag_ms).max(found_since));
        if answer.is_some() {
            // A group that WeCom has found once is found from then on, its list may be an older one again.
            found_since = group.lists[0].0;
        }
        free_at = began_at.plus_ms(call_ms);
        while let Some((at, input)) = inputs.next_if(|(at, _)| *at < free_at) {
            service.take_in(group, input, *at);
        }
        service.read(group, answer, began_at);
    }
}

fn check(history: &History, lag_max_ms: i64) -> Result<(), TestCaseError> {
    let group = Group::of(history);
    let (service, readings) = play(&group, &history.calls);
    let present = group.lists.last().unwrap().1.clone().unwrap_or_default();
    prop_assert_eq!(service.customers, present);
    if lag_max_ms <= CHAT_LAG_MS {
        prop_assert_eq!(service.wronged, []);
    }
    let each = usize::try_from(REREADS_MAX).unwrap() + 2;
    prop_assert!(readings <= each * group.inputs.len(), "{} readings", readings);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn after_any_order_repetition_and_loss_of_events_the_customers_held_are_those_in_the_group(
        history in histories(CHAT_LAG_MS, true)
    ) {
        check(&history, CHAT_LAG_MS)?;
    }

    #[test]
    fn without_losses_that_holds_also_for_lists_that_lag_by_eight_seconds(
        history in histories(4 * CHAT_LAG_MS, false)
    ) {
        check(&history, 4 * CHAT_LAG_MS)?;
    }
}
