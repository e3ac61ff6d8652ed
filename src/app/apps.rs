//! The apps and suites of the configuration, as the rest of the service knows them: the registry, and the
//! callback URLs, at the start and when the configuration is reloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secrecy::ExposeSecret as _;

use super::start_error::StartError;
use crate::at_rest::Sealer;
use crate::callback::{AesKey, Keys};
use crate::config::{self, Access, Config, Secret};
use crate::domain::ids::AppName;
use crate::domain::time::Timestamp;
use crate::http::doors::{AppDoor, AppRecipients, Door, Doors, SuiteDoor, SuiteRecipients};
use crate::intake::Recipients;
use crate::wecom::{AppCredentials, Development};
use crate::worker::apps::{AppRules, Apps, ReloadedSettings};
use crate::worker::suites::SuiteSettings;

/// The registry of apps of a service that starts now; of its suites nothing is known yet.
pub(super) fn registry(config: &Config, now: Timestamp) -> Apps {
    let suites = config.suites.iter().map(|suite| suite_settings(suite, now)).collect();
    let self_built = config.apps.iter().filter_map(credentials).collect();
    Apps::new(config.apps.iter().map(rules), suites).with_credentials(self_built)
}

fn suite_settings(suite: &config::Suite, now: Timestamp) -> (AppName, SuiteSettings) {
    let previous = suite.previous_suite_secret.as_ref().map(|secret| &secret.value);
    let settings = SuiteSettings {
        provider_corp_id: suite.provider_corp_id.clone(),
        suite_id: suite.suite_id.clone(),
        secret: suite.suite_secret.value.clone(),
        sealer: Arc::new(Sealer::new(&suite.suite_id, &suite.suite_secret.value, previous)),
        waits_since: now,
    };
    (suite.name.clone(), settings)
}

fn rules(app: &config::App) -> (AppName, AppRules) {
    let (suite, corp_id) = match &app.access {
        Access::SelfBuilt(own) => (None, Some(own.corp_id.clone())),
        Access::Agency(agency) => (Some(agency.suite.clone()), agency.corp_id.clone()),
    };
    let rules = AppRules {
        suite,
        corp_id,
        conversion_token: app.conversion_token,
        existing_customers: app.existing_customers,
        customer_groups: app.customer_groups,
        reconcile_hours: app.reconcile_hours,
        silent_days: app.silent_days,
        renew: app.renew,
        same_id_extends: app.same_id_extends,
        quota: app.quota.limits(),
        reserve_percent: app.quota.reserve_percent,
    };
    (app.name.clone(), rules)
}

fn credentials(app: &config::App) -> Option<(AppName, AppCredentials)> {
    let Access::SelfBuilt(own) = &app.access else { return None };
    let credentials = AppCredentials {
        corp_id: own.corp_id.clone(),
        agent_id: own.agent_id,
        secret: own.secret.value.clone(),
        generation: 0,
        development: Development::SelfBuilt,
    };
    Some((app.name.clone(), credentials))
}

/// What a reload changes of the apps, except of those that are `held`.
pub(super) fn reloaded(config: &Config, held: &BTreeSet<AppName>) -> BTreeMap<AppName, ReloadedSettings> {
    let settings = |app: &config::App| {
        let secret = match &app.access {
            Access::SelfBuilt(own) => Some(own.secret.value.clone()),
            Access::Agency(_) => None,
        };
        let (quota, reserve_percent) = (app.quota.limits(), app.quota.reserve_percent);
        (app.name.clone(), ReloadedSettings { secret, quota, reserve_percent })
    };
    config.apps.iter().filter(|app| !held.contains(&app.name)).map(settings).collect()
}

