//! `[[sinks]]`: where link changes are sent. Values are checked with the code of the sinks, so that what is
//! accepted here works there.
//!
//! Deliberately absent: whether a receiver answers. Nothing here connects to anything.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use strum::{EnumDiscriminants, IntoStaticStr};

use super::checks::check_unencrypted;
use super::reader::{Invalid, Section};
use super::secret::{self, Secret};
use super::sections::unique_name;
use crate::domain::ids::SinkName;
use crate::reach::Host;
use crate::sink::nats::{are_credentials, is_subject};
use crate::sink::webhook::{SigningKey, certificates, is_ours};
use crate::store::Start;
use crate::telemetry::address::Address;

/// One of `[[sinks]]`.
#[derive(Debug, Clone, Serialize)]
pub struct Sink {
    pub(crate) name: SinkName,
    pub(crate) start: Start,
    /// Flattened as in the file, when the configuration is printed.
    #[serde(flatten)]
    pub(crate) target: SinkTarget,
}

/// A kind of receiver, and its settings.
#[derive(Debug, Clone, Serialize, EnumDiscriminants, IntoStaticStr)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[strum_discriminants(name(Kind), derive(Deserialize), serde(rename_all = "lowercase"))]
pub(crate) enum SinkTarget {
    Webhook(WebhookTarget),
    Nats(NatsTarget),
    File(FileTarget),
}

impl SinkTarget {
    /// The name of the kind, as in the file.
    pub(crate) fn kind(&self) -> &'static str {
        self.into()
    }
}

/// The receiver of a webhook. Its secrets are valid signing keys. Its headers are valid, and all of them are
/// treated as secrets, because some are.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WebhookTarget {
    pub(crate) url: Address,
    pub(crate) secret: Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous_secret: Option<Secret>,
    pub(crate) batch: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) private_addresses: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, Secret>,
}

/// A NATS server and a subject. The login is not part of the URL; there is at most one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NatsTarget {
    pub(crate) url: Address,
    pub(crate) subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credentials_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// A folder, and when its file is rotated.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FileTarget {
    pub(crate) path: PathBuf,
    pub(crate) rotate_mb: u64,
    pub(crate) rotate_daily: bool,
}

impl Sink {
    /// Reads a sink; `others` are those before it.
    pub(super) fn read(section: &mut Section<'_>, others: &[Self]) -> Option<Self> {
        let name =
            unique_name(section, "sink", |name: &SinkName| others.iter().any(|sink| sink.name == *name));
        let start = section.text("start");
        let target = match section.text("kind") {
            Some(Kind::Webhook) => WebhookTarget::read(section).map(SinkTarget::Webhook),
            Some(Kind::Nats) => NatsTarget::read(section).map(SinkTarget::Nats),
            Some(Kind::File) => FileTarget::read(section, others).map(SinkTarget::File),
            None => {
                // The keys of an unknown kind cannot be judged.
                section.rest();
                None
            }
        };
        Some(Self { name: name?, start: start?, target: target? })
    }
}

const MAKE_SECRET: &str =
    "make one with: echo \"whsec_$(openssl rand -base64 32)\", and give it to the receiver too";

impl WebhookTarget {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let url = url(section, &["https", "http"], "https://crm.example.com/hooks/unionlink");
        let private_addresses = section.flag("private_addresses")?;
        if let Some(Address(url)) = &url
            && url.scheme() == "http"
        {
            if private_addresses {
                check_unencrypted(section, "url", url, "write https://");
            } else if Host::of(url) != Host::Private {
                let hint =
                    "write https://, or set private_addresses = true if the receiver is in your network";
                section.problem("url", "would send personal data unencrypted", Some(hint));
            }
        }
        section.require("secret", MAKE_SECRET);
        let [secret, previous_secret] = ["secret", "previous_secret"]
            .map(|name| secret::read_checked(section, name, SigningKey::parse, MAKE_SECRET));
        if let (Some(secret), Some(previous)) = (&secret, &previous_secret)
            && secret.value.expose_secret() == previous.value.expose_secret()
        {
            section.problem("previous_secret", "is the same as secret", Some("leave it out"));
        }
        Some(Self {
            previous_secret,
            batch: section.number("batch", 1..=1_000)?,
            timeout_ms: section.number("timeout_ms", 100..=60_000)?,
            private_addresses,
            ca_file: ca_file(section),
            headers: headers(&mut section.section("headers")),
            url: url?,
            secret: secret?,
        })
    }
}

