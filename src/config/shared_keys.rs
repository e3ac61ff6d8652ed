//! Reports callback URLs that share token and key: a message for one verifies at the other.

use secrecy::ExposeSecret as _;

use super::apps::{Access, App};
use super::checks::PreviousKeys;
use super::reader::{Section, Severity};
use super::secret::Secret;
use super::suites::Suite;
use crate::domain::ids::AppName;

/// A callback URL.
struct CallbackUrl<'a> {
    /// Its section in the configuration.
    section: String,
    /// Whose it is, for people.
    of: String,
    /// Token and key, and those from before a change.
    pairs: Vec<[&'a Secret; 2]>,
    /// The suite whose messages it accepts.
    suite: Option<&'a AppName>,
}

impl CallbackUrl<'_> {
    fn is_open_to_messages_for(&self, other: &Self) -> bool {
        let is_same = |one: &Secret, two: &Secret| one.value.expose_secret() == two.value.expose_secret();
        // Within a suite, WeCom decides which URL it sends a message to.
        let is_one_suite = self.suite.is_some() && self.suite == other.suite;
        let are_same = |[token, key]: &[&Secret; 2]| {
            other.pairs.iter().any(|theirs| is_same(token, theirs[0]) && is_same(key, theirs[1]))
        };
        !is_one_suite && self.pairs.iter().any(are_same)
    }
}

fn pairs<'a>(token: &'a Secret, key: &'a Secret, previous: &'a PreviousKeys) -> Vec<[&'a Secret; 2]> {
    let PreviousKeys { callback_token, encoding_aes_key } = previous;
    let before = (callback_token.is_some() || encoding_aes_key.is_some())
        .then(|| [callback_token.as_ref().unwrap_or(token), encoding_aes_key.as_ref().unwrap_or(key)]);
    [[token, key]].into_iter().chain(before).collect()
}

/// Checks all callback URLs of the configuration.
pub(super) fn check_shared_keys(root: &Section<'_>, suites: &[Suite], apps: &[App]) {
    let of_suite = |(n, suite)| url_of_suite(n, suite);
    let urls: Vec<_> = suites.iter().enumerate().map(of_suite).collect();
    let of_app = |(n, app)| url_of_app(n, app, suites);
    let urls: Vec<_> = urls.into_iter().chain(apps.iter().enumerate().filter_map(of_app)).collect();
    for (n, url) in urls.iter().enumerate() {
        if let Some(other) = urls[..n].iter().find(|other| url.is_open_to_messages_for(other)) {
            let reason = format!(
                "and encoding_aes_key are those of {}: a callback for one verifies at the other",
                other.of
            );
            let key = format!("{}.callback_token", url.section);
            root.report(Severity::Suspect, &key, reason, Some("give each its own"));
        }
    }
}

fn url_of_suite(n: usize, suite: &Suite) -> CallbackUrl<'_> {
    CallbackUrl {
        section: format!("suites[{n}]"),
        of: format!("suite {}", suite.name),
        pairs: pairs(&suite.callback_token, &suite.encoding_aes_key, &suite.previous),
        suite: Some(&suite.name),
    }
}

/// The URL of an app that has one: an agency-developed app without a token and key of its own has its suite's.
fn url_of_app<'a>(n: usize, app: &'a App, suites: &'a [Suite]) -> Option<CallbackUrl<'a>> {
    let (token, key, previous, suite) = match &app.access {
        Access::SelfBuilt(own) => (&own.callback_token, &own.encoding_aes_key, &own.previous, None),
        Access::Agency(agency) => {
            let (token, key) = (agency.callback_token.as_ref(), agency.encoding_aes_key.as_ref());
            if token.is_none() && key.is_none() {
                return None;
            }
            let suite = suites.iter().find(|suite| suite.name == agency.suite)?;
            let (token, key) =
                (token.unwrap_or(&suite.callback_token), key.unwrap_or(&suite.encoding_aes_key));
            (token, key, &agency.previous, Some(&suite.name))
        }
    };
    let (section, of) = (format!("apps[{n}]"), format!("app {}", app.name));
    Some(CallbackUrl { section, of, pairs: pairs(token, key, previous), suite })
}
