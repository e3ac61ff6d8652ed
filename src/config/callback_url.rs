//! The callback URLs that a configuration has: what each is sealed with, and where it is reached.

use std::net::{Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use secrecy::SecretString;

use super::{Access, Config};
use crate::domain::ids::AppName;

/// What the messages to a callback URL are sealed with.
pub(crate) struct CallbackSecrets<'a> {
    pub(crate) token: &'a SecretString,
    pub(crate) aes_key: &'a SecretString,
    /// A receive id that a check of the URL may have: the corp's, or the suite's.
    pub(crate) receive_id: &'a str,
}

/// Why there is no callback URL of a name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCallbackUrl {
    /// Nothing has this name.
    #[error("app or suite not found: {name}\nhint: the configuration has {known}")]
    Unknown {
        /// The name.
        name: AppName,
        /// Those that have one.
        known: String,
    },
    /// The app uses that of its suite.
    #[error("the app {app} has no callback URL of its own\nhint: name its suite, {suite}")]
    OfSuite {
        /// The app.
        app: AppName,
        /// Its suite.
        suite: AppName,
    },
}

impl Config {
    /// What the messages to the callback URL of an app or a suite are sealed with.
    pub(crate) fn callback_secrets(&self, name: &AppName) -> Result<CallbackSecrets<'_>, NoCallbackUrl> {
        if let Some(suite) = self.suites.iter().find(|suite| suite.name == *name) {
            return Ok(CallbackSecrets {
                token: &suite.callback_token.value,
                aes_key: &suite.encoding_aes_key.value,
                receive_id: suite.suite_id.as_str(),
            });
        }
        let Some(app) = self.apps.iter().find(|app| app.name == *name) else {
            let names =
                self.suites.iter().map(|suite| &suite.name).chain(self.apps.iter().map(|app| &app.name));
            let known = names.map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(NoCallbackUrl::Unknown { name: name.clone(), known });
        };
        match &app.access {
            Access::SelfBuilt(own) => Ok(CallbackSecrets {
                token: &own.callback_token.value,
                aes_key: &own.encoding_aes_key.value,
                receive_id: own.corp_id.as_str(),
            }),
            Access::Agency(agency) => {
                let of_suite = NoCallbackUrl::OfSuite { app: name.clone(), suite: agency.suite.clone() };
                if agency.callback_token.is_none() && agency.encoding_aes_key.is_none() {
                    return Err(of_suite);
                }
                let suite = self.suites.iter().find(|suite| suite.name == agency.suite).ok_or(of_suite)?;
                Ok(CallbackSecrets {
                    token: &agency.callback_token.as_ref().unwrap_or(&suite.callback_token).value,
                    aes_key: &agency.encoding_aes_key.as_ref().unwrap_or(&suite.encoding_aes_key).value,
                    receive_id: suite.suite_id.as_str(),
                })
            }
        }
    }

    /// The callback URLs by name, each with what its messages are sealed with.
    pub(crate) fn callback_urls(&self) -> impl Iterator<Item = (&AppName, CallbackSecrets<'_>)> {
        let names = self.suites.iter().map(|suite| &suite.name).chain(self.apps.iter().map(|app| &app.name));
        // The others use that of their suite.
        names.filter_map(|name| Some((name, self.callback_secrets(name).ok()?)))
    }

    /// Where the service receives callbacks on this machine.
    pub(crate) fn local_url(&self) -> Result<Url, impl std::error::Error + use<>> {
        let mut listen = self.server.listen;
        if listen.ip().is_unspecified() {
            listen.set_ip(if listen.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        Url::parse(&format!("http://{listen}"))
    }

    /// Where the callback URL of an app or a suite is reached, if that is configured.
    pub(crate) fn callback_url(&self, name: &AppName) -> Option<Url> {
        let mut url = self.server.public_url.as_ref()?.0.clone();
        // Fails only for a URL that cannot have a path; one with http or https can.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["callback", name.as_str()]);
        }
        Some(url)
    }
}
