//! `--report`: a file for those who help, with what doctor found and what the service says of itself, and without what could
//! name somebody.
//!
//! Every id and name of a corp, every host and address that occurs in what is collected is replaced everywhere by one word
//! for it; the configuration is the redacted one that `unionlink check` prints. Ids of people and secrets are in none of the
//! sources.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use reqwest::Url;
use serde_json::Value;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::config::Config;

/// Keys whose values, or the texts in them, are replaced.
const NAMING: [&str; 13] = [
    "accept_receive_ids",
    "address",
    "addresses",
    "api_base",
    "corp_id",
    "corp_name",
    "hosts",
    "listen",
    "provider_corp_id",
    "proxy",
    "public_url",
    "trusted_proxies",
    "url",
];

/// What begins an id of a corp or a suite.
const IDS: [&str; 4] = ["ww", "wx", "wp", "dk"];

/// The files of a report, by name.
pub(super) struct Bundle {
    file: File,
    files: Vec<(&'static str, Content)>,
    /// What is replaced, by what.
    masks: BTreeMap<String, String>,
}

enum Content {
    Json(Value),
    Text(String),
}

impl Bundle {
    /// Makes the file, which only its owner can read.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| anyhow::anyhow!("{} cannot be made: {error}", path.display()))?;
        Ok(Self { file, files: Vec::new(), masks: BTreeMap::new() })
    }

    /// Adds JSON.
    pub(super) fn add_json(&mut self, name: &'static str, value: Value) {
        self.learn(&value);
        self.files.push((name, Content::Json(value)));
    }

    /// Adds a text.
    pub(super) fn add_text(&mut self, name: &'static str, text: String) {
        self.learn_words(&text);
        self.files.push((name, Content::Text(text)));
    }

    /// Adds the redacted configuration; `url` is the address of the callback URL if it is another.
    pub(super) fn add_config(&mut self, config: &Config, url: Option<&Url>) {
        if let Some(url) = url {
            self.mask(url.as_str());
        }
        if let Ok(value) = serde_json::to_value(config) {
            self.add_json("config.json", value);
        }
    }

    /// Notes what is to be replaced.
    pub(super) fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    if NAMING.contains(&key.as_str()) {
                        self.learn_texts(value);
                    } else if key == "replicas" {
                        let names =
                            value.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
                        // The name of the machine, without the number of the process.
                        let machines =
                            names.map(|name| name.rsplit_once(':').map_or(name, |(machine, _)| machine));
                        machines.map(str::to_owned).for_each(|machine| self.mask(&machine));
                    }
                    self.learn(value);
                }
            }
            Value::Array(elements) => elements.iter().for_each(|element| self.learn(element)),
            Value::String(text) => self.learn_words(text),
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

    /// Notes ids of corps and addresses within a text.
    fn learn_words(&mut self, text: &str) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        for word in text.split(|c| !is_part(c)) {
            let word = word.trim_end_matches(['.', ':']);
            let is_id = word.len() >= 8 && IDS.iter().any(|prefix| word.starts_with(prefix));
            let address = word.rsplit_once(':').map_or(word, |(address, _)| address);
            if is_id && !word.contains(['.', ':']) {
                self.mask(word);
            } else if let Some(address) =
                [word, address].into_iter().find(|word| word.parse::<IpAddr>().is_ok())
            {
                self.mask(address);
            }
        }
    }

    fn mask(&mut self, text: &str) {
        // A host occurs in texts without the rest of its URL.
        let host = Url::parse(text).ok().and_then(|url| url.host_str().map(str::to_owned));
        for text in [Some(text.to_owned()), host].into_iter().flatten() {
            let next = self.masks.len() + 1;
            // A short word would be a part of others.
            let is_long = text.chars().count() >= if text.is_ascii() { 6 } else { 2 };
            if is_long {
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

    fn masked_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.masked(text)),
            Value::Array(elements) => elements.iter().map(|element| self.masked_value(element)).collect(),
            Value::Object(members) => {
                members.iter().map(|(key, value)| (self.masked(key), self.masked_value(value))).collect()
            }
            other => other.clone(),
        }
    }

    fn written(&self, content: &Content) -> String {
        match content {
            Content::Json(value) => {
                serde_json::to_string_pretty(&self.masked_value(value)).unwrap_or_default()
            }
            Content::Text(text) => self.masked(text),
        }
    }

    /// The names of the files, each with its size.
    pub(super) fn contents(&self) -> Vec<String> {
        let line =
            |(name, content): &(&str, Content)| format!("{name}  {} bytes", self.written(content).len());
        self.files.iter().map(line).collect()
    }

    /// Writes the report.
    pub(super) fn write(&self) -> io::Result<()> {
        let mut archive = ZipWriter::new(&self.file);
        for (name, content) in &self.files {
            archive.start_file(*name, SimpleFileOptions::default())?;
            archive.write_all(self.written(content).as_bytes())?;
        }
        archive.finish()?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_names_somebody_is_replaced_everywhere_by_the_same_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.zip");
        let mut bundle = Bundle::create(&path).unwrap();
        assert!(Bundle::create(&path).is_err(), "an existing file is not replaced");
        bundle.learn(&json!({"dealers": [{"corp_id": "wpDEALER02", "corp_name": "北京 \"二\" 店"}]}));
        bundle.add_json("status.json", json!({
            "replicas": [{"name": "db-host-7:4711"}],
            "paused": [{"corp_id": "wpDEALER01", "corp_name": "上海一店", "reason": "refused for 上海一店 (wpDEALER01)"}],
            "note": "silent: 北京 \"二\" 店; at wwBRAND9876 and https://callback.example.com/callback/brand",
            "findings": [{"seen": {"en": "WeCom sees our address as 203.0.113.7, not 2001:db8::7 on db-host-7"}}],
            "public_url": "https://callback.example.com",
            "state": "ok",
        }));
        bundle.add_text("metrics.txt", "corp=\"wwBRAND9876\" host db-host-7".to_owned());
        bundle.write().unwrap();
        let mut archive = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let mut all = String::new();
        for nth in 0..archive.len() {
            all += &io::read_to_string(archive.by_index(nth).unwrap()).unwrap();
        }
        for name in [
            "db-host-7",
            "wpDEALER01",
            "wpDEALER02",
            "上海一店",
            "北京",
            "wwBRAND9876",
            "callback.example.com",
            "203.0.113.7",
            "2001:db8::7",
        ] {
            assert!(!all.contains(name), "{name}: {all}");
        }
        assert!(
            all.contains("/callback/brand") && all.contains("\"ok\"") && bundle.contents().len() == 2,
            "{all}"
        );
    }
}
