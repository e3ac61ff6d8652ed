//! How commands of this program reach the admin API of the service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use secrecy::SecretString;

use super::environment::Environment;
use super::reader::Section;
use super::sections::Admin;

/// Where the admin API is, and the token it asks for.
#[derive(Debug, Clone)]
pub struct AdminAccess {
    /// Scheme, host and port, without a slash at the end.
    pub(crate) base_url: String,
    /// Bearer token.
    pub(crate) token: Option<SecretString>,
}

impl AdminAccess {
    /// Access to `base_url`, with the token in `UNIONLINK_ADMIN_TOKEN` if it is set.
    pub(crate) fn at(base_url: &str, environment: &Environment) -> Self {
        let token = environment.get("UNIONLINK_ADMIN_TOKEN").filter(|token| !token.is_empty());
        Self { base_url: base_url.trim_end_matches('/').to_owned(), token: token.map(SecretString::from) }
    }

    /// Access to the service that has `[admin]` as in `section`, from its own machine.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let Admin { mut listen, token, .. } = Admin::read(section)?;
        if listen.port() == 0 {
            let reason = format!("{listen} does not say which port the service has");
            section.problem("listen", reason, Some("name the service with --admin URL"));
        }
        match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(Self { base_url: format!("http://{listen}"), token: token.map(|token| token.value) })
    }
}
