//! The sections of sinks: what each kind's keys are, what they default to, what is wrong with them.
//!
//! Whatever a sink would stumble over later is looked at here, by the very code that the sink uses: secrets, headers,
//! subjects, certificates. Whether the receiver answers is not a matter of configuration.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde::{Serialize, Serializer};

use super::Environment;
use super::reader::Section;
use super::secret::{self, Secret};
use super::sections::name;
use crate::domain::ids::SinkName;
use crate::sink::nats::{are_credentials, is_subject};
use crate::sink::webhook::{SigningKey, certificates, is_ours, names_private_address};
use crate::store::Start;

/// Where link changes go.
#[derive(Debug, Clone, Serialize)]
pub struct Sink {
    /// Its name.
    pub name: SinkName,
    /// Where a sink without a cursor begins.
    pub start: Start,
    /// What kind of receiver, and where. Flat, as in the file; only printing does this, reading never.
    #[serde(flatten)]
    pub target: SinkTarget,
}

/// A kind of receiver.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SinkTarget {
    /// HTTP POST.
    Webhook(WebhookTarget),
    /// NATS JetStream.
    Nats(NatsTarget),
    /// Files in a folder.
    File(FileTarget),
}

impl SinkTarget {
    /// The name of the kind, as in the file.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Nats(_) => "nats",
            Self::File(_) => "file",
        }
    }
}

/// A webhook's receiver.
#[derive(Debug, Clone, Serialize)]
pub struct WebhookTarget {
    /// Where to.
    pub url: Address,
    /// For the signature, checked to be one.
    pub secret: Secret,
    /// Signs as well, while secrets change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_secret: Option<Secret>,
    /// Entries in one request.
    pub batch: u64,
    /// For one attempt.
    pub timeout_ms: u64,
    /// Whether the name may lead to private addresses.
    pub private_addresses: bool,
    /// Further roots of trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Sent along, checked to be legal; secrets, for some are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
}

/// A NATS server and what is published there.
#[derive(Debug, Clone, Serialize)]
pub struct NatsTarget {
    /// `nats://` or `tls://`, without a login.
    pub url: Address,
    /// The messages' subject.
    pub subject: String,
    /// A login by token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A login by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A login by a `.creds` file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// The roots of trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// A folder and how its files follow each other.
#[derive(Debug, Clone, Serialize)]
pub struct FileTarget {
    /// The folder.
    pub path: PathBuf,
    /// The largest a file becomes.
    pub rotate_mb: u64,
    /// Whether each day (UTC) begins a new file.
    pub rotate_daily: bool,
}

/// A URL that does not print what may be secret in it: the login and the query.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(
    /// The whole of it.
    pub Url,
);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = !self.0.username().is_empty() || self.0.password().is_some();
        let mut shown = self.0.clone();
        // These fail for URLs without a host only, which are no receivers.
        let _ = shown.set_username("").and(shown.set_password(None));
        shown.set_query(None);
        shown.set_fragment(None);
        let shown = if login { shown.as_str().replacen("://", "://[redacted]@", 1) } else { shown.into() };
        f.write_str(&shown)?;
        f.write_str(if self.0.query().is_some() { "?[redacted]" } else { "" })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Webhook,
    Nats,
    File,
}

pub(super) fn sink(section: &mut Section, environment: &Environment, known: &[&Sink]) -> Option<Sink> {
    let name = name(section).and_then(|name| SinkName::new(name.as_str()).ok());
    if let Some(name) = &name
        && known.iter().any(|sink| sink.name == *name)
    {
        section.problem("name", format!("{name} is taken by another sink"), None);
    }
    let kind =
        section.one_of("kind", &[("webhook", Kind::Webhook), ("nats", Kind::Nats), ("file", Kind::File)]);
    let start = section.choice("start", &[("beginning", Start::Beginning), ("now", Start::Now)]);
    let target = match kind {
        Some(Kind::Webhook) => webhook(section, environment).map(SinkTarget::Webhook),
        Some(Kind::Nats) => nats(section, environment).map(SinkTarget::Nats),
        Some(Kind::File) => file(section, known).map(SinkTarget::File),
        None => {
            // Which keys it may have is anybody's guess.
            section.rest();
            None
        }
    };
    Some(Sink { name: name?, start, target: target? })
}

fn webhook(section: &mut Section, environment: &Environment) -> Option<WebhookTarget> {
    let url = address(section, &["https", "http"], "https://crm.example.com/hooks/unionlink");
    let private_addresses = section.flag("private_addresses", false);
    if let Some(Address(url)) = &url
        && url.scheme() == "http"
        && !private_addresses
        && !names_private_address(url)
    {
        section.problem(
            "url",
            "would send personal data unencrypted",
            Some(
                "write https://, or set private_addresses = true if the receiver is inside your own network",
            ),
        );
    }
    if !section.value_is_there("secret") {
        section.problem("secret", "is missing", Some(MAKE_SECRET));
    }
    let secret = signing_secret(section, "secret", environment);
    let previous_secret = signing_secret(section, "previous_secret", environment);
    if let (Some(secret), Some(previous)) = (&secret, &previous_secret)
        && secret.value.expose_secret() == previous.value.expose_secret()
    {
        section.problem("previous_secret", "is the same as secret", Some("leave it out"));
    }
    Some(WebhookTarget {
        headers: headers(&mut section.section("headers"), environment),
        batch: section.number("batch", 1, 1..=1_000),
        timeout_ms: section.number("timeout_ms", 10_000, 100..=60_000),
        private_addresses,
        ca_file: ca_file(section),
        previous_secret,
        url: url?,
        secret: secret?,
    })
}

