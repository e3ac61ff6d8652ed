//! The findings about the calls to WeCom, and about dealers.

use super::{HeldBackCalls, ServedApp, ServiceFacts};
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::corps::CorpNames;
use crate::domain::finding::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::text::{Text, text};

/// Calls without an answer in a row after which it is no hiccup.
const UNANSWERED_MAX: u64 = 3;

/// Whether WeCom answers.
pub(super) fn reachable(facts: &ServiceFacts<'_>) -> Finding {
    let calls = facts.calls;
    let Some((reason, count)) = &facts.unanswered else {
        return if calls == 0 {
            let why = text!("no call has been made yet", "尚未调用企业微信");
            Finding::unknown(Code::Reachable, Subject::default(), why)
        } else {
            let seen = text!("calls since the start: {calls}", "启动以来调用 {calls} 次");
            Finding::ok(Code::Reachable, Subject::default(), seen)
        };
    };
    Finding {
        code: Code::Reachable,
        state: if *count < UNANSWERED_MAX { FindingState::Warn } else { FindingState::Fail },
        subject: Subject::default(),
        since: None,
        seen: text!(
            "calls without an answer in a row: {count}; the last: {reason}",
            "连续 {count} 次调用没有响应，最近一次：{reason}",
        ),
        raw: Raw::default(),
        means: text!(
            "calls are held back and tried again; callbacks are accepted and wait, nothing is lost",
            "调用暂停并自动重试；回调照常接收，等待处理，不会丢失",
        ),
        todo: Todo {
            text: text!(
                "let this machine reach qyapi.weixin.qq.com:443, directly or through wecom.proxy",
                "请允许本机访问 qyapi.weixin.qq.com:443，直接访问或通过 wecom.proxy",
            ),
        },
    }
}

/// The code of a finding that WeCom's code leads to.
const fn cause(errcode: i64) -> Code {
    match errcode {
        60_020 | 301_042 => Code::WecomTrustedIp,
        40_001 | 40_013 | 40_056 | 40_091 | 41_004 => Code::WecomToken,
        48_002 | 48_004 | 60_011 | 84_061 | 84_074 | 301_002 | 301_023 => Code::WecomPermission,
        _ => Code::WecomCalls,
    }
}

/// What concerns one app.
pub(super) fn of_app(app: &ServedApp<'_>, facts: &ServiceFacts<'_>, is_reachable: bool) -> Vec<Finding> {
    let subject = || Subject::app(app.app);
    let mut findings = Vec::new();
    let mut failed = (!is_reachable).then_some(Code::Reachable);
    let codes: &[Code] = if app.is_agency {
        &[]
    } else {
        &[Code::WecomTrustedIp, Code::WecomToken, Code::WecomPermission, Code::WecomCalls]
    };
    for code in codes.iter().copied() {
        let of_code: Vec<_> = app
            .held_back
            .iter()
            .filter(|calls| calls.errcode.map_or(Code::WecomCalls, cause) == code)
            // What has no answer is said once.
            .filter(|calls| calls.errcode.is_some() || is_reachable)
            .collect();
        let skipped_for = failed.filter(|failed| code.depends_on().contains(failed));
        findings.push(match (refused(code, app, &of_code), skipped_for) {
            (Some(finding), _) => {
                // What concerns one dealer hides nothing.
                if finding.state == FindingState::Fail {
                    failed = failed.or(Some(code));
                }
                finding
            }
            (None, Some(cause)) => Finding::skipped(code, subject(), cause),
            (None, None) if facts.calls == 0 => {
                Finding::unknown(code, subject(), text!("no call has been made yet", "尚未调用企业微信"))
            }
            (None, None) => Finding::ok(code, subject(), text!("no call was refused", "没有调用被拒绝")),
        });
    }
    findings.push(shared(app, failed));
    findings.push(silence(app));
    findings.push(quota(app));
    findings
}

/// What WeCom refuses.
fn refused(code: Code, app: &ServedApp<'_>, calls: &[&HeldBackCalls]) -> Option<Finding> {
    let newest = calls.iter().max_by_key(|calls| calls.since)?;
    let name = app.app;
    let of_corps = calls.iter().filter_map(|calls| calls.corp.as_ref());
    let corps = CorpNames::of(of_corps.map(|(corp_id, name)| (corp_id, name.as_deref())));
    let is_of_app = calls.iter().any(|calls| calls.corp.is_none());
    let reason = &newest.reason;
    let mut subject = Subject::app(name);
    let (seen, means) = if is_of_app {
        (
            text!("calls of the app {name} are held back: {reason}", "应用 {name} 的调用被暂停：{reason}"),
            text!(
                "the calls of the app wait; callbacks are accepted and nothing is lost",
                "该应用的调用暂停；回调照常接收，不会丢失",
            ),
        )
    } else {
        let Subject { corp_id, corp_name, .. } = corps.subject(name);
        subject = Subject { corp_id, corp_name, ..subject };
        let Text { en, zh } = corps.some();
        (
            text!("calls for {en} are held back: {reason}", "针对 {zh} 的调用被暂停：{reason}"),
            text!(
                "the customers of these dealers wait; the others go on",
                "这些经销商的客户等待处理；其他经销商不受影响",
            ),
        )
    };
    let wait = || text!("wait: the calls are tried again by themselves", "请等待，将自动重试");
    Some(Finding {
        code,
        state: if is_of_app && (newest.is_setting || code != Code::WecomCalls) {
            FindingState::Fail
        } else {
            FindingState::Warn
        },
        subject,
        since: calls.iter().map(|calls| calls.since).min(),
        seen,
        raw: Raw { errcode: newest.errcode },
        means,
        todo: Todo { text: newest.remedy.clone().unwrap_or_else(wait) },
    })
}

