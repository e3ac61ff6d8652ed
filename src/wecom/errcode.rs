//! WeCom's error codes (document 90313): the class of each, and what an operator can do about it.
//!
//! Decisions follow the class, never the text of an answer; the callers decide what each class leads to.

use strum::{IntoStaticStr, VariantArray};

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
    /// The customer, or the member who follows them, is outside the app's visible range, which an
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
        60_011 | 60_030 | 60_031 | 81_013 => Class::Invisible,
        40_003 | 40_058 | 40_063 | 40_073 | 40_096 | 41_050 | 41_051 | 60_111 | 84_061 | 610_014 => {
            Class::Item
        }
        40_001
        | 40_013
        | 40_056
        | 40_057
        | 40_084
        | 40_085
        | 40_091
        | 43_009
        | 43_012
        | 48_001..=48_011
        | 50_003
        | 60_020
        | 84_074
        | 85_010
        | 85_011
        | 92_002
        | 301_002
        | 301_007
        | 301_042
        | 610_015..=610_018
        | 670_001
        | 670_004
        | 701_000..=701_999
        | 845_001..=845_003 => Class::Configuration,
        _ => Class::Unknown,
    }
}

/// Whether a code may mean that the call needs the other corp's token: the dealer's instead of the brand's,
/// or the reverse.
#[must_use]
pub const fn may_be_wrong_token(errcode: i64) -> bool {
    matches!(errcode, 48_002 | 60_011 | 84_074 | 92_002 | 301_002)
}

/// What a code means and what to do about it, one line in each language for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    /// English, with the admin console's own words for its menus.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

