//! The findings about callbacks.

use super::ServiceFacts;
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::shape::{Finding, FindingState, Subject};
use crate::domain::history::{LastRefusal, UrlMarks};
use crate::domain::ids::AppName;
use crate::domain::text::{Text, text};
use crate::domain::time::MINUTE_MS;

/// Refusals since the last genuine request that are no strangers'.
const REFUSED_IN_A_ROW: u64 = 3;
/// For how long.
const LASTING_MS: i64 = 10 * MINUTE_MS;
/// A certificate that is valid for fewer days is worth a warning, or is a failure.
const CERTIFICATE_DAYS: i64 = 14;
const LAST_DAYS: i64 = 3;

/// A certificate that is accepted, and for how many days it is still valid. `seen` says so.
#[must_use]
pub fn certificate_finding(subject: Subject, days: i64, seen: Text) -> Finding {
    let code = Code::CallbackCertificate;
    if days >= CERTIFICATE_DAYS {
        return Finding::ok(code, subject, seen);
    }
    let state = if days < LAST_DAYS { FindingState::Fail } else { FindingState::Warn };
    let means =
        text!("when it has expired, WeCom sends no callback any more", "证书过期后，企业微信不再发送回调");
    let todo =
        text!("renew it, and see why that is not done by itself", "请续期，并检查自动续期为何没有生效");
    Finding::trouble(code, state, subject, seen).that(means, todo)
}

/// Whether the certificate of the callback URLs expires soon, as far as the service can see it.
pub(super) fn certificate(facts: &ServiceFacts<'_>) -> Option<Finding> {
    let (host, days) = facts.certificate.as_ref()?;
    let seen = text!("{host}: days left: {days}", "{host}：剩余 {days} 天");
    Some(certificate_finding(Subject::default(), *days, seen)).filter(Finding::is_trouble)
}

/// Whether they arrive at a URL, and are accepted.
pub(super) fn seen(name: &AppName, marks: &UrlMarks, facts: &ServiceFacts<'_>) -> Finding {
    let (code, subject) = (Code::CallbackSeen, Subject::app(name));
    let UrlMarks { verified_at, callback_at, refused } = marks;
    let genuine_at = marks.genuine_at();
    // Anybody can send requests that are refused: they are trouble if nothing else comes.
    let is_trouble = |refused: &&LastRefusal| match genuine_at {
        None => true,
        Some(at) => {
            let lasts = refused.at.millis_since(refused.since) >= LASTING_MS || facts.accepted == 0;
            at < refused.at && refused.count >= REFUSED_IN_A_ROW && lasts
        }
    };
    if let Some(LastRefusal { at, reason, since, count }) = refused.as_ref().filter(is_trouble) {
        let when = at.in_china();
        // A request without parameters is a visit by anybody.
        let is_visit = matches!(reason.as_str(), "query" | "envelope" | "source");
        let (state, seen) = if let Some(genuine_at) = genuine_at {
            let last = genuine_at.in_china();
            let seen = text!(
                "requests refused since the last genuine one ({last}): {count}; the last at {when}: {reason}",
                "自最近一次有效请求（{last}）以来拒绝了 {count} 次；最近一次在 {when}：{reason}",
            );
            (FindingState::Warn, seen)
        } else {
            let seen = text!(
                "requests are refused, the last at {when}: {reason}; none was ever accepted",
                "请求被拒绝，最近一次在 {when}：{reason}；从未接受任何请求",
            );
            (if is_visit { FindingState::Warn } else { FindingState::Fail }, seen)
        };
        let means = text!("if they are WeCom's, they are lost", "如果来自企业微信，这些请求已丢失");
        let finding = Finding::trouble(code, state, subject, seen).that(means, remedy(reason));
        return Finding { since: Some(*since), ..finding };
    }
    if let Some(at) = callback_at {
        let at = at.in_china();
        return Finding::ok(code, subject, text!("the last callback: {at}", "最近一次回调：{at}"));
    }
    let seen = match verified_at {
        Some(at) => {
            let at = at.in_china();
            text!(
                "the URL was verified at {at}; no callback has arrived yet",
                "URL 已于 {at} 通过验证；尚未收到回调"
            )
        }
        None => text!("no callback has ever arrived", "从未收到回调"),
    };
    let means = text!(
        "either nothing has happened yet, or WeCom cannot reach the service",
        "可能尚未发生任何事件，也可能企业微信无法访问到服务",
    );
    let todo = text!(
        "save the callback URL in WeCom's console, turn on 外部联系人变更回调, let a dealer add a customer, and try the way with verify-url",
        "请在管理后台保存回调 URL，开启“外部联系人变更回调”，让经销商添加一位客户，并用 verify-url 检查访问路径",
    );
    Finding::trouble(code, FindingState::Warn, subject, seen).that(means, todo)
}

/// What to do about a refusal.
fn remedy(reason: &str) -> Text {
    match reason {
        "query" | "envelope" => text!(
            "look at the proxy in front: it changes or drops the query or the body",
            "请检查前置代理：它改动或丢弃了查询串或请求体",
        ),
        "cipher" | "padding" | "length" => text!(
            "copy EncodingAESKey again, all 43 characters, into encoding_aes_key, and reload",
            "请重新复制完整的 43 位 EncodingAESKey 到 encoding_aes_key，然后重新加载",
        ),
        "receive_id" => text!(
            "compare corp_id with 企业ID in the console; see app.receive_id",
            "请核对 corp_id 与管理后台的企业ID；参见 app.receive_id",
        ),
        "echo" => text!(
            "nothing: somebody has sent a recorded message as a URL check",
            "无需处理：有人把录制的消息当作 URL 验证发送",
        ),
        "source" => text!(
            "the proxy hides WeCom's address, or a stranger sends: see server.trusted_proxies and server.callback_ips",
            "代理隐藏了企业微信的地址，或来自陌生来源：参见 server.trusted_proxies 与 server.callback_ips",
        ),
        _ => text!(
            "compare callback_token with Token in the console; if they are the same, the proxy changes the query (callback.plus)",
            "请核对 callback_token 与管理后台的 Token；若一致，则是代理改动了查询串（callback.plus）",
        ),
    }
}

/// Whether callbacks wait because their receive id is not accepted.
pub(super) fn receive_ids(facts: &ServiceFacts<'_>) -> Finding {
    let code = Code::CallbackReceiveIds;
    let Some(unaccepted) = &facts.unaccepted else {
        let why = text!("there are too many dead letters to look through", "死信过多，未逐条查看");
        return Finding::unknown(code, Subject::default(), why);
    };
    let Some((name, id, count)) = unaccepted.first() else {
        return Finding::ok(code, Subject::default(), text!("none waits", "没有"));
    };
    let id = if id.is_empty() { "\"\"" } else { id };
    let others = unaccepted.len() - 1;
    let seen = text!(
        "messages for {id} in quarantine: at least {count}; other ids: {others}",
        "隔离区中接收方为 {id} 的消息：至少 {count} 条；其他接收方：{others} 个",
    );
    let means = text!("they are kept, and have no effect", "这些消息已保留，但不起作用");
    let todo = text!(
        "if the id is yours, add it to accept_receive_ids of the app, reload, and redrive them",
        "如果该 ID 属于你，请加入应用的 accept_receive_ids，重新加载，然后重新投递",
    );
    Finding::trouble(code, FindingState::Warn, Subject::app(name), seen).that(means, todo)
}
