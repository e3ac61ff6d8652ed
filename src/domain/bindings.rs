//! The bindings of agency-developed apps: which of the corps that have authorised a suite each app serves.
//!
//! A binding is durable and never moves by itself: fans and customers are stored under the app's name, and
//! those of two brands must not mix.
//!
//! Deliberately absent: the store, and what an unserved app means for its calls.

use std::collections::BTreeMap;

use super::authorization::{Authorization, AuthorizationState, Role};
use super::ids::{AppName, CorpId};
use super::time::Timestamp;

/// An agency-developed app in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgencyApp {
    /// Its name.
    pub app: AppName,
    /// Its suite.
    pub suite: AppName,
    /// The brand it serves; `None`: the only one that has authorised the suite.
    pub corp_id: Option<CorpId>,
}

/// Why an app serves no corp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unserved {
    /// The brand has not authorised the suite yet, or it is not known yet which corps are brands.
    NoBrand,
    /// Several brands have, by id and name; the configuration has to choose one.
    Several(Vec<(CorpId, String)>),
    /// The data stored under the app's name is that of another brand.
    OtherBrand {
        /// The brand whose data it is.
        bound: CorpId,
        /// The brand in the configuration.
        configured: CorpId,
    },
    /// Another app of the suite serves this brand.
    Taken {
        /// The brand.
        corp_id: CorpId,
        /// The app that serves it.
        by: AppName,
    },
}

/// Which corp each app serves; the result of [`bind`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bindings {
    /// The corp of each app, or why it has none.
    pub apps: BTreeMap<AppName, Result<CorpId, Unserved>>,
    /// The bindings that are new. They are stored before the app is served.
    pub to_store: Vec<(AppName, CorpId)>,
    /// The active brands without an app: suite, corp and name.
    pub without_app: Vec<(AppName, CorpId, String)>,
}

/// Decides which corp each app serves, from the authorisations of each suite and the stored bindings:
///
/// 1. A bound app keeps its corp, whether or not that has cancelled, unless another is configured. Then it
///    serves neither: the data under its name is that of the first.
/// 2. An app with a configured corp is bound to it once that is an active brand.
/// 3. An app without one is bound to the only active brand of its suite that no other app is bound to or
///    configured for. If there are several, to none of them; nor while the app at another corp has yet to be
///    read, which may be a second brand. That is waited for at most [`READING_MS`](super::authorization::READING_MS).
///
/// No two apps of a suite serve one corp. Bound apps come first, then configured ones, then the order of
/// `apps`.
#[must_use]
pub fn bind(
    apps: &[AgencyApp],
    granted: &BTreeMap<AppName, Vec<Authorization>>,
    bound: &BTreeMap<AppName, CorpId>,
    now: Timestamp,
) -> Bindings {
    let (served, undecided, result) = (Vec::new(), Vec::new(), Bindings::default());
    let mut binding = Binding { apps, granted, bound, now, served, undecided, result };
    let mut order: Vec<_> = apps.iter().collect();
    order.sort_by_key(|app| (!bound.contains_key(&app.app), app.corp_id.is_none()));
    for app in order {
        binding.decide(app);
    }
    binding.finish()
}

struct Binding<'a> {
    apps: &'a [AgencyApp],
    granted: &'a BTreeMap<AppName, Vec<Authorization>>,
    bound: &'a BTreeMap<AppName, CorpId>,
    now: Timestamp,
    served: Vec<(&'a AgencyApp, CorpId)>,
    /// The brands that an app is not bound to yet because there may be others.
    undecided: Vec<&'a CorpId>,
    result: Bindings,
}

impl<'a> Binding<'a> {
    fn decide(&mut self, app: &'a AgencyApp) {
        let corp = self.corp_of(app).and_then(|corp_id| match self.server(&app.suite, &corp_id) {
            Some(by) => Err(Unserved::Taken { corp_id, by: by.clone() }),
            None => Ok(corp_id),
        });
        if let Ok(corp_id) = &corp {
            self.served.push((app, corp_id.clone()));
            if !self.bound.contains_key(&app.app) {
                self.result.to_store.push((app.app.clone(), corp_id.clone()));
            }
        }
        self.result.apps.insert(app.app.clone(), corp);
    }

