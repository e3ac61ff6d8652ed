//! What a document repeats of the program: the table of keys, WeCom's error codes, help texts, metrics.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use strum::VariantArray as _;
use unionlink::domain::event::{AppAlarmKind, Kind};
use unionlink::domain::finding::{BackupFacts, FindingCode};
use unionlink::domain::ids::{AppName, CorpId, SinkName};
use unionlink::domain::tally::Tally;
use unionlink::domain::time::Timestamp;
use unionlink::store::{Counts, LogStatus};
use unionlink::telemetry::metrics::Metrics;
use unionlink::wecom::{Api, Class, class, remedy};

use crate::environment;
use crate::markdown::{Document, documents, repository};

/// Replaces the text between the markers `<!-- generated: NAME -->` and `<!-- end -->` if
/// `UNIONLINK_DOCUMENTS=write` is set, and compares it otherwise.
fn check(path: &str, name: &str, expected: &str) {
    let document = Document::read(Path::new(path));
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = document.text.split_once(&begin).unwrap_or_else(|| panic!("{path} lacks {begin}"));
    let (current, after) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("{path} lacks the end"));
    if current.trim() == expected.trim() {
        return;
    }
    assert!(writes(), "{path}: {name} is outdated; UNIONLINK_DOCUMENTS=write rewrites it");
    let text = format!("{before}{begin}\n{}\n\n<!-- end -->{after}", expected.trim());
    std::fs::write(repository().join(path), text).unwrap();
}

fn writes() -> bool {
    environment("UNIONLINK_DOCUMENTS").is_some_and(|mode| mode == "write")
}

/// A key of the configuration, as `config/default.toml` documents it.
struct Key {
    name: String,
    /// Its default; `None` if it has none.
    default: Option<String>,
    example: Option<String>,
    meaning: String,
}

/// The sections of `config/default.toml`: title, meaning and keys.
fn sections() -> Vec<(String, String, Vec<Key>)> {
    let mut sections: Vec<(String, String, Vec<Key>)> = Vec::new();
    for line in include_str!("../../config/default.toml").lines() {
        let is_active = !line.starts_with('#');
        let has_default = is_active || !line.starts_with("# ");
        let content = line.trim_start_matches(['#', ' ']);
        let (code, comment) =
            content.split_once("  #").or_else(|| content.split_once(" # ")).unwrap_or((content, ""));
        let (code, comment) = (code.trim(), comment.trim().to_owned());
        if code.starts_with('[') && code.ends_with(']') && !code.contains('=') {
            sections.push((code.to_owned(), comment, Vec::new()));
            continue;
        }
        let Some((.., keys)) = sections.last_mut() else { continue };
        let name = code.split('=').next().unwrap_or_default().trim();
        let is_key = code.contains(" = ")
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_key {
            let value = code[name.len()..].trim_start_matches([' ', '=']).to_owned();
            let (default, example) = if has_default { (Some(value), None) } else { (None, Some(value)) };
            keys.push(Key { name: name.to_owned(), default, example, meaning: comment });
        } else if line.trim_start_matches('#').starts_with("          ")
            && let Some(key) = keys.last_mut()
        {
            // A comment that goes on.
            let space = if key.meaning.is_empty() { "" } else { " " };
            let _ = write!(key.meaning, "{space}{}", content.trim());
        }
    }
    sections
}

/// A row's first two cells: the key and its default.
fn row_of(key: &Key) -> String {
    let default = key.default.as_ref().map_or("–".to_owned(), |value| format!("`{value}`"));
    format!("| `{}` | {default} |", key.name)
}

#[test]
fn the_table_of_keys_is_that_of_the_default_configuration() {
    let mut table = String::new();
    for (title, meaning, keys) in sections() {
        let colon = if meaning.is_empty() { String::new() } else { format!(": {meaning}") };
        let _ = write!(table, "**`{title}`**{colon}\n\n| key | default | meaning |\n| --- | --- | --- |\n");
        for key in &keys {
            let example =
                key.example.as_ref().map_or(String::new(), |example| format!("for example `{example}`"));
            let parts: Vec<_> =
                [key.meaning.as_str(), &example].into_iter().filter(|part| !part.is_empty()).collect();
            let meaning = parts.join("; ").replace('|', "\\|");
            let _ = writeln!(table, "{} {meaning} |", row_of(key));
        }
        table.push('\n');
    }
    check("docs/configuration.md", "keys", &table);
}

#[test]
fn the_chinese_table_of_keys_has_every_key_and_default() {
    let document = Document::read(Path::new("docs/zh/configuration.md"));
    let rows: Vec<_> = document.text.lines().filter(|line| line.starts_with("| `")).collect();
    let mut rest = rows.iter();
    let missing: Vec<_> = sections()
        .iter()
        .flat_map(|(.., keys)| keys)
        .map(row_of)
        .filter(|row| !rest.any(|line| line.starts_with(row.as_str())))
        .collect();
    assert!(missing.is_empty(), "missing, or in another order:\n{}", missing.join("\n"));
}