/// The remedy of a code.
#[must_use]
pub const fn remedy(errcode: i64) -> Remedy {
    let (en, zh) = match errcode {
        -1 => ("WeCom is busy; the call is retried", "企业微信系统繁忙，将自动重试"),
        40_001 | 40_091 => (
            "the secret is not this app's; copy it again from the app's page in the admin console",
            "secret 与该应用不符，请在管理后台的应用页面重新复制",
        ),
        40_003 | 60_111 => ("the member does not exist", "成员不存在"),
        40_013 => (
            "the corp id does not exist; copy it from 我的企业 in the admin console",
            "企业 ID 不存在，请从管理后台的“我的企业”中复制",
        ),
        40_014 | 42_001 | 41_001 => (
            "the access token is no longer valid; a new one is fetched",
            "access_token 已失效，将自动重新获取",
        ),
        40_056 => ("the agent id does not exist", "agent_id 不存在"),
        40_058 => ("a parameter is malformed or too long", "参数格式错误或过长"),
        40_073 => (
            "not a valid openid; it must come from the same mini program as the unionid",
            "openid 无效，须与 unionid 来自同一小程序",
        ),
        40_096 => (
            "not an external_userid this corp's app may see",
            "该 external_userid 不在此企业应用的可见范围内",
        ),
        43_009 => ("the corp is not verified; complete 企业认证", "企业未认证，请完成“企业认证”"),
        45_009 | 45_011 => (
            "the call limit is reached; this API is held back for WeCom's documented window",
            "调用次数已达上限，该接口暂停调用，时长以官方文档为准",
        ),
        45_033 | 45_035 | 45_036 => {
            ("too many concurrent calls; retried more slowly", "并发调用过多，将降低频率后重试")
        }
        48_001 | 48_002 => (
            "the app may not call this API; add it to 可调用接口的应用 in 客户联系 and in 上下游",
            "应用无权调用该接口，请在“客户联系”和“上下游”的“可调用接口的应用”中添加该应用",
        ),
        48_004..=48_006 => (
            "the permission was withdrawn; grant it again in the admin console",
            "权限已被收回，请在管理后台重新授权",
        ),
        48_011 => (
            "the corp is not active enough to read customer data; see the notice in the admin console",
            "企业活跃度不足，无法获取客户数据，请查看管理后台的提示",
        ),
        50_003 => ("the app is disabled; enable it in the admin console", "应用已停用，请在管理后台启用"),
        60_011 | 60_030 | 60_031 | 81_013 => (
            "the customer's follower is outside the app's visible range; the corp concerned has to widen it",
            "跟进成员不在应用的“可见范围”内，请相应企业将其加入",
        ),
        60_020 | 301_042 => (
            "our IP address is not trusted; add it to the app's 企业可信IP (takes effect after a minute)",
            "本机 IP 不受信任，请加入应用的“企业可信IP”（约一分钟后生效）",
        ),
        84_061 => ("the corp and this customer are no longer connected", "该客户与此企业已不存在客户关系"),
        84_074 => (
            "no permission for customers; the dealer's administrator must grant 企业客户权限 to the shared app",
            "没有客户权限，请经销商的管理员为共享应用授予“企业客户权限”",
        ),
        92_002 => ("this token does not allow calls across corps", "此 token 不允许跨企业调用"),
        301_002 => {
            ("the token does not belong to an app that may do this", "此 token 所属的应用无权执行该操作")
        }
        301_007 => ("the corp is dissolved or banned", "企业已解散或被封禁"),
        610_014 => ("not a valid unionid", "unionid 无效"),
        610_015 => ("the WeChat open-platform account is not verified", "微信开放平台账号未认证"),
        610_016 => ("the corp is not verified", "企业未认证"),
        610_017 | 845_002 | 845_003 => (
            "mini program and corp have different subjects; one company must have registered both",
            "小程序与企业的主体不一致，须由同一公司注册",
        ),
        610_018 => (
            "openid and unionid are not of the same open-platform account",
            "openid 与 unionid 不属于同一微信开放平台账号",
        ),
        670_001 => (
            "the app is not shared with this dealer; share it in 上下游",
            "应用未共享给该经销商，请在“上下游”中共享",
        ),
        670_004 => {
            ("the corp is not in this chain; invite it in 上下游", "该企业不在此上下游中，请在“上下游”中邀请")
        }
        701_000..=701_999 => ("a licence (接口调用许可) is missing", "缺少“接口调用许可”"),
        845_001 => {
            ("the openid is not of a mini program or service account (服务号)", "openid 不属于小程序或服务号")
        }
        _ => (
            "see https://developer.work.weixin.qq.com/document/path/90313",
            "请查阅 https://developer.work.weixin.qq.com/document/path/90313",
        ),
    };
    Remedy { en, zh }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_fall_into_the_documented_classes() {
        for (class_expected, codes) in [
            (Class::Transient, &[-1, 6_000, 45_033, 45_035][..]),
            (Class::Token, &[40_014, 42_001, 41_001]),
            (Class::Rate, &[45_009]),
            (Class::Item, &[40_096, 84_061, 40_058, 610_014, 40_073]),
            (
                Class::Configuration,
                &[40_001, 60_020, 48_002, 301_002, 670_001, 610_015, 845_003, 701_008, 48_011],
            ),
            (Class::Invisible, &[60_011, 81_013]),
            (Class::Unknown, &[1, 99_999]),
        ] {
            for code in codes {
                assert_eq!(class(*code), class_expected, "{code}");
            }
        }
    }

    #[test]
    fn every_configuration_code_has_a_remedy_of_its_own() {
        let general = remedy(i64::MAX);
        for code in [
            40_001, 40_013, 43_009, 48_002, 50_003, 60_020, 84_074, 92_002, 301_002, 610_015, 610_016,
            610_017, 610_018, 670_001, 670_004, 701_008, 845_001, 845_002, 845_003,
        ] {
            assert_eq!(class(code), Class::Configuration);
            assert_ne!(remedy(code).en, general.en, "{code}");
            assert_ne!(remedy(code).zh, general.zh, "{code}");
        }
    }
}
