//! Where the NATS sink publishes and how it logs in, and which values of these are valid.

use std::path::PathBuf;

use async_nats::ConnectOptions;
use secrecy::SecretString;

use crate::telemetry::address::Address;

/// Where messages are published, and with which login.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `nats://host:port` or `tls://host:port`.
    pub url: Address,
    /// The subject of the messages.
    pub subject: String,
    /// How to authenticate.
    pub login: Login,
    /// A PEM file of CA certificates that are trusted in place of the system's. With it, TLS is required.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// Whether nothing may be sent without TLS.
    pub(super) fn require_tls(&self) -> bool {
        self.url.0.scheme() == "tls" || self.ca_file.is_some()
    }
}

/// How to authenticate with the server.
#[derive(Debug, Clone)]
pub enum Login {
    /// Without authentication.
    None,
    /// With a token.
    Token(SecretString),
    /// With a user name and a password.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// With a `.creds` file, which is read for every new client.
    Credentials(PathBuf),
}

/// Whether a subject can be published to: without wildcards, at most 255 bytes.
#[must_use]
pub fn is_subject(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '>');
    text.len() <= 255 && text.split('.').all(|token| !token.is_empty() && token.chars().all(plain))
}

/// Whether this is the content of a `.creds` file.
#[must_use]
pub fn are_credentials(content: &str) -> bool {
    ConnectOptions::with_credentials(content).is_ok()
}
