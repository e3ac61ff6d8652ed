//! Which values of two configurations differ, and which of them a running service can take over: what a
//! reload changes, and what needs a restart.
//!
//! Values are compared as digests, so that no secret is kept for it.
//!
//! Deliberately absent: how the service takes over a value, which is the application's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use toml::Table;

use super::admin::{Admin, AdminToken};
use super::alerts::Alerts;
use super::apps::{Access, App};
use super::checks::PreviousKeys;
use super::secret::Secret;
use super::sections::{Log, Server, Wecom};
use super::sinks::{Sink, SinkTarget};
use super::store::{Place, Store};
use super::suites::Suite;
use crate::domain::ids::{AppName, SinkName, TokenName};

/// The keys of the sections that exist once which a running service takes over.
const OF_SECTIONS: [&str; 4] = ["admin.hosts", "admin.open", "admin.token", "log.filter"];
/// Those of apps and suites.
const OF_APPS: [&str; 7] = [
    "accept_receive_ids",
    "callback_token",
    "encoding_aes_key",
    "previous_callback_token",
    "previous_encoding_aes_key",
    "quota",
    "secret",
];
/// The keys that say which app, or which suite at WeCom, a name stands for.
const IDENTITY: [&str; 5] = ["agent_id", "corp_id", "provider_corp_id", "suite", "suite_id"];

type Digest = [u8; 32];
type Digests = BTreeMap<String, Digest>;

/// The values of a configuration, as digests by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values {
    /// Of the sections that exist once, with the name of the section: `server.listen`.
    sections: Digests,
    tokens: BTreeMap<TokenName, Digest>,
    suites: BTreeMap<AppName, Item>,
    apps: BTreeMap<AppName, Item>,
    sinks: BTreeMap<SinkName, Digest>,
}

/// The values of an app or a suite.
#[derive(Debug, Clone)]
struct Item {
    /// The suite of an app that has one.
    suite: Option<AppName>,
    values: Digests,
}

/// What a reload means for a running service.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The keys whose values the service takes over: `apps.brand.secret`, `sinks.crm`.
    pub(crate) changed: BTreeSet<String>,
    /// The keys whose values it cannot take over.
    pub(crate) needs_restart: BTreeSet<String>,
    /// The apps and suites that are added, removed or redefined: nothing of theirs is taken over.
    pub(crate) held: BTreeSet<AppName>,
    /// Whether nothing of `[admin]` is taken over.
    pub(crate) holds_admin: bool,
    /// The sinks that are added, removed or changed.
    pub(crate) sinks: BTreeSet<SinkName>,
    /// The values of the service once it has taken over what it can.
    pub(crate) values: Values,
}

impl Values {
    /// Those of a configuration. Reads the certificates and credentials that sinks name.
    pub(super) fn of(
        (server, admin, store, wecom, log): (&Server, &Admin, &Store, &Wecom, &Log),
        suites: &[Suite],
        apps: &[App],
        (sinks, alerts): (&[Sink], &[Alerts]),
    ) -> Self {
        let mut alert_values = Digests::new();
        for (nth, robot) in alerts.iter().enumerate() {
            let of_robot = digests(robot).into_values().flatten().collect::<Vec<_>>();
            add(&mut alert_values, &nth.to_string(), of_robot);
            add(&mut alert_values, &nth.to_string(), robot.url.value.expose_secret());
        }
        let mut admin_values = digests(admin);
        admin_values.remove("tokens");
        add_secrets(&mut admin_values, [("token", admin.token.as_ref())]);
        let mut store_values = digests(store);
        if let Place::Database(database) = &store.place {
            add_secrets(&mut store_values, database.secrets());
        }
        let mut wecom_values = digests(wecom);
        // Printed without their logins and queries.
        add(&mut wecom_values, "api_base", wecom.api_base.0.as_str());
        if let Some(proxy) = &wecom.proxy {
            add(&mut wecom_values, "proxy", proxy.0.as_str());
        }
        let sections = [
            ("server", digests(server)),
            ("admin", admin_values),
            ("store", store_values),
            ("wecom", wecom_values),
            ("log", digests(log)),
            ("alerts", alert_values),
        ];
        let with_section = |(section, values): (&'static str, Digests)| {
            values.into_iter().map(move |(key, digest)| (format!("{section}.{key}"), digest))
        };
        Self {
            sections: sections.into_iter().flat_map(with_section).collect(),
            tokens: admin.tokens.iter().map(|token| (token.name.clone(), of_token(token))).collect(),
            suites: suites.iter().map(|suite| (suite.name.clone(), of_suite(suite))).collect(),
            apps: apps.iter().map(|app| (app.name.clone(), of_app(app))).collect(),
            sinks: sinks.iter().map(|sink| (sink.name.clone(), of_sink(sink))).collect(),
        }
    }

