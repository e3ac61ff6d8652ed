//! What happens at the dealers, counted in memory until the [`dealers`](super::dealers) worker records it:
//! events that were received, and errors.
//!
//! The counts are statistics: those of the last seconds before a crash are lost.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::dealer_activity::{DealerTrouble, EventsSeen};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;

/// The maximum number of dealers of an app for which something is held.
const DEALERS_MAX: usize = 20_000;

/// What happened at the dealers and is not recorded yet.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    seen: ByDealer<EventsSeen>,
    troubles: ByDealer<DealerTrouble>,
}

/// Something for each dealer of each app.
pub(super) type ByDealer<T> = BTreeMap<AppName, BTreeMap<CorpId, T>>;

impl Activity {
    /// Counts an event of a dealer that was received at `at`.
    pub fn seen(&self, app: &AppName, corp_id: &CorpId, at: Timestamp) {
        let mut pending = self.lock();
        if let Some(seen) = pending.seen.get_mut(app).and_then(|dealers| dealers.get_mut(corp_id)) {
            seen.add(at);
        } else {
            insert(&mut pending.seen, app, corp_id, EventsSeen::one(at));
        }
    }

    /// Notes an error that concerns a dealer. Only the newest one is kept.
    pub fn trouble(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        errcode: Option<i64>,
        text: String,
        at: Timestamp,
    ) {
        insert(&mut self.lock().troubles, app, corp_id, DealerTrouble { errcode, text, at });
    }

    /// Takes what is not recorded yet.
    pub(super) fn take(&self) -> (ByDealer<EventsSeen>, ByDealer<DealerTrouble>) {
        let Pending { seen, troubles } = std::mem::take(&mut *self.lock());
        (seen, troubles)
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Inserts or replaces a dealer's entry, unless it would be one too many.
fn insert<T>(all: &mut ByDealer<T>, app: &AppName, corp_id: &CorpId, entry: T) {
    let dealers = all.entry(app.clone()).or_default();
    if dealers.len() < DEALERS_MAX || dealers.contains_key(corp_id) {
        dealers.insert(corp_id.clone(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_taken_once() {
        let (activity, app) = (Activity::default(), AppName::new("brand").unwrap());
        let corp = |n: usize| CorpId::new(format!("wp{n}")).unwrap();
        for n in 0..=DEALERS_MAX {
            activity.seen(&app, &corp(n), Timestamp::from_secs(2));
            activity.trouble(&app, &corp(n), Some(84_074), String::new(), Timestamp::EPOCH);
        }
        activity.seen(&app, &corp(0), Timestamp::from_secs(1));
        let (seen, troubles) = activity.take();
        assert_eq!((seen[&app].len(), troubles[&app].len()), (DEALERS_MAX, DEALERS_MAX));
        let (first_at, last_at) = (Timestamp::from_secs(1), Timestamp::from_secs(2));
        assert_eq!(seen[&app][&corp(0)], EventsSeen { first_at, last_at, count: 2 });
        assert!(activity.take().0.is_empty());
    }
}