fn headers(section: &mut Section<'_>) -> BTreeMap<String, Secret> {
    let mut headers = BTreeMap::new();
    for (name, value) in section.rest() {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(header) if is_ours(&header) => section.problem(&name, "is written by unionlink itself", None),
            Ok(_) => {}
            Err(_) => section.problem(&name, "is not the name of a header", None),
        }
        let read = secret::of(value, secret::overridden(section, &name), section.reading);
        let Some(value) = section.checked(&name, read) else { continue };
        if HeaderValue::from_str(value.value.expose_secret()).is_err() {
            let hint = "use ASCII without line ends";
            section.problem(&name, "has a value that no header can carry", Some(hint));
        }
        if headers.insert(name.to_ascii_lowercase(), value).is_some() {
            section.problem(&name, "is given twice", None);
        }
    }
    headers
}

impl NatsTarget {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let url = url(section, &["nats", "tls"], "nats://nats.example.com:4222");
        if url.as_ref().is_some_and(Address::has_login) {
            let hint = "write token, or user and password, as keys of their own";
            section.problem("url", "has a login in it", Some(hint));
        }
        if let Some(Address(url)) = &url
            && url.scheme() == "nats"
            && !section.has("ca_file")
        {
            check_unencrypted(section, "url", url, "write tls://, and have the server offer TLS");
        }
        let logins = ["token", "user", "credentials_file"].into_iter().filter(|name| section.has(name));
        if logins.count() > 1 {
            let reason = "has more than one login: token, user and password, or credentials_file";
            section.problem("", reason, Some("keep the one that the server wants"));
        }
        match (section.has("user"), section.has("password")) {
            (true, false) => section.problem("password", "is missing: there is a user", None),
            (false, true) => section.problem("user", "is missing: there is a password", None),
            _ => {}
        }
        Some(Self {
            subject: section.parse("subject", subject)?,
            token: secret::read(section, "token"),
            user: section.text("user"),
            password: secret::read(section, "password"),
            credentials_file: section.parse("credentials_file", |path| {
                if are_credentials(&secret::private_file(path.as_ref())?) {
                    return Ok(path.into());
                }
                Err(("holds no credentials of NATS".to_owned(), None))
            }),
            ca_file: ca_file(section),
            url: url?,
        })
    }
}

fn subject(text: String) -> Result<String, Invalid> {
    if is_subject(&text) {
        return Ok(text);
    }
    let hint = "write words separated by dots, without * and >".to_owned();
    Err((format!("{text:?} is not a subject that can be published to"), Some(hint)))
}

impl FileTarget {
    fn read(section: &mut Section<'_>, others: &[Sink]) -> Option<Self> {
        let hint = "name a folder for the files";
        section.require("path", hint);
        let path = section.parse("path", |text| {
            let path = PathBuf::from(text);
            let taken = |sink: &&Sink| matches!(&sink.target, SinkTarget::File(file) if file.path == path);
            match others.iter().find(taken) {
                _ if path.as_os_str().is_empty() => Err(("is empty".to_owned(), Some(hint.to_owned()))),
                Some(other) => Err((format!("is already the folder of sink {}", other.name), None)),
                None => Ok(path),
            }
        });
        Some(Self {
            rotate_mb: section.number("rotate_mb", 1..=100_000)?,
            rotate_daily: section.flag("rotate_daily")?,
            path: path?,
        })
    }
}

fn url(section: &mut Section<'_>, schemes: &[&str], example: &str) -> Option<Address> {
    section.require("url", &format!("write {example}"));
    secret::address(section, "url", schemes, example)
}

fn ca_file(section: &mut Section<'_>) -> Option<PathBuf> {
    section.parse("ca_file", |path| match std::fs::read(&path) {
        Ok(pem) if certificates(&pem).is_some() => Ok(path.into()),
        Ok(_) => Err(("holds no certificate in PEM".to_owned(), None)),
        Err(error) => Err((format!("cannot be read: {error}"), None)),
    })
}