/// The callback URLs: one of each suite, and one of each app with a token or key of its own. Those of apps
/// and suites that are `held` stay as they are among the `current` ones.
///
/// # Errors
/// [`StartError::Key`] when an AES key is malformed.
pub(super) fn doors(
    config: &Config,
    apps: &Apps,
    (current, held): (&Doors, &BTreeSet<AppName>),
) -> Result<Doors, StartError> {
    let stays = |(name, _): &(&AppName, &Arc<Door>)| held.contains(*name);
    let mut doors: Doors =
        current.iter().filter(stays).map(|(name, door)| (name.clone(), door.clone())).collect();
    let recipients: BTreeMap<_, _> =
        config.suites.iter().map(|suite| (&suite.name, suite_recipients(config, apps, suite))).collect();
    for suite in config.suites.iter().filter(|suite| !held.contains(&suite.name)) {
        let Some(settings) = apps.suites().get(&suite.name) else { continue };
        let door = SuiteDoor {
            keys: keys(&suite.name, &suite.callback_token, &suite.encoding_aes_key, &suite.previous)?,
            recipients: recipients[&suite.name].clone(),
            sealer: settings.sealer.clone(),
        };
        doors.insert(suite.name.clone(), Arc::new(Door::Suite(door)));
    }
    for app in config.apps.iter().filter(|app| !held.contains(&app.name)) {
        let Some(rules) = apps.get(&app.name) else { continue };
        let (keys, recipients) = match &app.access {
            Access::SelfBuilt(own) => {
                let accept_receive_ids = app.accept_receive_ids.clone();
                let recipients = Recipients { corp_id: own.corp_id.clone(), accept_receive_ids };
                let keys = keys(&app.name, &own.callback_token, &own.encoding_aes_key, &own.previous)?;
                (keys, AppRecipients::SelfBuilt(recipients))
            }
            Access::Agency(agency) => {
                let Some(suite) = config.suites.iter().find(|suite| suite.name == agency.suite) else {
                    continue;
                };
                if agency.callback_token.is_none() && agency.encoding_aes_key.is_none() {
                    continue;
                }
                let token = agency.callback_token.as_ref().unwrap_or(&suite.callback_token);
                let key = agency.encoding_aes_key.as_ref().unwrap_or(&suite.encoding_aes_key);
                let keys = keys(&app.name, token, key, &agency.previous)?;
                (keys, AppRecipients::Agency(recipients[&suite.name].clone()))
            }
        };
        // Whether groups are looked up is not reloaded.
        let (name, customer_groups) = (app.name.clone(), rules.customer_groups);
        let door = AppDoor { name: name.clone(), keys, recipients, customer_groups };
        doors.insert(name, Arc::new(Door::App(door)));
    }
    Ok(doors)
}

/// Whose messages the URLs of a suite and its apps accept: `accept_receive_ids` of all its apps count.
fn suite_recipients(config: &Config, apps: &Apps, suite: &config::Suite) -> SuiteRecipients {
    let is_of_suite = |app: &&config::App| {
        apps.get(&app.name).is_some()
            && matches!(&app.access, Access::Agency(agency) if agency.suite == suite.name)
    };
    let apps = config.apps.iter().filter(is_of_suite);
    SuiteRecipients {
        suite: suite.name.clone(),
        suite_id: suite.suite_id.clone(),
        provider_corp_id: suite.provider_corp_id.clone(),
        accept_receive_ids: apps.flat_map(|app| app.accept_receive_ids.iter().cloned()).collect(),
    }
}

fn keys(
    name: &AppName,
    token: &Secret,
    key: &Secret,
    previous: &config::PreviousKeys,
) -> Result<Keys, StartError> {
    let decoded = |key: &Secret| {
        let decoded = AesKey::decode(key.value.expose_secret());
        decoded.map_err(|source| StartError::Key { app: name.clone(), source })
    };
    let previous_token = previous.callback_token.as_ref().map(|token| token.value.clone());
    let previous_key = previous.encoding_aes_key.as_ref().map(decoded).transpose()?;
    Ok(Keys::new(token.value.clone(), decoded(key)?).with_previous(previous_token, previous_key))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    fn config(apps: &[&str]) -> Config {
        let app = |name: &&str| {
            format!(
                "[[apps]]\nname = \"{name}\"\ncorp_id = \"ww0123456789abcdef\"\nagent_id = 1000002\n\
                 secret = \"s\"\ncallback_token = \"callback-token\"\n\
                 encoding_aes_key = \"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG\"\n"
            )
        };
        let text: String = apps.iter().map(app).collect();
        let text = format!("[admin]\nopen = true\n{text}");
        parse(&text, Path::new("t"), &Environment::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_reload_keeps_the_url_of_an_app_that_was_removed_and_serves_none_of_an_app_that_was_added() {
        let (before, after) = (config(&["brand", "removed"]), config(&["brand", "added"]));
        let apps = registry(&before, Timestamp::EPOCH);
        let current = doors(&before, &apps, (&Doors::new(), &BTreeSet::new())).unwrap();
        let held = before.values().changes(&after.values()).held;
        let reloaded = doors(&after, &apps, (&current, &held)).unwrap();
        let [brand, removed] = ["brand", "removed"].map(|name| AppName::new(name).unwrap());
        assert_eq!(reloaded.len(), 2);
        assert!(Arc::ptr_eq(&reloaded[&removed], &current[&removed]));
        assert!(!Arc::ptr_eq(&reloaded[&brand], &current[&brand]));
        assert!(super::reloaded(&after, &held).into_keys().eq([brand]));
    }
}
