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
        let verdict = ["fail", "warn"].into_iter().find(|state| self.count(state) > 0);
        let verdict = verdict.unwrap_or(if self.could_not_look { "unknown" } else { "ok" });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::finding::{FindingState, Subject};
    use crate::domain::ids::AppName;

    /// One of each state.
    fn report() -> Report {
        let brand = || Subject::app(&AppName::new("brand").unwrap());
        let refused = Finding::trouble(
            FindingCode::WecomTrustedIp,
            FindingState::Fail,
            brand(),
            text!("WeCom sees us as 203.0.113.7", "企业微信看到的出口 IP 是 203.0.113.7"),
        );
        let refused = Finding {
            since: Some(crate::domain::time::Timestamp::from_secs(1_795_309_323)),
            ..refused.that(text!("calls wait", "调用暂停"), text!("add the address", "加入该地址"))
        };
        let old = Finding::trouble(
            FindingCode::BackupAge,
            FindingState::Warn,
            Subject::default(),
            text!("the store was never backed up", "存储从未备份"),
        );
        let mut report = Report::default();
        report.add_own([
            Finding::skipped(FindingCode::WecomToken, brand(), FindingCode::WecomTrustedIp),
            refused,
            old.that(text!("it may be lost", "可能丢失"), text!("back it up", "请备份")),
            Finding::ok(FindingCode::StoreReady, Subject::default(), text!("it is ready", "就绪")),
            Finding::unknown(FindingCode::CallbackPublic, brand(), text!("no URL is known", "没有 URL")),
        ]);
        report
    }

    #[test]
    fn a_report_is_for_people_in_either_language() {
        let zh = "\
存储
  ✓ 回调落盘: 就绪

备份
  ! 备份
      看到    存储从未备份
      影响    可能丢失
      处理    请备份
            $ unionlink store backup FOLDER
            backup.age: docs/zh/troubleshooting.md#backupage

企业微信
  ✗ 企业可信IP  brand  2026-11-22 09:02:03 +08:00
      看到    企业微信看到的出口 IP 是 203.0.113.7
      影响    调用暂停
      处理    加入该地址
            应用管理 → 应用 → 企业可信IP
            wecom.trusted_ip: docs/zh/troubleshooting.md#wecomtrusted_ip
  – corp_id 与 secret  brand: 跳过：取决于 wecom.trusted_ip

回调
  ? 公网 URL 验证  brand: 没有 URL

失败 1，警告 1，正常 1，跳过 1，未知 1";
        assert_eq!(report().lines(Lang::Zh).join("\n"), zh);
        let en = "\
Store
  ✓ durability of callbacks: it is ready

Backup
  ! backup
      seen  the store was never backed up
      means it may be lost
      do    back it up
            $ unionlink store backup FOLDER
            backup.age: docs/troubleshooting.md#backupage

WeCom
  ✗ trusted IP (企业可信IP)  brand  2026-11-22 09:02:03 +08:00
      seen  WeCom sees us as 203.0.113.7
      means calls wait
      do    add the address
            应用管理 → 应用 → 企业可信IP
            wecom.trusted_ip: docs/troubleshooting.md#wecomtrusted_ip
  – corp_id and secret  brand: skipped: it depends on wecom.trusted_ip

Callbacks
  ? URL check from outside  brand: no URL is known

failed: 1, warnings: 1, ok: 1, skipped: 1, unknown: 1";
        assert_eq!(report().lines(Lang::En).join("\n"), en);
        let both = report().lines(Lang::Both).join("\n");
        assert!(
            both.contains("Store · 存储") && both.contains("durability of callbacks · 回调落盘"),
            "{both}"
        );
        assert!(report().fails() && !report().could_not_look);
        let wanted = report().only(|code| code == "store.ready");
        assert_eq!((wanted.json()["verdict"].as_str(), wanted.fails()), (Some("ok"), false));
    }
}