    /// What it means for a service with these values that the configuration has the values `new`.
    pub(crate) fn changes(&self, new: &Self) -> Changes {
        // Only a restart removes the last token: the configuration may be right for another address only.
        let holds_admin = self.has_tokens() && !new.has_tokens();
        let (mut changes, mut after) = (Changes { holds_admin, ..Changes::default() }, self.clone());
        for key in differing(&self.sections, &new.sections) {
            let is_held = holds_admin && key.starts_with("admin.");
            if changes.note(key.clone(), !is_held && OF_SECTIONS.contains(&key.as_str())) {
                take_over(&mut after.sections, key, &new.sections);
            }
        }
        for token in differing(&self.tokens, &new.tokens) {
            if changes.note(format!("admin.tokens.{token}"), !holds_admin) {
                take_over(&mut after.tokens, token, &new.tokens);
            }
        }
        after.suites = changes.of_items("suites", &self.suites, &new.suites);
        after.apps = changes.of_items("apps", &self.apps, &new.apps);
        for sink in differing(&self.sinks, &new.sinks) {
            changes.note(format!("sinks.{sink}"), true);
            changes.sinks.insert(sink.clone());
        }
        after.sinks.clone_from(&new.sinks);
        Changes { values: after, ..changes }
    }

    fn has_tokens(&self) -> bool {
        self.sections.contains_key("admin.token") || !self.tokens.is_empty()
    }
}

impl Changes {
    /// Notes that a value differs. Returns whether it is taken over.
    fn note(&mut self, key: String, is_taken_over: bool) -> bool {
        let keys = if is_taken_over { &mut self.changed } else { &mut self.needs_restart };
        keys.insert(key);
        is_taken_over
    }

    /// Compares apps or suites. Returns their values once what can be taken over is.
    fn of_items(
        &mut self,
        section: &str,
        before: &BTreeMap<AppName, Item>,
        new: &BTreeMap<AppName, Item>,
    ) -> BTreeMap<AppName, Item> {
        let mut after = before.clone();
        let names: BTreeSet<_> = before.keys().chain(new.keys()).collect();
        for name in names {
            let (Some(item), Some(new)) = (after.get_mut(name), new.get(name)) else {
                self.note(format!("{section}.{name}"), false);
                self.held.insert(name.clone());
                continue;
            };
            let keys: Vec<_> = differing(&item.values, &new.values).into_iter().cloned().collect();
            let is_redefined = keys.iter().any(|key| IDENTITY.contains(&key.as_str()));
            let is_held = is_redefined || item.suite.as_ref().is_some_and(|suite| self.held.contains(suite));
            if is_held {
                self.held.insert(name.clone());
            }
            for key in keys {
                if self.note(format!("{section}.{name}.{key}"), !is_held && OF_APPS.contains(&key.as_str())) {
                    take_over(&mut item.values, &key, &new.values);
                }
            }
        }
        after
    }
}

/// The keys whose values differ, or that only one of the two has.
fn differing<'a, K: Ord>(one: &'a BTreeMap<K, Digest>, other: &'a BTreeMap<K, Digest>) -> BTreeSet<&'a K> {
    one.keys().chain(other.keys()).filter(|key| one.get(key) != other.get(key)).collect()
}

fn take_over<K: Ord + Clone>(values: &mut BTreeMap<K, Digest>, key: &K, new: &BTreeMap<K, Digest>) {
    match new.get(key) {
        Some(digest) => values.insert(key.clone(), *digest),
        None => values.remove(key),
    };
}

