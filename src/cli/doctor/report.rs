//! What was found, for people and for programs.

use serde::Deserialize as _;
use serde_json::{Value, json};
use strum::VariantArray as _;

use super::super::lang::Lang;
use super::super::table::{china_time, plain};
use crate::clock::{Clock as _, SystemClock};
use crate::domain::finding::{Finding, FindingCode, FindingView};
use crate::domain::text::{Text, text};

/// What was found, each as the JSON that the service gives, in the order of the codes.
#[derive(Default)]
pub(super) struct Report {
    findings: Vec<Value>,
    has_service: bool,
    /// Whether what is asked for could not be looked at.
    pub(super) could_not_look: bool,
}

/// The states, each with its sign.
const SIGNS: [(&str, &str); 5] = [("ok", "✓"), ("warn", "!"), ("fail", "✗"), ("skip", "–"), ("unknown", "?")];

impl Report {
    pub(super) fn add_own(&mut self, findings: impl IntoIterator<Item = Finding>) {
        let values = findings.into_iter().filter_map(|one| serde_json::to_value(FindingView::from(one)).ok());
        self.findings.extend(values);
        self.sort();
    }

    /// Takes these in place of what the service says of the same.
    pub(super) fn replace(&mut self, findings: impl IntoIterator<Item = Finding>) {
        for finding in findings {
            let Ok(value) = serde_json::to_value(FindingView::from(finding)) else { continue };
            self.findings
                .retain(|known| known["code"] != value["code"] || known["subject"] != value["subject"]);
            self.findings.push(value);
        }
        self.sort();
    }

    pub(super) fn add_of_service(&mut self, findings: Vec<Value>) {
        self.has_service = true;
        self.findings.extend(findings);
        self.sort();
    }

    fn sort(&mut self) {
        let place = |finding: &Value| {
            let code = finding["code"].as_str();
            FindingCode::VARIANTS.iter().position(|known| code == Some(known.into()))
        };
        // Those of a newer service come last.
        self.findings.sort_by_key(|finding| place(finding).unwrap_or(usize::MAX));
    }

    /// Only those that are wanted.
    pub(super) fn only(mut self, is_wanted: impl Fn(&str) -> bool) -> Self {
        self.findings.retain(|finding| finding["code"].as_str().is_some_and(&is_wanted));
        self
    }

    fn count(&self, state: &str) -> usize {
        self.findings.iter().filter(|finding| finding["state"] == state).count()
    }

    pub(super) fn fails(&self) -> bool {
        self.count("fail") > 0
    }

    pub(super) fn json(&self) -> Value {
        let verdict = ["fail", "warn"].into_iter().find(|state| self.count(state) > 0).unwrap_or("ok");
        json!({
            "unionlink": env!("CARGO_PKG_VERSION"),
            "checked_at": SystemClock.now(),
            "verdict": verdict,
            "vantage": if self.has_service { "service" } else { "command" },
            "findings": self.findings,
        })
    }

    pub(super) fn lines(&self, lang: Lang) -> Vec<String> {
        let (mut lines, mut area) = (Vec::new(), None);
        for finding in &self.findings {
            let code = finding["code"].as_str().unwrap_or_default();
            // Those about callback URLs are about callbacks, too.
            let of_area = code.split('.').next().map(|area| match area {
                "app" => "callback",
                "process" => "ports",
                other => other,
            });
            if area != of_area {
                lines.extend(area.map(|_| String::new()));
                lines.push(area_name(of_area.unwrap_or_default(), lang));
                area = of_area;
            }
            lines.extend(lines_of(code, finding, lang));
        }
        lines.push(String::new());
        let [ok, warn, fail, skip, unknown] = SIGNS.map(|(state, _)| self.count(state));
        let summary = text!(
            "failed: {fail}, warnings: {warn}, ok: {ok}, skipped: {skip}, unknown: {unknown}",
            "失败 {fail}，警告 {warn}，正常 {ok}，跳过 {skip}，未知 {unknown}"
        );
        lines.extend(lang.lines(&summary));
        lines
    }
}

fn text_of(value: &Value) -> Text {
    Text::deserialize(value).unwrap_or_default()
}

fn area_name(area: &str, lang: Lang) -> String {
    let name = match area {
        "config" => text!("Configuration", "配置"),
        "secrets" => text!("Secrets", "密钥"),
        "ports" => text!("Service", "服务"),
        "backup" => text!("Backup", "备份"),
        "clock" => text!("Clock", "时钟"),
        "net" => text!("Network", "网络"),
        "store" => text!("Store", "存储"),
        "wecom" => text!("WeCom", "企业微信"),
        "suite" => text!("Suites", "模版"),
        "callback" => text!("Callbacks", "回调"),
        "sink" => text!("Sinks", "推送目标"),
        other => text!("{other}", "{other}"),
    };
    lang.lines(&name).join(" · ")
}

/// One line; of what is not well, also what was seen, what it means and what to do.
fn lines_of(code: &str, finding: &Value, lang: Lang) -> Vec<String> {
    let state = finding["state"].as_str().unwrap_or_default();
    let sign = SIGNS.into_iter().find(|(known, _)| *known == state).map_or("?", |(_, sign)| sign);
    let subject = &finding["subject"];
    let named =
        ["suite", "app", "corp_name", "corp_id", "sink"].into_iter().filter_map(|key| subject[key].as_str());
    let named: Vec<_> = named.map(plain).collect();
    let named = if named.is_empty() { String::new() } else { format!("  {}", named.join(" ")) };
    let since = finding["since"].as_str().map(|at| format!("  {}", china_time(at))).unwrap_or_default();
    let checked = lang.lines(&text_of(&finding["checked"])).join(" · ");
    let seen = text_of(&finding["seen"]);
    let is_trouble = matches!(state, "warn" | "fail");
    let mut lines = vec![format!("  {sign} {checked}{named}{since}")];
    if !is_trouble {
        let seen: Vec<_> = lang.lines(&seen).into_iter().filter(|line| !line.is_empty()).collect();
        if let [first, rest @ ..] = seen.as_slice() {
            lines[0] = format!("{}: {first}", lines[0]);
            lines.extend(rest.iter().map(|line| format!("      {line}")));
        }
        return lines;
    }
    let todo = &finding["todo"];
    let parts = [
        (text!("seen", "看到"), seen),
        (text!("means", "影响"), text_of(&finding["means"])),
        (text!("do", "处理"), text_of(&todo["text"])),
    ];
    for (label, text) in parts {
        let labels = if lang == Lang::Zh { label.zh } else { label.en };
        let shown = lang.lines(&text);
        let labels = std::iter::once(labels.as_str()).chain(std::iter::repeat(""));
        lines.extend(shown.iter().zip(labels).map(|(line, label)| format!("      {label:<6}{line}")));
    }
    let place = todo["where"].as_str().filter(|place| !place.is_empty());
    lines.extend(place.map(|place| format!("            {}", plain(place))));
    let commands = todo["commands"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend(commands.map(|command| format!("            $ {}", plain(command))));
    let link = plain(todo["link"].as_str().unwrap_or_default());
    let link = if lang == Lang::Zh { link.replacen("docs/", "docs/zh/", 1) } else { link };
    lines.push(format!("            {code}: {link}"));
    lines
}
