//! The findings about the service itself: its store, its calls to WeCom, its callbacks and its sinks.

use super::code::FindingCode as Code;
use super::corps::CorpNames;
use super::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::text::{Text, text};
use crate::domain::time::Timestamp;

/// What the service knows of itself.
#[derive(Debug, Clone, Default)]
pub struct ServiceFacts<'a> {
    /// Why a callback could not be made durable now.
    pub not_ready: Option<String>,
    /// Records that cannot be read.
    pub damaged_records: u64,
    /// Whether the store has a log of its own, and if so why its last checkpoint failed.
    pub checkpoints: Option<Option<String>>,
    /// Calls to WeCom since the start.
    pub calls: u64,
    /// Why the last of them had no answer, and how many in a row had none.
    pub unanswered: Option<(String, u64)>,
    /// Whether the lists of dealers were read since the start.
    pub lists_read: bool,
    /// The apps that are served.
    pub apps: Vec<ServedApp<'a>>,
    /// Callbacks and URL checks since the start that were genuine, and that were refused.
    pub accepted: u64,
    /// See above.
    pub refused: u64,
    /// When the last event of any dealer arrived, as far as that is known.
    pub last_event_at: Option<Timestamp>,
    /// The sinks.
    pub sinks: Vec<SinkFacts>,
    /// How long entries of the feed are kept, in seconds.
    pub feed_kept_secs: i64,
}

/// An app that is served.
#[derive(Debug, Clone)]
pub struct ServedApp<'a> {
    /// The app.
    pub app: &'a AppName,
    /// Whether it is an agency-developed app. What WeCom refuses of those is a finding about their suite.
    pub is_agency: bool,
    /// Whether the brand is known; that of an agency-developed app has to authorise it.
    pub has_brand: bool,
    /// The calls that are held back after failures.
    pub held_back: Vec<HeldBackCalls>,
    /// Its dealers that WeCom lists.
    pub dealers: Vec<ServedDealer<'a>>,
    /// The APIs whose quota is used up, each with when WeCom is asked again.
    pub used_up: Vec<(&'static str, Timestamp)>,
}

/// Calls that are held back after failures.
#[derive(Debug, Clone)]
pub struct HeldBackCalls {
    /// The corp whose customers they are about, if they are about one corp, and its name.
    pub corp: Option<(CorpId, Option<String>)>,
    /// WeCom's code; `None` if it gave none.
    pub errcode: Option<i64>,
    /// Whether the code means that somebody has to correct a setting.
    pub is_setting: bool,
    /// The last failure.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// What to do about the code.
    pub remedy: Option<Text>,
}

/// A dealer that WeCom lists.
#[derive(Debug, Clone, Copy)]
pub struct ServedDealer<'a> {
    /// Its id.
    pub corp_id: &'a CorpId,
    /// Its name.
    pub name: &'a str,
    /// Since when it is silent.
    pub silent_since: Option<Timestamp>,
}

/// A sink.
#[derive(Debug, Clone)]
pub struct SinkFacts {
    /// Its name.
    pub name: SinkName,
    /// Why its last delivery failed, and since when all of them have.
    pub failing: Option<(String, Option<Timestamp>)>,
    /// Whether it takes no more deliveries until an operator acts.
    pub is_disabled: bool,
    /// Entries that are to be delivered, and the age of the oldest in seconds.
    pub lag: (u64, i64),
}

/// How the service is.
#[must_use]
pub fn service_findings(facts: &ServiceFacts<'_>) -> Vec<Finding> {
    let mut findings = vec![ready(facts), damaged(facts)];
    findings.extend(log(facts));
    let reachable = reachable(facts);
    let is_reachable = !reachable.is_trouble();
    findings.push(reachable);
    for app in &facts.apps {
        findings.extend(of_app(app, facts, is_reachable));
    }
    findings.push(callbacks(facts));
    for sink in &facts.sinks {
        findings.extend(of_sink(sink, facts.feed_kept_secs));
    }
    findings
}