    fn corp_of(&mut self, app: &AgencyApp) -> Result<CorpId, Unserved> {
        match (self.bound.get(&app.app), &app.corp_id) {
            (Some(bound), Some(configured)) if !bound.same_corp(configured.as_str()) => {
                Err(Unserved::OtherBrand { bound: bound.clone(), configured: configured.clone() })
            }
            (Some(bound), _) => Ok(bound.clone()),
            (None, Some(configured)) => {
                let brand = self.brands(&app.suite).find(|one| one.corp_id.same_corp(configured.as_str()));
                brand.map(|brand| brand.corp_id.clone()).ok_or(Unserved::NoBrand)
            }
            (None, None) => {
                let unclaimed: Vec<_> =
                    self.brands(&app.suite).filter(|brand| !self.is_claimed(app, &brand.corp_id)).collect();
                match unclaimed.as_slice() {
                    [] => Err(Unserved::NoBrand),
                    [brand] if self.may_have_another(app) => {
                        self.undecided.push(&brand.corp_id);
                        Err(Unserved::NoBrand)
                    }
                    [brand] => Ok(brand.corp_id.clone()),
                    several => Err(Unserved::Several(several.iter().copied().map(named).collect())),
                }
            }
        }
    }

    /// The active brands of a suite.
    fn brands(&self, suite: &AppName) -> impl Iterator<Item = &'a Authorization> + use<'a> {
        self.granted
            .get(suite)
            .into_iter()
            .flatten()
            .filter(|one| one.state() == AuthorizationState::Active && one.role() == Some(Role::Brand))
    }

    /// Whether a corp that no other app is for may turn out to be a brand: its app is being read.
    fn may_have_another(&self, app: &AgencyApp) -> bool {
        let of_suite = self.granted.get(&app.suite).into_iter().flatten();
        let mut being_read = of_suite.filter(|one| one.is_being_read(self.now));
        being_read.any(|one| !self.is_claimed(app, &one.corp_id))
    }

    /// The app of the suite that serves the corp.
    fn server(&self, suite: &AppName, corp_id: &CorpId) -> Option<&'a AppName> {
        let mut served = self.served.iter();
        served
            .find(|(app, corp)| app.suite == *suite && corp.same_corp(corp_id.as_str()))
            .map(|(app, _)| &app.app)
    }

    /// Whether another app of the suite serves the corp, is bound to it or configured for it.
    fn is_claimed(&self, app: &AgencyApp, corp_id: &CorpId) -> bool {
        let others = self.apps.iter().filter(|other| other.suite == app.suite && other.app != app.app);
        let claims = others.flat_map(|other| self.bound.get(&other.app).into_iter().chain(&other.corp_id));
        let mut claimed = claims.map(CorpId::as_str);
        self.server(&app.suite, corp_id).is_some() || claimed.any(|claimed| corp_id.same_corp(claimed))
    }

    /// Adds the brands without an app, except those among which an app has to choose and those that cannot be
    /// served because of an app's other binding.
    fn finish(mut self) -> Bindings {
        for suite in self.granted.keys() {
            let waiting: Vec<_> = self
                .apps
                .iter()
                .filter(|app| app.suite == *suite)
                .filter_map(|app| self.result.apps.get(&app.app)?.as_ref().err())
                .flat_map(|unserved| match unserved {
                    Unserved::Several(brands) => brands.iter().map(|(corp_id, _)| corp_id).collect(),
                    Unserved::OtherBrand { configured, .. } => vec![configured],
                    Unserved::NoBrand | Unserved::Taken { .. } => Vec::new(),
                })
                .collect();
            let without_app: Vec<_> = self
                .brands(suite)
                .filter(|brand| self.server(suite, &brand.corp_id).is_none())
                .filter(|brand| !waiting.iter().any(|corp_id| corp_id.same_corp(brand.corp_id.as_str())))
                .filter(|brand| !self.undecided.contains(&&brand.corp_id))
                .map(named)
                .map(|(corp_id, name)| (suite.clone(), corp_id, name))
                .collect();
            self.result.without_app.extend(without_app);
        }
        self.result
    }
}

fn named(brand: &Authorization) -> (CorpId, String) {
    (brand.corp_id.clone(), brand.name.clone())
}

#[cfg(test)]
mod tests;
