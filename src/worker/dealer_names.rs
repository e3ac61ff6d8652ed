//! The names of the dealers in memory, for what people read: log lines, status, explanations.
//!
//! Deliberately absent: the names in links, which the store looks up as it reads them.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::domain::dealer::{Dealer, named};
use crate::domain::ids::{AppName, CorpId};
use crate::store::Store;

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
}
