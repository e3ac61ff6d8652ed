//! The findings about callbacks.

use super::ServiceFacts;
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::shape::{Finding, FindingState, Subject};
use crate::domain::history::{LastRefusal, UrlMarks};
use crate::domain::ids::AppName;
use crate::domain::text::{Text, text};

/// Whether they arrive at a URL, and are accepted.
pub(super) fn seen(name: &AppName, marks: &UrlMarks, facts: &ServiceFacts<'_>) -> Finding {
    let (code, subject) = (Code::CallbackSeen, Subject::app(name));
    let UrlMarks { verified_at, callback_at, refused } = marks;
    let genuine_at = (*verified_at).max(*callback_at);
    // Anybody can send requests that are refused: they are trouble if nothing else comes.
    let is_only_refused = facts.accepted == 0 && facts.refused > 0;
    let refused = refused.as_ref().filter(|refused| genuine_at.is_none_or(|at| at < refused.at));
    if let Some(LastRefusal { at, reason }) = refused.filter(|_| genuine_at.is_none() || is_only_refused) {
        let state = if genuine_at.is_none() { FindingState::Fail } else { FindingState::Warn };
        let when = at.in_china();
        let seen = if genuine_at.is_none() {
            text!(
                "requests are refused, the last at {when}: {reason}; none was ever accepted",
                "请求被拒绝，最近一次在 {when}：{reason}；从未接受任何请求",
            )
        } else {
            text!(
                "requests are refused, the last at {when}: {reason}; none was accepted since the start",
                "请求被拒绝，最近一次在 {when}：{reason}；启动以来没有接受任何回调",
            )
        };
        let means = text!("what was refused is lost", "被拒绝的回调已丢失");
        return Finding {
            since: Some(*at),
            ..Finding::trouble(code, state, subject, seen).that(means, remedy(reason))
        };
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
    let Some((name, id, count)) = facts.unaccepted.first() else {
        return Finding::ok(code, Subject::default(), text!("none waits", "没有"));
    };
    let id = if id.is_empty() { "\"\"" } else { id };
    let others = facts.unaccepted.len() - 1;
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
