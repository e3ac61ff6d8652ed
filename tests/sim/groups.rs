//! Customer groups in a schedule: who creates them, joins, leaves and dismisses them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use unionlink::clock::Clock;
use unionlink::simulator::{Event, Leave};

use crate::cast::Group;
use crate::schedule::{MEMBERS, Schedule};

impl Schedule {
    /// Somebody creates, joins, leaves or dismisses a group, or changes something else of one.
    pub fn change_a_group(&mut self) {
        let live: Vec<_> =
            (0..self.cast.groups.len()).filter(|g| !self.cast.groups[*g].is_dismissed).collect();
        if live.is_empty() || self.dice.one_in(8) {
            let d = self.random_dealer();
            return self.create_group(d);
        }
        let g = self.dice.among(&live);
        match self.dice.below(12) {
            0..8 => {
                let joining = (0..self.dice.between(1, 4)).map(|_| self.random_person()).collect();
                let event = self.join_group(g, joining);
                self.deliver_of_members(g, &event, &format!("some join g{g}"));
            }
            8..10 => self.leave_group(g),
            10 => {
                let chat_id = self.cast.groups[g].chat_id.clone();
                let owner = self.dice.among(&MEMBERS);
                let what = format!("g{g} changes ({owner})");
                let event = match self.dice.below(3) {
                    0 => self.machine.sim.change_chat_owner(&chat_id, owner),
                    1 => {
                        let event = self.machine.sim.join_chat_members(&chat_id, &[owner]);
                        return self.deliver_of_members(g, &event, &what);
                    }
                    _ => self.machine.sim.rename_chat(&chat_id, "renamed"),
                };
                self.deliver_of_group(&event, &what);
            }
            _ => {
                self.cast.groups[g].is_dismissed = true;
                let event = self.machine.sim.dismiss_chat(&self.cast.groups[g].chat_id);
                self.deliver_of_members(g, &event, &format!("g{g} is dismissed"));
            }
        }
    }

    pub fn create_group(&mut self, d: usize) {
        let owner = self.dice.among(&MEMBERS);
        let chat_id = self.machine.sim.add_chat_owned(&self.cast.dealers[d].dealer.corp_id, owner);
        let event = self.machine.sim.chat_created(&chat_id);
        let g = self.cast.groups.len();
        let (members, newest) = (BTreeMap::new(), Arc::default());
        let changed_at = Vec::new();
        self.cast.groups.push(Group { dealer: d, chat_id, members, is_dismissed: false, newest, changed_at });
        self.deliver_of_members(g, &event, &format!("g{g} is created by d{d}'s {owner}"));
    }

    /// People join a group. Returns the event.
    pub fn join_group(&mut self, g: usize, mut joining: Vec<usize>) -> Event {
        joining.sort_unstable();
        joining.dedup();
        let group = &mut self.cast.groups[g];
        let d = group.dealer;
        for p in &joining {
            group.members.entry(*p).or_insert(self.time.now().as_secs());
        }
        let people: Vec<_> = joining.iter().map(|p| self.cast.people[*p].person.clone()).collect();
        let event = self.machine.sim.join_chat(&group.chat_id, &people);
        for p in &joining {
            self.pair(*p, d, true);
        }
        self.note(format!("{joining:?} are in g{g} of d{d}"));
        event
    }

    fn leave_group(&mut self, g: usize) {
        let members: Vec<_> = self.cast.groups[g].members.keys().copied().collect();
        if members.is_empty() {
            return;
        }
        let p = self.dice.among(&members);
        let how = self.dice.among(&[Leave::BySelf, Leave::Removed]);
        let group = &mut self.cast.groups[g];
        group.members.remove(&p);
        let event = self.machine.sim.leave_chat(&group.chat_id, &self.cast.people[p].person, how);
        self.deliver_of_members(g, &event, &format!("p{p} leaves g{g}"));
    }

    /// Delivers an event about the members of a group, its newest, or about its end.
    fn deliver_of_members(&mut self, g: usize, event: &Event, what: &str) {
        let flag = Arc::<AtomicBool>::default();
        self.cast.groups[g].newest = flag.clone();
        self.cast.groups[g].changed_at.push(self.time.now());
        self.events_sent += 1;
        self.deliver(event, &flag, what);
    }

    /// Delivers an event that no expectation depends on: what WeCom shows in the end has to be known anyway.
    pub fn deliver_of_group(&mut self, event: &Event, what: &str) {
        self.events_sent += 1;
        self.deliver(event, &Arc::new(AtomicBool::new(false)), what);
    }
}
