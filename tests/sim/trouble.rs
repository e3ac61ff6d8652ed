//! Faults: of WeCom, of receivers, of the machine.

use std::sync::atomic::Ordering;

use unionlink::clock::Clock;
use unionlink::domain::time::{MINUTE_MS, Timestamp};
use unionlink::simulator::{Api, Change, Fault, MemberChange, Target};

use crate::agency::Delivery;
use crate::receiver::BEHAVIOURS;
use crate::schedule::{MEMBERS, Schedule};
use crate::service::Brand;

/// Errcodes of every class, except those about one id: see [`ITEM_CODES`].
const CODES: [i64; 18] = [
    -1, 45_009, 45_033, 40_014, 42_001, 40_001, 48_002, 60_020, 301_002, 84_074, 670_001, 99_999, 99_999,
    99_998, 845_001, 6_000, 50_003, 41_001,
];
/// Errcodes that blame an id.
const ITEM_CODES: [i64; 4] = [40_096, 84_061, 40_058, 60_011];
/// The calls that read lists.
const LISTS: [Api; 6] = [
    Api::GetFollowUserList,
    Api::GetByUser,
    Api::ContactList,
    Api::GroupChatList,
    Api::GroupChatGet,
    Api::GetChainCorpinfo,
];

impl Schedule {
    /// Calls fail, a few times or until repaired. Returns how, and how often.
    pub fn trouble_at_wecom(&mut self, until_repaired: Option<u32>) -> (Fault, Option<u32>) {
        let target = match self.dice.below(10) {
            0 | 1 => Target::Every,
            2..5 => Target::Only(self.dice.among(&LISTS)),
            _ => Target::Only(self.dice.among(&[
                Api::GetToken,
                Api::ListAppShareInfo,
                Api::CorpGetToken,
                Api::UnionidToPendingId,
                Api::ExternalUseridToPendingId,
                Api::ExternalUseridToPendingId,
                Api::UnionidToExternalUserid,
            ])),
        };
        let mut times = self.dice.among(&[Some(1), Some(1), Some(2), Some(4), Some(12), until_repaired]);
        let fault = match self.dice.below(10) {
            0..3 => Fault::Errcode(self.dice.among(&CODES)),
            3 => {
                // Repeated, these would make the service reject the ids.
                times = Some(1);
                self.cast.ids_were_blamed = true;
                Fault::Errcode(self.dice.among(&ITEM_CODES))
            }
            4 => Fault::HttpStatus(self.dice.among(&[500, 502, 503, 429, 403])),
            5 => Fault::Latency(self.dice.between(1, 15_000)),
            6 => Fault::Hang,
            7 => Fault::Reset,
            8 => Fault::Garbage,
            _ => Fault::ApplyThenDrop,
        };
        self.note(format!("wecom: {target:?} {fault:?} {times:?}"));
        self.machine.sim.inject(target, fault, times);
        (fault, times)
    }

    /// A fault of one customer or person.
    pub fn trouble_with_an_id(&mut self) {
        let (p, d, sim) = (self.random_person(), self.random_dealer(), self.machine.sim.clone());
        // One fault each: together they could last longer than the schedule of lookups.
        let pair = self.cast.pairs.get_mut(&(p, d)).filter(|pair| !pair.is_disturbed);
        match self.dice.below(4) {
            0 | 1 => {
                let Some(pair) = pair else { return };
                pair.is_disturbed = true;
                let calls = u32::try_from(self.dice.between(1, 4)).unwrap();
                sim.hide_rows(pair.external_userid.as_str(), calls);
                self.note(format!("p{p} at d{d} is hidden for {calls} calls"));
            }
            2 => {
                let Some(pair) = pair else { return };
                pair.is_disturbed = true;
                sim.poison(pair.external_userid.as_str());
                self.note(format!("the id of p{p} at d{d} makes batches fail"));
            }
            _ => {
                let code = self.dice.among(&[610_014, 610_018, 40_073, 845_001]);
                sim.reject_person(&self.cast.people[p].person, Some(code));
                self.note(format!("p{p} is refused with {code}"));
            }
        }
    }

    /// A fault of one dealer: it leaves, is not verified, has members whom the app does not see, or answers
    /// with errors.
    pub fn trouble_with_a_dealer(&mut self) {
        let d = self.random_dealer();
        match self.dice.below(5) {
            0 => self.share(d, false),
            1 => {
                self.note(format!("d{d} is not verified"));
                self.cast.dealers[d].was_troubled = true;
                self.machine.sim.set_qualification(&self.cast.dealers[d].dealer.corp_id, 1);
            }
            2 | 3 => {
                let member = self.dice.among(&MEMBERS);
                self.hide_member(d, member);
            }
            _ => {
                let code = self.dice.among(&[48_002, 84_074, 301_002, -1]);
                self.note(format!("d{d} answers {code}"));
                self.machine.sim.set_dealer_error(&self.cast.dealers[d].dealer.corp_id, Some(code));
            }
        }
    }

