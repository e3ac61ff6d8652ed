//! WeCom's error codes (document 90313): the class of each, and what an operator can do about it.
//!
//! Decisions follow the class, never the text of an answer; the callers decide what each class leads to.

mod agency;

use strum::{IntoStaticStr, VariantArray};

use super::credentials::Development;
use super::remedy::Remedy;

/// The code for a `suite_ticket` that has expired or is not the suite's.
pub(crate) const INVALID_TICKET: i64 = 40_085;
/// The code that calls about a member without a licence are refused with (document 97176).
pub(crate) const NO_LICENCE: i64 = 701_008;

/// The class of a failure, which decides how to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Class {
    /// Temporary: retry with backoff.
    Transient,
    /// The access token is no longer valid: fetch a new one, once per token.
    Token,
    /// A call limit is reached: make no calls of this API for the length of the window.
    Rate,
    /// This id will never work: do not retry it.
    Item,
    /// The customer, or the member that follows them, is outside the app's visible range, which an
    /// administrator may widen: retry later.
    Invisible,
    /// An operator has to correct a setting: pause the app or dealer and probe slowly; no attempt is counted.
    Configuration,
    /// Not a code we know: retry a few times, slowly.
    Unknown,
}

/// The class of a code.
#[must_use]
pub const fn class(errcode: i64) -> Class {
    match errcode {
        -1 | 6_000 | 45_033 | 45_035 | 45_036 => Class::Transient,
        40_014 | 42_001 | 41_001 | 42_009 | 40_082 => Class::Token,
        45_009 | 45_011 => Class::Rate,
        60_011 | 60_030 | 60_031 | 81_013 | 670_027 | 670_029 => Class::Invisible,
        40_003 | 40_050 | 40_058 | 40_063 | 40_073 | 40_078 | 40_096 | 41_050 | 41_051 | 49_008 | 50_100
        | 60_111 | 60_268 | 84_061 | 84_083 | 84_084 | 86_001 | 86_003 | 90_501 | 90_509 | 610_014
        | 670_002 | 670_003 | 670_030 | 670_031 => Class::Item,
        40_001
        | 40_013
        | 40_056
        | 40_057
        | 40_080
        | 40_083
        | 40_084
        | INVALID_TICKET
        | 40_091
        | 43_009
        | 43_012
        | 48_001..=48_011
        | 50_003
        | 60_020
        | 81_017
        | 84_074
        | 85_010
        | 85_011
        | 90_510
        | 92_002
        | 301_002
        | 301_007
        | 301_042
        | 610_015..=610_018
        | 610_023
        | 610_024
        | 670_001
        | 670_004
        | 701_000..=701_999
        | 842_002..=842_006
        | 845_001..=845_003
        | 846_000 => Class::Configuration,
        _ => Class::Unknown,
    }
}

/// Whether a code may mean that the call needs the other corp's token: the dealer's instead of the brand's,
/// or the reverse.
#[must_use]
pub const fn may_be_wrong_token(errcode: i64) -> bool {
    matches!(errcode, 48_002 | 60_011 | 84_074 | 92_002 | 301_002)
}

/// Whether WeCom refuses this call while it may allow others; an optional call is then left out for a while.
#[must_use]
pub const fn is_call_forbidden(errcode: i64) -> bool {
    matches!(errcode, 48_001 | 48_002 | 48_005 | 84_074 | 301_002)
}

/// Whether too many calls of one corp ran at once.
#[must_use]
pub const fn is_concurrency(errcode: i64) -> bool {
    matches!(errcode, 45_033 | 45_035 | 45_036)
}

/// Whether the app cannot see the customer, or the member that follows them. 40096 and 84061 may also mean
/// that the customer was deleted, or that WeCom does not know a new one yet.
#[must_use]
pub const fn is_not_visible(errcode: i64) -> bool {
    matches!(errcode, 40_096 | 60_011 | 60_030 | 60_031 | 81_013 | 84_061)
}

/// Whether the app is no longer shared with the dealer.
#[must_use]
pub const fn is_dealer_gone(errcode: i64) -> bool {
    matches!(errcode, 670_001 | 670_004)
}

/// Whether a customer group was dismissed, or is none.
#[must_use]
pub const fn is_chat_gone(errcode: i64) -> bool {
    matches!(errcode, 40_050 | 49_008 | 86_001 | 86_003 | 90_501 | 90_509)
}

/// Whether the cursor of a list can no longer be used: the list has to be read from its beginning.
#[must_use]
pub const fn is_bad_cursor(errcode: i64) -> bool {
    matches!(errcode, 50_100 | 60_268)
}

