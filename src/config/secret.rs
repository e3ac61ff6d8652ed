//! A secret from the file, the environment or a file of its own; never printed.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

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
        (Some(_), Value::String(text)) => Ok((text, "the environment".to_owned())),
        (None, Value::String(text)) => Ok(written_out(section, text)),
        (_, Value::Table(table)) if table.len() == 1 => match table.into_iter().next() {
            Some((kind, Value::String(text))) => from_table(section, &kind, text, environment),
            _ => Err(("is not written as a secret".to_owned(), Some(FORM.to_owned()))),
        },
        _ => Err(("is not written as a secret".to_owned(), Some(FORM.to_owned()))),
    };
    match found {
        Ok((text, source)) if !text.is_empty() => Some(Secret { value: text.into(), source }),
        Ok((_, source)) => {
            section.problem(name, format!("is empty (from {source})"), None);
            None
        }
        Err((reason, hint)) => {
            section.problem(name, reason, hint.as_deref());
            None
        }
    }
}

const FORM: &str = "write { env = \"NAME\" }, { file = \"path\" } or { value = \"…\" }";

type Found = Result<(String, String), Unreadable>;

/// What is wrong, and what to do.
pub(super) type Unreadable = (String, Option<String>);

fn from_table(section: &Section, kind: &str, text: String, environment: &Environment) -> Found {
    match kind {
        "value" => Ok(written_out(section, text)),
        "env" => {
            let hint = || Some("export it before starting".to_owned());
            let value = environment.get(&text);
            let value = value.ok_or_else(|| (format!("environment variable {text} is not set"), hint()))?;
            Ok((value.to_owned(), format!("environment variable {text}")))
        }
        "file" => {
            let content = Zeroizing::new(private_file(text.as_ref())?);
            Ok((content.trim_end_matches(['\r', '\n']).to_owned(), format!("file {text}")))
        }
        other => Err((format!("has {other:?} in it"), Some(FORM.to_owned()))),
    }
}

/// A secret that stands in the configuration itself, which has to be kept accordingly.
fn written_out(section: &Section, text: String) -> (String, String) {
    section.holds_a_secret();
    (text, "the file".to_owned())
}

/// The content of a file that is not for everybody; wherever a link leads, the mode of the file there counts.
pub(super) fn private_file(path: &Path) -> Result<String, Unreadable> {
    let shown = path.display();
    let unreadable = |error| (format!("file {shown} cannot be read: {error}"), None);
    let mut file = File::open(path).map_err(unreadable)?;
    if let Some(mode) = open_to_all(&file).map_err(unreadable)? {
        let hint = format!(
            "chmod 600 {shown}, or 640 for a group; for a secret of Kubernetes, defaultMode: 0400 in its volume"
        );
        return Err((
            format!("file {shown} is open to every user of the machine (mode {mode:04o})"),
            Some(hint),
        ));
    }
    let mut content = String::new();
    file.read_to_string(&mut content).map_err(unreadable)?;
    Ok(content)
}

/// The mode of a file that users beside the owner and the group can read or write.
pub(super) fn open_to_all(file: &File) -> std::io::Result<Option<u32>> {
    let mode = file.metadata()?.mode() & 0o7777;
    Ok((mode & 0o006 != 0).then_some(mode))
}
