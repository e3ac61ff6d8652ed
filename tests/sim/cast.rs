//! The participants of a schedule (people, dealers, groups, customers), with what was acknowledged about each:
//! the expectations that `check` compares the service with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use unionlink::domain::fan::Minted;
use unionlink::domain::ids::{ExternalUserid, FanKey, Unionid};
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{Dealer, Person};

use crate::service::app_name;

/// A person, and what the brand did about them.
pub struct Somebody {
    pub person: Person,
    /// A registration was acknowledged, and the person was not forgotten since.
    pub is_fan: bool,
    /// Was forgotten, or possibly was, if the answer was lost.
    pub forgotten: bool,
    /// Was forgotten by unionid and not registered since.
    pub stays_forgotten: bool,
    /// Pending ids that another system minted, newest last; the next registration carries the newest.
    pub minted_by_others: Vec<Minted>,
}

impl Somebody {
    pub const fn new(person: Person) -> Self {
        Self { person, is_fan: false, forgotten: false, stays_forgotten: false, minted_by_others: Vec::new() }
    }

    pub fn unionid(&self) -> Unionid {
        Unionid::new(&self.person.unionid).unwrap()
    }

    pub fn key(&self) -> FanKey {
        FanKey { app: app_name(), unionid: self.unionid() }
    }
}

/// One event about a customer, and whether it was acknowledged.
pub struct EventRecord {
    pub member: String,
    pub at_secs: i64,
    /// An add or half-add; `false` for a removal.
    pub present: bool,
    /// An add that is not half.
    pub confirmed: bool,
    pub state: Option<String>,
    /// A removal by the customer, who stays in WeCom's lists.
    pub by_customer: bool,
    acknowledged: Arc<AtomicBool>,
}

impl EventRecord {
    pub fn new(member: &str, at_secs: i64, present: bool, confirmed: bool, state: Option<&str>) -> Self {
        let (member, state) = (member.to_owned(), state.map(str::to_owned));
        Self { member, at_secs, present, confirmed, state, by_customer: false, acknowledged: Arc::default() }
    }

    /// The flag to set when the service answers 200.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.acknowledged.clone()
    }

    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// A person as a dealer's customer.
pub struct Pair {
    pub external_userid: ExternalUserid,
    pub events: Vec<EventRecord>,
    /// The pending id that WeCom returns for this customer: the newest valid one when the person became it.
    pub found_by: Option<String>,
    /// When the person became a customer: by the first whole add, or by joining a group.
    pub since: Option<Timestamp>,
    /// A fault of its own made WeCom answer without a pending id: the next lookup may be days away.
    pub is_disturbed: bool,
    /// The service asked WeCom as often as it does, and got no pending id.
    pub given_up: bool,
}

impl Pair {
    pub fn new(external_userid: &str) -> Self {
        let external_userid = ExternalUserid::new(external_userid).unwrap();
        Self {
            external_userid,
            events: Vec::new(),
            found_by: None,
            since: None,
            is_disturbed: false,
            given_up: false,
        }
    }

    /// Whether a whole add was acknowledged.
    pub fn is_known(&self) -> bool {
        self.events.iter().any(|event| event.confirmed && event.is_acknowledged())
    }

    /// The members who follow this customer, if every event was acknowledged.
    pub fn followers(&self) -> Option<Vec<String>> {
        let mut newest: BTreeMap<&str, (i64, bool, &Option<String>)> = BTreeMap::new();
        for event in &self.events {
            if !event.is_acknowledged() {
                return None;
            }
            let state = if event.present { &event.state } else { &None };
            let order = (event.at_secs, event.present, state);
            newest.entry(&event.member).and_modify(|known| *known = order.max(*known)).or_insert(order);
        }
        let present = newest.into_iter().filter(|(_, (_, present, _))| *present);
        Some(present.map(|(member, _)| member.to_owned()).collect())
    }
}

/// A dealer.
pub struct DealerState {
    pub dealer: Dealer,
    /// The app is shared with it.
    pub is_shared: bool,
    /// At some time the app was not shared with it.
    pub was_unshared: bool,
    /// At some time it could not work: the app was not shared with it, or it was not verified.
    pub was_troubled: bool,
    /// Its members who are outside the visible range, or may not have customers.
    pub unseen: BTreeSet<&'static str>,
}

impl DealerState {
    pub fn new(dealer: Dealer) -> Self {
        Self { dealer, is_shared: true, was_unshared: false, was_troubled: false, unseen: BTreeSet::new() }
    }
}

/// A customer group of a dealer.
pub struct Group {
    /// Its dealer, by position.
    pub dealer: usize,
    pub chat_id: String,
    /// The people in it, by position.
    pub members: BTreeSet<usize>,
    pub is_dismissed: bool,
}

/// All participants.
#[derive(Default)]
pub struct Cast {
    pub people: Vec<Somebody>,
    pub dealers: Vec<DealerState>,
    pub groups: Vec<Group>,
    /// By person and dealer.
    pub pairs: BTreeMap<(usize, usize), Pair>,
    /// Injected errcodes have blamed ids at random: the next lookup of any may be days away.
    pub ids_were_blamed: bool,
    /// The wall clock was wrong by more than the times of events and lists may differ: followers may be wrong
    /// until the next comparison after these times.
    pub clock_was_off: bool,
}

impl Cast {
    /// Whether a person is in a customer group of a dealer.
    pub fn is_in_a_group(&self, p: usize, d: usize) -> bool {
        self.groups.iter().any(|group| group.dealer == d && !group.is_dismissed && group.members.contains(&p))
    }
}
