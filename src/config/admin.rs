//! What other commands of this program need of the configuration: `[admin]` alone to reach the service, `[store]`
//! alone to find the folder, so that the service's secrets need not be at hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

use secrecy::SecretString;
use toml::Table;

use super::reader::{Problem, Section, Shared};
use super::{Admin, ConfigError, Environment, Store, sections, table};

/// Where the admin API is, and what it asks for.
#[derive(Debug, Clone)]
pub struct AdminAccess {
    /// Scheme, host and port, without a slash at the end.
    pub base_url: String,
    /// Bearer token.
    pub token: Option<SecretString>,
}

impl AdminAccess {
    /// Access to `base_url`, with the token in `UNIONLINK_ADMIN_TOKEN` if it is set.
    #[must_use]
    pub fn at(base_url: &str, environment: &Environment) -> Self {
        let token = environment.get("UNIONLINK_ADMIN_TOKEN").filter(|token| !token.is_empty());
        Self { base_url: base_url.trim_end_matches('/').to_owned(), token: token.map(SecretString::from) }
    }
}

/// Reads only what concerns the admin listener in the configuration in `path`.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong there.
pub fn load_admin(path: &Path, environment: &Environment) -> Result<AdminAccess, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse_admin(&text, path, environment)
}

pub(super) fn parse_admin(
    text: &str,
    path: &Path,
    environment: &Environment,
) -> Result<AdminAccess, ConfigError> {
    let (mut root, shared) = section_alone(text, path, environment, "admin")?;
    let admin = sections::admin(&mut root.section("admin"), environment);
    drop(root);
    let mut problems = shared.into_problems();
    match admin {
        Some(Admin { listen, token, .. }) if problems.is_empty() => {
            if listen.port() != 0 {
                let base_url = format!("http://{}", reachable(listen));
                return Ok(AdminAccess { base_url, token: token.map(|token| token.value) });
            }
            problems.push(Problem {
                key: "admin.listen".to_owned(),
                reason: format!("{listen} does not say which port the service has"),
                hint: Some("name the service with --admin URL".to_owned()),
            });
        }
        _ => {}
    }
    Err(ConfigError::Problems { path: path.to_owned(), problems })
}

/// One section of the file, with what the environment says of it; nothing else is looked at.
pub(super) fn section_alone(
    text: &str,
    path: &Path,
    environment: &Environment,
    name: &str,
) -> Result<(Section, Rc<Shared>), ConfigError> {
    let mut whole = table(text, path)?;
    let ours: Table = whole.remove_entry(name).into_iter().collect();
    let prefix = format!("{}__", name.to_ascii_uppercase());
    let overrides = environment.overrides().into_iter().filter(|(name, _)| name.starts_with(&prefix));
    Ok(Section::root(ours, overrides.collect()))
}

/// Reads only where the store is in the configuration in `path`: enough for a command that needs the folder and
/// none of the service's secrets.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong there.
pub fn load_store(path: &Path, environment: &Environment) -> Result<Store, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let (mut root, shared) = section_alone(&text, path, environment, "store")?;
    let store = sections::store(&mut root.section("store"));
    drop(root);
    let problems = shared.into_problems();
    if problems.is_empty() {
        Ok(store)
    } else {
        Err(ConfigError::Problems { path: path.to_owned(), problems })
    }
}

/// Where a service that listens on `listen` is reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(text: &str, pairs: &[(&str, &str)]) -> Result<AdminAccess, ConfigError> {
        let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse_admin(text, "t".as_ref(), &environment)
    }

    #[test]
    fn nothing_but_the_admin_section_is_looked_at() {
        let text = "nonsense = 1\n[store]\ncache_mb = \"?\"\n[admin]\nlisten = \"0.0.0.0:9\"\ntoken = { env = \"T\" }\n\
                    [[apps]]\nsecret = { env = \"NOT_SET\" }\n";
        let found = access(text, &[("T", "secret"), ("UNIONLINK__STORE__CACHE_MB", "x")]).unwrap();
        assert_eq!(found.base_url, "http://127.0.0.1:9");
        assert_eq!(found.token.as_ref().map(secrecy::ExposeSecret::expose_secret), Some("secret"));
        assert!(!format!("{found:?}").contains("secret\""));
        assert_eq!(access("", &[]).unwrap().base_url, "http://127.0.0.1:8081");
    }

    #[test]
    fn the_environment_has_the_last_word_here_too() {
        let pairs = [("UNIONLINK__ADMIN__LISTEN", "[::]:7"), ("UNIONLINK__ADMIN__TOKEN", "1234")];
        let found = access("[admin]\nlisten = \"127.0.0.1:9\"\n", &pairs).unwrap();
        assert_eq!(found.base_url, "http://[::1]:7");
        assert_eq!(found.token.as_ref().map(secrecy::ExposeSecret::expose_secret), Some("1234"));
    }

    #[test]
    fn what_is_wrong_with_the_admin_section_is_told() {
        let missing = access("[admin]\ntoken = { env = \"T\" }\n", &[]).unwrap_err().to_string();
        assert!(missing.contains("admin.token environment variable T is not set"), "{missing}");
        let port = access("[admin]\nlisten = \"127.0.0.1:0\"\n", &[]).unwrap_err().to_string();
        assert!(port.contains("--admin URL"), "{port}");
    }

    #[test]
    fn a_named_service_needs_no_configuration() {
        let environment = [("UNIONLINK_ADMIN_TOKEN".to_owned(), "t".to_owned())].into_iter().collect();
        let found = AdminAccess::at("https://fans.example.com/", &environment);
        assert_eq!(found.base_url, "https://fans.example.com");
        assert!(
            found.token.is_some() && AdminAccess::at("http://x", &Environment::default()).token.is_none()
        );
    }
}
