//! The findings about apps that serve no brand.

use super::code::FindingCode;
use super::corps::CorpNames;
use super::facts::{AppFacts, SuiteFacts};
use super::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::bindings::Unserved;
use crate::domain::text::{Text, text};

/// The apps that serve no brand, each with the reason.
pub(super) fn unserved(facts: &SuiteFacts<'_>) -> Vec<Finding> {
    let of_app = |app: &AppFacts<'_>| Some(finding(facts, app, app.brand.as_ref().err()?));
    facts.apps.iter().filter_map(of_app).collect()
}

fn finding(
    facts: &SuiteFacts<'_>,
    AppFacts { app, configured, .. }: &AppFacts<'_>,
    why: &Unserved,
) -> Finding {
    let suite = facts.suite;
    let (code, state, corp_id) = match why {
        Unserved::NoBrand => (FindingCode::AppWaiting, FindingState::Warn, configured.cloned()),
        Unserved::Several(_) => (FindingCode::AppAmbiguous, FindingState::Fail, None),
        Unserved::OtherBrand { configured, .. } => {
            (FindingCode::AppOfOtherBrand, FindingState::Fail, Some(configured.clone()))
        }
        Unserved::Taken { corp_id, .. } => (FindingCode::AppTaken, FindingState::Fail, Some(corp_id.clone())),
    };
    let seen = match (why, configured) {
        (Unserved::NoBrand, Some(corp_id)) => text!(
            "the brand {corp_id} of the app {app} has not authorised the suite {suite}",
            "应用 {app} 的品牌企业 {corp_id} 尚未授权模版 {suite}",
        ),
        (Unserved::NoBrand, None) => text!(
            "no brand that the app {app} could serve has authorised the suite {suite}",
            "尚无可由应用 {app} 服务的品牌企业授权模版 {suite}",
        ),
        (Unserved::Several(brands), _) => {
            let brands = brands.iter().map(|(corp_id, name)| (corp_id, Some(name.as_str())));
            let Text { en, zh } = CorpNames::of(brands).all();
            text!(
                "several brands have authorised the suite {suite}, and the app {app} has no corp_id: {en}",
                "已有多个品牌企业授权模版 {suite}，而应用 {app} 未设置 corp_id：{zh}",
            )
        }
        (Unserved::OtherBrand { bound, configured }, _) => text!(
            "the app {app} is configured for the brand {configured}, and the data under its name is that of \
             the brand {bound}",
            "应用 {app} 配置的品牌企业为 {configured}，而此名称下的数据属于 {bound}",
        ),
        (Unserved::Taken { corp_id, by }, _) => text!(
            "the app {app} has no brand of its own: the app {by} serves {corp_id}",
            "应用 {app} 没有自己的品牌企业：{corp_id} 由应用 {by} 服务",
        ),
    };
    Finding {
        code,
        state,
        subject: Subject { suite: Some(suite.clone()), corp_id, ..Subject::app(app) },
        since: None,
        seen,
        raw: Raw::default(),
        means: text!(
            "no call is made for the app; its fans and events wait",
            "不会为该应用调用企业微信；其粉丝和事件等待处理",
        ),
        todo: Todo { text: todo(why) },
    }
}

fn todo(why: &Unserved) -> Text {
    match why {
        Unserved::NoBrand => text!(
            "have the brand's administrator scan the template's authorisation QR code",
            "请品牌企业的管理员扫描模版的授权二维码",
        ),
        Unserved::Several(_) => text!(
            "set corp_id of the app to the brand that it is for, and restart",
            "请将该应用的 corp_id 设为对应的品牌企业，然后重启",
        ),
        Unserved::OtherBrand { bound, .. } => text!(
            "set corp_id back to {bound} and restart, or use another app name for the other brand",
            "请将 corp_id 改回 {bound} 并重启，或为另一品牌企业使用另一个应用名称",
        ),
        Unserved::Taken { .. } => text!(
            "give each app of the suite the corp_id of another brand, or remove one of the two, and restart",
            "请为该模版的每个应用设置不同的 corp_id，或删除其中一个，然后重启",
        ),
    }
}
