//! `--report`: a file for those who help, with what doctor found and what the service says of itself, and without what could
//! name somebody.
//!
//! Every id and name of a corp, every host and address that occurs in what is collected is replaced everywhere by one word
//! for it; the configuration is the redacted one that `unionlink check` prints. Ids of people and secrets are in none of the
//! sources.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::Value;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::config::Config;
use crate::domain::ids::CorpId;

/// Keys whose values are replaced.
const NAMING: [&str; 14] = [
    "corp_id",
    "corp_name",
    "provider_corp_id",
    "suite_id",
    "url",
    "public_url",
    "listen_url",
    "proxy",
    "host",
    "hosts",
    "listen",
    "address",
    "addresses",
    "machine",
];

/// Keys under which the keys of a table are ids.
const KEYED_BY_ID: [&str; 1] = ["corps"];

/// The files of a report, by name.
#[derive(Default)]
pub(super) struct Bundle {
    files: Vec<(&'static str, String)>,
    /// What is replaced, by what.
    masks: BTreeMap<String, String>,
}

impl Bundle {
    /// Adds JSON.
    pub(super) fn add_json(&mut self, name: &'static str, value: &Value) {
        self.learn(value);
        self.files.push((name, serde_json::to_string_pretty(value).unwrap_or_default()));
    }

    /// Adds a text.
    pub(super) fn add_text(&mut self, name: &'static str, text: String) {
        self.files.push((name, text));
    }

    /// Adds the redacted configuration.
    pub(super) fn add_config(&mut self, config: &Config) {
        if let Ok(value) = serde_json::to_value(config) {
            self.add_json("config.json", &value);
        }
    }

    /// Notes what is to be replaced.
    fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    if NAMING.contains(&key.as_str()) {
                        self.learn_texts(value);
                    } else if KEYED_BY_ID.contains(&key.as_str()) {
                        let keys = value.as_object().into_iter().flat_map(|table| table.keys());
                        keys.for_each(|key| self.mask(key));
                    }
                    self.learn(value);
                }
            }
            Value::Array(elements) => elements.iter().for_each(|element| self.learn(element)),
            // An id of a corp within a text.
            Value::String(text) => {
                let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')));
                let is_id = |word: &&str| word.len() >= 8 && CorpId::new(*word).is_ok() && is_corp(word);
                words.filter(is_id).for_each(|word| self.mask(word));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn learn_texts(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.mask(text),
            Value::Array(elements) => elements.iter().for_each(|element| self.learn_texts(element)),
            _ => {}
        }
    }

    fn mask(&mut self, text: &str) {
        // A host occurs in texts without the rest of its URL.
        let host = reqwest::Url::parse(text).ok().and_then(|url| url.host_str().map(str::to_owned));
        for text in [Some(text.to_owned()), host].into_iter().flatten() {
            let next = self.masks.len() + 1;
            if text.chars().count() >= 2 {
                self.masks.entry(text).or_insert_with(|| format!("«{next}»"));
            }
        }
    }

    fn masked(&self, text: &str) -> String {
        // The longest first: one may be a part of another.
        let mut masks: Vec<_> = self.masks.iter().collect();
        masks.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        masks.into_iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// The names of the files, each with its size.
    pub(super) fn contents(&self) -> Vec<String> {
        self.files.iter().map(|(name, text)| format!("{name}  {} bytes", self.masked(text).len())).collect()
    }

    /// Writes the report to a new file, which only its owner can read.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        let mut archive = ZipWriter::new(file);
        for (name, text) in &self.files {
            archive.start_file(*name, SimpleFileOptions::default())?;
            archive.write_all(self.masked(text).as_bytes())?;
        }
        archive.finish()?.sync_all()
    }
}

fn is_corp(word: &str) -> bool {
    ["ww", "wx", "wp", "dk"].iter().any(|prefix| word.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_names_somebody_is_replaced_everywhere_by_the_same_word() {
        let mut bundle = Bundle::default();
        let status = json!({
            "replicas": [{"machine": "db-host-7"}],
            "paused": [{"corp_id": "wpDEALER01", "corp_name": "上海一店", "reason": "refused for 上海一店 (wpDEALER01)"}],
            "note": "at wwBRAND9876 and https://callback.example.com/callback/brand",
            "public_url": "https://callback.example.com",
        });
        bundle.add_json("status.json", &status);
        bundle.add_text("metrics.txt", "corp=\"wwBRAND9876\" host db-host-7".to_owned());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.zip");
        bundle.write(&path).unwrap();
        assert!(bundle.write(&path).is_err(), "an existing file is not replaced");
        let mut archive = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let mut all = String::new();
        for nth in 0..archive.len() {
            all += &io::read_to_string(archive.by_index(nth).unwrap()).unwrap();
        }
        for name in ["db-host-7", "wpDEALER01", "上海一店", "wwBRAND9876", "callback.example.com"] {
            assert!(!all.contains(name), "{name}: {all}");
        }
        assert!(all.contains("/callback/brand") && bundle.contents().len() == 2, "{all}");
    }
}
