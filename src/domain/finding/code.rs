//! What is looked at: the codes of the findings, and what is always the same about each of them.

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use crate::domain::text::{Text, text};

/// What is looked at, for programs. Serialised as its name with the area before it, such as `suite.ticket`. In the order in
/// which findings are listed: causes come first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, IntoStaticStr, VariantArray,
)]
#[serde(into = "&'static str")]
pub enum FindingCode {
    /// Whether the configuration can be used.
    #[strum(serialize = "config.valid")]
    ConfigValid,
    /// Whether every key of the configuration is known.
    #[strum(serialize = "config.unknown_keys")]
    ConfigUnknownKeys,
    /// Whether the service runs with the configuration of the file.
    #[strum(serialize = "config.changed")]
    ConfigChanged,
    /// Whether only their owner can read the files with secrets.
    #[strum(serialize = "secrets.mode")]
    SecretsMode,
    /// Whether secrets in files are older than two years.
    #[strum(serialize = "secrets.age")]
    SecretsAge,
    /// Whether the service and this program have the same version.
    #[strum(serialize = "process.version")]
    ProcessVersion,
    /// Whether open files and memory suffice.
    #[strum(serialize = "process.limits")]
    ProcessLimits,
    /// Whether the service runs where the configuration says.
    #[strum(serialize = "ports.listen")]
    PortsListen,
    /// Whether the admin API cannot be reached from outside.
    #[strum(serialize = "ports.exposure")]
    PortsExposure,
    /// Whether no other process holds the folder of the store.
    #[strum(serialize = "store.lock")]
    StoreLock,
    /// Whether a callback could be made durable now.
    #[strum(serialize = "store.ready")]
    StoreReady,
    /// Whether the store is on a disk that keeps it.
    #[strum(serialize = "store.filesystem")]
    StoreFilesystem,
    /// Whether the disk makes commits durable fast enough.
    #[strum(serialize = "store.fsync")]
    StoreFsync,
    /// Whether the disk has space.
    #[strum(serialize = "store.space")]
    StoreSpace,
    /// Whether every record can be read.
    #[strum(serialize = "store.damaged")]
    StoreDamaged,
    /// Whether checkpoints of the store's log succeed.
    #[strum(serialize = "store.log")]
    StoreLog,
    /// Whether there is a recent backup elsewhere.
    #[strum(serialize = "backup.age")]
    BackupAge,
    /// Whether the clock is synchronised.
    #[strum(serialize = "clock.synced")]
    ClockSynced,
    /// Whether the clock agrees with that of WeCom.
    #[strum(serialize = "clock.skew")]
    ClockSkew,
    /// Whether the host name of WeCom is resolved.
    #[strum(serialize = "net.dns")]
    NetDns,
    /// Whether the proxy to WeCom takes connections.
    #[strum(serialize = "net.proxy")]
    NetProxy,
    /// Whether WeCom accepts connections.
    #[strum(serialize = "net.tcp")]
    NetTcp,
    /// Whether the certificate of WeCom is its own.
    #[strum(serialize = "net.tls")]
    NetTls,
    /// Whether WeCom answers.
    #[strum(serialize = "wecom.reachable")]
    Reachable,
    /// Whether WeCom accepts our IP address.
    #[strum(serialize = "wecom.trusted_ip")]
    WecomTrustedIp,
    /// Whether WeCom accepts the app's id and secret.
    #[strum(serialize = "wecom.token")]
    WecomToken,
    /// Whether the app may make its calls.
    #[strum(serialize = "wecom.permission")]
    WecomPermission,
    /// Whether calls of the app are held back for another reason.
    #[strum(serialize = "wecom.calls")]
    WecomCalls,
    /// Whether the app is shared with dealers.
    #[strum(serialize = "wecom.share_list")]
    ShareList,
    /// Whether dealers have fallen silent.
    #[strum(serialize = "wecom.dealer_silence")]
    DealerSilence,
    /// Whether WeCom has answered that a quota is used up.
    #[strum(serialize = "wecom.quota")]
    WecomQuota,
    /// The suite has no ticket that can be used.
    #[strum(serialize = "suite.ticket")]
    Ticket,
    /// WeCom refuses the suite's id or secret.
    #[strum(serialize = "suite.secret")]
    Secret,
    /// WeCom refuses our IP address.
    #[strum(serialize = "suite.trusted_ip")]
    TrustedIp,
    /// Auth codes were used up by calls without an answer.
    #[strum(serialize = "suite.auth_code_lost")]
    AuthCodeLost,
    /// Auth codes were not exchanged in time.
    #[strum(serialize = "suite.auth_code_expired")]
    AuthCodeExpired,
    /// WeCom refused auth codes.
    #[strum(serialize = "suite.auth_code_refused")]
    AuthCodeRefused,
    /// No brand that the app could serve has authorised the suite.
    #[strum(serialize = "suite.app_waiting")]
    AppWaiting,
    /// Several brands have authorised the suite, and the app is configured for none of them.
    #[strum(serialize = "suite.app_ambiguous")]
    AppAmbiguous,
    /// The app is configured for another brand than the one whose data is stored under its name.
    #[strum(serialize = "suite.app_of_other_brand")]
    AppOfOtherBrand,
    /// Another app of the suite serves the app's brand.
    #[strum(serialize = "suite.app_taken")]
    AppTaken,
    /// A brand has authorised the suite, and no app serves it.
    #[strum(serialize = "suite.brand_without_app")]
    BrandWithoutApp,
    /// The brand of an app has cancelled.
    #[strum(serialize = "suite.cancelled")]
    Cancelled,
    /// The app at corps could not be read yet.
    #[strum(serialize = "suite.incomplete")]
    Incomplete,
    /// The app may not read customers.
    #[strum(serialize = "suite.permission")]
    Permission,
    /// WeCom has not verified corps.
    #[strum(serialize = "suite.unverified")]
    Unverified,
    /// Stored secrets cannot be decrypted.
    #[strum(serialize = "suite.sealed")]
    Sealed,
    /// API licences are missing.
    #[strum(serialize = "suite.licence")]
    Licence,
    /// Whether the service answers a URL check on this machine.
    #[strum(serialize = "callback.local")]
    CallbackLocal,
    /// Whether it does where WeCom reaches it.
    #[strum(serialize = "callback.public")]
    CallbackPublic,
    /// Whether the certificate there is accepted.
    #[strum(serialize = "callback.certificate")]
    CallbackCertificate,
    /// Whether a `+` arrives there as one.
    #[strum(serialize = "callback.plus")]
    CallbackPlus,
    /// Whether the answer comes back unchanged.
    #[strum(serialize = "callback.body")]
    CallbackBody,
    /// Whether callbacks arrive, and are accepted.
    #[strum(serialize = "callback.seen")]
    CallbackSeen,
    /// Whether callbacks wait because of their receive id.
    #[strum(serialize = "callback.receive_ids")]
    CallbackReceiveIds,
    /// WeCom checked a callback URL for a receive id that is not accepted there.
    #[strum(serialize = "app.receive_id")]
    ReceiveId,
    /// Whether a NATS stream takes what is delivered.
    #[strum(serialize = "sink.nats")]
    SinkNats,
    /// Whether the file of a sink can be written.
    #[strum(serialize = "sink.file")]
    SinkFile,
    /// Whether a sink takes what is delivered.
    #[strum(serialize = "sink.reachable")]
    SinkReachable,
    /// Whether a sink accepts our signature or token.
    #[strum(serialize = "sink.verifies")]
    SinkVerifies,
    /// Whether a sink is behind.
    #[strum(serialize = "sink.lag")]
    SinkLag,
}

