//! The findings about the corps that have authorised a suite.

use super::code::FindingCode;
use super::facts::{AuthorizationFacts, SuiteFacts};
use super::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::authorization::{Authorization, AuthorizationState, Role};
use crate::domain::bindings::Unserved;
use crate::domain::dealer::named;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::text::{Text, text};
use crate::domain::time::{MINUTE_MS, Timestamp};

/// The corps that a text names; of more, it says how many there are.
const NAMED_MAX: usize = 3;
/// How long the app at a corp may remain unread before that is a finding: it takes one call.
const READING_MS: i64 = 2 * MINUTE_MS;

/// What is wrong with the corps that have authorised a suite.
pub(super) fn corps(facts: &SuiteFacts<'_>, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in &facts.authorizations {
        let record = one.record;
        let app = app_of(facts, record);
        match (record.state(), app) {
            (AuthorizationState::Cancelled, Some(app)) => findings.push(cancelled(facts, app, record)),
            (AuthorizationState::Active, Some(app)) if may_not_read_customers(record) => {
                findings.push(permission(facts, app, record));
            }
            (AuthorizationState::Active, None) if is_without_app(facts, record) => {
                findings.push(without_app(facts, record));
            }
            (
                AuthorizationState::Incomplete | AuthorizationState::Active | AuthorizationState::Cancelled,
                _,
            ) => {}
        }
    }
    let is_unread = |one: &AuthorizationFacts<'_>| {
        let record = one.record;
        record.state() == AuthorizationState::Incomplete
            && one.is_readable
            && now.millis_since(record.changed_at) >= READING_MS
    };
    findings.extend(incomplete(facts, of(facts, is_unread)));
    let is_unverified = |one: &AuthorizationFacts<'_>| {
        let agent = one.record.agent.as_ref().filter(|_| one.record.state() == AuthorizationState::Active);
        agent.is_some_and(|agent| agent.is_verified == Some(false))
    };
    findings.extend(unverified(facts, of(facts, is_unverified)));
    let is_sealed = |one: &AuthorizationFacts<'_>| {
        !one.is_readable && one.record.state() != AuthorizationState::Cancelled
    };
    findings.extend(sealed(facts, of(facts, is_sealed)));
    findings
}

/// The records of the authorisations that fulfil a condition.
fn of<'a>(facts: &SuiteFacts<'a>, is: impl Fn(&AuthorizationFacts<'a>) -> bool) -> Vec<&'a Authorization> {
    facts.authorizations.iter().filter(|one| is(one)).map(|one| one.record).collect()
}

/// The app that serves a brand.
fn app_of<'a>(facts: &SuiteFacts<'a>, record: &Authorization) -> Option<&'a AppName> {
    let serves = |brand: &Result<CorpId, Unserved>| {
        brand.as_ref().is_ok_and(|brand| brand.same_corp(record.corp_id.as_str()))
    };
    facts.apps.iter().find(|app| serves(&app.brand)).map(|app| app.app)
}

/// Whether no app serves a brand, nor waits to be configured for it.
fn is_without_app(facts: &SuiteFacts<'_>, record: &Authorization) -> bool {
    let is_waited_for = |unserved: &Unserved| match unserved {
        Unserved::Several(brands) => brands.iter().any(|(corp_id, _)| *corp_id == record.corp_id),
        Unserved::OtherBrand { configured, .. } => configured.same_corp(record.corp_id.as_str()),
        Unserved::NoBrand | Unserved::Taken { .. } => false,
    };
    record.role() == Some(Role::Brand)
        && !facts.apps.iter().filter_map(|app| app.brand.as_ref().err()).any(is_waited_for)
}

fn may_not_read_customers(record: &Authorization) -> bool {
    record.agent.as_ref().is_some_and(|agent| agent.may_read_customers == Some(false))
}

fn corp(record: &Authorization) -> String {
    named(Some(&record.name).filter(|name| !name.is_empty()).map(String::as_str), record.corp_id.as_str())
}

