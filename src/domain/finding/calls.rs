//! The findings about the calls of a suite and its apps: whether the suite has a ticket, and what WeCom
//! refuses.

use std::collections::BTreeMap;

use super::code::FindingCode;
use super::corps::CorpNames;
use super::facts::{Refusal, SuiteFacts, TicketFacts};
use super::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::suite::{TICKET_LIFE_MS, next_ticket_at};
use crate::domain::text::text;
use crate::domain::time::Timestamp;

/// There is no ticket that can be used.
pub(super) fn ticket(facts: &SuiteFacts<'_>, now: Timestamp) -> Option<Finding> {
    let SuiteFacts { suite, waits_since, ticket, .. } = facts;
    let (since, last, seen) = match ticket {
        Some(TicketFacts { expires_at, is_refused: false, .. }) if now < *expires_at => return None,
        Some(TicketFacts { received_at, is_refused: true, .. }) => {
            let at = received_at.in_china();
            let seen = text!(
                "WeCom refused the last suite_ticket of the suite {suite}, received at {at}",
                "企业微信拒绝了模版 {suite} 最近的 suite_ticket（收到于 {at}）",
            );
            (*received_at, *received_at, seen)
        }
        Some(TicketFacts { received_at, expires_at, is_refused: false }) => {
            let at = received_at.in_china();
            let seen = text!(
                "the suite {suite} has no valid suite_ticket; the last was received at {at}",
                "模版 {suite} 没有有效的 suite_ticket，最近一次收到的时间为 {at}",
            );
            (*expires_at, *received_at, seen)
        }
        None => {
            let at = waits_since.in_china();
            let seen = text!(
                "the suite {suite} has received no suite_ticket since the start at {at}",
                "模版 {suite} 自 {at} 启动以来尚未收到 suite_ticket",
            );
            (*waits_since, *waits_since, seen)
        }
    };
    let is_late = now.millis_since(since) >= TICKET_LIFE_MS;
    let next = next_ticket_at(last, now).in_china();
    Some(Finding {
        code: FindingCode::Ticket,
        state: if is_late { FindingState::Fail } else { FindingState::Warn },
        subject: Subject { suite: Some((*suite).clone()), ..Subject::default() },
        since: Some(since),
        seen,
        raw: Raw::default(),
        means: text!(
            "no new authorisation can be completed; the apps that are authorised go on",
            "新的授权无法完成；已授权的应用不受影响",
        ),
        todo: Todo {
            text: text!(
                "wait for the next, due by {next}: WeCom sends one every 10 minutes, or when it is pushed by \
                 hand in 服务商管理后台. If none comes, check that the template's callback URL there is \
                 /callback/{suite}",
                "请等待下一次推送，应不晚于 {next}：企业微信每 10 分钟推送一次，也可在服务商管理后台手动推送。\
                 若一直没有，请检查其中模版的回调 URL 是否为 /callback/{suite}",
            ),
        },
    })
}

/// What WeCom refuses: one finding for each cause, and the suite or app.
pub(super) fn refusals(facts: &SuiteFacts<'_>) -> Vec<Finding> {
    let mut causes: BTreeMap<_, Vec<&Refusal>> = BTreeMap::new();
    for refusal in &facts.refusals {
        if let Some(cause) = cause(refusal) {
            causes.entry((cause, refusal.app.as_ref())).or_default().push(refusal);
        }
    }
    causes.into_iter().filter_map(|((cause, _), refusals)| refused(facts, cause, &refusals)).collect()
}

/// Why WeCom refuses calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Secret,
    TrustedIp,
    Licence,
}

/// The cause of a refusal; `None` if only its circuit breaker is shown.
const fn cause(refusal: &Refusal) -> Option<Cause> {
    match (refusal.errcode, &refusal.app) {
        (40_080 | 40_083, None) => Some(Cause::Secret),
        (60_020 | 301_042, _) => Some(Cause::TrustedIp),
        (701_000..=701_999, _) => Some(Cause::Licence),
        _ => None,
    }
}

fn refused(facts: &SuiteFacts<'_>, cause: Cause, refusals: &[&Refusal]) -> Option<Finding> {
    let first = *refusals.iter().min_by_key(|refusal| refusal.since)?;
    let (suite, errcode) = (facts.suite, first.errcode);
    let calls = match &first.app {
        Some(app) => text!("the calls of the app {app}", "应用 {app} 的调用"),
        None => text!("the calls of the suite {suite}", "模版 {suite} 的调用"),
    };
    // A corp's calls may be refused for the same cause that WeCom has reported.
    let corps: BTreeMap<_, _> = refusals
        .iter()
        .filter_map(|refusal| {
            let (corp_id, name) = refusal.corp.as_ref()?;
            Some((corp_id, name.as_deref()))
        })
        .collect();
    let corps = CorpNames::of(corps);
    let (calls_en, calls_zh) = (calls.en, calls.zh);
    let (code, seen, means) = match cause {
        Cause::Secret => (
            FindingCode::Secret,
            text!(
                "WeCom refuses the id or the secret of the suite {suite} (code {errcode})",
                "企业微信拒绝模版 {suite} 的 suite_id 或 suite_secret（错误码 {errcode}）",
            ),
            text!(
                "no new authorisation can be completed, and an auth code is lost after 10 minutes",
                "新的授权无法完成，临时授权码 10 分钟后失效",
            ),
        ),
        Cause::Licence => {
            let (of_en, of_zh) = corps.after(" at ", "（", "）");
            (
                FindingCode::Licence,
                text!(
                    "an API licence is missing for {calls_en}{of_en} (code {errcode})",
                    "{calls_zh}{of_zh}缺少接口调用许可（错误码 {errcode}）",
                ),
                text!(
                    "the customers of members without a licence are not reported, listed or looked up",
                    "没有许可的成员，其客户不会被推送、列出或查询",
                ),
            )
        }
        Cause::TrustedIp => (
            FindingCode::TrustedIp,
            text!(
                "WeCom refuses {calls_en} from our IP address (code {errcode}); reason in paused of \
                 /v1/status has the address",
                "企业微信因 IP 不受信任拒绝{calls_zh}（错误码 {errcode}）；该 IP 见 /v1/status 中 paused 的 reason",
            ),
            text!("everything that needs these calls waits", "依赖这些调用的工作暂停等待"),
        ),
    };
    Some(Finding {
        code,
        state: FindingState::Fail,
        subject: Subject { app: first.app.clone(), ..corps.subject(suite) },
        since: Some(first.since),
        seen,
        raw: Raw::default(),
        means,
        todo: Todo { text: first.remedy.clone() },
    })
}
