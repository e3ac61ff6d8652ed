//! The alert rules and the dashboard of `deploy/`: Prometheus's own tool accepts and tests them, and they name nothing that
//! the service does not export or the documents do not have.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use unionlink::domain::finding::FindingCode;

use crate::generated::metrics;
use crate::markdown::{Document, repository};
use crate::peers::peer;

const RULES: &str = "deploy/prometheus/unionlink.rules.yml";
const TESTS: &str = "deploy/prometheus/unionlink.rules.test.yml";
const DASHBOARD: &str = "deploy/grafana/unionlink.json";

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// Runs promtool; what it says.
fn promtool(program: &Path, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).current_dir(repository()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{arguments:?}: {said}");
    said
}

/// Every expression of the dashboard, with its variables replaced as Grafana does.
fn expressions() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("expr").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| collect(value, found));
            }
            Value::Array(elements) => elements.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&read(DASHBOARD)).unwrap(), &mut found);
    let replaced = |text: String| {
        text.replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$__interval", "1m")
    };
    found.into_iter().map(replaced).collect()
}

#[test]
fn promtool_accepts_the_rules_and_the_dashboard_and_every_alert_fires_when_it_should() {
    let Some(program) = peer("promtool") else { return };
    promtool(&program, &["check", "rules", RULES]);
    let said = promtool(&program, &["test", "rules", TESTS]);
    assert!(said.contains("SUCCESS"), "{said}");
    let alerts: BTreeSet<_> = read(RULES)
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("- alert: ")?.to_owned()))
        .collect();
    let tested = read(TESTS);
    let untested: Vec<_> =
        alerts.iter().filter(|alert| !tested.contains(&format!("alertname: {alert}"))).collect();
    assert!(alerts.len() >= 18 && untested.is_empty(), "{untested:?} of {alerts:?}");
    // Those of the dashboard as rules.
    let expressions = expressions();
    assert!(expressions.len() > 30, "{}", expressions.len());
    let rules = expressions.iter().enumerate().map(|(nth, expression)| {
        format!("  - record: dashboard_{nth}\n    expr: {}\n", serde_json::to_string(expression).unwrap())
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("groups:\n- name: dashboard\n  rules:\n{}", rules.collect::<String>()))
        .unwrap();
    promtool(&program, &["check", "rules", file.path().to_str().unwrap()]);
}

/// The names that begin with `unionlink_` in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("unionlink_") && !word.ends_with('_')).collect()
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_are_exported_and_codes_and_places_that_exist() {
    let mut exported = BTreeSet::new();
    for (name, kind) in metrics() {
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        exported.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    let (rules, dashboard) = (read(RULES), expressions().join("\n"));
    for text in [&rules, &dashboard, &read(TESTS)] {
        let unknown: Vec<_> = names(text).into_iter().filter(|name| !exported.contains(*name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
    for (key, path) in
        [("runbook: ", "docs/troubleshooting.md"), ("runbook_zh: ", "docs/zh/troubleshooting.md")]
    {
        let document = Document::read(Path::new(path));
        let anchors = document.anchors();
        let links = rules.lines().filter_map(|line| line.trim().strip_prefix(key));
        let links: Vec<_> = links.map(|link| link.trim_matches(['"', '\''])).collect();
        assert!(links.len() >= 18, "{links:?}");
        for link in links.iter().filter(|link| !link.contains("{{")) {
            let (file, anchor) = link.split_once('#').unwrap();
            assert_eq!(file, path);
            assert!(anchors.contains(&anchor.to_owned()), "{link} leads nowhere");
        }
    }
    let codes: BTreeSet<&str> =
        strum::VariantArray::VARIANTS.iter().map(|code: &FindingCode| code.into()).collect();
    for named in rules.split("code=\"").skip(1) {
        let code = named.split('"').next().unwrap();
        assert!(codes.contains(code), "{code} is no finding");
    }
}
