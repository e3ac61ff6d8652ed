//! What happens at the dealers, counted in memory until it is recorded: events that were received, and
//! errors. The [`dealers`](super::dealers) worker records it every few seconds. A stopping service records it
//! twice: at the soft stop with the clocks ([`clock_watch`](super::clock_watch)), and the rest after its last
//! callback ([`Activity::record_rest`]).
//!
//! The counts are statistics: those of the last seconds before a crash are lost.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::dealer_activity::{DealerTrouble, EventsSeen, NewActivity};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};

/// The maximum number of dealers of an app for which something is held.
const DEALERS_MAX: usize = 20_000;

/// What happened at the dealers and is not recorded yet.
#[derive(Debug, Default)]
pub struct Activity(Mutex<ByApp>);

type ByApp = BTreeMap<AppName, BTreeMap<CorpId, NewActivity>>;

impl Activity {
    /// Counts an event of a dealer that was received at `at`.
    pub fn seen(&self, app: &AppName, corp_id: &CorpId, at: Timestamp) {
        self.change(app, corp_id, |new| match &mut new.seen {
            Some(seen) => seen.add(at),
            none => *none = Some(EventsSeen::one(at)),
        });
    }

    /// Notes an error that concerns a dealer. Only the newest one is kept.
    pub fn trouble(&self, app: &AppName, corp_id: &CorpId, trouble: DealerTrouble) {
        self.change(app, corp_id, |new| new.trouble = Some(trouble));
    }

    /// Takes what is not recorded yet, of one app or of all.
    pub(super) fn take(&self, only: Option<&AppName>) -> Vec<(AppName, CorpId, NewActivity)> {
        let mut apps = self.lock();
        let taken = match only {
            Some(app) => apps.remove_entry(app).into_iter().collect(),
            None => std::mem::take(&mut *apps),
        };
        drop(apps);
        let of_app = |(app, dealers): (AppName, BTreeMap<_, _>)| {
            dealers.into_iter().map(move |(corp_id, new)| (app.clone(), corp_id, new))
        };
        taken.into_iter().flat_map(of_app).collect()
    }

    /// Records what is not recorded yet. To be called when no more callbacks are received.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn record_rest(&self, store: &dyn Store) -> Result<(), StoreError> {
        let rest = self.take(None);
        if !rest.is_empty() {
            store.record_activity(rest, None).await?;
        }
        Ok(())
    }

    /// Changes what is held for a dealer, unless it would be one too many.
    fn change(&self, app: &AppName, corp_id: &CorpId, change: impl FnOnce(&mut NewActivity)) {
        let mut apps = self.lock();
        if let Some(new) = apps.get_mut(app).and_then(|dealers| dealers.get_mut(corp_id)) {
            return change(new);
        }
        let dealers = apps.entry(app.clone()).or_default();
        if dealers.len() < DEALERS_MAX {
            change(dealers.entry(corp_id.clone()).or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByApp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_taken_once() {
        let (activity, app) = (Activity::default(), AppName::new("brand").unwrap());
        let corp = |n: usize| CorpId::new(format!("wp{n}")).unwrap();
        let trouble = DealerTrouble { errcode: Some(84_074), text: String::new(), at: Timestamp::EPOCH };
        for n in 0..=DEALERS_MAX {
            activity.seen(&app, &corp(n), Timestamp::from_secs(2));
            activity.trouble(&app, &corp(n), trouble.clone());
        }
        activity.seen(&app, &corp(0), Timestamp::from_secs(1));
        let other = AppName::new("other").unwrap();
        activity.seen(&other, &corp(1), Timestamp::EPOCH);
        let taken = activity.take(Some(&app));
        assert_eq!(taken.len(), DEALERS_MAX);
        let (first_at, last_at) = (Timestamp::from_secs(1), Timestamp::from_secs(2));
        let seen = Some(EventsSeen { first_at, last_at, count: 2 });
        assert_eq!(taken[0], (app, corp(0), NewActivity { seen, trouble: Some(trouble) }));
        assert_eq!(activity.take(None).len(), 1, "of the other app");
        assert_eq!(activity.take(None), []);
    }
}
