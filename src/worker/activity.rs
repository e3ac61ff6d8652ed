//! What happens at the dealers, counted in memory until it is recorded: events that were received, and
//! errors. The [`dealers`](super::dealers) worker records it every few seconds. A stopping service records it
//! twice: at the soft stop with the clocks ([`clock_watch`](super::clock_watch)), and the rest after its last
//! callback ([`Activity::record_rest`]).
//!
//! The counts are statistics: those of the last seconds before a crash are lost. So are the corps at which a
//! member has no API licence (接口调用许可): the next comparison of a dealer's customers finds that again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::dealer_activity::{DealerTrouble, EventsSeen, NewActivity};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{DAY_MS, Timestamp};
use crate::store::{Store, StoreError};

/// The maximum number of dealers of an app for which something is held.
const DEALERS_MAX: usize = 20_000;

/// How long it is held that a licence is missing, after WeCom reported it last.
const LICENCE_HELD_MS: i64 = 7 * DAY_MS;

/// What happened at the dealers and is not recorded yet, and where licences are missing.
#[derive(Debug, Default)]
pub struct Activity {
    new: Mutex<ByApp>,
    unlicensed: Mutex<BTreeMap<(AppName, CorpId), Unlicensed>>,
}

type ByApp = BTreeMap<AppName, BTreeMap<CorpId, NewActivity>>;

/// When WeCom reported first and last that a member has no licence.
#[derive(Debug)]
struct Unlicensed {
    since: Timestamp,
    last_at: Timestamp,
}

impl Activity {
    /// Counts an event of a dealer that was received at `at`. Whether it is the first since the counts were
    /// recorded.
    pub fn seen(&self, app: &AppName, corp_id: &CorpId, at: Timestamp) -> bool {
        let mut is_first = true;
        self.change(app, corp_id, |new| match &mut new.seen {
            Some(seen) => {
                seen.add(at);
                is_first = false;
            }
            none => *none = Some(EventsSeen::one(at)),
        });
        is_first
    }

    /// Notes an error that concerns a dealer. Only the newest one is kept.
    pub fn trouble(&self, app: &AppName, corp_id: &CorpId, trouble: DealerTrouble) {
        self.change(app, corp_id, |new| new.trouble = Some(trouble));
    }

    /// Notes whether a member of a corp, the brand or a dealer, has no licence.
    pub fn licence_is_missing(&self, app: &AppName, corp_id: &CorpId, is_missing: bool, at: Timestamp) {
        let (key, mut unlicensed) = ((app.clone(), corp_id.clone()), self.unlicensed());
        if !is_missing {
            unlicensed.remove(&key);
        } else if let Some(known) = unlicensed.get_mut(&key) {
            known.last_at = at;
        } else if unlicensed.len() < DEALERS_MAX {
            unlicensed.insert(key, Unlicensed { since: at, last_at: at });
        }
    }

    /// The corps of an app at which a member has no licence, each with the time since which that is known.
    #[must_use]
    pub fn missing_licences(&self, app: &AppName, now: Timestamp) -> Vec<(CorpId, Timestamp)> {
        let mut unlicensed = self.unlicensed();
        unlicensed.retain(|_, known| now.millis_since(known.last_at) < LICENCE_HELD_MS);
        let of_app = unlicensed.iter().filter(|((of, _), _)| of == app);
        of_app.map(|((_, corp_id), known)| (corp_id.clone(), known.since)).collect()
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
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlicensed(&self) -> MutexGuard<'_, BTreeMap<(AppName, CorpId), Unlicensed>> {
        self.unlicensed.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_licence_is_missing_until_it_is_not_or_wecom_has_not_said_so_for_a_week() {
        let (activity, app) = (Activity::default(), AppName::new("brand").unwrap());
        let [first, second] = ["wp1", "wp2"].map(|id| CorpId::new(id).unwrap());
        let at = |days: i64| Timestamp::from_millis(days * DAY_MS);
        for (corp_id, day) in [(&first, 0), (&second, 1), (&second, 3)] {
            activity.licence_is_missing(&app, corp_id, true, at(day));
        }
        assert_eq!(activity.missing_licences(&AppName::new("other").unwrap(), at(6)), []);
        assert_eq!(activity.missing_licences(&app, at(6)), [(first, at(0)), (second.clone(), at(1))]);
        assert_eq!(activity.missing_licences(&app, at(9)), [(second.clone(), at(1))]);
        activity.licence_is_missing(&app, &second, false, at(9));
        assert_eq!(activity.missing_licences(&app, at(9)), []);
    }
}