fn shared(app: &ServedApp<'_>, failed: Option<Code>) -> Finding {
    let (name, count, left) = (app.app, app.dealers.len(), app.left_lately);
    if count > 0 && left > 0 {
        let seen = text!(
            "dealers that WeCom lists: {count}; that it has ceased to list within a day: {left}",
            "企业微信列出 {count} 家经销商；一天内不再列出的：{left} 家",
        );
        let means =
            text!("their calls have stopped; links and data stay", "它们的调用已停止；关联和数据保留",);
        let todo = text!(
            "if that is not intended, share the app with them again, and have their administrators confirm",
            "如非有意，请重新共享应用，并由其管理员确认",
        );
        return Finding::trouble(Code::ShareList, FindingState::Warn, Subject::app(name), seen)
            .that(means, todo);
    }
    if count > 0 {
        let seen = text!("dealers that WeCom lists: {count}", "企业微信列出 {count} 家经销商");
        return Finding::ok(Code::ShareList, Subject::app(name), seen);
    }
    if let Some(cause) = failed.filter(|failed| Code::ShareList.depends_on().contains(failed)) {
        return Finding::skipped(Code::ShareList, Subject::app(name), cause);
    }
    if !app.has_brand {
        return Finding::skipped(Code::ShareList, Subject::app(name), Code::AppWaiting);
    }
    if !app.list_read {
        let why = text!("the list has not been read yet", "尚未读取列表");
        return Finding::unknown(Code::ShareList, Subject::app(name), why);
    }
    Finding {
        code: Code::ShareList,
        state: FindingState::Fail,
        subject: Subject::app(name),
        since: None,
        seen: text!("WeCom lists no dealer of the app {name}", "企业微信未列出应用 {name} 的任何经销商"),
        raw: Raw::default(),
        means: text!("no callback comes, and nobody can be linked", "不会有回调，也无法关联任何客户"),
        todo: Todo {
            text: text!(
                "share the app with the dealers, and have each dealer's administrator confirm the sensitive permissions",
                "请将应用共享给经销商，并由各经销商的管理员确认敏感权限",
            ),
        },
    }
}

fn silence(app: &ServedApp<'_>) -> Finding {
    let silent: Vec<_> = app.dealers.iter().filter(|dealer| dealer.silent_since.is_some()).collect();
    if silent.is_empty() {
        let count = app.dealers.len();
        let seen = text!("dealers: {count}, none of them silent", "{count} 家经销商，没有沉默的");
        return Finding::ok(Code::DealerSilence, Subject::app(app.app), seen);
    }
    let corps = CorpNames::of(silent.iter().map(|dealer| (dealer.corp_id, Some(dealer.name))));
    let Text { en, zh } = corps.some();
    let Subject { corp_id, corp_name, .. } = corps.subject(app.app);
    Finding {
        code: Code::DealerSilence,
        state: FindingState::Warn,
        subject: Subject { corp_id, corp_name, ..Subject::app(app.app) },
        since: silent.iter().filter_map(|dealer| dealer.silent_since).min(),
        seen: text!("no callback comes from {en}", "{zh} 没有回调"),
        raw: Raw::default(),
        means: text!(
            "new customers there are found by the next comparison only",
            "其新客户要等到下一次比对才能发现",
        ),
        todo: Todo {
            text: text!(
                "ask the dealer whether the app's 可见范围 still has its members, and whether the app was removed",
                "请与经销商确认：应用的可见范围是否仍包含其成员，应用是否被移除",
            ),
        },
    }
}

fn quota(app: &ServedApp<'_>) -> Finding {
    let Some((api, until)) = app.used_up.first() else {
        let seen = text!("no quota is used up", "没有用尽的配额");
        return Finding::ok(Code::WecomQuota, Subject::app(app.app), seen);
    };
    let at = until.in_china();
    Finding {
        code: Code::WecomQuota,
        state: FindingState::Warn,
        subject: Subject::app(app.app),
        since: None,
        seen: text!("WeCom answered that the quota of {api} is used up", "企业微信返回：{api} 的配额已用尽",),
        raw: Raw::default(),
        means: text!(
            "fans wait until {at}; customers are still looked up",
            "粉丝等待至 {at}；客户查询不受影响"
        ),
        todo: Todo {
            text: text!(
                "wait; if this comes often, look for another system that uses the same quota",
                "请等待；若经常出现，请检查是否有其他系统使用同一配额",
            ),
        },
    }
}
