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
    /// What is looked at, for people.
    #[must_use]
    pub fn checked(self) -> Text {
        match self {
            Self::ConfigValid => text!("the configuration is valid", "配置有效"),
            Self::ConfigUnknownKeys => text!("every key is known", "没有未知的键"),
            Self::ConfigChanged => {
                text!("the service has the configuration of the file", "服务的配置与文件一致")
            }
            Self::SecretsMode => text!("secrets are not open to every user", "密钥未对所有用户开放"),
            Self::SecretsAge => text!("secrets are changed now and then", "密钥定期更换"),
            Self::ProcessVersion => {
                text!("the service has the version of this program", "服务版本与本程序一致")
            }
            Self::ProcessLimits => text!("open files and memory suffice", "文件描述符与内存足够"),
            Self::PortsExposure => text!("the admin API is not open to the internet", "管理接口未暴露到公网"),
            Self::StoreLock => text!("no other process holds the store", "存储目录未被其他进程占用"),
            Self::StoreFilesystem => text!("the store is on a disk of this machine", "存储位于本机磁盘"),
            Self::StoreFsync => text!("the disk is fast enough", "磁盘落盘速度"),
            Self::StoreSpace => text!("the disk has space", "磁盘空间"),
            Self::BackupAge => text!("there is a recent backup", "备份"),
            Self::ClockSynced => text!("the clock is synchronised", "时钟已同步"),
            Self::ClockSkew => text!("the clock agrees with that of WeCom", "时钟与企业微信一致"),
            Self::NetDns => text!("the name of the WeCom API is resolved", "DNS 解析"),
            Self::NetProxy => text!("the proxy to WeCom answers", "代理可用"),
            Self::NetTcp => text!("WeCom accepts connections", "TCP 连接"),
            Self::NetTls => text!("the certificate of WeCom is accepted", "TLS 证书"),
            Self::CallbackReceiveIds => {
                text!("no callback waits for its receive id", "没有因接收方 ID 被隔离的回调")
            }
            Self::SinkNats => text!("a stream takes the subject", "NATS 流可接收"),
            Self::SinkFile => text!("the file can be written", "文件可写入"),
            Self::PortsListen => text!("the service runs", "服务正在运行"),
            Self::CallbackLocal => text!("the service answers a URL check on this machine", "本机 URL 验证"),
            Self::CallbackPublic => text!("the service answers a URL check from outside", "公网 URL 验证"),
            Self::CallbackCertificate => text!("the certificate is accepted", "证书"),
            Self::CallbackPlus => text!("a + in the query arrives as one", "查询串中的 + 原样到达"),
            Self::CallbackBody => text!("the answer comes back unchanged", "响应体原样返回"),
            Self::StoreReady => text!("callbacks can be made durable", "回调可以落盘"),
            Self::StoreDamaged => text!("every record can be read", "所有记录可读"),
            Self::StoreLog => text!("checkpoints of the store succeed", "存储的检查点正常"),
            Self::Reachable => text!("WeCom answers", "企业微信可达"),
            Self::WecomTrustedIp => text!("企业可信IP has our address", "企业可信IP"),
            Self::WecomToken => text!("corp_id and secret are accepted", "corp_id 与 secret"),
            Self::WecomPermission => text!("the app may make its calls", "接口权限"),
            Self::WecomCalls => text!("no call is held back", "没有被暂停的调用"),
            Self::ShareList => text!("the app is shared with dealers", "应用已共享给经销商"),
            Self::DealerSilence => text!("no dealer has fallen silent", "没有沉默的经销商"),
            Self::WecomQuota => text!("WeCom's quotas suffice", "接口配额"),
            Self::Ticket => text!("the suite has a suite_ticket", "模版的 suite_ticket"),
            Self::Secret => text!("suite_id and suite_secret are accepted", "suite_id 与 suite_secret"),
            Self::TrustedIp => text!("IP白名单 of the provider has our address", "服务商的 IP白名单"),
            Self::AuthCodeLost => text!("no auth code was lost", "临时授权码未丢失"),
            Self::AuthCodeExpired => text!("no auth code has expired", "临时授权码未过期"),
            Self::AuthCodeRefused => text!("no auth code was refused", "临时授权码未被拒绝"),
            Self::AppWaiting => text!("a brand has authorised the app", "品牌企业已授权应用"),
            Self::AppAmbiguous => text!("it is clear which brand the app serves", "应用服务的品牌企业明确"),
            Self::AppOfOtherBrand => {
                text!("the app serves the same brand as before", "应用服务的品牌企业未变")
            }
            Self::AppTaken => text!("one app serves a brand", "一个品牌企业由一个应用服务"),
            Self::BrandWithoutApp => text!("every brand has its app", "每个品牌企业都有应用"),
            Self::Cancelled => text!("no authorisation was cancelled", "授权未被取消"),
            Self::Incomplete => text!("the app at each corp was read", "已读到各企业的应用信息"),
            Self::Permission => text!("the app may read customers", "应用可以读取客户"),
            Self::Unverified => text!("the corps are verified", "企业已验证"),
            Self::Sealed => text!("stored secrets can be decrypted", "已存储的密文可以解密"),
            Self::Licence => text!("no API licence is missing", "互通账号充足"),
            Self::CallbackSeen => text!("callbacks arrive", "回调可以到达"),
            Self::ReceiveId => text!("callbacks are for the corps that are served", "回调的接收方 ID"),
            Self::SinkReachable => text!("the sink takes what is delivered", "推送目标可达"),
            Self::SinkVerifies => text!("the sink accepts our signature", "推送目标接受签名"),
            Self::SinkLag => text!("the sink is not behind", "推送没有落后"),
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