/// The values of a section as it is printed, without secrets.
fn digests(section: &impl Serialize) -> Digests {
    // Every section can be printed: `check` does.
    let table = Table::try_from(section).unwrap_or_default();
    table.into_iter().map(|(key, value)| (key, Sha256::digest(value.to_string()).into())).collect()
}

/// Makes the digest of `key` depend on `value` too.
fn add(values: &mut Digests, key: &str, value: impl AsRef<[u8]>) {
    let digest = values.entry(key.to_owned()).or_default();
    *digest = Sha256::new().chain_update(*digest).chain_update(value).finalize().into();
}

fn add_secrets<'a>(values: &mut Digests, secrets: impl IntoIterator<Item = (&'a str, Option<&'a Secret>)>) {
    for (key, secret) in secrets {
        if let Some(secret) = secret {
            add(values, key, secret.value.expose_secret());
        }
    }
}

/// One digest of all values.
fn whole(values: &Digests) -> Digest {
    let all =
        values.iter().fold(Sha256::new(), |all, (key, digest)| all.chain_update(key).chain_update(digest));
    all.finalize().into()
}

fn of_token(token: &AdminToken) -> Digest {
    let mut values = digests(token);
    let previous = token.previous_token.as_ref();
    add_secrets(&mut values, [("token", Some(&token.token)), ("previous_token", previous)]);
    whole(&values)
}

fn previous_keys(previous: &PreviousKeys) -> [(&'static str, Option<&Secret>); 2] {
    [
        ("previous_callback_token", previous.callback_token.as_ref()),
        ("previous_encoding_aes_key", previous.encoding_aes_key.as_ref()),
    ]
}

fn of_suite(suite: &Suite) -> Item {
    let mut values = digests(suite);
    let secrets = [
        ("suite_secret", Some(&suite.suite_secret)),
        ("previous_suite_secret", suite.previous_suite_secret.as_ref()),
        ("callback_token", Some(&suite.callback_token)),
        ("encoding_aes_key", Some(&suite.encoding_aes_key)),
    ];
    add_secrets(&mut values, secrets.into_iter().chain(previous_keys(&suite.previous)));
    Item { suite: None, values }
}

fn of_app(app: &App) -> Item {
    let (secret, token, key, previous, suite) = match &app.access {
        Access::SelfBuilt(own) => {
            let (token, key) = (Some(&own.callback_token), Some(&own.encoding_aes_key));
            (Some(&own.secret), token, key, &own.previous, None)
        }
        Access::Agency(agency) => {
            let (token, key) = (agency.callback_token.as_ref(), agency.encoding_aes_key.as_ref());
            (None, token, key, &agency.previous, Some(agency.suite.clone()))
        }
    };
    let mut values = digests(app);
    let secrets = [("secret", secret), ("callback_token", token), ("encoding_aes_key", key)];
    add_secrets(&mut values, secrets.into_iter().chain(previous_keys(previous)));
    Item { suite, values }
}

fn of_sink(sink: &Sink) -> Digest {
    let mut values = digests(sink);
    let mut files: Vec<&PathBuf> = Vec::new();
    match &sink.target {
        SinkTarget::Webhook(target) => {
            add(&mut values, "url", target.url.0.as_str());
            let previous = target.previous_secret.as_ref();
            add_secrets(&mut values, [("secret", Some(&target.secret)), ("previous_secret", previous)]);
            add_secrets(&mut values, target.headers.values().map(|value| ("headers", Some(value))));
            files.extend(&target.ca_file);
        }
        SinkTarget::Nats(target) => {
            add(&mut values, "url", target.url.0.as_str());
            let logins = [("token", target.token.as_ref()), ("password", target.password.as_ref())];
            add_secrets(&mut values, logins);
            files.extend(target.ca_file.iter().chain(&target.credentials_file));
        }
        SinkTarget::File(_) => {}
    }
    for path in files {
        // It was read a moment ago, when the configuration was checked.
        add(&mut values, "files", std::fs::read(path).unwrap_or_default());
    }
    whole(&values)
}
