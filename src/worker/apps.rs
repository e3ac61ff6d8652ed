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

use secrecy::{ExposeSecret as _, SecretString};

use super::suites::{SuiteSettings, SuiteView};
use crate::domain::authorization::{Agent, Authorization, Role, dealers_of};
use crate::domain::bindings::{AgencyApp, Bindings, Unserved};
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::domain::time::Timestamp;
use crate::wecom::{AppCredentials, Development};

mod credentials;

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
    /// The suite of an agency-developed app.
    pub suite: Option<AppName>,
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
    /// The rules of an app in tests: nothing is compared or reported by itself.
    #[cfg(test)]
    pub(crate) fn for_tests(suite: Option<AppName>, corp_id: Option<CorpId>) -> Self {
        Self {
            suite,
            corp_id,
            conversion_token: ConversionToken::Auto,
            existing_customers: false,
            customer_groups: true,
            reconcile_hours: 0,
            silent_days: 0,
            renew: Renew::All,
            same_id_extends: false,
            quota: Limits::DOCUMENTED,
            reserve_percent: 0,
        }
    }

    /// Whether `corp_id` is the brand's corp.
    #[must_use]
    pub fn is_brand(&self, corp_id: &CorpId) -> bool {
        self.corp_id.as_ref().is_some_and(|brand| brand.same_corp(corp_id.as_str()))
    }
}

/// What may be changed of an app while the service runs.
#[derive(Debug, Clone)]
pub struct ReloadedSettings {
    /// The secret of a self-built app.
    pub secret: Option<SecretString>,
    /// The call quota of each conversion API.
    pub quota: Limits,
    /// Percent of every window reserved for live registrations.
    pub reserve_percent: u8,
}

/// The rules of all apps, by name.
pub type RulesByApp = BTreeMap<AppName, Arc<AppRules>>;

/// The apps of the service, and the suites of those that are agency-developed.
#[derive(Debug, Default)]
pub struct Apps {
    suites: BTreeMap<AppName, SuiteSettings>,
    agency: Vec<AgencyApp>,
    current: RwLock<Arc<Registry>>,
}

/// The apps and suites at one moment.
#[derive(Debug, Default, Clone)]
struct Registry {
    apps: Arc<RulesByApp>,
    /// The credentials of the self-built apps.
    self_built: BTreeMap<AppName, AppCredentials>,
    suites: BTreeMap<AppName, Arc<SuiteView>>,
    /// Why an agency-developed app serves no corp.
    unserved: BTreeMap<AppName, Unserved>,
    /// The dealers of each agency-developed app that have authorised its suite themselves, and the same by
    /// suite and dealer.
    dealers: BTreeMap<AppName, Arc<[Authorization]>>,
    apps_of_dealers: BTreeMap<AppName, BTreeMap<CorpId, Vec<AppName>>>,
}

/// What a change of suites and bindings meant for the apps.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AppChanges {
    /// The apps whose calls can succeed now and could not before, each with its corp.
    pub usable: Vec<(AppName, CorpId)>,
    /// The apps whose calls cannot succeed any more.
    pub parked: Vec<AppName>,
    /// The other apps of whose brand something else was read: its permissions may have changed.
    pub read: Vec<(AppName, CorpId)>,
}

impl Apps {
    /// The apps with these rules, and these suites, of which nothing is known yet.
    #[must_use]
    pub fn new(
        rules: impl IntoIterator<Item = (AppName, AppRules)>,
        suites: BTreeMap<AppName, SuiteSettings>,
    ) -> Self {
        let apps: RulesByApp = rules.into_iter().map(|(app, rules)| (app, Arc::new(rules))).collect();
        let agency_app = |(app, rules): (&AppName, &Arc<AppRules>)| {
            let (suite, corp_id) = (rules.suite.clone()?, rules.corp_id.clone());
            Some(AgencyApp { app: app.clone(), suite, corp_id })
        };
        let agency: Vec<_> = apps.iter().filter_map(agency_app).collect();
        let registry = Registry {
            suites: suites.keys().map(|suite| (suite.clone(), Arc::default())).collect(),
            unserved: agency.iter().map(|one| (one.app.clone(), Unserved::NoBrand)).collect(),
            apps: Arc::new(apps),
            ..Registry::default()
        };
        let this = Self { suites, agency, current: RwLock::new(Arc::new(registry)) };
        // The corp in the configuration of an agency-developed app is that of no authorisation yet.
        this.replace(BTreeMap::new(), &Bindings::default(), Timestamp::EPOCH);
        this
    }

    /// The same, with the credentials of self-built apps.
    #[must_use]
    pub fn with_credentials(self, self_built: BTreeMap<AppName, AppCredentials>) -> Self {
        let registry = Registry { self_built, ..Registry::clone(&self.current()) };
        Self { current: RwLock::new(Arc::new(registry)), ..self }
    }

