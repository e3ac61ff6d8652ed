//! The findings about the machine: its disk, its limits, its clock; and about the configuration.

use std::time::Duration;

use super::ServiceFacts;
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::shape::{Finding, FindingState, Subject};
use crate::domain::sync_times::SyncTimes;
use crate::domain::text::{Text, text};
use crate::domain::time::{DAY_MS, Timestamp};

/// What the machine gives, each with what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Open files; `None` for no limit.
    pub files: (Option<u64>, u64),
    /// Bytes of memory; `None` for no limit.
    pub memory: (Option<u64>, u64),
    /// Whether the clock is synchronised; `None` if that is not known.
    pub clock_synced: Option<bool>,
}

/// The disk of an embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskFacts {
    /// The kind of file system.
    pub filesystem: Option<Filesystem>,
    /// What is free.
    pub free_bytes: Option<u64>,
    /// What has to stay free.
    pub free_bytes_min: u64,
    /// By how many bytes less are free than a day ago.
    pub taken_a_day: i64,
    /// Files that can still be made, where that is limited.
    pub free_inodes: Option<u64>,
    /// How long commits took to become durable in the last day.
    pub syncs: SyncTimes,
    /// The last backup.
    pub backup: Option<BackupFacts>,
}

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// On a disk of this machine.
    Local,
    /// The layer of a container, which goes with it.
    Overlay,
    /// Over a network, or in another program.
    Network(&'static str),
    /// In memory.
    Memory(&'static str),
}

/// A backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupFacts {
    /// When it was made.
    pub at: Timestamp,
    /// Its size.
    pub bytes: u64,
    /// Whether it is on the same disk as the store.
    pub same_device: bool,
}

/// What a reload would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigDifference {
    /// The file cannot be used; what is wrong.
    Invalid(String),
    /// These keys have other values in the file.
    Keys(Vec<String>),
}

/// How long all but one commit in a hundred may take, before it is worth a warning, and before it is a failure: callbacks
/// are answered 503 after three seconds.
const SLOW: Duration = Duration::from_millis(100);
const TOO_SLOW: Duration = Duration::from_secs(1);
/// Of fewer commits one is too many.
const COMMITS_MIN: u64 = 100;

/// In GiB, with one digit.
fn gib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10) >> 30;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A finding about the machine.
fn found(code: Code, state: FindingState, seen: Text, means: Text, todo: Text) -> Finding {
    Finding::trouble(code, state, Subject::default(), seen).that(means, todo)
}

fn ok(code: Code, seen: Text) -> Finding {
    Finding::ok(code, Subject::default(), seen)
}

/// Everything about the machine, as of `now`.
pub(super) fn of_host(facts: &ServiceFacts<'_>, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(facts.config.as_ref().map(|config| changed(config.as_ref())));
    if let Some(host) = &facts.host {
        findings.extend([limits(host), synced(host.clock_synced)]);
    }
    if let Some(disk) = &facts.disk {
        findings.extend([filesystem(disk.filesystem), fsync(&disk.syncs), space(disk)]);
        findings.push(backup(disk.backup.as_ref(), now));
    }
    findings.push(skew(facts.skew_ms));
    findings
}

fn changed(difference: Option<&ConfigDifference>) -> Finding {
    let code = Code::ConfigChanged;
    match difference {
        None => ok(code, text!("the file says what the service runs with", "文件与运行中的配置相同")),
        Some(ConfigDifference::Invalid(what)) => found(
            code,
            FindingState::Fail,
            text!("the file cannot be used: {what}", "配置文件无法使用：{what}"),
            text!(
                "the service goes on with what it has, and would not start again",
                "服务沿用现有配置继续运行，但重启会失败",
            ),
            text!(
                "correct the file; unionlink check names each key",
                "请更正文件；unionlink check 会列出每个键"
            ),
        ),
        Some(ConfigDifference::Keys(keys)) => {
            let keys = keys.join(", ");
            found(
                code,
                FindingState::Warn,
                text!("the file has other values for: {keys}", "文件中以下键的值不同：{keys}"),
                text!("they have no effect yet", "这些改动尚未生效"),
                text!(
                    "reload (SIGHUP, or POST /v1/reload), which names what needs a restart",
                    "请重新加载（SIGHUP 或 POST /v1/reload），结果会列出需要重启的键",
                ),
            )
        }
    }
}

