//! The findings about callbacks.

use super::ServiceFacts;
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::text::text;

/// Whether they arrive, and are accepted.
pub(super) fn callbacks(facts: &ServiceFacts<'_>) -> Finding {
    let ServiceFacts { accepted, refused, last_event_at, .. } = facts;
    if *accepted == 0 && *refused > 0 {
        // If genuine callbacks arrived before this start, the refused requests may be forged.
        let state = if last_event_at.is_some() { FindingState::Warn } else { FindingState::Fail };
        return Finding {
            code: Code::CallbackSeen,
            state,
            subject: Subject::default(),
            since: None,
            seen: text!(
                "callbacks that were refused since the start: {refused}; accepted: none",
                "启动以来拒绝了 {refused} 条回调，没有接受任何一条",
            ),
            raw: Raw::default(),
            means: text!("what was refused is lost", "被拒绝的回调已丢失"),
            todo: Todo {
                text: text!(
                    "compare callback_token and encoding_aes_key with the console; the log has the reason of each refusal",
                    "请核对 callback_token 和 encoding_aes_key 与管理后台是否一致；每次拒绝的原因见运行日志",
                ),
            },
        };
    }
    if let Some(at) = last_event_at {
        let at = at.in_china();
        let seen = text!("the last event of a dealer arrived at {at}", "最近一次经销商事件到达于 {at}");
        return Finding::ok(Code::CallbackSeen, Subject::default(), seen);
    }
    if *accepted > 0 {
        let seen = text!("callbacks since the start: {accepted}", "启动以来接受了 {accepted} 条回调");
        return Finding::ok(Code::CallbackSeen, Subject::default(), seen);
    }
    Finding {
        code: Code::CallbackSeen,
        state: FindingState::Warn,
        subject: Subject::default(),
        since: None,
        seen: text!("no callback has ever arrived", "从未收到回调"),
        raw: Raw::default(),
        means: text!(
            "either nothing has happened yet, or WeCom cannot reach the service",
            "可能尚未发生任何事件，也可能企业微信无法访问到服务",
        ),
        todo: Todo {
            text: text!(
                "save the callback URL in WeCom's console, turn on 外部联系人变更回调, and try the way with verify-url",
                "请在管理后台保存回调 URL，开启“外部联系人变更回调”，并用 verify-url 检查访问路径",
            ),
        },
    }
}
