//! The invariant of followers, after every dealer was compared with WeCom's lists by a clock that is right:
//! the members who follow a customer are those whom WeCom shows, unless nothing could tell the service, or
//! design §7 forbids a removal.

use std::collections::BTreeSet;

use crate::cast::{EventRecord, Pair, Somebody};
use crate::check::Checker;

/// The relation of a member and a customer at WeCom.
struct Relation<'a> {
    /// All events, in the order of their creation.
    events: Vec<&'a EventRecord>,
    /// A whole add was among them.
    is_confirmed: bool,
    is_deleted_by_member: bool,
    is_deleted_by_customer: bool,
}

impl<'a> Relation<'a> {
    fn of(pair: &'a Pair, member: &str) -> Self {
        let mut relation = Self {
            events: pair.events.iter().filter(|event| event.member == member).collect(),
            is_confirmed: false,
            is_deleted_by_member: false,
            is_deleted_by_customer: false,
        };
        for event in &relation.events {
            relation.is_confirmed |= event.confirmed;
            relation.is_deleted_by_member =
                !event.present && (relation.is_deleted_by_member || !event.by_customer);
            relation.is_deleted_by_customer =
                !event.present && (relation.is_deleted_by_customer || event.by_customer);
        }
        relation
    }

    const fn is_friend(&self) -> bool {
        self.is_confirmed && !self.is_deleted_by_member && !self.is_deleted_by_customer
    }

    const fn is_listed(&self, lists_deleted_by_customer: bool) -> bool {
        self.is_confirmed
            && !self.is_deleted_by_member
            && (lists_deleted_by_customer || !self.is_deleted_by_customer)
    }

    fn last_add(&self) -> Option<&'a EventRecord> {
        self.events.iter().rfind(|event| event.present).copied()
    }

    /// The event that decides: within one second an add beats a removal.
    fn newest(&self) -> Option<&'a EventRecord> {
        self.events.iter().max_by_key(|event| (event.at_secs, event.present)).copied()
    }

    /// Whether the customer may have yet to be confirmed, for all that the service knows: also if both adds
    /// fall into one second, or the event of the whole add was lost.
    fn may_be_half(&self) -> bool {
        let is_half = |event: &&EventRecord| event.present && !event.confirmed;
        if self.events.iter().copied().any(|event| is_half(&event))
            && self.last_add().is_some_and(|add| !add.is_acknowledged())
        {
            return true;
        }
        let last_at = self.last_add().map(|add| add.at_secs);
        let mut adds = self.events.iter().filter(|event| event.present && Some(event.at_secs) == last_at);
        adds.any(|add| !add.confirmed) || last_at.is_none()
    }

    /// Whether every event is one since the person was forgotten.
    fn is_since(&self, somebody: &Somebody) -> bool {
        self.events.iter().all(|event| event.at_secs >= somebody.known_from_secs)
    }
}

impl Checker<'_> {
    /// Every follower whom WeCom shows is held to be one, and nobody else.
    pub async fn followers(&mut self) {
        for d in 0..self.schedule.cast.dealers.len() {
            self.followers_at(d).await;
        }
    }

    async fn followers_at(&mut self, d: usize) {
        let schedule = self.schedule;
        let keeps = schedule.machine.setup.lists_deleted_by_customer;
        let (mut present, mut missing_at_most, mut unlisted) = (0, 0, Vec::new());
        for ((p, _), pair) in schedule.cast.pairs.iter().filter(|((_, of), _)| *of == d) {
            let somebody = &schedule.cast.people[*p];
            let data = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            let Some((_, contact)) = data.contacts.first() else { continue };
            let held: BTreeSet<_> = contact
                .followers_now()
                .into_iter()
                .map(|follower| follower.user_id.as_str().to_owned())
                .collect();
            present += held.len();
            let members: BTreeSet<_> = pair.events.iter().map(|event| event.member.clone()).collect();
            for member in members.union(&held) {
                let (relation, is_held) = (Relation::of(pair, member), held.contains(member));
                let has_ended = self.has_ended(&relation, somebody);
                let is_owed = self.is_owed(&relation, somebody);
                let (is_wrong, is_right) = if is_held { (has_ended, is_owed) } else { (is_owed, has_ended) };
                self.judged.followers += u64::from(is_right);
                self.expect(!is_wrong, || {
                    let what = if is_held { "has the follower" } else { "lacks the follower" };
                    format!("p{p} at d{d} {what} {member}: {contact:?}")
                });
                if is_held && !relation.is_listed(keeps) {
                    missing_at_most += 1;
                    let is_whole = !relation.may_be_half() && relation.is_since(somebody);
                    unlisted.extend(is_whole.then(|| format!("{member} of p{p}")));
                }
                let is_reported = relation.newest().is_some_and(EventRecord::is_acknowledged);
                let was_held = relation.last_add().is_some_and(EventRecord::is_acknowledged);
                let is_removed = !is_held && was_held && !is_reported && !relation.is_listed(keeps);
                self.judged.removed += u64::from(is_removed);
            }
        }
        // The lists were read completely, all members are listed, and nothing has changed since.
        let is_plausible = missing_at_most * 2 <= present;
        self.expect(unlisted.is_empty() || !is_plausible, || {
            format!("{unlisted:?} at d{d} are in no list, and of {present} followers were not removed")
        });
    }

    /// Whether an event has ended a relation for good.
    fn has_ended(&self, relation: &Relation<'_>, somebody: &Somebody) -> bool {
        let ended = |event: &EventRecord| !event.present && event.is_acknowledged();
        relation.newest().is_some_and(ended)
            && relation.is_since(somebody)
            // By a clock that was ahead, a list was read after the member deleted the customer.
            && !self.schedule.cast.clock_was_off
    }

    /// Whether a relation must be known: by its event, or by the lists.
    fn is_owed(&self, relation: &Relation<'_>, somebody: &Somebody) -> bool {
        let (Some(newest), Some(add)) = (relation.newest(), relation.last_add()) else { return false };
        if add.at_secs < somebody.known_from_secs {
            return false;
        }
        let is_reported = newest.present && newest.is_acknowledged();
        if !relation.is_friend() {
            // No list has those who have yet to be confirmed.
            let is_half = !relation.is_confirmed && relation.events.last().is_some_and(|event| event.present);
            return is_half && is_reported && !self.schedule.cast.clock_was_off;
        }
        // In the lists with the time of the first add only, nothing tells whether a customer who deleted the
        // member, or was forgotten, is back; nor does it in any within one second.
        let removed_by_customer = relation.events.iter().filter(|event| event.by_customer);
        let is_doubtful = if self.schedule.machine.setup.lists_first_add {
            removed_by_customer.count() > 0 || !relation.is_since(somebody)
        } else {
            removed_by_customer.map(|event| event.at_secs).max() >= Some(add.at_secs)
        };
        is_reported || !is_doubtful
    }
}
