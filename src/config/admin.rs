//! `[admin]`: the private listener and its tokens; and how commands of this program reach it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, Serializer};
use strum::VariantArray as _;

use super::environment::Environment;
use super::reader::{Invalid, Section, Severity};
use super::secret::{self, Secret};
use super::sections::{parse_address, unique_name};
use crate::domain::access::{TokenScope, TokenScopes};
use crate::domain::ids::TokenName;
use crate::reach::is_private;

/// The least number of characters of a token of the admin API.
const TOKEN_LENGTH_MIN: usize = 32;
const MAKE_TOKEN: &str = "make one with: openssl rand -hex 32";
/// The names of the tokens that are not in `[[admin.tokens]]`.
const RESERVED_NAMES: [&str; 3] = ["admin", "open", "signal"];
/// The longest path of a Unix socket, in bytes: `sun_path` has room for 108, the last of them 0.
const SOCKET_PATH_MAX: usize = 107;

/// Where the admin API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Listen {
    fn parse(text: &str) -> Result<Self, Invalid> {
        match text.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(Self::Unix),
            None => parse_address(text).map(Self::Tcp),
        }
    }
}

/// The path of a Unix socket.
pub(crate) fn socket_path(path: &str) -> Result<PathBuf, Invalid> {
    let hint = Some("write unix:/run/unionlink/admin.sock".to_owned());
    if !Path::new(path).is_absolute() {
        return Err((format!("{path:?} is not an absolute path"), hint));
    }
    if path.len() > SOCKET_PATH_MAX {
        return Err((format!("has a path of more than {SOCKET_PATH_MAX} bytes"), hint));
    }
    Ok(path.into())
}

/// `[admin]`: the private listener.
#[derive(Debug, Clone, Serialize)]
pub struct Admin {
    pub(crate) listen: Listen,
    /// The token that may do everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Secret>,
    /// Whether every process that reaches the listener may do everything.
    pub(crate) open: bool,
    /// In lower case.
    pub(crate) hosts: Vec<String>,
    /// `[[admin.tokens]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tokens: Vec<AdminToken>,
}

/// `[[admin.tokens]]`: a token for parts of the admin API.
#[derive(Debug, Clone, Serialize)]
pub struct AdminToken {
    pub(crate) name: TokenName,
    pub(crate) token: Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous_token: Option<Secret>,
    pub(crate) allow: TokenScopes,
}

impl Admin {
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let listen = section.parse("listen", |text| Listen::parse(&text))?;
        let has_token = section.has("token") || section.has("tokens");
        let token = read_token(section, "token");
        let mut tokens = Vec::new();
        for mut item in section.sections("tokens") {
            let read = AdminToken::read(&mut item, &tokens);
            tokens.extend(read);
        }
        check_distinct(section, token.as_ref(), &tokens);
        let open = section.flag("open")?;
        check_reach(section, &listen, has_token, open);
        let mut hosts = section.texts("hosts")?;
        for host in &mut hosts {
            if !is_host_name(host) {
                let hint = "write only the name, unionlink.example.com: no scheme, no port, no *";
                section.problem("hosts", format!("{host:?} is not a host name"), Some(hint));
            }
            host.make_ascii_lowercase();
        }
        Some(Self { listen, token, open, hosts, tokens })
    }
}

impl AdminToken {
    fn read(section: &mut Section<'_>, others: &[Self]) -> Option<Self> {
        let is_taken = |name: &TokenName| {
            RESERVED_NAMES.contains(&name.as_str()) || others.iter().any(|other| other.name == *name)
        };
        let name = unique_name(section, "token", is_taken);
        section.require("token", MAKE_TOKEN);
        let token = read_token(section, "token");
        let previous_token = read_token(section, "previous_token");
        let known = TokenScope::VARIANTS.iter().map(<&str>::from).collect::<Vec<_>>().join(", ");
        let hint = format!("name some of {known}");
        section.require("allow", &hint);
        let mut allow = Vec::new();
        for word in section.texts("allow").unwrap_or_default() {
            match word.parse::<TokenScope>() {
                Ok(scope) => allow.push(scope),
                Err(_) => section.problem("allow", format!("{word:?} is not one of {known}"), None),
            }
        }
        let allow: TokenScopes = allow.into_iter().collect();
        let (name, token) = (name?, token?);
        if allow.is_empty() {
            section.problem("allow", "is empty: the token would allow nothing", Some(&hint));
        }
        Some(Self { name, token, previous_token, allow })
    }
}

/// Reads a token, which must be long enough that nobody guesses it, and fit into a header.
fn read_token(section: &mut Section<'_>, name: &'static str) -> Option<Secret> {
    let check = |token: &str| {
        let length = token.chars().count();
        if length < TOKEN_LENGTH_MIN {
            Err(format!("has {length} characters; at least {TOKEN_LENGTH_MIN} are needed"))
        } else if HeaderValue::from_str(token).is_err() {
            Err("has a character in it that no header can have".to_owned())
        } else {
            Ok(())
        }
    };
    secret::read_checked(section, name, check, MAKE_TOKEN)
}

