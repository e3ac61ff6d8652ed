//! Reports callback URLs that share token and key: a message for one verifies at the other.

use secrecy::ExposeSecret as _;

use super::apps::{Access, App};
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
    token: &'a Secret,
    key: &'a Secret,
    /// The suite whose messages it accepts.
    suite: Option<&'a AppName>,
}

impl CallbackUrl<'_> {
    fn is_open_to_messages_for(&self, other: &Self) -> bool {
        let is_same = |one: &Secret, two: &Secret| one.value.expose_secret() == two.value.expose_secret();
        // Within a suite, WeCom decides which URL it sends a message to.
        let is_one_suite = self.suite.is_some() && self.suite == other.suite;
        !is_one_suite && is_same(self.token, other.token) && is_same(self.key, other.key)
    }
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
        token: &suite.callback_token,
        key: &suite.encoding_aes_key,
        suite: Some(&suite.name),
    }
}

/// The URL of an app that has one: an agency-developed app without a token and key of its own has its suite's.
fn url_of_app<'a>(n: usize, app: &'a App, suites: &'a [Suite]) -> Option<CallbackUrl<'a>> {
    let (token, key, suite) = match &app.access {
        Access::SelfBuilt(own) => (&own.callback_token, &own.encoding_aes_key, None),
        Access::Agency(agency) => {
            let (token, key) = (agency.callback_token.as_ref(), agency.encoding_aes_key.as_ref());
            if token.is_none() && key.is_none() {
                return None;
            }
            let suite = suites.iter().find(|suite| suite.name == agency.suite)?;
            let (token, key) =
                (token.unwrap_or(&suite.callback_token), key.unwrap_or(&suite.encoding_aes_key));
            (token, key, Some(&suite.name))
        }
    };
    Some(CallbackUrl { section: format!("apps[{n}]"), of: format!("app {}", app.name), token, key, suite })
}
