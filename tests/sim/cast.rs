//! The participants of a schedule (people, dealers, customers), with what was acknowledged about each: the
//! expectations that `check` compares the service with.

use std::collections::BTreeMap;
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
    acknowledged: Arc<AtomicBool>,
}

impl EventRecord {
    pub fn new(member: &str, at_secs: i64, present: bool, confirmed: bool, state: Option<&str>) -> Self {
        let (member, state) = (member.to_owned(), state.map(str::to_owned));
        Self { member, at_secs, present, confirmed, state, acknowledged: Arc::default() }
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
    /// The pending id that WeCom returns for this customer: the newest valid one at the first whole add.
    pub found_by: Option<String>,
    /// The time of the first whole add.
    pub befriended_at: Option<Timestamp>,
    /// The service asked WeCom as often as it does, and got no pending id.
    pub given_up: bool,
}

impl Pair {
    pub fn new(external_userid: &str) -> Self {
        let external_userid = ExternalUserid::new(external_userid).unwrap();
        Self { external_userid, events: Vec::new(), found_by: None, befriended_at: None, given_up: false }
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
    /// At some time the app was not shared with it.
    pub was_unshared: bool,
}

/// All participants.
#[derive(Default)]
pub struct Cast {
    pub people: Vec<Somebody>,
    pub dealers: Vec<DealerState>,
    /// By person and dealer.
    pub pairs: BTreeMap<(usize, usize), Pair>,
}