impl FindingCode {
    /// What is looked at, for people: a noun, which reads well whatever its state.
    #[must_use]
    pub fn checked(self) -> Text {
        match self {
            Self::ConfigValid => text!("configuration", "配置"),
            Self::ConfigUnknownKeys => text!("unknown keys", "未知的键"),
            Self::ConfigChanged => text!("configuration file and service", "配置文件与服务"),
            Self::SecretsMode => text!("access to secrets", "密钥的访问权限"),
            Self::SecretsAge => text!("age of secrets", "密钥的使用时间"),
            Self::ProcessVersion => text!("version", "版本"),
            Self::ProcessLimits => text!("open files and memory", "文件描述符与内存"),
            Self::PortsExposure => text!("admin API seen from outside", "管理接口的外部可见性"),
            Self::StoreLock => text!("holder of the store", "存储的占用者"),
            Self::StoreFilesystem => text!("file system of the store", "存储所在文件系统"),
            Self::StoreFsync => text!("speed of the disk", "磁盘落盘速度"),
            Self::StoreSpace => text!("space on the disk", "磁盘空间"),
            Self::BackupAge => text!("backup", "备份"),
            Self::ClockSynced => text!("synchronisation of the clock", "时钟同步"),
            Self::ClockSkew => text!("clock against that of WeCom", "与企业微信的时钟差"),
            Self::NetDns => text!("DNS", "DNS 解析"),
            Self::NetProxy => text!("proxy", "代理"),
            Self::NetTcp => text!("TCP connection", "TCP 连接"),
            Self::NetTls => text!("TLS certificate", "TLS 证书"),
            Self::CallbackReceiveIds => text!("receive ids in quarantine", "被隔离的接收方 ID"),
            Self::SinkNats => text!("NATS stream", "NATS 流"),
            Self::SinkFile => text!("file sink", "文件推送目标"),
            Self::PortsListen => text!("service", "服务进程"),
            Self::CallbackLocal => text!("URL check on this machine", "本机 URL 验证"),
            Self::CallbackPublic => text!("URL check from outside", "公网 URL 验证"),
            Self::CallbackCertificate => text!("certificate", "证书"),
            Self::CallbackPlus => text!("+ in the query", "查询串中的 +"),
            Self::CallbackBody => text!("body of the answer", "响应体"),
            Self::StoreReady => text!("durability of callbacks", "回调落盘"),
            Self::StoreDamaged => text!("damaged records", "损坏的记录"),
            Self::StoreLog => text!("checkpoints", "检查点"),
            Self::Reachable => text!("answers of WeCom", "企业微信的响应"),
            Self::WecomTrustedIp => text!("trusted IP (企业可信IP)", "企业可信IP"),
            Self::WecomToken => text!("corp_id and secret", "corp_id 与 secret"),
            Self::WecomPermission => text!("permissions", "接口权限"),
            Self::WecomCalls => text!("calls held back", "被暂停的调用"),
            Self::ShareList => text!("dealers that share the app", "共享应用的经销商"),
            Self::DealerSilence => text!("silent dealers", "沉默的经销商"),
            Self::WecomQuota => text!("quotas", "接口配额"),
            Self::Ticket => text!("suite_ticket", "suite_ticket"),
            Self::Secret => text!("suite_id and suite_secret", "suite_id 与 suite_secret"),
            Self::TrustedIp => text!("IP whitelist of the provider (IP白名单)", "服务商的 IP白名单"),
            Self::AuthCodeLost => text!("lost auth codes", "丢失的临时授权码"),
            Self::AuthCodeExpired => text!("expired auth codes", "过期的临时授权码"),
            Self::AuthCodeRefused => text!("refused auth codes", "被拒绝的临时授权码"),
            Self::AppWaiting => text!("authorisation of the app", "应用的授权"),
            Self::AppAmbiguous => text!("brand of the app", "应用所服务的品牌企业"),
            Self::AppOfOtherBrand => text!("brand of the app so far", "应用此前服务的品牌企业"),
            Self::AppTaken => text!("apps of the brand", "品牌企业的应用"),
            Self::BrandWithoutApp => text!("brands without an app", "没有应用的品牌企业"),
            Self::Cancelled => text!("cancelled authorisations", "已取消的授权"),
            Self::Incomplete => text!("app information at corps", "各企业的应用信息"),
            Self::Permission => text!("permission to read customers", "读取客户的权限"),
            Self::Unverified => text!("verification of corps", "企业的验证状态"),
            Self::Sealed => text!("decryption of stored secrets", "已存储密文的解密"),
            Self::Licence => text!("API licences (互通账号)", "互通账号"),
            Self::CallbackSeen => text!("last callbacks", "最近的回调"),
            Self::ReceiveId => text!("receive id of the URL check", "URL 验证的接收方 ID"),
            Self::SinkReachable => text!("deliveries", "推送"),
            Self::SinkVerifies => text!("acceptance of our signature", "签名校验"),
            Self::SinkLag => text!("lag of the sink", "推送延迟"),
        }
    }

