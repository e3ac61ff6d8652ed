//! Counters of fans by state, queue and renewal day, updated with every change of a fan, so that reading them
//! takes no scan over millions of fans.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fan::{Fan, FanState, FanStep, Mint, Priority};
use super::time::{DAY_MS, Timestamp};

/// The counters of the fans of one app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// All fans.
    pub registered: u64,
    /// Fans who have never had a pending id.
    pub queued: u64,
    /// Fans with a valid pending id.
    pub minted: u64,
    /// Fans whose pending id has expired.
    pub expired: u64,
    /// Fans whom WeCom refused for good.
    pub rejected: u64,
    /// Fans waiting for a call, by step and priority.
    waiting: [[u64; 4]; 2],
    /// Fans due for renewal, by day: whole days since the Unix epoch.
    pub renewals: BTreeMap<i64, u64>,
}

impl Tally {
    /// Updates the counters for a fan that changes from `before` to `after`: `None` before it is registered,
    /// and after it is deleted.
    pub fn replace(&mut self, before: Option<&Fan>, after: Option<&Fan>) {
        if let Some(fan) = before {
            self.change_counters_of(fan, |count| *count = count.saturating_sub(1));
        }
        if let Some(fan) = after {
            self.change_counters_of(fan, |count| *count += 1);
        }
        self.renewals.retain(|_, count| *count > 0);
    }

    /// How many fans wait for this call with this priority.
    #[must_use]
    pub const fn waiting(&self, step: FanStep, priority: Priority) -> u64 {
        self.waiting[step as usize][priority as usize]
    }

    /// How many fans wait for renewal, or will be due for it within `days` days.
    #[must_use]
    pub fn renewals_within(&self, now: Timestamp, days: i64) -> u64 {
        let until = now.as_millis().div_euclid(DAY_MS) + days;
        let due: u64 = self.renewals.range(..=until).map(|(_, count)| count).sum();
        let waiting = [Priority::RenewUnlinked, Priority::Renew];
        due + waiting.iter().map(|priority| self.waiting(FanStep::Mint, *priority)).sum::<u64>()
    }

    /// Applies `change` to each counter in which `fan` is counted.
    fn change_counters_of(&mut self, fan: &Fan, change: impl Fn(&mut u64)) {
        change(&mut self.registered);
        change(match state_at_last_change(fan) {
            FanState::Queued => &mut self.queued,
            FanState::Minted => &mut self.minted,
            FanState::Expired => &mut self.expired,
            FanState::Rejected => &mut self.rejected,
        });
        for step in FanStep::ALL {
            if let Some(priority) = fan.queued_for(step) {
                change(&mut self.waiting[step as usize][priority as usize]);
            }
        }
        if let Some(day) = fan.renewal_day() {
            change(self.renewals.entry(day).or_default());
        }
    }
}

impl std::ops::AddAssign<&Self> for Tally {
    fn add_assign(&mut self, other: &Self) {
        self.registered += other.registered;
        self.queued += other.queued;
        self.minted += other.minted;
        self.expired += other.expired;
        self.rejected += other.rejected;
        for (own, others) in self.waiting.iter_mut().flatten().zip(other.waiting.iter().flatten()) {
            *own += others;
        }
        for (day, count) in &other.renewals {
            *self.renewals.entry(*day).or_default() += count;
        }
    }
}

/// The state under which a fan is counted. [`Fan::state`] depends on the time, so a fan might be subtracted
/// from another counter than it was added to.
const fn state_at_last_change(fan: &Fan) -> FanState {
    match fan.mint {
        _ if fan.live => FanState::Minted,
        Mint::Rejected { .. } => FanState::Rejected,
        Mint::Queued(_) if fan.ids.is_empty() => FanState::Queued,
        Mint::Queued(_) | Mint::Idle | Mint::UntilExpiry | Mint::Expired => FanState::Expired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fan::{Minted, Renew};
    use crate::domain::ids::{Openid, PendingId};

    #[test]
    fn the_counters_follow_a_fan_through_its_life() {
        let mut tally = Tally::default();
        let mut fan = Fan::new(Openid::new("oOPENID").unwrap(), Timestamp::EPOCH, true, Priority::Bulk);
        let mut change_to = |fan: &mut Fan, change: &dyn Fn(&mut Fan)| {
            let before = (tally.registered > 0).then(|| fan.clone());
            change(fan);
            tally.replace(before.as_ref(), Some(fan));
            let waiting = |step| Priority::ALL.map(|priority| tally.waiting(step, priority));
            let states = [tally.queued, tally.minted, tally.expired, tally.rejected];
            assert_eq!(states.iter().sum::<u64>(), 1);
            (states, waiting(FanStep::Mint), waiting(FanStep::AskExisting), tally.renewals.clone())
        };
        let day = |day: i64| Timestamp::from_millis(day * DAY_MS);
        let due = |on_day: i64| BTreeMap::from([(on_day, 1)]);
        let none = BTreeMap::new();
        assert_eq!(change_to(&mut fan, &|_| {}), ([1, 0, 0, 0], [0, 0, 0, 1], [0; 4], none.clone()));
        let mint = |fan: &mut Fan| fan.minted(Minted::new(PendingId::new("p").unwrap(), day(0)), false);
        assert_eq!(change_to(&mut fan, &mint), ([0, 1, 0, 0], [0; 4], [0, 0, 0, 1], due(85)));
        let renew = |fan: &mut Fan| fan.review(day(85), false, Renew::All);
        assert_eq!(change_to(&mut fan, &renew), ([0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], none.clone()));
        let expire = |fan: &mut Fan| fan.review(day(90), false, Renew::All);
        assert_eq!(change_to(&mut fan, &expire), ([0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], none.clone()));
        let reject = |fan: &mut Fan| fan.rejected(610_014, day(91));
        assert_eq!(change_to(&mut fan, &reject), ([0, 0, 0, 1], [0; 4], [0, 0, 0, 1], none));
        tally.replace(Some(&fan), None);
        assert_eq!(tally, Tally::default());
    }
}