fn limits(host: &HostFacts) -> Finding {
    let HostFacts { files: (files, files_wanted), memory: (memory, memory_wanted), .. } = *host;
    if let Some(files) = files.filter(|files| *files < files_wanted) {
        return found(
            Code::ProcessLimits,
            FindingState::Warn,
            text!(
                "open files allowed: {files}, wanted: {files_wanted}",
                "可打开文件数 {files}，需要 {files_wanted}"
            ),
            text!("fewer connections are accepted at once", "可同时接受的连接数减少"),
            text!(
                "raise the limit: LimitNOFILE= of the unit, ulimit -n, or the container's ulimits",
                "请提高上限：systemd 单元的 LimitNOFILE=、ulimit -n 或容器的 ulimits",
            ),
        );
    }
    if let Some(memory) = memory.filter(|memory| *memory < memory_wanted) {
        let (memory, wanted) = (gib(memory), gib(memory_wanted));
        return found(
            Code::ProcessLimits,
            FindingState::Warn,
            text!(
                "memory allowed: {memory} GiB, wanted: {wanted} GiB",
                "内存上限 {memory} GiB，需要 {wanted} GiB"
            ),
            text!("the kernel may kill the service under load", "负载高时服务可能被内核终止"),
            text!(
                "raise the memory limit of the container or unit, or lower store.cache_mb",
                "请提高容器或单元的内存上限，或调低 store.cache_mb",
            ),
        );
    }
    let files = files.map_or_else(|| "∞".to_owned(), |files| files.to_string());
    ok(Code::ProcessLimits, text!("open files allowed: {files}", "可打开文件数 {files}"))
}

fn synced(is_synced: Option<bool>) -> Finding {
    match is_synced {
        None => {
            let why = text!("this system does not say", "本系统不提供此信息");
            Finding::unknown(Code::ClockSynced, Subject::default(), why)
        }
        Some(true) => ok(Code::ClockSynced, text!("the kernel says so", "内核报告已同步")),
        Some(false) => found(
            Code::ClockSynced,
            FindingState::Warn,
            text!("the kernel says that nothing synchronises the clock", "内核报告时钟未同步"),
            text!(
                "it may drift; times in links and deadlines of pending ids are then wrong",
                "时钟可能漂移，关联时间和 pending_id 的期限会不准",
            ),
            text!(
                "run chrony or systemd-timesyncd with an NTP server",
                "请运行 chrony 或 systemd-timesyncd，并配置 NTP 服务器"
            ),
        ),
    }
}

fn skew(skew_ms: Option<i64>) -> Finding {
    let Some(skew_ms) = skew_ms else {
        let why = text!("no two answers of WeCom said the same yet", "尚无两次一致的企业微信响应");
        return Finding::unknown(Code::ClockSkew, Subject::default(), why);
    };
    let (secs, is_ahead) = (skew_ms.abs() / 1_000, skew_ms > 0);
    if secs <= 5 {
        return ok(Code::ClockSkew, text!("seconds off: {secs}", "相差 {secs} 秒"));
    }
    let state = if secs > 60 { FindingState::Fail } else { FindingState::Warn };
    let seen = if is_ahead {
        text!("our clock is {secs} s ahead", "本机时钟快 {secs} 秒")
    } else {
        text!("our clock is {secs} s behind", "本机时钟慢 {secs} 秒")
    };
    found(
        Code::ClockSkew,
        state,
        seen,
        text!(
            "times in links and deadlines of pending ids are wrong by as much",
            "关联时间和 pending_id 的期限相应不准"
        ),
        text!(
            "set the clock, and have chrony or systemd-timesyncd keep it",
            "请校准时钟，并用 chrony 或 systemd-timesyncd 保持同步"
        ),
    )
}

fn filesystem(filesystem: Option<Filesystem>) -> Finding {
    let code = Code::StoreFilesystem;
    let todo = || {
        text!(
            "move the folder to a disk of this machine, store.path names it",
            "请将 store.path 指向本机磁盘上的目录"
        )
    };
    match filesystem {
        None => {
            let why = text!("the folder cannot be looked at", "无法查看该目录");
            Finding::unknown(code, Subject::default(), why)
        }
        Some(Filesystem::Local) => ok(code, text!("on a disk of this machine", "位于本机磁盘")),
        Some(Filesystem::Network(name)) => found(
            code,
            FindingState::Fail,
            text!("it is on {name}", "存储位于 {name}"),
            text!(
                "such a file system may report as durable what is not, and may let in a second process",
                "此类文件系统可能谎报落盘，也可能无法互斥",
            ),
            todo(),
        ),
        Some(Filesystem::Memory(name)) => found(
            code,
            FindingState::Fail,
            text!("it is on {name}, in memory", "存储位于内存文件系统 {name}"),
            text!("everything is gone when the machine restarts", "机器重启后数据全部丢失"),
            todo(),
        ),
        Some(Filesystem::Overlay) => found(
            code,
            FindingState::Warn,
            text!("it is in the layer of a container (overlay)", "存储位于容器层（overlay）"),
            text!("everything is gone when the container is replaced", "更换容器后数据全部丢失"),
            text!("mount a volume, and let store.path name it", "请挂载数据卷，并让 store.path 指向它"),
        ),
    }
}