    fn current(&self) -> Arc<Registry> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All apps as they are now.
    #[must_use]
    pub fn all(&self) -> Arc<RulesByApp> {
        self.current().apps.clone()
    }

    /// The rules of an app as they are now; `None` if it is not in the configuration.
    #[must_use]
    pub fn get(&self, app: &AppName) -> Option<Arc<AppRules>> {
        self.current().apps.get(app).cloned()
    }

    /// The corp that an app serves, cancelled or not.
    #[must_use]
    pub fn corp_of(&self, app: &AppName) -> Option<CorpId> {
        self.get(app)?.corp_id.clone()
    }

    /// Whether calls of an app can succeed: an agency-developed one needs an authorisation.
    #[must_use]
    pub fn can_call(&self, app: &AppName) -> bool {
        let current = self.current();
        let Some(rules) = current.apps.get(app) else { return false };
        rules.suite.is_none() || current.usable(app).is_some()
    }

    /// Who develops an app, which decides what an operator can do about WeCom's codes.
    #[must_use]
    pub fn development(&self, app: &AppName) -> Development {
        let is_agency = self.get(app).is_some_and(|rules| rules.suite.is_some());
        if is_agency { Development::Agency } else { Development::SelfBuilt }
    }

    /// The names of the apps.
    #[must_use]
    pub fn names(&self) -> Vec<AppName> {
        self.all().keys().cloned().collect()
    }

    /// The suites in the configuration.
    #[must_use]
    pub const fn suites(&self) -> &BTreeMap<AppName, SuiteSettings> {
        &self.suites
    }

    /// The agency-developed apps in the configuration.
    #[must_use]
    pub fn agency(&self) -> &[AgencyApp] {
        &self.agency
    }

    /// A suite as it is now; `None` if it is not in the configuration.
    #[must_use]
    pub fn suite(&self, suite: &AppName) -> Option<Arc<SuiteView>> {
        self.current().suites.get(suite).cloned()
    }

    /// Why an app serves no corp; `None` if it serves one.
    #[must_use]
    pub fn unserved(&self, app: &AppName) -> Option<Unserved> {
        self.current().unserved.get(app).cloned()
    }

    /// The authorisation that an agency-developed app works with.
    #[must_use]
    pub fn authorization_of(&self, app: &AppName) -> Option<(Arc<SuiteView>, CorpId)> {
        let current = self.current();
        let rules = current.apps.get(app)?;
        let (suite, corp_id) = (rules.suite.as_ref()?, rules.corp_id.clone()?);
        Some((current.suites.get(suite)?.clone(), corp_id))
    }

    /// Whether the corp with this id has ever authorised the suite.
    #[must_use]
    pub fn has_authorized(&self, suite: &AppName, corp_id: &str) -> bool {
        self.suite(suite).is_some_and(|view| view.authorization(corp_id).is_some())
    }

    /// Whether the corp with this id has authorised the suite as a brand, whether or not an app serves it.
    #[must_use]
    pub fn is_authorized_brand(&self, suite: &AppName, corp_id: &str) -> bool {
        let view = self.suite(suite);
        let record = view.as_ref().and_then(|view| view.authorization(corp_id)).map(|one| &one.record);
        record.is_some_and(|record| record.role() == Some(Role::Brand))
    }

    /// The app of the suite that serves the brand with this id.
    #[must_use]
    pub fn app_of_brand(&self, suite: &AppName, corp_id: &str) -> Option<AppName> {
        let serves = |rules: &AppRules| {
            rules.suite.as_ref() == Some(suite)
                && rules.corp_id.as_ref().is_some_and(|brand| brand.same_corp(corp_id))
        };
        self.all().iter().find(|(_, rules)| serves(rules)).map(|(app, _)| app.clone())
    }

    /// The dealers of an agency-developed app that have authorised its suite themselves, those that have
    /// cancelled included.
    #[must_use]
    pub fn authorized_dealers(&self, app: &AppName) -> Arc<[Authorization]> {
        self.current().dealers.get(app).cloned().unwrap_or_default()
    }

    /// The apps of the suite of whose brand the corp is a dealer, by its own authorisation.
    #[must_use]
    pub fn apps_of_dealer(&self, suite: &AppName, corp_id: &CorpId) -> Vec<AppName> {
        let current = self.current();
        let Some(dealers) = current.apps_of_dealers.get(suite) else { return Vec::new() };
        dealers.get(&corp_id.canonical()).cloned().unwrap_or_default()
    }