fn ready(facts: &ServiceFacts<'_>) -> Finding {
    let Some(reason) = &facts.not_ready else {
        let seen = text!("the store takes callbacks", "存储可以接收回调");
        return Finding::ok(Code::StoreReady, Subject::default(), seen);
    };
    Finding {
        code: Code::StoreReady,
        state: FindingState::Fail,
        subject: Subject::default(),
        since: None,
        seen: text!("the store takes none: {reason}", "存储不接收回调：{reason}"),
        raw: Raw::default(),
        means: text!(
            "callbacks are answered 503; WeCom sends each a few times, and then never again",
            "回调返回 503；企业微信对每条回调只重试几次，之后不再发送",
        ),
        todo: Todo {
            text: text!(
                "free space on its disk, or see to its database; it goes on by itself",
                "请清理磁盘空间，或检查数据库；恢复后自动继续",
            ),
        },
    }
}

fn damaged(facts: &ServiceFacts<'_>) -> Finding {
    let records = facts.damaged_records;
    if records == 0 {
        let seen = text!("no damaged record was found", "未发现损坏的记录");
        return Finding::ok(Code::StoreDamaged, Subject::default(), seen);
    }
    Finding {
        code: Code::StoreDamaged,
        state: FindingState::Fail,
        subject: Subject::default(),
        since: None,
        seen: text!("damaged records since the start: {records}", "启动以来发现 {records} 条损坏的记录"),
        raw: Raw::default(),
        means: text!("what they hold is skipped", "这些记录被跳过"),
        todo: Todo {
            text: text!(
                "stop the service and run store verify, which names them; restore the last backup if it cannot heal them",
                "请停止服务并运行 store verify，它会列出这些记录；无法修复时恢复最近的备份",
            ),
        },
    }
}

fn log(facts: &ServiceFacts<'_>) -> Option<Finding> {
    let Some(reason) = facts.checkpoints.as_ref()? else {
        let seen = text!("the last checkpoint succeeded", "最近一次检查点成功");
        return Some(Finding::ok(Code::StoreLog, Subject::default(), seen));
    };
    Some(Finding {
        code: Code::StoreLog,
        state: FindingState::Warn,
        subject: Subject::default(),
        since: None,
        seen: text!("the last checkpoint failed: {reason}", "最近一次检查点失败：{reason}"),
        raw: Raw::default(),
        means: text!(
            "the log grows; when it has become too large, callbacks are answered 503",
            "预写日志会变长；过长时回调返回 503",
        ),
        todo: Todo {
            text: text!(
                "see to space and permissions of the store's folder; it is tried again every minute",
                "请检查存储目录的空间和权限；每分钟自动重试",
            ),
        },
    })
}

/// Calls without an answer in a row after which it is no hiccup.
const UNANSWERED_MAX: u64 = 3;

fn reachable(facts: &ServiceFacts<'_>) -> Finding {
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

fn of_app(app: &ServedApp<'_>, facts: &ServiceFacts<'_>, is_reachable: bool) -> Vec<Finding> {
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
    findings.push(shared(app, failed, facts.lists_read));
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

fn shared(app: &ServedApp<'_>, failed: Option<Code>, lists_read: bool) -> Finding {
    let (name, count) = (app.app, app.dealers.len());
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
    if !lists_read {
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

fn callbacks(facts: &ServiceFacts<'_>) -> Finding {
    let ServiceFacts { accepted, refused, last_event_at, .. } = facts;
    if *accepted == 0 && *refused > 0 {
        // Once they have arrived, it may be somebody else who is refused.
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

/// Whether a receiver does not accept who delivers: HTTP 401 or 403.
fn is_refused_login(reason: &str) -> bool {
    let mut words = reason.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| matches!(word, "401" | "403"))
}

fn of_sink(sink: &SinkFacts, feed_kept_secs: i64) -> [Finding; 3] {
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

#[cfg(test)]
mod tests;