/// Reports two tokens with the same value: it would not be clear which of them was used.
fn check_distinct(section: &Section<'_>, token: Option<&Secret>, tokens: &[AdminToken]) {
    let further = tokens.iter().flat_map(|token| {
        [Some(&token.token), token.previous_token.as_ref()]
            .into_iter()
            .flatten()
            .map(|value| (token.name.as_str(), value))
    });
    let all: Vec<_> = token.map(|token| ("admin.token", token)).into_iter().chain(further).collect();
    for (n, (name, token)) in all.iter().enumerate() {
        let same = |other: &&(&str, &Secret)| other.1.value.expose_secret() == token.value.expose_secret();
        if let Some((other, _)) = all[..n].iter().find(same) {
            let reason = if name == other {
                format!("has one value twice: {name}")
            } else {
                format!("has one value for {other} and {name}")
            };
            section.problem("tokens", reason, Some(MAKE_TOKEN));
        }
    }
}

/// Reports a listener that strangers can reach.
fn check_reach(section: &Section<'_>, listen: &Listen, has_token: bool, open: bool) {
    if open && has_token {
        section.problem("open", "contradicts the token", Some("remove open, or the tokens"));
    }
    let Listen::Tcp(address) = listen else { return };
    let is_loopback = address.ip().is_loopback();
    if !has_token && !is_loopback {
        let hint = "set token = { env = \"UNIONLINK_ADMIN_TOKEN\" }, or listen on 127.0.0.1";
        section.problem(
            "token",
            format!("is missing, and {address} can be reached from other machines"),
            Some(hint),
        );
    } else if !has_token && !open {
        let hint = "set token = { env = \"UNIONLINK_ADMIN_TOKEN\" } (make one with: openssl rand -hex 32), or \
                    listen = \"unix:/run/unionlink/admin.sock\", or say open = true";
        let reason = "is missing: any process of this machine could export and erase everything";
        section.problem("token", reason, Some(hint));
    }
    if open && !has_token && !is_loopback {
        let reason = format!("is for loopback addresses, and {address} can be reached from other machines");
        section.problem("open", reason, Some("set token, or listen on 127.0.0.1"));
    }
    if address.ip().is_unspecified() || !is_private(address.ip()) {
        let reason = format!("is {address}: tokens and personal ids may cross networks without TLS");
        let hint = "listen on 127.0.0.1 or a private address, behind a reverse proxy with TLS";
        section.report(Severity::Warning, "listen", reason, Some(hint));
    }
}

fn is_host_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(is_allowed);
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Where the admin API is, and the token to send to it.
#[derive(Debug, Clone)]
pub struct AdminAccess {
    /// Scheme, host and port, without a slash at the end.
    pub(crate) base_url: String,
    /// The Unix socket to connect to, instead of the host in `base_url`.
    pub(crate) socket: Option<PathBuf>,
    /// Bearer token.
    pub(crate) token: Option<SecretString>,
}

impl AdminAccess {
    /// Access to `place`, a URL or `unix:` and a path, with the token in `UNIONLINK_TOKEN`, or else in
    /// `UNIONLINK_ADMIN_TOKEN`, if one is set.
    pub(crate) fn at(place: &str, environment: &Environment) -> Self {
        let token = own_token(environment).or_else(|| variable(environment, "UNIONLINK_ADMIN_TOKEN"));
        match place.strip_prefix("unix:") {
            Some(path) => Self::socket(path.into(), token),
            None => Self { base_url: place.trim_end_matches('/').to_owned(), socket: None, token },
        }
    }

    fn socket(path: PathBuf, token: Option<SecretString>) -> Self {
        Self { base_url: "http://localhost".to_owned(), socket: Some(path), token }
    }

    /// Where it is, for messages.
    pub(crate) fn shown(&self) -> String {
        match &self.socket {
            Some(path) => Listen::Unix(path.clone()).to_string(),
            None => self.base_url.clone(),
        }
    }

    /// Access to the service that has `[admin]` as in `section`, from its own machine. With a token in
    /// `UNIONLINK_TOKEN`, those of the section need not be available.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let own_token = own_token(section.reading.environment);
        let listen = section.parse("listen", |text| Listen::parse(&text))?;
        let token = match own_token {
            Some(token) => Some(token),
            None => read_token(section, "token").map(|token| token.value),
        };
        // Of no use here, and their variables need not be set.
        drop(section.rest());
        let mut address = match listen {
            Listen::Unix(path) => return Some(Self::socket(path, token)),
            Listen::Tcp(address) => address,
        };
        if address.port() == 0 {
            let reason = format!("{address} does not say which port the service has");
            section.problem("listen", reason, Some("name the service with --admin URL"));
        }
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(Self { base_url: format!("http://{address}"), socket: None, token })
    }
}

/// The token for commands, if there is one.
fn own_token(environment: &Environment) -> Option<SecretString> {
    variable(environment, "UNIONLINK_TOKEN")
}

fn variable(environment: &Environment, name: &str) -> Option<SecretString> {
    environment.get(name).filter(|token| !token.is_empty()).map(SecretString::from)
}
