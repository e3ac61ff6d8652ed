//! A URL that may hold a login or a token, and prints neither.
//!
//! Deliberately absent: which URLs are valid, which is the configuration's.

use std::fmt;

use reqwest::Url;
use serde::{Serialize, Serializer};

/// A URL that prints neither its login nor its query. Only the client that connects to it reads it whole.
#[derive(Clone)]
pub struct Address(pub(crate) Url);

impl Address {
    /// Whether it has a user name or a password.
    pub(crate) fn has_login(&self) -> bool {
        !self.0.username().is_empty() || self.0.password().is_some()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // These fail only for URLs without a host, which are not accepted.
        let _ = shown.set_username("").and(shown.set_password(None));
        shown.set_query(None);
        shown.set_fragment(None);
        let login = if self.has_login() { "://[redacted]@" } else { "://" };
        let query = if self.0.query().is_some() { "?[redacted]" } else { "" };
        write!(f, "{}{query}", shown.as_str().replacen("://", login, 1))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{self:?}"))
    }
}