const MAKE_SECRET: &str =
    "make one with: echo \"whsec_$(openssl rand -base64 32)\", and give it to the receiver too";

fn signing_secret(section: &mut Section, name: &'static str, environment: &Environment) -> Option<Secret> {
    let secret = secret::read(section, name, environment)?;
    if let Err(error) = SigningKey::parse(secret.value.expose_secret()) {
        section.problem(name, error.to_string(), Some(MAKE_SECRET));
    }
    Some(secret)
}

fn headers(section: &mut Section, environment: &Environment) -> BTreeMap<String, Secret> {
    let mut headers = BTreeMap::new();
    for (name, value) in section.rest() {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header) if is_ours(&header) => section.problem(&name, "is written by unionlink itself", None),
            Ok(_) => {}
            Err(_) => section.problem(&name, "is not the name of a header", None),
        }
        let Some(value) = secret::take(section, &name, value, environment) else { continue };
        if HeaderValue::from_str(value.value.expose_secret()).is_err() {
            section.problem(
                &name,
                "has a value that no header can carry",
                Some("use ASCII without line ends"),
            );
        }
        let name = name.to_ascii_lowercase();
        if headers.contains_key(&name) {
            section.problem(&name, "is there twice", None);
        }
        headers.insert(name, value);
    }
    headers
}

fn nats(section: &mut Section, environment: &Environment) -> Option<NatsTarget> {
    let url = address(section, &["nats", "tls"], "nats://nats.example.com:4222");
    if let Some(Address(url)) = &url
        && (!url.username().is_empty() || url.password().is_some())
    {
        section.problem(
            "url",
            "has a login in it",
            Some("write token, or user and password, as keys of their own"),
        );
    }
    let subject = section.text("subject").unwrap_or_else(|| "unionlink.links".to_owned());
    if !is_subject(&subject) {
        let reason = format!("{subject:?} is not a subject that can be published to");
        section.problem("subject", reason, Some("write words with dots between them, without * and >"));
    }
    let logins = ["token", "user", "credentials_file"].map(|name| section.value_is_there(name));
    if logins.into_iter().filter(|there| *there).count() > 1 {
        let reason = "has more than one login: token, user and password, credentials_file";
        section.problem("", reason, Some("keep the one that the server wants"));
    }
    match (section.value_is_there("user"), section.value_is_there("password")) {
        (true, false) => section.problem("password", "is missing: there is a user", None),
        (false, true) => section.problem("user", "is missing: there is a password", None),
        _ => {}
    }
    let token = secret::read(section, "token", environment);
    let user = section.text("user");
    let password = secret::read(section, "password", environment);
    let credentials_file = section.text("credentials_file").map(PathBuf::from);
    if let Some(path) = &credentials_file {
        match secret::private_file(path) {
            Ok(content) if are_credentials(&content) => {}
            Ok(_) => section.problem("credentials_file", "holds no credentials of NATS", None),
            Err((reason, hint)) => section.problem("credentials_file", reason, hint.as_deref()),
        }
    }
    let ca_file = ca_file(section);
    Some(NatsTarget { url: url?, subject, token, user, password, credentials_file, ca_file })
}

fn file(section: &mut Section, known: &[&Sink]) -> Option<FileTarget> {
    let path = section.text("path").map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    let taken =
        |sink: &&&Sink| matches!(&sink.target, SinkTarget::File(file) if Some(&file.path) == path.as_ref());
    if path.is_none() {
        section.problem("path", "is missing", Some("name a folder for the files"));
    } else if let Some(other) = known.iter().find(taken) {
        section.problem("path", format!("is the folder of {} already", other.name), None);
    }
    let rotate_mb = section.number("rotate_mb", 100, 1..=100_000);
    let rotate_daily = section.flag("rotate_daily", true);
    Some(FileTarget { path: path?, rotate_mb, rotate_daily })
}

/// The `url` of a sink. What is wrong with it is told without it: it may hold a password.
fn address(section: &mut Section, schemes: &[&str], example: &str) -> Option<Address> {
    let hint = format!("write {example}");
    let Some(text) = section.text("url") else {
        section.problem("url", "is missing", Some(&hint));
        return None;
    };
    match Url::parse(&text) {
        Ok(url) if schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty()) => {
            Some(Address(url))
        }
        _ => {
            section.problem("url", format!("is not a URL of {}", schemes.join(" or ")), Some(&hint));
            None
        }
    }
}

fn ca_file(section: &mut Section) -> Option<PathBuf> {
    let path = PathBuf::from(section.text("ca_file")?);
    match std::fs::read(&path) {
        Ok(pem) if certificates(&pem).is_some() => {}
        Ok(_) => section.problem("ca_file", "holds no certificate in PEM", None),
        Err(error) => section.problem("ca_file", format!("cannot be read: {error}"), None),
    }
    Some(path)
}