/// The remedy of a code, for an app of this kind.
#[must_use]
pub const fn remedy_for(errcode: i64, development: Development) -> Remedy {
    match (development, agency::remedy(errcode)) {
        (Development::Agency, Some(remedy)) => remedy,
        (Development::Agency, None) | (Development::SelfBuilt, _) => remedy(errcode),
    }
}

/// The remedy of a code for a self-built app.
#[must_use]
pub const fn remedy(errcode: i64) -> Remedy {
    let (en, zh) = match errcode {
        -1 => ("wait: WeCom is busy, and the call is retried", "无需处理：企业微信系统繁忙，将自动重试"),
        6_000 => {
            ("wait: the data has just changed, and the call is retried", "无需处理：数据刚刚变化，将自动重试")
        }
        40_003 | 60_111 => (
            "check in 通讯录 that the member still exists: WeCom does not know the id",
            "请在“通讯录”中确认该成员存在：企业微信查不到该成员",
        ),
        40_014 | 42_001 | 41_001 => (
            "wait: the access token is no longer valid, and a new one is fetched",
            "无需处理：access_token 已失效，将自动重新获取",
        ),
        40_058 => (
            "check the ids at their source: one is malformed or too long",
            "请核对 ID 的来源：有 ID 格式错误或过长",
        ),
        40_063 => ("check the ids at their source: one is empty", "请核对 ID 的来源：有 ID 为空"),
        40_082 | 42_009 => (
            "wait: the suite's access token is no longer valid, and a new one is fetched",
            "无需处理：suite_access_token 已失效，将自动重新获取",
        ),
        41_050 | 41_051 => {
            ("do nothing: the welcome message can no longer be sent", "无需处理：欢迎语已不能发送")
        }
        40_073 => (
            "check the openid at its source: it must come from the same mini program as the unionid",
            "请核对 openid 的来源：须与 unionid 来自同一小程序",
        ),
        40_096 => (
            "have the dealer add the member who follows this customer to the app's 可见范围: the app cannot \
             see the customer",
            "请经销商将跟进此客户的成员加入应用的“可见范围”：应用查不到此客户",
        ),
        45_009 | 45_011 => (
            "wait: the call limit is reached, and this API is called again after WeCom's documented window",
            "无需处理：调用次数已达上限，限制解除后自动恢复调用",
        ),
        45_033 | 45_035 | 45_036 => (
            "wait: too many calls ran at once, and they are retried more slowly",
            "无需处理：并发调用过多，将降低频率后重试",
        ),
        40_050 | 49_008 | 86_001 | 86_003 | 90_501 | 90_509 => (
            "do nothing: the group was dismissed, or is not a customer group",
            "无需处理：群已解散，或不是客户群",
        ),
        50_100 | 60_268 => (
            "wait: the place in a list is no longer valid, and the list is read from its beginning",
            "无需处理：分页游标已失效，将从头重新读取列表",
        ),
        60_011 | 60_030 | 60_031 | 81_013 => (
            "have the dealer add the members who follow customers to the app's 可见范围: the customer's \
             follower is outside it",
            "请经销商将跟进客户的成员加入应用的“可见范围”：此客户的跟进成员不在其中",
        ),
        84_061 => (
            "check with the dealer that the customer was not deleted: WeCom knows no relation of the two",
            "请与经销商确认此客户未被删除：企业微信查不到双方的客户关系",
        ),
        84_083 => (
            "check in 客户联系 that the member may have customers: the member lacks that permission",
            "请在“客户联系”中确认该成员可以添加客户：该成员没有客户联系权限",
        ),
        84_084 => (
            "check with the dealer that the member still follows this customer: WeCom knows no relation of \
             the two",
            "请与经销商确认该成员仍在跟进此客户：企业微信查不到双方的客户关系",
        ),
        610_014 => (
            "check the unionid at its source: it is not valid, or it is of another open-platform account",
            "请核对 unionid 的来源：unionid 无效，或属于其他微信开放平台账号",
        ),
        670_002 | 670_003 | 670_030 | 670_031 => (
            "check 上下游 in the admin console: the chain does not exist, or the app may not read it",
            "请在管理后台检查“上下游”：该上下游或分组不存在，或应用无权查看",
        ),
        670_027 | 670_029 => (
            "add the corp to the app's 可见范围 in 上下游: it is outside it",
            "请在“上下游”中将该企业加入应用的“可见范围”：该企业不在其中",
        ),
        _ => return setting_remedy(errcode),
    };
    Remedy { en, zh }
}

