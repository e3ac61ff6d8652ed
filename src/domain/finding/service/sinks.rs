//! The findings about sinks.

use super::SinkFacts;
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::text::text;

/// Whether a receiver has refused our credentials: HTTP 401 or 403.
fn is_refused_login(reason: &str) -> bool {
    let mut words = reason.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| matches!(word, "401" | "403"))
}

/// How a sink is.
pub(super) fn of_sink(sink: &SinkFacts, feed_kept_secs: i64) -> [Finding; 3] {
    let SinkFacts { name, failing, is_disabled, lag: (entries, seconds) } = sink;
    let subject = || Subject { sink: Some(name.clone()), ..Subject::default() };
    let is_refusal = !is_disabled && failing.as_ref().is_some_and(|(reason, _)| is_refused_login(reason));
    let trouble = |code, state, todo| {
        let (reason, since) = failing.clone().unwrap_or_default();
        Finding {
            code,
            state,
            subject: subject(),
            since,
            seen: text!("the last delivery failed: {reason}", "最近一次推送失败：{reason}"),
            raw: Raw::default(),
            means: text!(
                "entries wait in the feed and are delivered later, in order",
                "条目留在 feed 中，之后按顺序推送",
            ),
            todo: Todo { text: todo },
        }
    };
    let reachable = if *is_disabled {
        let todo = text!(
            "the receiver has refused for good (410); set it running again once it takes deliveries",
            "接收端已永久拒绝（410）；恢复接收后请重新启用该推送目标",
        );
        trouble(Code::SinkReachable, FindingState::Fail, todo)
    } else if failing.is_some() && !is_refusal {
        let todo = text!(
            "see to the receiver, and to the way there; deliveries are tried again by themselves",
            "请检查接收端及网络；推送自动重试",
        );
        trouble(Code::SinkReachable, FindingState::Fail, todo)
    } else {
        Finding::ok(Code::SinkReachable, subject(), text!("deliveries arrive", "推送可以到达"))
    };
    let verifies = if is_refusal {
        let todo = text!(
            "compare the sink's secret or token with the receiver's; while one is changed, keep the old one as well",
            "请核对推送目标与接收端的密钥或令牌；更换期间保留旧值",
        );
        trouble(Code::SinkVerifies, FindingState::Fail, todo)
    } else if reachable.is_trouble() {
        Finding::skipped(Code::SinkVerifies, subject(), Code::SinkReachable)
    } else {
        Finding::ok(Code::SinkVerifies, subject(), text!("no delivery was refused", "没有推送被拒绝"))
    };
    let is_behind = *entries > 0 && *seconds > feed_kept_secs / 2;
    let seen = text!(
        "entries that wait: {entries}; the oldest for {seconds} s",
        "{entries} 条等待推送，最早的已等待 {seconds} 秒"
    );
    let lag = if is_behind {
        Finding {
            code: Code::SinkLag,
            state: FindingState::Warn,
            subject: subject(),
            since: None,
            seen,
            raw: Raw::default(),
            means: text!(
                "entries are kept as long as a sink needs them, and take space",
                "推送目标仍需要的条目会一直保留，占用空间",
            ),
            todo: Todo {
                text: text!(
                    "see to the receiver, or remove the sink from the configuration if nobody needs it",
                    "请检查接收端；若不再需要，请从配置中删除该推送目标",
                ),
            },
        }
    } else {
        Finding::ok(Code::SinkLag, subject(), seen)
    };
    [reachable, verifies, lag]
}