    /// The app is shared with a dealer, or no longer.
    pub fn share(&mut self, d: usize, is_shared: bool) {
        let dealer = &mut self.cast.dealers[d];
        if dealer.is_shared == is_shared {
            return;
        }
        dealer.is_shared = is_shared;
        dealer.was_unshared |= !is_shared;
        dealer.was_troubled |= !is_shared;
        let (dealer, brand) = (dealer.dealer.corp_id.clone(), dealer.brand.clone());
        if self.has_installed(&dealer) {
            let is_repaired = self.repaired_at > Timestamp::EPOCH;
            let delivery = if is_repaired { Delivery::Sure } else { Delivery::Usual };
            return if is_shared {
                self.authorize(&dealer, delivery);
            } else {
                self.cancel(&dealer, delivery);
            };
        }
        let (sim, Brand { corp_id, agent_id, .. }) = (&self.machine.sim, brand);
        sim.share(&dealer, is_shared);
        let event = sim.event(&corp_id, &Change::ShareChainChange { agent_id });
        self.deliver_of_group(&event, &format!("the app is shared with d{d}: {is_shared}"));
    }

    /// A member of a dealer leaves the visible range, or may have no customers any more.
    pub fn hide_member(&mut self, d: usize, member: &'static str) {
        let (sim, dealer) = (&self.machine.sim, &mut self.cast.dealers[d]);
        dealer.unseen.insert(member);
        let corp_id = &dealer.dealer.corp_id;
        if self.dice.one_in(3) {
            sim.set_customer_contact(corp_id, member, false);
        } else {
            sim.set_member_visible(corp_id, member, false);
        }
        let user_id = sim.user_id(corp_id, member);
        let change = Change::Member { user_id: user_id.clone(), change: MemberChange::Unsubscribed };
        let event = sim.event(corp_id, &change);
        // Of those whom this member follows some may not have been looked up yet.
        for ((_, of), pair) in &mut self.cast.pairs {
            pair.is_disturbed |= *of == d && pair.events.iter().any(|event| event.member == user_id);
        }
        self.deliver_of_group(&event, &format!("d{d}'s {member} is not seen any more"));
    }

    /// The members of a dealer whom the app does not see come back.
    pub fn show_members(&mut self, d: usize) {
        for member in std::mem::take(&mut self.cast.dealers[d].unseen) {
            let (sim, corp_id) = (&self.machine.sim, &self.cast.dealers[d].dealer.corp_id);
            sim.set_customer_contact(corp_id, member, true);
            sim.set_member_visible(corp_id, member, true);
            let user_id = sim.user_id(corp_id, member);
            let change = Change::Member { user_id, change: MemberChange::Subscribed };
            let event = sim.event(corp_id, &change);
            self.deliver_of_group(&event, &format!("d{d}'s {member} is seen again"));
        }
    }

    /// Removes every fault of WeCom.
    pub fn repair_wecom(&mut self) {
        self.note("wecom is repaired");
        for d in 0..self.cast.dealers.len() {
            self.share(d, true);
            self.show_members(d);
        }
        let sim = &self.machine.sim;
        sim.clear_faults();
        for dealer in &self.cast.dealers {
            sim.set_qualification(&dealer.dealer.corp_id, 3);
            sim.set_dealer_error(&dealer.dealer.corp_id, None);
        }
        for somebody in &self.cast.people {
            sim.reject_person(&somebody.person, None);
        }
        for pair in self.cast.pairs.values() {
            sim.cure(pair.external_userid.as_str());
        }
    }

    pub fn revoke_tokens(&mut self) {
        let d = self.random_dealer();
        let corp = match self.dice.below(2) {
            0 => self.cast.dealers[d].brand.corp_id.clone(),
            _ => self.cast.dealers[d].dealer.corp_id.clone(),
        };
        self.note("tokens are revoked");
        self.machine.sim.revoke_tokens(&corp);
    }

    pub fn trouble_at_a_receiver(&mut self) {
        let (receiver, behaviour) =
            (self.dice.index(self.machine.receivers.len()), self.dice.among(&BEHAVIOURS));
        let receiver = &self.machine.receivers[receiver];
        self.note(format!("{} is {behaviour:?}", receiver.name));
        receiver.memory().behaviour = behaviour;
    }

    /// Sets the wall clock, and records what can be wrong since.
    pub fn disturb_the_clock(&mut self) {
        let (shown, now) = (self.machine.clock.now(), self.time.now());
        self.cast.clock_shows(shown, now);
        let skew_ms = self.set_the_clock();
        self.cast.clock_shows(now.plus_ms(skew_ms), now);
    }

    /// Sets the wall clock right, or wrong by minutes or hours. Returns by how many milliseconds; 0 if it was
    /// not set.
    pub fn set_the_clock(&mut self) -> i64 {
        let minutes = match self.dice.below(3) {
            0 => 0,
            1 => i64::try_from(self.dice.between(0, 180)).unwrap() - 90,
            _ => i64::try_from(self.dice.between(0, 60 * 60)).unwrap() - 30 * 60,
        };
        // Before the boot is recorded, the service could not detect that the clock was set.
        if !self.machine.clock.is_noted() {
            return 0;
        }
        self.note(format!("the wall clock is {minutes} min off"));
        self.machine.clock.set(minutes * MINUTE_MS);
        minutes * MINUTE_MS
    }

    pub fn slow_disk(&mut self) {
        let slow = self.dice.one_in(2);
        self.note(format!("the disk is slow: {slow}"));
        self.machine.disk.slow.store(slow, Ordering::Relaxed);
    }

    /// Plans a crash of the process at one of the next writes.
    pub fn plan_crash(&mut self) {
        let crash = (self.dice.below(6), self.dice.one_in(2));
        *self.machine.disk.crash.lock().unwrap() = Some(crash);
    }
}
