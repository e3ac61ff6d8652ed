//! Tells the robots of group chats about findings that turn to `fail`, and back.
//!
//! Of several replicas only the one that runs the workers sends. Which findings were already announced is kept in memory:
//! after a restart, those that fail are announced again.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::duties::Duties;
use crate::config::{AlertLang, Alerts, Robot};
use crate::domain::alarm::{Alarm, Message};
use crate::domain::finding::Finding;
use crate::domain::text::Text;
use crate::http::api::AdminState;
use crate::store::Duty;
use crate::telemetry::address::Address;

/// How often the findings are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The findings that one message describes; others are counted.
const SHOWN_MAX: usize = 8;
/// The longest message that a robot of WeCom accepts is 4096 bytes; what is longer is cut.
const MESSAGE_BYTES_MAX: usize = 3_800;

/// A robot, and which findings were announced to it.
struct Told {
    robot: Alerts,
    alarm: Alarm,
}

/// Runs until `stop`.
pub(super) async fn run(
    robots: Vec<Alerts>,
    proxy: Option<Address>,
    state: Arc<AdminState>,
    duties: Arc<Duties>,
    stop: CancellationToken,
) {
    let mut client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(TIMEOUT);
    if let Some(proxy) = proxy.and_then(|proxy| reqwest::Proxy::all(proxy.0).ok()) {
        client = client.proxy(proxy);
    }
    let client = match client.build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(error = error.to_string(), "alerts cannot be sent");
            return stop.cancelled().await;
        }
    };
    let mut told: Vec<_> = robots.into_iter().map(|robot| Told { robot, alarm: Alarm::default() }).collect();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        // While a database is away nobody has the duty: then each says so.
        let is_others = state.store.replicas().is_some() && !duties.has(&Duty::Work);
        if is_others && state.store.ready().is_ok() {
            for Told { alarm, .. } in &mut told {
                *alarm = Alarm::default();
            }
            continue;
        }
        let now = state.clock.now();
        let Some(findings) = stop.run_until_cancelled(state.findings(now)).await else { return };
        for Told { robot, alarm } in &mut told {
            let Some(message) = alarm.observe(&findings, now) else { continue };
            let text = shown(&message, robot.lang);
            let sent = send(&client, robot.kind, &robot.url.value, &text);
            let Some(sent) = stop.run_until_cancelled(sent).await else { return };
            if let Err(reason) = &sent {
                tracing::warn!(reason, "an alert was not accepted; it is sent again in a minute");
            }
            alarm.sent(message, sent.is_ok(), now);
        }
    }
}

/// A message for people.
fn shown(message: &Message, lang: AlertLang) -> String {
    let Message { failed, ended, others } = message;
    let both = |en: String, zh: String| match lang {
        AlertLang::Zh => zh,
        AlertLang::En => en,
        AlertLang::Both => format!("{zh} / {en}"),
    };
    let text = |text: Text| both(text.en, text.zh);
    let about = |finding: &Finding| {
        let subject = &finding.subject;
        let suite = subject.suite.as_ref().map(ToString::to_string);
        let app = subject.app.as_ref().map(ToString::to_string);
        let sink = subject.sink.as_ref().map(ToString::to_string);
        let named = [Some(String::new()), suite, app, subject.corp_name.clone(), sink];
        named.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![if failed.is_empty() {
        both("unionlink: recovered".to_owned(), "unionlink 恢复".to_owned())
    } else {
        both("unionlink: alert".to_owned(), "unionlink 告警".to_owned())
    }];
    for finding in failed.iter().take(SHOWN_MAX) {
        let code: &str = finding.code.into();
        lines.push(format!("❌ {}{}（{code}）", text(finding.code.checked()), about(finding)));
        for part in [&finding.seen, &finding.means, &finding.todo.text] {
            let part = text(part.clone());
            lines.extend((!part.is_empty()).then(|| format!("> {part}")));
        }
    }
    for finding in ended.iter().take(SHOWN_MAX) {
        let code: &str = finding.code.into();
        lines.push(format!("✅ {}{}（{code}）", text(finding.code.checked()), about(finding)));
    }
    let rest = failed.len().saturating_sub(SHOWN_MAX) + ended.len().saturating_sub(SHOWN_MAX) + others;
    if rest > 0 {
        lines.push(both(
            format!("others that fail or have ended: {rest}"),
            format!("另有 {rest} 项仍失败或已恢复"),
        ));
    }
    let mut text = lines.join("\n");
    let end = text.floor_char_boundary(MESSAGE_BYTES_MAX);
    text.truncate(end);
    text
}

/// The message in the form of a robot.
fn body(kind: Robot, text: &str) -> Value {
    match kind {
        Robot::Wecom => json!({ "msgtype": "markdown", "markdown": { "content": text } }),
        Robot::Dingtalk => {
            json!({ "msgtype": "markdown", "markdown": { "title": "unionlink", "text": text } })
        }
        Robot::Feishu => json!({ "msg_type": "text", "content": { "text": text } }),
    }
}

/// Sends a message. The error does not name the address, which has the robot's key in it.
async fn send(client: &reqwest::Client, kind: Robot, url: &SecretString, text: &str) -> Result<(), String> {
    let request = client.post(url.expose_secret()).json(&body(kind, text));
    let answer = request.send().await.map_err(|error| error.without_url().to_string())?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("the robot answered {status}"));
    }
    let answer: Value = answer.json().await.map_err(|error| error.without_url().to_string())?;
    let code = answer.get("errcode").or_else(|| answer.get("code")).and_then(Value::as_i64);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(format!("the robot answered code {code}")),
        None => Err("the robot's answer has no code".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::finding::{FindingCode, FindingState, Subject};
    use crate::domain::text::text;

    #[test]
    fn a_message_says_what_fails_and_what_to_do_and_stays_within_what_robots_accept() {
        let subject = Subject { corp_name: Some("上海一店".to_owned()), ..Subject::default() };
        let finding = Finding::trouble(
            FindingCode::WecomTrustedIp,
            FindingState::Fail,
            subject,
            text!("refused from 203.0.113.7", "企业微信看到的地址：203.0.113.7"),
        );
        let finding = finding.that(text!("calls wait", "调用暂停"), text!("add it", "请加入"));
        let message = Message { failed: vec![finding.clone()], ended: Vec::new(), others: 2 };
        let zh = shown(&message, AlertLang::Zh);
        let expected = "unionlink 告警\n❌ 企业可信IP 上海一店（wecom.trusted_ip）\n> 企业微信看到的地址：203.0.113.7\n\
                        > 调用暂停\n> 请加入\n另有 2 项仍失败或已恢复";
        assert_eq!(zh, expected);
        assert!(shown(&message, AlertLang::En).contains("\n> add it\n"));
        assert!(shown(&message, AlertLang::Both).contains("请加入 / add it"));
        let long = Finding { seen: Text { en: "x".repeat(999), zh: "长".repeat(999) }, ..finding };
        let message = Message { failed: vec![long; 20], ended: Vec::new(), others: 0 };
        assert!(shown(&message, AlertLang::Both).len() <= MESSAGE_BYTES_MAX);
    }
}
