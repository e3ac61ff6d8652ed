//! The findings about auth codes that could not be exchanged. An auth code does not name its corp.

use super::code::FindingCode;
use super::facts::SuiteFacts;
use super::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::suite::{Exchange, ExchangeEnd};
use crate::domain::text::{Text, text};

/// The exchanges that failed, one finding for each way. If there is only one and a corp was granted since,
/// that was most likely the same corp, which authorised again.
pub(super) fn ended_exchanges(facts: &SuiteFacts<'_>) -> Vec<Finding> {
    let ended: Vec<_> =
        facts.exchanges.iter().filter_map(|(_, exchange)| Some((exchange, exchange.end?))).collect();
    if let [(only, _)] = ended.as_slice()
        && facts.authorizations.iter().any(|one| one.record.granted_at > only.sent_at)
    {
        return Vec::new();
    }
    let codes = [
        FindingCode::AuthCodeLost,
        FindingCode::AuthCodeExpired,
        FindingCode::AuthCodeRefused,
        FindingCode::Sealed,
    ];
    let of_code = |code| {
        let of_code: Vec<_> = ended.iter().copied().filter(|(_, end)| finding_code(*end) == code).collect();
        ended_as(facts, code, &of_code)
    };
    codes.into_iter().filter_map(of_code).collect()
}

const fn finding_code(end: ExchangeEnd) -> FindingCode {
    match end {
        ExchangeEnd::Lost { .. } => FindingCode::AuthCodeLost,
        ExchangeEnd::Expired { .. } => FindingCode::AuthCodeExpired,
        ExchangeEnd::Refused { .. } => FindingCode::AuthCodeRefused,
        ExchangeEnd::Unreadable { .. } => FindingCode::Sealed,
    }
}

fn ended_as(
    facts: &SuiteFacts<'_>,
    code: FindingCode,
    exchanges: &[(&Exchange, ExchangeEnd)],
) -> Option<Finding> {
    let suite = facts.suite;
    let (newest, newest_end) = *exchanges.iter().max_by_key(|(exchange, _)| exchange.received_at)?;
    let at = newest.received_at.in_china();
    let subject = match exchanges.len() {
        1 => text!(
            "an auth code of the suite {suite}, received at {at},",
            "模版 {suite} 于 {at} 收到的临时授权码"
        ),
        n => text!(
            "{n} auth codes of the suite {suite}, the last received at {at},",
            "模版 {suite} 的 {n} 个临时授权码（最近一个收到于 {at}）",
        ),
    };
    let Text { en: how_en, zh: how_zh } = how(newest_end, exchanges.len());
    let (en, zh) = (subject.en, subject.zh);
    Some(Finding {
        code,
        state: FindingState::Fail,
        subject: Subject { suite: Some(suite.clone()), ..Subject::default() },
        since: exchanges.iter().map(|(_, end)| end.at()).min(),
        seen: text!("{en} {how_en}", "{zh}{how_zh}"),
        raw: Raw::default(),
        means: text!(
            "the authorisation of a corp is not complete; which corp it is, WeCom does not say",
            "有企业的授权未完成；企业微信的推送不含企业信息，无法得知是哪一家",
        ),
        todo: Todo {
            text: text!(
                "have the corp authorise again (a brand by the template's QR code, a dealer by installing the \
                 shared app again), or choose 重新获取 secret for it in 服务商管理后台. This finding ends with \
                 POST /v1/resume {{\"app\": \"{suite}\"}}, or after 7 days",
                "请该企业重新授权（品牌企业扫描模版的授权二维码，经销商重新安装共享的应用），\
                 或在服务商管理后台为其“重新获取 secret”。\
                 以 {{\"app\": \"{suite}\"}} 执行 POST /v1/resume 可清除此条，7 天后也会自动清除",
            ),
        },
    })
}

fn how(end: ExchangeEnd, count: usize) -> Text {
    let was = if count == 1 { "was" } else { "were" };
    match end {
        ExchangeEnd::Lost { .. } => text!(
            "{was} used up by a call to which no answer was received",
            "已在一次未收到响应的调用中被使用",
        ),
        ExchangeEnd::Expired { .. } => {
            text!("{was} not exchanged within 10 minutes", "未能在 10 分钟内换取永久授权码")
        }
        ExchangeEnd::Refused { errcode, .. } => {
            text!("{was} refused by WeCom (code {errcode})", "被企业微信拒绝（错误码 {errcode}）")
        }
        ExchangeEnd::Unreadable { .. } => text!(
            "cannot be decrypted, because the suite secret was changed",
            "无法解密：suite_secret 已更换",
        ),
    }
}