#[test]
fn the_table_of_error_codes_is_that_of_the_program() {
    for (path, head, is_english) in [
        ("docs/troubleshooting.md", "| errcode | class | what to do |", true),
        ("docs/zh/troubleshooting.md", "| errcode | 类别 | 处理方法 |", false),
    ] {
        let mut table = format!("{head}\n| --- | --- | --- |\n");
        // Consecutive codes of one meaning share a row.
        let mut first = None;
        for code in -1..=900_000 {
            let meaning = |code| {
                let remedy = remedy(code);
                (class(code), if is_english { remedy.en } else { remedy.zh })
            };
            if class(code) == Class::Unknown {
                continue;
            }
            let from = first.unwrap_or(code);
            if meaning(code + 1) == meaning(code) {
                first = Some(from);
                continue;
            }
            first = None;
            let codes = if from == code { format!("{code}") } else { format!("{from}–{code}") };
            let (class, text) = meaning(code);
            let _ = writeln!(table, "| {codes} | {} | {text} |", <&str>::from(class));
        }
        check(path, "errcodes", &table);
    }
}

#[test]
fn every_finding_has_its_heading_and_every_heading_its_finding() {
    let known: BTreeSet<String> =
        FindingCode::VARIANTS.iter().map(|code| <&str>::from(code).to_owned()).collect();
    for path in ["docs/troubleshooting.md", "docs/zh/troubleshooting.md"] {
        let document = Document::read(Path::new(path));
        let headings = document.text.lines().filter_map(|line| line.strip_prefix("### "));
        let is_code = |heading: &&str| {
            heading.contains('.') && heading.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_'))
        };
        let documented: BTreeSet<String> = headings.filter(is_code).map(str::to_owned).collect();
        assert_eq!(documented, known, "{path}");
    }
}

/// The names of all metrics, and their types: what a service exports whose every metric has a series.
pub fn metrics() -> Vec<(String, String)> {
    // A metric with labels appears with its first series.
    let metrics = Metrics::default();
    let (app, sink) = (AppName::new("brand").unwrap(), SinkName::new("crm").unwrap());
    metrics.callbacks.event(Kind::Message);
    metrics.wecom_call(Api::GetToken, &Ok(()), Duration::ZERO);
    metrics.fan_rejected(&app, 610_014);
    metrics.sink_configured(&sink);
    metrics.sink("crm", (0, 0), "running", &["running"]);
    metrics.quota(&CorpId::new("ww0123456789").unwrap(), Api::UnionidToPendingId, "hour", 0, 1);
    metrics.paused([(&app, "app", None)].into_iter());
    metrics.dealers(&app, &[], 0);
    metrics.app_alarms(&app, AppAlarmKind::InactiveAlert, 0);
    metrics.findings(std::iter::empty());
    metrics.machine.disk_free_bytes(Some(1));
    metrics.machine.backup(Some(&BackupFacts { at: Timestamp::EPOCH, bytes: 1, same_device: false }));
    metrics.machine.clock_compared(0);
    metrics.machine.clock_compared(0);
    metrics.machine.certificate_days("callback.example.com", 9);
    let mut log = LogStatus::default();
    log.syncs.add(Duration::ZERO);
    metrics.store_log(&log);
    let metrics = metrics.scrape(&Counts::default(), Some(&Tally::default()), 0);
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

#[test]
fn every_metric_is_in_the_documents() {
    let names: Vec<_> = metrics().into_iter().map(|(name, _)| name).collect();
    assert!(names.len() >= 35, "{names:?}");
    for path in ["docs/operations.md", "docs/zh/operations.md"] {
        let text = Document::read(Path::new(path)).text;
        let missing: Vec<_> = names.iter().filter(|name| !text.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{path} lacks {missing:?}");
    }
}

#[test]
fn the_help_in_the_documents_is_the_programs() {
    let mut shown = 0;
    for document in documents() {
        let mut text = document.text.clone();
        for block in document.blocks() {
            let marker = block.marker.as_deref().unwrap_or_default();
            let Some(command) = marker.strip_prefix("help:") else { continue };
            let run = Command::new(env!("CARGO_BIN_EXE_unionlink"))
                .args(command.split_whitespace())
                .arg("--help")
                .env("COLUMNS", "100")
                .output()
                .unwrap();
            let help = String::from_utf8(run.stdout).unwrap();
            let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
            shown += 1;
            if block.text.trim() == help.trim() {
                continue;
            }
            assert!(writes(), "{}:{}: the help is outdated", document.path.display(), block.line);
            let old = format!("<!-- {marker} -->\n```text\n{}```", block.text);
            assert!(text.contains(&old), "{}:{}", document.path.display(), block.line);
            text = text.replace(&old, &format!("<!-- {marker} -->\n```text\n{}\n```", help.trim()));
        }
        if text != document.text {
            std::fs::write(repository().join(&document.path), text).unwrap();
        }
    }
    assert!(shown >= 20, "{shown} help texts");
}