fn cancelled(facts: &SuiteFacts<'_>, app: &AppName, record: &Authorization) -> Finding {
    let corp = corp(record);
    Finding {
        code: FindingCode::Cancelled,
        state: FindingState::Fail,
        subject: Subject { app: Some(app.clone()), ..CorpNames::of([by_name(record)]).subject(facts.suite) },
        since: record.cancellation_noticed_at(),
        seen: text!(
            "the brand {corp} has cancelled the authorisation of the app {app}",
            "品牌企业 {corp} 已取消应用 {app} 的授权",
        ),
        raw: Raw::default(),
        means: text!(
            "no call is made for the app; its fans and events wait, and its data is kept",
            "不会为该应用调用企业微信；其粉丝和事件等待处理，数据保留",
        ),
        todo: Todo {
            text: text!(
                "have the brand scan the template's authorisation QR code again; if it has left for good, \
                 remove the app from the configuration",
                "请品牌企业重新扫描模版的授权二维码；若不再使用，请从配置中删除该应用",
            ),
        },
    }
}

fn permission(facts: &SuiteFacts<'_>, app: &AppName, record: &Authorization) -> Finding {
    let corp = corp(record);
    Finding {
        code: FindingCode::Permission,
        state: FindingState::Fail,
        subject: Subject { app: Some(app.clone()), ..CorpNames::of([by_name(record)]).subject(facts.suite) },
        since: record.agent.as_ref().map(|agent| agent.read_at),
        seen: text!(
            "the app {app} at {corp} lacks the permission 客户基础信息",
            "{corp} 的应用 {app} 没有“客户基础信息”权限",
        ),
        raw: Raw::default(),
        means: text!(
            "it may not read customers, so none of them can be looked up or linked",
            "应用无法读取客户，因此无法查询和关联",
        ),
        todo: Todo {
            text: text!(
                "request 客户联系 → 客户基础信息 for the app in 服务商管理后台, and have the brand's administrator \
                 confirm it",
                "请在服务商管理后台为应用申请权限“客户联系 → 客户基础信息”，并由品牌企业的管理员确认",
            ),
        },
    }
}

fn without_app(facts: &SuiteFacts<'_>, record: &Authorization) -> Finding {
    let (suite, corp, corp_id) = (facts.suite, corp(record), &record.corp_id);
    Finding {
        code: FindingCode::BrandWithoutApp,
        state: FindingState::Warn,
        subject: CorpNames::of([by_name(record)]).subject(suite),
        since: Some(record.granted_at),
        seen: text!(
            "the brand {corp} has authorised the suite {suite}, and no app serves it",
            "品牌企业 {corp} 已授权模版 {suite}，但没有应用为其服务",
        ),
        raw: Raw::default(),
        means: text!("its events wait in quarantine", "其事件被隔离，等待处理"),
        todo: Todo {
            text: text!(
                "add an [[apps]] section with suite = \"{suite}\" and corp_id = \"{corp_id}\", and restart",
                "请在配置中增加一个 [[apps]]，设置 suite = \"{suite}\" 和 corp_id = \"{corp_id}\"，然后重启",
            ),
        },
    }
}

fn incomplete(facts: &SuiteFacts<'_>, records: Vec<&Authorization>) -> Option<Finding> {
    let since = records.iter().map(|record| record.changed_at).min()?;
    let (suite, corps) = (facts.suite, CorpNames::of(records.into_iter().map(by_name)));
    let Text { en, zh } = corps.some();
    Some(Finding {
        code: FindingCode::Incomplete,
        state: FindingState::Warn,
        subject: corps.subject(suite),
        since: Some(since),
        seen: text!(
            "the suite {suite} was authorised by {en}, and the app there could not be read yet",
            "{zh} 已授权模版 {suite}，但尚未读到其应用信息",
        ),
        raw: Raw::default(),
        means: text!("nothing is done with this authorisation until then", "在此之前无法使用该授权"),
        todo: Todo {
            text: text!(
                "wait: it is read again by itself; the log has WeCom's answer (\"the app at a corp could not \
                 be read\")",
                "请等待，将自动重试；企业微信的返回见日志（the app at a corp could not be read）",
            ),
        },
    })
}