    /// Replaces what is known of the suites named, and which corp each agency-developed app serves.
    pub fn replace(
        &self,
        suites: BTreeMap<AppName, SuiteView>,
        bindings: &Bindings,
        now: Timestamp,
    ) -> AppChanges {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let before = current.clone();
        let mut registry = Registry::clone(&current);
        registry.suites.extend(suites.into_iter().map(|(suite, view)| (suite, Arc::new(view))));
        let apps = Arc::make_mut(&mut registry.apps);
        registry.unserved.clear();
        for AgencyApp { app, .. } in &self.agency {
            let corp = bindings.apps.get(app).cloned().unwrap_or(Err(Unserved::NoBrand));
            if let Some(rules) = apps.get_mut(app) {
                Arc::make_mut(rules).corp_id = corp.as_ref().ok().cloned();
            }
            if let Err(unserved) = corp {
                registry.unserved.insert(app.clone(), unserved);
            }
        }
        registry.find_dealers(&self.agency, now);
        let mut changes = AppChanges::default();
        for AgencyApp { app, .. } in &self.agency {
            match (before.usable(app), registry.usable(app)) {
                (None, Some((corp_id, _))) => changes.usable.push((app.clone(), corp_id)),
                // After another code, failures of the one before do not count.
                (Some(then), Some(now)) if then != now => changes.usable.push((app.clone(), now.0)),
                (Some(_), None) => changes.parked.push(app.clone()),
                (Some(_), Some(now)) if before.agent(app) != registry.agent(app) => {
                    changes.read.push((app.clone(), now.0));
                }
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
        *current = Arc::new(registry);
        changes
    }

    /// Replaces the secrets and quotas of these apps, after the configuration was reloaded; those of other
    /// apps stay. Returns the apps whose secret is another now.
    pub fn reconfigure(&self, settings: BTreeMap<AppName, ReloadedSettings>) -> Vec<AppName> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let registry = Arc::make_mut(&mut current);
        let (apps, mut changed) = (Arc::make_mut(&mut registry.apps), Vec::new());
        for (app, ReloadedSettings { secret, quota, reserve_percent }) in settings {
            if let Some(rules) = apps.get_mut(&app) {
                let rules = Arc::make_mut(rules);
                (rules.quota, rules.reserve_percent) = (quota, reserve_percent);
            }
            let credentials = registry.self_built.get_mut(&app);
            let (Some(credentials), Some(secret)) = (credentials, secret) else { continue };
            if credentials.secret.expose_secret() != secret.expose_secret() {
                credentials.secret = secret;
                credentials.generation += 1;
                changed.push(app);
            }
        }
        changed
    }

    /// Changes the rules of the apps.
    #[cfg(test)]
    pub(crate) fn change(&self, change: impl FnOnce(&mut RulesByApp)) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut Arc::make_mut(&mut current).apps));
    }
}

impl Registry {
    /// Finds the dealers of the agency-developed apps among those that have authorised.
    fn find_dealers(&mut self, agency: &[AgencyApp], now: Timestamp) {
        let before = std::mem::take(&mut self.dealers);
        self.apps_of_dealers.clear();
        for AgencyApp { app, suite, .. } in agency {
            let brand = self.apps.get(app).and_then(|rules| rules.corp_id.as_ref());
            let (Some(brand), Some(view)) = (brand, self.suites.get(suite)) else { continue };
            let all = view.records();
            let is_only_app = agency.iter().filter(|one| one.suite == *suite).count() == 1;
            let held = before.get(app).map_or(&[][..], |held| held);
            let dealers = dealers_of(brand, is_only_app, &all, held, now);
            let dealers: Arc<[_]> = dealers.into_iter().cloned().collect();
            let apps_of_dealers = self.apps_of_dealers.entry(suite.clone()).or_default();
            for dealer in dealers.iter() {
                apps_of_dealers.entry(dealer.corp_id.canonical()).or_default().push(app.clone());
            }
            self.dealers.insert(app.clone(), dealers);
        }
    }

    /// What was read of the brand that an app serves.
    fn agent(&self, app: &AppName) -> Option<&Agent> {
        let rules = self.apps.get(app)?;
        let suite = self.suites.get(rules.suite.as_ref()?)?;
        suite.authorization(rules.corp_id.as_ref()?.as_str())?.record.agent.as_ref()
    }

    /// The corp of an agency-developed app whose calls can succeed, and how many permanent codes it has had.
    fn usable(&self, app: &AppName) -> Option<(CorpId, u32)> {
        let rules = self.apps.get(app)?;
        let corp_id = rules.corp_id.as_ref()?;
        let authorization = self.suites.get(rules.suite.as_ref()?)?.authorization(corp_id.as_str())?;
        authorization.is_usable().then(|| (corp_id.clone(), authorization.record.codes))
    }
}

#[cfg(test)]
mod tests;
