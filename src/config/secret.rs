//! Reads secrets, and URLs that may hold one. Neither is ever printed.
//!
//! A secret comes from the configuration, from a variable of the environment, or from a file of its own,
//! which must not be open to every user of the machine.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use reqwest::Url;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, Serializer};
use toml::{Table, Value};

use super::reader::{Invalid, OPEN_TO_ALL, Reading, Section, Severity};
use crate::telemetry::address::Address;

/// The source of a secret whose text is in a `UNIONLINK__…` variable.
const ENVIRONMENT: &str = "the environment";

/// A secret and where it came from.
#[derive(Debug, Clone)]
pub struct Secret {
    pub(crate) value: SecretString,
    source: String,
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("[redacted, from {}]", self.source))
    }
}

/// Reads the secret `name`.
pub(super) fn read(section: &mut Section<'_>, name: &'static str) -> Option<Secret> {
    read_checked(section, name, |_| Ok::<_, fmt::Error>(()), "")
}

/// Reads the secret `name`, which `check` must accept; `hint` says how to obtain one that it does.
pub(super) fn read_checked<T, E: fmt::Display>(
    section: &mut Section<'_>,
    name: &'static str,
    check: impl Fn(&str) -> Result<T, E>,
    hint: &str,
) -> Option<Secret> {
    let (overridden, reading) = (overridden(section, name), section.reading);
    section.take(name, |value| {
        let secret = of(value, overridden, reading)?;
        match check(secret.value.expose_secret()) {
            Ok(_) => Ok(secret),
            Err(error) => Err((error.to_string(), Some(hint.to_owned()))),
        }
    })
}

/// The text of the secret `name` if it came from the environment: of `UNIONLINK__…__NAME`, or of
/// `UNIONLINK__…__NAME__VALUE`.
pub(super) fn overridden<'a>(section: &Section<'a>, name: &str) -> Option<&'a str> {
    section.overridden(name).or_else(|| section.overridden(&format!("{name}.value")))
}

/// The secret that `value` holds or refers to; `overridden` is its text if it came from the environment.
pub(super) fn of(value: Value, overridden: Option<&str>, reading: &Reading<'_>) -> Result<Secret, Invalid> {
    let (text, source) = match (value, overridden) {
        (Value::Table(table), _) => from_table(table, overridden.is_some(), reading)?,
        (Value::String(text), None) => from_configuration(text, reading),
        (Value::String(text), Some(_)) => (text, ENVIRONMENT.to_owned()),
        (Value::Array(_), _) | (_, None) => return Err(malformed("is not written as a secret")),
        (_, Some(text)) => (text.to_owned(), ENVIRONMENT.to_owned()),
    };
    if text.is_empty() {
        return Err((format!("is empty (from {source})"), None));
    }
    Ok(Secret { value: text.into(), source })
}

/// A value that is not written as a secret.
fn malformed(reason: impl Into<String>) -> Invalid {
    let hint = "write { env = \"NAME\" }, { file = \"path\" } or { value = \"…\" }";
    (reason.into(), Some(hint.to_owned()))
}

/// The secret of `{ env = "NAME" }` and the like, and its source.
fn from_table(
    table: Table,
    from_environment: bool,
    reading: &Reading<'_>,
) -> Result<(String, String), Invalid> {
    let mut entries = table.into_iter();
    let (Some((kind, Value::String(text))), None) = (entries.next(), entries.next()) else {
        return Err(malformed("is not written as a secret"));
    };
    match kind.as_str() {
        "value" if from_environment => Ok((text, ENVIRONMENT.to_owned())),
        "value" => Ok(from_configuration(text, reading)),
        "env" => match reading.environment.get(&text) {
            Some(value) => Ok((value.to_owned(), format!("environment variable {text}"))),
            None => Err(not_set(&text)),
        },
        "file" => {
            if !may_be_shown(text.as_ref()) {
                let reason = "names a file that does not exist, in a folder that does not exist";
                return Err((reason.to_owned(), Some(format!("write the path of a file; {NOT_SHOWN}"))));
            }
            let content = Zeroizing::new(private_file(text.as_ref())?);
            reading.secret_files.borrow_mut().push(text.clone().into());
            Ok((content.trim_end_matches(['\r', '\n']).to_owned(), format!("file {text}")))
        }
        other => Err(malformed(format!("has {other:?} in it"))),
    }
}