fn unverified(facts: &SuiteFacts<'_>, records: Vec<&Authorization>) -> Option<Finding> {
    if records.is_empty() {
        return None;
    }
    let corps = CorpNames::of(records.into_iter().map(by_name));
    let Text { en, zh } = corps.some();
    Some(Finding {
        code: FindingCode::Unverified,
        state: FindingState::Warn,
        subject: corps.subject(facts.suite),
        since: None,
        seen: text!("WeCom has not verified {en}", "{zh} 尚未通过企业微信的验证"),
        raw: Raw::default(),
        means: text!(
            "WeCom converts customers only where brand and dealer are verified",
            "仅当品牌企业和经销商均已验证时，企业微信才允许转换客户 ID",
        ),
        todo: Todo {
            text: text!(
                "have the corp get verified in its own admin console",
                "请该企业在其管理后台完成企业验证",
            ),
        },
    })
}

fn sealed(facts: &SuiteFacts<'_>, records: Vec<&Authorization>) -> Option<Finding> {
    if records.is_empty() {
        return None;
    }
    let corps = CorpNames::of(records.into_iter().map(by_name));
    let Text { en, zh } = corps.some();
    Some(Finding {
        code: FindingCode::Sealed,
        state: FindingState::Fail,
        subject: corps.subject(facts.suite),
        since: None,
        seen: text!(
            "the stored permanent code of {en} cannot be decrypted",
            "已存储的 {zh} 的永久授权码无法解密",
        ),
        raw: Raw::default(),
        means: text!(
            "no call is made with this authorisation: it was stored under another suite secret",
            "无法使用该授权调用企业微信：存储时使用的是另一个 suite_secret",
        ),
        todo: Todo {
            text: text!(
                "set previous_suite_secret to the suite secret before the change and restart, or choose \
                 重新获取 secret for the corp in 服务商管理后台",
                "请将 previous_suite_secret 设为更换前的 suite_secret 并重启，\
                 或在服务商管理后台为该企业“重新获取 secret”",
            ),
        },
    })
}

fn by_name(record: &Authorization) -> (&CorpId, Option<&str>) {
    (&record.corp_id, Some(record.name.as_str()))
}

/// Corps as a text names them.
pub(super) struct CorpNames<'a>(Vec<(&'a CorpId, Option<&'a str>)>);

impl<'a> CorpNames<'a> {
    /// The corps with these ids and names.
    pub(super) fn of(corps: impl IntoIterator<Item = (&'a CorpId, Option<&'a str>)>) -> Self {
        let corps = corps.into_iter().map(|(id, name)| (id, name.filter(|name| !name.is_empty())));
        Self(corps.collect())
    }

    /// A finding about them: about one corp, it names it.
    pub(super) fn subject(&self, suite: &AppName) -> Subject {
        let (corp_id, corp_name) = match self.0.as_slice() {
            [(corp_id, name)] => (Some((*corp_id).clone()), name.map(str::to_owned)),
            _ => (None, None),
        };
        Subject { suite: Some(suite.clone()), corp_id, corp_name, ..Subject::default() }
    }

    /// All of them.
    pub(super) fn all(&self) -> Text {
        self.first(usize::MAX)
    }

    /// The first ones, and how many others there are.
    pub(super) fn some(&self) -> Text {
        self.first(NAMED_MAX)
    }

    /// The first ones between a prefix and a suffix; empty if there is none.
    pub(super) fn after(&self, en: &str, zh: &str, zh_end: &str) -> (String, String) {
        if self.0.is_empty() {
            return (String::new(), String::new());
        }
        let Text { en: corps_en, zh: corps_zh } = self.some();
        (format!("{en}{corps_en}"), format!("{zh}{corps_zh}{zh_end}"))
    }

    fn first(&self, max: usize) -> Text {
        let shown: Vec<_> =
            self.0.iter().take(max).map(|(corp_id, name)| named(*name, corp_id.as_str())).collect();
        let (en, zh) = (shown.join(", "), shown.join("、"));
        match self.0.len() - shown.len() {
            0 => Text { en, zh },
            others => {
                let all = self.0.len();
                text!("{en} and {others} more", "{zh} 等 {all} 家企业")
            }
        }
    }
}
