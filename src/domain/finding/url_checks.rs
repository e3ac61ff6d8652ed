//! The findings about callback URLs that WeCom checked for an id that is not accepted there: most often
//! `corp_id` is wrong.

use super::code::FindingCode;
use super::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::text::{Text, text};
use crate::domain::time::Timestamp;

/// A URL check that was refused because of its receive id.
#[derive(Debug, Clone)]
pub struct UrlCheckFacts<'a> {
    /// The URL.
    pub url: CheckedUrl<'a>,
    /// The receive id that the check was sealed for.
    pub receive_id: &'a str,
    /// When a check for this receive id was first refused.
    pub at: Timestamp,
}

/// A callback URL.
#[derive(Debug, Clone, Copy)]
pub enum CheckedUrl<'a> {
    /// Of a self-built app.
    SelfBuilt {
        /// The app.
        app: &'a AppName,
        /// Its corp in the configuration.
        corp_id: &'a CorpId,
    },
    /// Of an agency-developed app with a URL of its own.
    Agency {
        /// The app.
        app: &'a AppName,
        /// Its suite.
        suite: &'a AppName,
    },
    /// Of a suite.
    Suite(&'a AppName),
}

/// The callback URLs whose last check was refused because of its receive id.
#[must_use]
pub fn url_check_findings(checks: &[UrlCheckFacts<'_>]) -> Vec<Finding> {
    checks.iter().map(finding).collect()
}

fn finding(UrlCheckFacts { url, receive_id, at }: &UrlCheckFacts<'_>) -> Finding {
    let subject = match *url {
        CheckedUrl::SelfBuilt { app, corp_id } => {
            Subject { app: Some(app.clone()), corp_id: Some(corp_id.clone()), ..Subject::default() }
        }
        CheckedUrl::Agency { app, suite } => {
            Subject { app: Some(app.clone()), suite: Some(suite.clone()), ..Subject::default() }
        }
        CheckedUrl::Suite(suite) => Subject { suite: Some(suite.clone()), ..Subject::default() },
    };
    // Quoted, because it may be empty or any text.
    let seen = match url {
        CheckedUrl::SelfBuilt { app, corp_id } => text!(
            "WeCom checked the callback URL of the app {app} for the receive id {receive_id:?}; corp_id is \
             {corp_id}",
            "企业微信验证应用 {app} 的回调 URL 时，接收方 ID 为 {receive_id:?}，而 corp_id 为 {corp_id}",
        ),
        CheckedUrl::Agency { app, suite } => text!(
            "WeCom checked the callback URL of the app {app} for the receive id {receive_id:?}, which is not \
             that of the provider, of the suite {suite} or of a corp that has authorised it",
            "企业微信验证应用 {app} 的回调 URL 时，接收方 ID 为 {receive_id:?}，\
             不是服务商、模版 {suite} 或已授权企业的 ID",
        ),
        CheckedUrl::Suite(suite) => text!(
            "WeCom checked the callback URL of the suite {suite} for the receive id {receive_id:?}, which is \
             not that of the provider, of the suite or of a corp that has authorised it",
            "企业微信验证模版 {suite} 的回调 URL 时，接收方 ID 为 {receive_id:?}，\
             不是服务商、该模版或已授权企业的 ID",
        ),
    };
    Finding {
        code: FindingCode::ReceiveId,
        state: FindingState::Fail,
        subject,
        since: Some(*at),
        seen,
        raw: Raw::default(),
        means: text!(
            "WeCom has not saved the URL; it sends events only to a URL that it has saved",
            "企业微信未保存该 URL；保存成功后才会推送事件",
        ),
        todo: Todo { text: todo(url) },
    }
}

fn todo(url: &CheckedUrl<'_>) -> Text {
    match url {
        CheckedUrl::SelfBuilt { .. } => text!(
            "compare corp_id with 我的企业 → 企业信息 → 企业ID in WeCom's admin console, correct it and \
             restart; if the receive id is yours, add it to accept_receive_ids of the app and reload \
             instead. Then save the URL again: this finding ends when the check succeeds",
            "请核对 corp_id 与管理后台“我的企业 → 企业信息 → 企业ID”，更正后重启；\
             如果该接收方 ID 属于你，则加入应用的 accept_receive_ids 并重新加载。\
             然后再次保存 URL，验证成功后此条消失",
        ),
        CheckedUrl::Agency { .. } | CheckedUrl::Suite(_) => text!(
            "compare provider_corp_id and suite_id with the provider's, correct them and restart; if the \
             receive id is yours, add it to accept_receive_ids of an app of the suite and reload instead. \
             Then save the URL again: this finding ends when the check succeeds",
            "请核对 provider_corp_id 和 suite_id 与服务商管理后台是否一致，更正后重启；\
             如果该接收方 ID 属于你，则加入该模版任一应用的 accept_receive_ids 并重新加载。\
             然后再次保存 URL，验证成功后此条消失",
        ),
    }
}
