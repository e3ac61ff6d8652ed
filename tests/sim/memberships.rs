//! The invariant of customer groups: when nothing is left to do and everything was compared, the groups that a
//! customer is held to be in are those that the customer is in.

use std::collections::BTreeSet;

use unionlink::clock::Clock as _;
use unionlink::domain::chat::CHAT_LAG_MS;
use unionlink::domain::contact::CHATS_MAX;
use unionlink::domain::time::{DAY_MS, SECOND_MS};
use unionlink::simulator::{Api, Call};

use crate::cast::{DealerState, Group};
use crate::check::Checker;

/// How long after a list was asked for it may still be stored.
const STORED_WITHIN_MS: i64 = 5 * SECOND_MS;
/// Success, and the codes after which a call is made again soon.
const PASSING: [i64; 8] = [0, -1, 40_014, 42_001, 45_009, 45_033, 45_035, 45_036];

impl Checker<'_> {
    /// The dealers whose groups the service need not have read: where WeCom does not allow that, they are left
    /// out for a day.
    pub fn dealers_without_groups(&self) -> BTreeSet<usize> {
        let calls = self.schedule.machine.sim.calls();
        let since = self.schedule.time.now().plus_ms(-DAY_MS);
        let is_refused = |call: &&Call| {
            matches!(call.api, Api::GroupChatList | Api::GroupChatGet)
                && call.errcode.is_some_and(|errcode| !PASSING.contains(&errcode))
                && call.at >= since
        };
        let refused: BTreeSet<_> =
            calls.iter().filter(is_refused).filter_map(|call| call.corp_id.clone()).collect();
        let dealers = self.schedule.cast.dealers.iter().enumerate();
        let is_without =
            |dealer: &DealerState| dealer.was_troubled || refused.contains(&dealer.dealer.corp_id);
        dealers.filter(|(_, dealer)| is_without(dealer)).map(|(d, _)| d).collect()
    }

    /// Every customer is held to be in their groups, and in no other.
    pub async fn memberships(&mut self) {
        let schedule = self.schedule;
        let lag_ms = schedule.machine.setup.chat_lag_ms;
        let calls = schedule.machine.sim.calls();
        // A list that is older than WeCom says is believed. Nothing corrects a comparison that reads a list just
        // before the end of its group and stores it later: it brings back who was in the group.
        let is_outdated = |group: &Group| {
            let corp_id = &schedule.cast.dealers[group.dealer].dealer.corp_id;
            let is_list = |call: &&Call| {
                call.chat_id.as_ref() == Some(&group.chat_id) && call.api == Api::GroupChatGet
                    || call.corp_id.as_ref() == Some(corp_id) && call.api == Api::ContactList
            };
            let ended_at = group.changed_at.last().filter(|_| group.is_dismissed);
            let is_near = |call: &Call| {
                let after_ms = ended_at.map(|ended_at| call.at.millis_since(*ended_at));
                after_ms.is_some_and(|ms| (-STORED_WITHIN_MS..=lag_ms).contains(&ms))
            };
            lag_ms > CHAT_LAG_MS || calls.iter().filter(is_list).any(is_near)
        };
        let without_groups = self.dealers_without_groups();
        for ((p, d), pair) in &schedule.cast.pairs {
            let from_secs = schedule.cast.people[*p].known_from_secs;
            let data = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            let Some((_, contact)) = data.contacts.first() else { continue };
            let held = contact.chats();
            let groups = schedule.cast.groups.iter().enumerate().filter(|(_, group)| group.dealer == *d);
            for (g, group) in groups {
                let joined = group.members.get(p).filter(|_| !group.is_dismissed);
                let is_held = held.iter().any(|chat_id| chat_id.as_str() == group.chat_id);
                let may_read = !without_groups.contains(d);
                let is_owed =
                    may_read && joined.is_some_and(|joined| *joined >= from_secs) && held.len() < CHATS_MAX;
                self.expect(is_held || !is_owed, || {
                    format!("p{p} at d{d} is in g{g} and not held to be: {held:?}")
                });
                // Without the event, nothing tells that a customer has left.
                let has_left = joined.is_none() && group.is_reported() && !is_outdated(group);
                self.judged.memberships += u64::from(is_owed);
                self.judged.left += u64::from(has_left);
                self.expect(!is_held || !has_left, || {
                    let end = if group.is_dismissed { "was dismissed" } else { "was left" };
                    format!("p{p} at d{d} is held to be in g{g}, which {end}: {held:?}")
                });
            }
        }
    }
}