/// The remedy of a code that calls for another setting, and of a code that is not known.
const fn setting_remedy(errcode: i64) -> Remedy {
    let (en, zh) = match errcode {
        40_001 | 40_091 => (
            "copy the secret again from the app's page in the admin console: this one is not the app's",
            "请在管理后台的应用页面重新复制 Secret：当前的 secret 与该应用不符",
        ),
        40_013 => (
            "copy the corp id again from 我的企业 in the admin console: this one does not exist",
            "请从管理后台的“我的企业”中重新复制企业 ID：当前的企业 ID 不存在",
        ),
        40_056 => (
            "copy the AgentId again from the app's page in the admin console: this one does not exist",
            "请在管理后台的应用页面重新复制 AgentId：当前的 agent_id 不存在",
        ),
        43_009 | 610_016 => (
            "complete 企业认证 in the admin console: the corp is not verified",
            "请在管理后台完成“企业认证”：企业未认证",
        ),
        48_001 | 48_002 => (
            "add the app to 可调用接口的应用 in 客户联系 and in 上下游: it may not call this API",
            "请在“客户联系”和“上下游”的“可调用接口的应用”中添加该应用：应用无权调用该接口",
        ),
        48_004..=48_006 => (
            "grant the permission again in the admin console: it was withdrawn",
            "请在管理后台重新授权：权限已被收回",
        ),
        48_011 => (
            "follow the notice in the admin console: the corp is not active enough to read customer data",
            "请按管理后台的提示处理：企业活跃度不足，无法获取客户数据",
        ),
        50_003 => {
            ("enable the app in the admin console: it is disabled", "请在管理后台启用该应用：应用已停用")
        }
        60_020 | 301_042 => (
            "add the service's outgoing IP address, as WeCom sees it, to the app's 企业可信IP: it is not trusted",
            "请将服务的出口 IP（以企业微信看到的为准）加入应用的“企业可信IP”，约一分钟后生效：该 IP 不受信任",
        ),
        81_017 => (
            "have the dealer limit the app's 可见范围 to 1,000 members: with more, WeCom lists no groups",
            "请经销商将应用的“可见范围”控制在 1000 人以内：超过后企业微信不返回客户群列表",
        ),
        84_074 => (
            "have the dealer's administrator grant 企业客户权限 to the shared app: it may not read customers",
            "请经销商的管理员为共享应用授予“企业客户权限”：应用没有客户权限",
        ),
        90_510 => (
            "have the dealer use WeCom again: the corp has not been active for a year",
            "请经销商恢复使用企业微信：该企业已一年不活跃",
        ),
        92_002 => (
            "set the app's conversion_token to \"auto\": this token does not allow calls across corps",
            "请将应用的 conversion_token 设为 \"auto\"：此 token 不允许跨企业调用",
        ),
        301_002 => (
            "add the app to 可调用接口的应用 in 上下游: its token may not do this",
            "请在“上下游”的“可调用接口的应用”中添加该应用：其 token 无权执行该操作",
        ),
        301_007 => (
            "ask the corp to have it restored by WeCom: it is dissolved or banned",
            "请该企业联系企业微信恢复：企业已解散或被封禁",
        ),
        610_015 => (
            "have the WeChat open-platform account verified: it is not",
            "请完成微信开放平台账号的认证：账号未认证",
        ),
        610_017 | 845_002 | 845_003 => (
            "use a mini program that the corp's own company registered: the subjects (主体) differ",
            "请改用与企业同一主体的小程序：小程序与企业的主体不一致",
        ),
        610_018 => (
            "check openid and unionid at their source: they are not of the same open-platform account",
            "请核对 openid 和 unionid 的来源：二者不属于同一微信开放平台账号",
        ),
        610_023 | 610_024 => (
            "have the dealer complete 企业认证 or raise its limit of customers: WeCom restricts the corp",
            "请经销商完成“企业认证”或提升客户数上限：企业的客户规模或资质受限",
        ),
        670_001 => (
            "share the app with this dealer in 上下游: it is not shared",
            "请在“上下游”中将应用共享给该经销商：应用未共享",
        ),
        670_004 => (
            "invite the corp in 上下游: it is not in this chain",
            "请在“上下游”中邀请该企业：该企业不在此上下游中",
        ),
        701_000..=701_999 => {
            ("buy and activate 接口调用许可: the licence is missing", "请购买并激活“接口调用许可”：缺少许可")
        }
        845_001 => (
            "check the openid at its source: it is not of a mini program or service account (服务号)",
            "请核对 openid 的来源：openid 不属于小程序或服务号",
        ),
        _ => (
            "look the code up at https://developer.work.weixin.qq.com/document/path/90313",
            "请查阅 https://developer.work.weixin.qq.com/document/path/90313",
        ),
    };
    Remedy { en, zh }
}

#[cfg(test)]
mod tests;
