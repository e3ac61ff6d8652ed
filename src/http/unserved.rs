//! The corps whose messages wait in quarantine because no app serves them: how many messages of each wait, and
//! when the lists of dealers are read because of one.
//!
//! Such a corp may be a brand that is about to authorise or a dealer that has just been added. It may also be
//! one that is never served, because a provider uses the URL, token and key of a suite for something else too.
//! So both are bounded: the messages by corp, in addition to the store's limit for all of them, and the
//! readings in number, because one reading answers for all corps.
//!
//! Deliberately absent: redriving (see [`unrouted`](super::unrouted)).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::{AppName, CorpId};

/// The maximum number of messages of one corp that wait.
pub(super) const MESSAGES_MAX: u64 = 10_000;
/// The maximum number of corps that are remembered for one suite or app.
const CORPS_MAX: usize = 10_000;
/// The shortest time before the lists are read again for a corp that they did not have.
const READ_APART: Duration = Duration::from_mins(1);
/// The longest such time. It doubles with each reading in vain.
const READ_APART_MAX: Duration = Duration::from_hours(1);

/// The corps that no app serves, by suite, or by app where they came to its own URL.
#[derive(Debug, Default)]
pub struct UnservedCorps(Mutex<HashMap<AppName, Corps>>);

#[derive(Debug, Default)]
struct Corps {
    by_id: HashMap<CorpId, Unserved>,
    /// How often the lists were read because of one of them.
    readings: u32,
    read_at: Option<Instant>,
}

#[derive(Debug)]
struct Unserved {
    /// Its messages that wait.
    messages: u64,
    /// The number of readings before its first message.
    readings_before: u32,
}

impl UnservedCorps {
    /// Whether another message of the corp may wait.
    pub(super) fn has_room(&self, name: &AppName, corp_id: &CorpId) -> bool {
        let corps = self.lock();
        let unserved = corps.get(name).and_then(|corps| corps.by_id.get(corp_id));
        unserved.is_none_or(|unserved| unserved.messages < MESSAGES_MAX)
    }

    /// Counts a message of the corp that waits.
    pub(super) fn kept(&self, name: &AppName, corp_id: &CorpId) {
        if let Some(unserved) = self.lock().entry(name.clone()).or_default().remembered(corp_id) {
            unserved.messages += 1;
        }
    }

    /// Replaces the numbers of messages that wait.
    pub(super) fn counted(&self, messages: BTreeMap<(AppName, CorpId), u64>) {
        let mut corps = self.lock();
        for corps in corps.values_mut() {
            corps.by_id.values_mut().for_each(|unserved| unserved.messages = 0);
        }
        for ((name, corp_id), count) in messages {
            if let Some(unserved) = corps.entry(name).or_default().remembered(&corp_id) {
                unserved.messages = count;
            }
        }
        for corps in corps.values_mut().filter(|corps| corps.by_id.len() >= CORPS_MAX) {
            corps.by_id.retain(|_, unserved| unserved.messages > 0);
        }
    }

    /// Whether the lists of dealers are to be read because of a message of the corp; the reading is counted.
    /// At once for a corp that is new.
    pub(super) fn is_reading_due(&self, suite: &AppName, corp_id: &CorpId) -> bool {
        let mut corps = self.lock();
        let corps = corps.entry(suite.clone()).or_default();
        let readings = corps.readings;
        let in_vain = corps.remembered(corp_id).map(|unserved| readings - unserved.readings_before);
        let wait = match in_vain {
            Some(0) => Duration::ZERO,
            Some(in_vain) => READ_APART.saturating_mul(1 << (in_vain - 1).min(6)).min(READ_APART_MAX),
            None => READ_APART_MAX,
        };
        let is_due = corps.read_at.is_none_or(|read_at| read_at.elapsed() >= wait);
        if is_due {
            corps.readings += 1;
            corps.read_at = Some(Instant::now());
        }
        is_due
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AppName, Corps>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Corps {
    /// What is known of a corp; `None` if it is one too many.
    fn remembered(&mut self, corp_id: &CorpId) -> Option<&mut Unserved> {
        if !self.by_id.contains_key(corp_id) {
            if self.by_id.len() >= CORPS_MAX {
                return None;
            }
            let unserved = Unserved { messages: 0, readings_before: self.readings };
            self.by_id.insert(corp_id.clone(), unserved);
        }
        self.by_id.get_mut(corp_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite() -> AppName {
        AppName::new("agency").unwrap()
    }

    fn corp(n: usize) -> CorpId {
        CorpId::new(format!("wp{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_lists_are_read_at_once_for_a_new_corp_and_ever_rarer_for_the_same() {
        let corps = UnservedCorps::default();
        assert!(corps.is_reading_due(&suite(), &corp(0)));
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            for is_due in [false, true] {
                let wait = Duration::from_secs(minutes * 60 - 1);
                tokio::time::advance(if is_due { Duration::from_secs(1) } else { wait }).await;
                assert_eq!(corps.is_reading_due(&suite(), &corp(0)), is_due, "{minutes} minutes");
            }
        }
        assert!(corps.is_reading_due(&suite(), &corp(1)), "it is new");
        let other = AppName::new("other").unwrap();
        assert!(corps.is_reading_due(&other, &corp(0)), "it is new at another suite");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_corps_that_are_never_served_cause_no_more_readings_than_one() {
        let corps = UnservedCorps::default();
        let mut readings = 0;
        for second in 0..86_400 {
            let is_due = corps.is_reading_due(&suite(), &corp(second % 1_000));
            readings += usize::from(is_due && second >= 7_200);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!((20..=22).contains(&readings), "{readings} in 22 hours");
    }

    #[tokio::test]
    async fn the_messages_of_a_corp_and_the_corps_are_bounded() {
        let corps = UnservedCorps::default();
        for _ in 0..MESSAGES_MAX {
            assert!(corps.has_room(&suite(), &corp(0)));
            corps.kept(&suite(), &corp(0));
        }
        assert!(!corps.has_room(&suite(), &corp(0)) && corps.has_room(&suite(), &corp(1)));
        for n in 0..2 * CORPS_MAX {
            corps.kept(&suite(), &corp(n));
        }
        assert_eq!(corps.lock()[&suite()].by_id.len(), CORPS_MAX);
        // Those that are served, or whose messages were deleted, make room.
        corps.counted(BTreeMap::from([((suite(), corp(1)), 7)]));
        assert_eq!(corps.lock()[&suite()].by_id.len(), 1);
        assert!(corps.has_room(&suite(), &corp(0)));
    }
}
