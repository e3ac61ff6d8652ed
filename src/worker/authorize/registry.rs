//! Reads the stored suites and bindings into the registry of apps, and binds apps to the brands that have
//! authorised.

use std::collections::BTreeMap;

use super::super::apps::{AppChanges, Apps};
use super::super::suites::SuiteView;
use crate::domain::bindings::{Unserved, bind};
use crate::domain::ids::CorpId;
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};

/// Replaces what `apps` knows of the suites by what is stored. A new binding is stored before its app is
/// served. Also to be called once before any worker or listener runs.
///
/// # Errors
/// When the store fails; `apps` are then as before.
pub async fn load(store: &dyn Store, apps: &Apps, now: Timestamp) -> Result<AppChanges, StoreError> {
    let mut bound = store.bindings().await?;
    let (mut views, mut granted) = (BTreeMap::new(), BTreeMap::new());
    for (suite, settings) in apps.suites() {
        let mut records = store.suite(suite).await?;
        // A corp that an app is configured for is meant to be a brand, whatever it was before.
        for one in &mut records.authorizations {
            let is_configured = |corp_id: &CorpId| corp_id.same_corp(one.corp_id.as_str());
            let mut of_suite = apps.agency().iter().filter(|app| app.suite == *suite);
            if of_suite.any(|app| app.corp_id.as_ref().is_some_and(is_configured)) {
                one.dealer_of = None;
            }
        }
        granted.insert(suite.clone(), records.authorizations.clone());
        views.insert(suite.clone(), SuiteView::of(records, &settings.sealer));
    }
    let mut bindings = bind(apps.agency(), &granted, &bound, now);
    if !bindings.to_store.is_empty() {
        let mut damaged = Vec::new();
        for (app, corp_id) in &bindings.to_store {
            match store.bind(app, corp_id).await {
                Ok(stored) => {
                    tracing::info!(%app, corp_id = %stored, "an app is bound to a brand");
                    bound.insert(app.clone(), stored);
                }
                // Which brand's data is under its name is not known.
                Err(StoreError::Damaged(reason)) => {
                    tracing::error!(%app, reason, "the record of an app's brand is damaged: the app serves none");
                    damaged.push(app.clone());
                }
                Err(error) => return Err(error),
            }
        }
        bindings = bind(apps.agency(), &granted, &bound, now);
        bindings.apps.extend(damaged.into_iter().map(|app| (app, Err(Unserved::NoBrand))));
    }
    Ok(apps.replace(views, &bindings, now))
}