    /// Without which there is nothing to see here. Never in a circle: each comes before.
    #[must_use]
    pub const fn depends_on(self) -> &'static [Self] {
        match self {
            Self::WecomTrustedIp | Self::WecomCalls => &[Self::Reachable],
            Self::WecomToken => &[Self::Reachable, Self::WecomTrustedIp],
            Self::WecomPermission | Self::ShareList => {
                &[Self::Reachable, Self::WecomTrustedIp, Self::WecomToken]
            }
            Self::PortsListen => &[Self::ConfigValid],
            Self::NetTcp => &[Self::NetDns, Self::NetProxy],
            Self::NetTls => &[Self::NetTcp],
            Self::CallbackLocal => &[Self::ConfigValid, Self::PortsListen],
            Self::CallbackPublic => &[Self::ConfigValid, Self::CallbackLocal],
            Self::CallbackCertificate | Self::CallbackPlus | Self::CallbackBody => &[Self::CallbackPublic],
            Self::SinkVerifies => &[Self::SinkReachable],
            _ => &[],
        }
    }

    /// Where in WeCom's console it is set.
    pub(super) const fn place(self) -> &'static str {
        match self {
            Self::WecomTrustedIp => "应用管理 → 应用 → 企业可信IP",
            Self::WecomToken => "我的企业 → 企业信息；应用管理 → 应用",
            Self::WecomPermission => "客户与上下游 → 客户联系 → 客户 → API → 可调用接口的应用",
            Self::ShareList => "客户与上下游 → 上下游 → 应用共享",
            Self::CallbackSeen | Self::CallbackReceiveIds | Self::ReceiveId => "应用管理 → 应用 → 接收消息",
            Self::Ticket | Self::Secret => "服务商管理后台 → 应用代开发 → 模版",
            Self::TrustedIp => "服务商管理后台 → 服务商信息 → 基本信息 → IP白名单",
            _ => "",
        }
    }

    /// Commands that help.
    pub(super) const fn commands(self) -> &'static [&'static str] {
        match self {
            Self::StoreDamaged => &["unionlink store verify"],
            Self::BackupAge => &["unionlink store backup FOLDER"],
            Self::ClockSynced | Self::ClockSkew => &["timedatectl"],
            Self::CallbackReceiveIds => &["unionlink events list --state quarantined"],
            Self::ConfigValid => &["unionlink check"],
            Self::CallbackSeen | Self::CallbackPublic => &["unionlink verify-url APP"],
            Self::DealerSilence => &["unionlink reconcile"],
            _ => &[],
        }
    }

    /// Where the documents say more.
    pub(super) fn link(self) -> String {
        let code: &str = self.into();
        format!("docs/troubleshooting.md#{}", code.replace('.', ""))
    }
}
