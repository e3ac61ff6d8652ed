//! A secret from the file, the environment or a file of its own; never printed.

use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use serde::{Serialize, Serializer};
use toml::Value;

use super::Environment;
use super::reader::Section;

/// A secret and where it came from.
#[derive(Debug, Clone)]
pub struct Secret {
    /// The secret.
    pub value: SecretString,
    source: String,
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("[redacted, from {}]", self.source))
    }
}

impl Secret {
    /// A secret made by this program.
    #[must_use]
    pub fn made(value: String) -> Self {
        Self { value: value.into(), source: "this program".to_owned() }
    }
}

/// Reads a secret; notes a problem if it is there but cannot be had.
pub(super) fn read(section: &mut Section, name: &'static str, environment: &Environment) -> Option<Secret> {
    let value = section.value(name)?;
    take(section, name, value, environment)
}

/// Makes a secret of the value of `name`; notes a problem if it cannot be had.
pub(super) fn take(section: &Section, name: &str, value: Value, environment: &Environment) -> Option<Secret> {
    let found = match (section.overridden(name), value) {
        (Some(raw), Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_)) => {
            Ok((raw, "the environment".to_owned()))
        }
        (overridden, Value::String(text)) => {
            Ok((text, if overridden.is_some() { "the environment" } else { "the file" }.to_owned()))
        }
        (_, Value::Table(table)) if table.len() == 1 => match table.into_iter().next() {
            Some((kind, Value::String(text))) => from_table(&kind, text, environment),
            _ => Err(("is not written as a secret".to_owned(), Some(FORM))),
        },
        _ => Err(("is not written as a secret".to_owned(), Some(FORM))),
    };
    match found {
        Ok((text, source)) if !text.is_empty() => Some(Secret { value: text.into(), source }),
        Ok((_, source)) => {
            section.problem(name, format!("is empty (from {source})"), None);
            None
        }
        Err((reason, hint)) => {
            section.problem(name, reason, hint);
            None
        }
    }
}

const FORM: &str = "write { env = \"NAME\" }, { file = \"path\" } or { value = \"…\" }";

type Found = Result<(String, String), (String, Option<&'static str>)>;

fn from_table(kind: &str, text: String, environment: &Environment) -> Found {
    match kind {
        "value" => Ok((text, "the file".to_owned())),
        "env" => match environment.get(&text) {
            Some(value) => Ok((value.to_owned(), format!("environment variable {text}"))),
            None => {
                Err((format!("environment variable {text} is not set"), Some("export it before starting")))
            }
        },
        "file" => match std::fs::read_to_string(&text).map(Zeroizing::new) {
            Ok(content) => Ok((content.trim_end_matches(['\r', '\n']).to_owned(), format!("file {text}"))),
            Err(error) => Err((format!("file {text} cannot be read: {error}"), None)),
        },
        other => Err((format!("has {other:?} in it"), Some(FORM))),
    }
}
