//! The names of the dealers in memory, for what people read: log lines, status, explanations.
//!
//! Deliberately absent: the names in links, which the store looks up as it reads them.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::domain::dealer::{Dealer, named};
use crate::domain::ids::{AppName, CorpId};
use crate::store::Store;

/// How many dealers one log line names.
const NAMED_MAX: usize = 20;

/// The names of the dealers of all apps, as WeCom listed them last.
#[derive(Debug, Default)]
pub struct DealerNames(RwLock<HashMap<(AppName, CorpId), String>>);

impl DealerNames {
    /// Learns the names of an app's dealers from the store. If they cannot be read now, they are known once
    /// WeCom has listed the dealers again.
    pub async fn load(&self, store: &dyn Store, app: &AppName) {
        match store.dealers(app).await {
            Ok(dealers) => self.learn(app, &dealers),
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(%app, error, "the names of an app's dealers could not be read");
            }
        }
    }

    /// Records the names of dealers as WeCom lists them.
    pub fn learn(&self, app: &AppName, dealers: &[Dealer]) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for dealer in dealers.iter().filter(|dealer| !dealer.name.is_empty()) {
            names.insert((app.clone(), dealer.corp_id.clone()), dealer.name.clone());
        }
    }

    /// The name of a dealer; `None` if it is not known, or if the corp is the brand itself.
    #[must_use]
    pub fn of(&self, app: &AppName, corp_id: &CorpId) -> Option<String> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&(app.clone(), corp_id.clone())).cloned()
    }

    /// A corp as [`named`] writes it.
    #[must_use]
    pub fn shown(&self, app: &AppName, corp_id: &CorpId) -> String {
        named(self.of(app, corp_id).as_deref(), corp_id.as_str())
    }

    /// Several corps as [`named`] writes them, the first ones if there are many.
    #[must_use]
    pub fn all_shown(&self, app: &AppName, corps: &[CorpId]) -> String {
        let mut shown: Vec<_> =
            corps.iter().take(NAMED_MAX).map(|corp_id| self.shown(app, corp_id)).collect();
        if let Some(more) = corps.len().checked_sub(NAMED_MAX + 1) {
            shown.push(format!("{} more", more + 1));
        }
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    #[test]
    fn of_many_dealers_the_first_are_named() {
        let (app, names) = (AppName::new("brand").unwrap(), DealerNames::default());
        let corps: Vec<_> = (10..40).map(|n| CorpId::new(format!("wp{n}")).unwrap()).collect();
        names.learn(&app, &[Dealer::listed(corps[0].clone(), 7, "上海一店".to_owned(), Timestamp::EPOCH)]);
        assert_eq!(names.all_shown(&app, &corps[..2]), "上海一店 (wp10), wp11");
        assert!(names.all_shown(&app, &corps[..20]).ends_with(", wp29"));
        assert!(names.all_shown(&app, &corps).ends_with(", wp29, 10 more"));
    }
}
