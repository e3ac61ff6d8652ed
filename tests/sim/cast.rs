//! The participants of a schedule (people, dealers, groups, customers), with what was acknowledged about each:
//! the expectations that `check` compares the service with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use unionlink::domain::fan::Minted;
use unionlink::domain::ids::{ExternalUserid, FanKey, Unionid};
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{Dealer, Person};

use crate::service::Brand;

/// A person, and what the brand did about them.
pub struct Somebody {
    pub person: Person,
    /// The brand of whose mini-program the person is a user.
    pub brand: Brand,
    /// A registration was acknowledged, and the person was not forgotten since.
    pub is_fan: bool,
    /// Relations that began before this second need not be known: the person was forgotten since, or possibly
    /// was, if the answer was lost. The earliest if the person never was.
    pub known_from_secs: i64,
    /// Was forgotten by unionid and not registered since.
    pub stays_forgotten: bool,
    /// Pending ids that another system minted, newest last; the next registration carries the newest.
    pub minted_by_others: Vec<Minted>,
}

impl Somebody {
    pub const fn new(person: Person, brand: Brand) -> Self {
        Self {
            person,
            brand,
            is_fan: false,
            known_from_secs: i64::MIN,
            stays_forgotten: false,
            minted_by_others: Vec::new(),
        }
    }

    /// Whether the person was ever forgotten, or possibly was.
    pub const fn was_forgotten(&self) -> bool {
        self.known_from_secs > i64::MIN
    }

    pub fn unionid(&self) -> Unionid {
        Unionid::new(&self.person.unionid).unwrap()
    }

    pub fn key(&self) -> FanKey {
        FanKey { app: self.brand.app.clone(), unionid: self.unionid() }
    }
}

/// One event about a customer, and whether it was acknowledged.
pub struct EventRecord {
    /// The member's id as the app sees it.
    pub member: String,
    pub at_secs: i64,
    /// An add or half-add; `false` for a removal.
    pub present: bool,
    /// An add that is not half.
    pub confirmed: bool,
    /// A removal by the customer, who stays in WeCom's lists.
    pub by_customer: bool,
    acknowledged: Arc<AtomicBool>,
}

impl EventRecord {
    pub fn new(member: &str, at_secs: i64, present: bool, confirmed: bool) -> Self {
        let member = member.to_owned();
        Self { member, at_secs, present, confirmed, by_customer: false, acknowledged: Arc::default() }
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

    /// Whether a whole add was acknowledged since this person was forgotten.
    pub fn is_known(&self, somebody: &Somebody) -> bool {
        self.acknowledged_since(somebody).any(|event| event.confirmed)
    }

    /// The acknowledged events since this person was forgotten.
    pub fn acknowledged_since(&self, somebody: &Somebody) -> impl Iterator<Item = &EventRecord> {
        let from_secs = somebody.known_from_secs;
        self.events.iter().filter(move |event| event.is_acknowledged() && event.at_secs >= from_secs)
    }
}

/// A dealer.
pub struct DealerState {
    pub dealer: Dealer,
    pub brand: Brand,
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
    pub fn new(dealer: Dealer, brand: Brand) -> Self {
        let (was_unshared, was_troubled) = (false, false);
        Self { dealer, brand, is_shared: true, was_unshared, was_troubled, unseen: BTreeSet::new() }
    }
}

/// A customer group of a dealer.
pub struct Group {
    /// Its dealer, by position.
    pub dealer: usize,
    pub chat_id: String,
    /// The people in it, by position, and the second in which they joined.
    pub members: BTreeMap<usize, i64>,
    pub is_dismissed: bool,
    /// Whether the event of the last change of its members, or of its end, was acknowledged.
    pub newest: Arc<AtomicBool>,
    /// When its members changed, and when it ended.
    pub changed_at: Vec<Timestamp>,
}

impl Group {
    /// Whether the service must know about the last change.
    pub fn is_reported(&self) -> bool {
        self.newest.load(Ordering::Relaxed)
    }
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
    /// The wall clock was wrong at some time.
    pub clock_was_off: bool,
    /// The latest time that a wrong wall clock has shown: what the service recorded then may hide what it
    /// records until this time.
    pub clock_was_ahead_until: Timestamp,
}

impl Cast {
    /// Whether a person is in a customer group of a dealer, and joined it since they were forgotten.
    pub fn is_in_a_group(&self, p: usize, d: usize) -> bool {
        let from_secs = self.people[p].known_from_secs;
        let is_in = |group: &Group| group.members.get(&p).is_some_and(|joined| *joined >= from_secs);
        self.groups.iter().any(|group| group.dealer == d && !group.is_dismissed && is_in(group))
    }

    /// Records that the wall clock shows `shown` at `now`. If it is wrong, nothing tells whether a forgotten
    /// person comes back before or after they were forgotten.
    pub fn clock_shows(&mut self, shown: Timestamp, now: Timestamp) {
        if shown == now {
            return;
        }
        self.clock_was_off = true;
        self.clock_was_ahead_until = self.clock_was_ahead_until.max(shown);
        for somebody in self.people.iter_mut().filter(|somebody| somebody.was_forgotten()) {
            somebody.known_from_secs = i64::MAX;
        }
    }
}