fn fsync(syncs: &SyncTimes) -> Finding {
    let Some(slowest) = syncs.all_but(10) else {
        let why = text!("nothing was stored in the last day", "最近一天没有写入");
        return Finding::unknown(Code::StoreFsync, Subject::default(), why);
    };
    let (commits, ms) = (syncs.count(), slowest.as_millis());
    if slowest > SLOW && commits < COMMITS_MIN {
        let why = text!("only {commits} commits in the last day", "最近一天只有 {commits} 次落盘");
        return Finding::unknown(Code::StoreFsync, Subject::default(), why);
    }
    if slowest <= SLOW {
        let seen =
            text!("99 % of {commits} commits took at most {ms} ms", "{commits} 次落盘中 99% 不超过 {ms} ms");
        return ok(Code::StoreFsync, seen);
    }
    let seen = if slowest == Duration::MAX {
        text!("of {commits} commits more than 1 % took over 3 s", "{commits} 次落盘中超过 1% 用时大于 3 秒")
    } else {
        text!("99 % of {commits} commits took up to {ms} ms", "{commits} 次落盘中 99% 用时达 {ms} ms")
    };
    found(
        Code::StoreFsync,
        if slowest > TOO_SLOW { FindingState::Fail } else { FindingState::Warn },
        seen,
        text!(
            "callbacks are acknowledged as slowly; after 3 s they are answered 503, and WeCom waits 5 s at most",
            "回调应答同样变慢；超过 3 秒返回 503，而企业微信最多等待 5 秒",
        ),
        text!(
            "use another disk (SSD), or one that others do not write to",
            "请更换磁盘（SSD），或使用没有其他写入的磁盘"
        ),
    )
}

fn space(disk: &DiskFacts) -> Finding {
    let code = Code::StoreSpace;
    let Some(free) = disk.free_bytes else {
        let why = text!("the folder cannot be looked at", "无法查看该目录");
        return Finding::unknown(code, Subject::default(), why);
    };
    let (shown, min) = (gib(free), disk.free_bytes_min);
    let todo = || {
        text!(
            "free space on the disk of store.path, or move the folder",
            "请清理 store.path 所在磁盘，或迁移目录"
        )
    };
    let is_full = if free < min {
        Some(text!(
            "free: {shown} GiB, less than store.free_mb_min",
            "剩余 {shown} GiB，低于 store.free_mb_min"
        ))
    } else {
        (disk.free_inodes == Some(0)).then(|| text!("no more files can be made (inodes)", "已无可用 inode"))
    };
    if let Some(seen) = is_full {
        let means = text!("callbacks are answered 503", "回调返回 503");
        return found(code, FindingState::Fail, seen, means, todo());
    }
    let a_day = u64::try_from(disk.taken_a_day).unwrap_or(0);
    let days = (free - min).checked_div(a_day);
    match days {
        Some(days) if days < 7 => found(
            code,
            FindingState::Warn,
            text!(
                "free: {shown} GiB; days until it is full at the pace of the last day: {days}",
                "剩余 {shown} GiB；按最近一天的增速，{days} 天后写满"
            ),
            text!("callbacks are answered 503 from then on", "届时回调返回 503"),
            todo(),
        ),
        Some(_) | None => ok(code, text!("free: {shown} GiB", "剩余 {shown} GiB")),
    }
}

fn backup(backup: Option<&BackupFacts>, now: Timestamp) -> Finding {
    let code = Code::BackupAge;
    let todo = || {
        text!(
            "back up every day, to another disk or machine; docs/operations.md has a timer",
            "请每天备份到另一块磁盘或另一台机器；定时任务见 docs/zh/operations.md",
        )
    };
    let means =
        || text!("what is lost with the disk cannot be asked for again", "随磁盘丢失的数据无法再次获取");
    let Some(BackupFacts { at, bytes, same_device }) = backup else {
        let seen = text!("the store was never backed up", "存储从未备份");
        return found(code, FindingState::Warn, seen, means(), todo());
    };
    let (days, size, at) = (now.millis_since(*at).max(0) / DAY_MS, gib(*bytes), at.in_china());
    if days >= 7 {
        let seen = text!("the last backup is {days} days old: {at}", "最近一次备份在 {days} 天前：{at}");
        return found(code, FindingState::Warn, seen, means(), todo());
    }
    if *same_device {
        let seen =
            text!("the last backup is on the disk of the store: {at}", "最近一次备份与存储在同一磁盘：{at}");
        return found(code, FindingState::Warn, seen, means(), todo());
    }
    ok(code, text!("the last one: {at}, {size} GiB", "最近一次：{at}，{size} GiB"))
}
