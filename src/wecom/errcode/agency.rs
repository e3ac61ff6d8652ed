//! The remedies that differ for agency-developed apps: many settings are in the provider's console
//! (服务商管理后台), secrets come with an authorisation, and API licences are needed.

use crate::wecom::remedy::Remedy;

/// The remedy of a code for an agency-developed app; `None` where it is that of any app.
pub(super) const fn remedy(errcode: i64) -> Option<Remedy> {
    let (en, zh) = match errcode {
        40_001 | 40_084 | 40_091 => (
            "choose 重新获取 secret for the corp in 服务商管理后台, or have it authorise again (a brand by the \
             template's QR code, a dealer by installing the shared app again): its permanent code is \
             not valid",
            "请在服务商管理后台为该企业“重新获取 secret”，或请该企业重新授权（品牌企业扫描模版的授权二维码，\
             经销商重新安装共享的应用）：永久授权码无效",
        ),
        40_013 => (
            "have the corp authorise again (a brand by the template's QR code, a dealer by installing \
             the shared app again): WeCom does not know its corp id, or has banned the corp",
            "请该企业重新授权（品牌企业扫描模版的授权二维码，经销商重新安装共享的应用）：企业微信查不到该企业 ID，或企业已被封禁",
        ),
        40_056 => (
            "have the corp authorise again (a brand by the template's QR code, a dealer by installing \
             the shared app again): the app no longer exists there",
            "请该企业重新授权（品牌企业扫描模版的授权二维码，经销商重新安装共享的应用）：企业中已没有该应用",
        ),
        40_078 => (
            "have the corp authorise again (a brand by the template's QR code, a dealer by installing \
             the shared app again), or choose 重新获取 secret for it in 服务商管理后台: the auth code is not \
             valid, was used, or is older than 10 minutes",
            "请该企业重新授权（品牌企业扫描模版的授权二维码，经销商重新安装共享的应用），\
             或在服务商管理后台为其“重新获取 secret”：临时授权码无效、已被使用或已超过 10 分钟",
        ),
        40_080 => (
            "copy suite_secret again from the template's page in 服务商管理后台: this one is not the \
             template's",
            "请在服务商管理后台的模版页面重新复制 suite_secret：当前的 suite_secret 与该模版不符",
        ),
        40_083 => (
            "copy suite_id again from the template's page in 服务商管理后台: this one does not exist",
            "请在服务商管理后台的模版页面重新复制 suite_id：当前的 suite_id 不存在",
        ),
        40_085 => (
            "wait: the suite_ticket is not valid, and the next, which WeCom sends within 10 minutes, is used",
            "无需处理：suite_ticket 无效，企业微信将在 10 分钟内推送新的，届时自动重试",
        ),
        43_009 | 610_016 => (
            "complete the provider's verification in 服务商管理后台, and have the brand complete 企业认证: one \
             of the two is not verified",
            "请完成服务商认证，并请品牌企业完成“企业认证”：两者之一未认证",
        ),
        48_001 | 48_002 | 48_005 | 48_006 | 84_074 => (
            "request 客户联系 → 客户基础信息 for the app in 服务商管理后台 and have the corp's administrator \
             confirm it: the app may not call this API",
            "请在服务商管理后台为应用申请权限“客户联系 → 客户基础信息”，并由企业管理员确认：应用无权调用该接口",
        ),
        48_003 | 48_004 => (
            "have the corp authorise again (a brand by the template's QR code, a dealer by installing \
             the shared app again): it has not authorised the template, or has cancelled",
            "请该企业重新授权（品牌企业扫描模版的授权二维码，经销商重新安装共享的应用）：该企业未授权，或已取消授权",
        ),
        48_011 => (
            "have the corp follow the notice in its admin console: it is not active enough for its customer \
             data to be read",
            "请该企业按其管理后台的提示处理：企业活跃度不足，无法获取客户数据",
        ),
        50_003 => (
            "have the corp enable the app in its admin console: it is disabled",
            "请该企业在其管理后台启用该应用：应用已停用",
        ),
        60_020 | 301_042 => (
            "add the service's outgoing IP address, as WeCom sees it, to 服务商信息 → 基本信息 → IP白名单 \
             in 服务商管理后台, and to the app's own IP白名单 if one is set: it is not trusted",
            "请将服务的出口 IP（以企业微信看到的为准）加入服务商管理后台的“服务商信息 → 基本信息 → IP白名单”；\
             若应用另设了“IP白名单”，也须加入：该 IP 不受信任",
        ),
        92_002 => (
            "set the app's conversion_token to \"auto\", and have the dealer install the shared app if \
             that is not enough: this token does not allow calls across corps",
            "请将应用的 conversion_token 设为 \"auto\"，仍不行则请经销商安装共享的应用：\
             此 token 不允许跨企业调用",
        ),
        301_002 => (
            "request the app's permissions in 服务商管理后台 and have the corp's administrator confirm them: \
             its token may not do this",
            "请在服务商管理后台为应用申请所需权限，并由企业管理员确认：其 token 无权执行该操作",
        ),
        701_000..=701_999 => (
            "buy and activate 互通账号 (接口调用许可) as the provider, for a dealer's members with \
             batch_share_active_code: the licence is missing",
            "请服务商购买并激活“接口调用许可”的互通账号，经销商成员的账号可用 batch_share_active_code 分配：\
             缺少许可",
        ),
        _ => return None,
    };
    Some(Remedy { en, zh })
}