/// Why a name or a path is not repeated.
const NOT_SHOWN: &str = "what is written here is not shown: it may be the secret itself";

/// A variable that is not set. It is named only if it looks like a variable, `UNIONLINK_BRAND_SECRET`: somebody
/// may have written the secret in its place.
fn not_set(name: &str) -> Invalid {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    let begins_with_letter = name.starts_with(|c: char| c.is_ascii_uppercase());
    if name.len() <= 64 && begins_with_letter && name.contains('_') && name.split('_').all(is_word) {
        let hint = "export it before starting".to_owned();
        return (format!("environment variable {name} is not set"), Some(hint));
    }
    let hint = format!("write the variable's name, such as UNIONLINK_BRAND_SECRET; {NOT_SHOWN}");
    ("names an environment variable that is not set".to_owned(), Some(hint))
}

/// Whether the path of a secret is certain not to be the secret itself: it exists, or its folder does.
fn may_be_shown(path: &Path) -> bool {
    let names_a_folder = |folder: &&Path| folder.file_name().is_some();
    path.exists() || path.parent().filter(names_a_folder).is_some_and(Path::is_dir)
}

/// A secret written in the configuration file, which must then be protected like one.
fn from_configuration(text: String, reading: &Reading<'_>) -> (String, String) {
    reading.holds_a_secret.set(true);
    (text, "the file".to_owned())
}

/// The content of a file that is not open to every user. Of a link, the mode of the file it leads to counts.
pub(super) fn private_file(path: &Path) -> Result<String, Invalid> {
    let shown = path.display();
    let unreadable = |error| (format!("file {shown} cannot be read: {error}"), None);
    let mut file = File::open(path).map_err(unreadable)?;
    if let Some(mode) = open_to_all(&file).map_err(unreadable)? {
        let hint = format!(
            "chmod 600 {shown}, or 640 for a group; for a Kubernetes secret, defaultMode: 0400 in its volume"
        );
        let reason = format!("file {shown} {OPEN_TO_ALL} (mode {mode:04o})");
        return Err((reason, Some(hint)));
    }
    let mut content = String::new();
    file.read_to_string(&mut content).map_err(unreadable)?;
    Ok(content)
}

/// The mode of a file that users other than its owner and group can read or write.
pub(super) fn open_to_all(file: &File) -> std::io::Result<Option<u32>> {
    let mode = file.metadata()?.mode() & 0o7777;
    Ok((mode & 0o006 != 0).then_some(mode))
}

/// Reads a URL with a host and one of `schemes`. A problem does not repeat it: it may hold a password.
pub(super) fn address(
    section: &mut Section<'_>,
    name: &'static str,
    schemes: &[&str],
    example: &str,
) -> Option<Address> {
    let fits =
        |url: &Url| schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty());
    let found = section.parse(name, |text| {
        let url = Url::parse(&text).ok().filter(fits).map(Address);
        url.ok_or_else(|| {
            (format!("is not a URL of {}", schemes.join(" or ")), Some(format!("write {example}")))
        })
    });
    if section.overridden(name).is_none() && found.as_ref().is_some_and(Address::has_login) {
        section.reading.holds_a_secret.set(true);
    }
    let host = found.as_ref().and_then(|found| found.0.host_str());
    if let Some(host) = host.filter(|host| is_reserved(host)) {
        let reason = format!("names {host}, which is reserved for examples");
        section.report(Severity::Suspect, name, reason, Some("write your own host name"));
    }
    found
}

/// Whether a host name is reserved for documents (RFC 2606), as the placeholders of `default.toml` and
/// `example.toml` are.
fn is_reserved(host: &str) -> bool {
    ["example.com", "example.net", "example.org"]
        .into_iter()
        .filter_map(|domain| host.strip_suffix(domain))
        .any(|before| before.is_empty() || before.ends_with('.'))
}
