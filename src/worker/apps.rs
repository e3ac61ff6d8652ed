//! The apps of the service as the workers, the callback handlers and the admin API see them: what the
//! configuration says of each, and which corp it serves at present.
//!
//! The names of apps are configuration. The corp of a self-built app is, too; that of an agency-developed app
//! is known once a brand has authorised its suite. Readers take what they need for one activation, call or
//! request, and ask again for the next.
//!
//! Deliberately absent: the decision which corp an app serves (see [`bindings`](crate::domain::bindings)).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;

/// Which token converts a dealer's customers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversionToken {
    /// The dealer's first, the brand's if that is refused; the one that worked is remembered for each dealer.
    Auto,
    /// The dealer's.
    Downstream,
    /// The brand's.
    Upstream,
}

/// The rules of an app.
#[derive(Debug, Clone)]
pub struct AppRules {
    /// The brand's corp; `None` while no brand has authorised an agency-developed app.
    pub corp_id: Option<CorpId>,
    /// Which token converts a dealer's customers.
    pub conversion_token: ConversionToken,
    /// Whether WeCom is asked if a new fan is an existing customer of a dealer.
    pub existing_customers: bool,
    /// Whether the members of customer groups are looked up.
    pub customer_groups: bool,
    /// How many hours after the last one a dealer's customers are compared with WeCom's lists; 0: only when
    /// asked.
    pub reconcile_hours: u32,
    /// After how many days without a callback a dealer is silent; 0: never.
    pub silent_days: u32,
    /// Which fans' pending ids are renewed.
    pub renew: Renew,
    /// Whether WeCom extends the life of a pending id that it returns again.
    pub same_id_extends: bool,
    /// The call quota of each conversion API.
    pub quota: Limits,
    /// Percent of every window reserved for live registrations.
    pub reserve_percent: u8,
}

impl AppRules {
    /// Whether `corp_id` is the brand's corp.
    #[must_use]
    pub fn is_brand(&self, corp_id: &CorpId) -> bool {
        self.corp_id.as_ref().is_some_and(|brand| brand.same_corp(corp_id.as_str()))
    }
}

/// The rules of all apps, by name.
pub type RulesByApp = BTreeMap<AppName, Arc<AppRules>>;

/// The apps of the service.
#[derive(Debug, Default)]
pub struct Apps(RwLock<Arc<RulesByApp>>);

impl Apps {
    /// The apps with these rules.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = (AppName, AppRules)>) -> Self {
        let rules = rules.into_iter().map(|(app, rules)| (app, Arc::new(rules))).collect();
        Self(RwLock::new(Arc::new(rules)))
    }

    /// All apps as they are now.
    #[must_use]
    pub fn all(&self) -> Arc<RulesByApp> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rules of an app as they are now; `None` if it is not in the configuration.
    #[must_use]
    pub fn get(&self, app: &AppName) -> Option<Arc<AppRules>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    /// The corp that an app serves.
    #[must_use]
    pub fn corp_of(&self, app: &AppName) -> Option<CorpId> {
        self.get(app)?.corp_id.clone()
    }

    /// The names of the apps.
    #[must_use]
    pub fn names(&self) -> Vec<AppName> {
        self.all().keys().cloned().collect()
    }

    /// Replaces the rules of the apps that `change` changes.
    #[cfg(test)]
    pub(crate) fn change(&self, change: impl FnOnce(&mut RulesByApp)) {
        let mut apps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut apps));
    }
}
