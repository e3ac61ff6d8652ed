//! What can be seen on this machine, without the service: the files of secrets, the folder of the store, the sinks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::app::{build_sink, wanted};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, ConfigError, Place, Problem, SinkTarget};
use crate::domain::finding::{
    Finding, FindingCode as Code, FindingState, ServiceFacts, Subject, service_findings,
};
use crate::domain::ids::SinkName;
use crate::domain::sync_times::SyncTimes;
use crate::domain::text::{Text, text};
use crate::domain::time::{DAY_MS, Timestamp};
use crate::sink::Looked;

/// A secret in a file that is older is worth a warning.
const OLD_DAYS: i64 = 2 * 365;
/// How long a look at a sink may take.
const SINK_TIMEOUT: Duration = Duration::from_secs(5);

/// What is wrong with a configuration that cannot be used, or that it cannot be read.
pub(super) fn unusable(error: ConfigError) -> (Vec<Finding>, bool) {
    let is_unread = matches!(error, ConfigError::Read { .. });
    let problems = error.into_problems();
    if is_unread {
        let why = listed(problems.iter());
        return (vec![Finding::unknown(Code::ConfigValid, Subject::default(), why)], true);
    }
    let of = |is_meant: fn(&Problem) -> bool| problems.iter().filter(move |problem| is_meant(problem));
    let mut findings = vec![problem(
        Code::ConfigValid,
        listed(problems.iter()),
        text!("the service does not start with it", "服务无法以此配置启动"),
        text!(
            "correct what is named; if a variable is missing that the service has, run this as the service is run",
            "请更正上述各项；如果缺少的是服务才有的环境变量，请以服务的运行方式执行本命令",
        ),
    )];
    if of(Problem::is_unknown_key).next().is_some() {
        let hints = of(Problem::is_unknown_key).filter_map(|problem| problem.hint.as_deref());
        let hints = hints.collect::<Vec<_>>().join("; ");
        findings.push(problem(
            Code::ConfigUnknownKeys,
            listed(of(Problem::is_unknown_key)),
            text!("the service does not start with it", "服务无法以此配置启动"),
            text!("correct the keys: {hints}", "请更正这些键：{hints}"),
        ));
    }
    if of(Problem::is_open_file).next().is_some() {
        findings.push(open_files(listed(of(Problem::is_open_file))));
    }
    (findings, false)
}

fn listed<'a>(problems: impl Iterator<Item = &'a Problem>) -> Text {
    let shown = problems.map(ToString::to_string).collect::<Vec<_>>().join("; ");
    text!("{shown}", "{shown}")
}

fn problem(code: Code, seen: Text, means: Text, todo: Text) -> Finding {
    Finding::trouble(code, FindingState::Fail, Subject::default(), seen).that(means, todo)
}

fn open_files(seen: Text) -> Finding {
    problem(
        Code::SecretsMode,
        seen,
        text!("every user of the machine can act as the brand", "本机所有用户都可以冒用品牌身份"),
        text!("chmod 600 the file, and change what was in it", "请对该文件执行 chmod 600，并更换其中的密钥"),
    )
}

/// What a usable configuration and its files are like.
pub(super) fn of_configuration(path: &Path, config: &Config) -> Vec<Finding> {
    let place = path.display();
    let ok = |code, seen| Finding::ok(code, Subject::default(), seen);
    let open: Vec<_> = config.warnings.iter().filter(|warning| warning.is_open_file()).collect();
    let count = config.secret_files.len();
    let mode = if open.is_empty() {
        ok(Code::SecretsMode, text!("files with secrets: {count}", "密钥文件：{count} 个"))
    } else {
        // As for check and serve, which do not refuse it.
        Finding { state: FindingState::Warn, ..open_files(listed(open.into_iter())) }
    };
    vec![
        ok(Code::ConfigValid, text!("{place}", "{place}")),
        ok(Code::ConfigUnknownKeys, text!("none", "没有")),
        mode,
        ages(config, SystemClock.now()),
    ]
}

/// How old the files with secrets are.
fn ages(config: &Config, now: Timestamp) -> Finding {
    let age = |path: &Path| {
        let modified = fs::metadata(path).ok()?.mtime();
        Some(now.millis_since(Timestamp::from_secs(modified)) / DAY_MS)
    };
    let oldest = config.secret_files.iter().filter_map(|path| Some((age(path)?, path))).max();
    let Some((days, path)) = oldest else {
        return Finding::ok(Code::SecretsAge, Subject::default(), text!("none is in a file", "没有密钥文件"));
    };
    let shown = path.display();
    let seen = text!("the oldest, {shown}, is {days} days old", "最旧的 {shown} 已有 {days} 天");
    if days <= OLD_DAYS {
        return Finding::ok(Code::SecretsAge, Subject::default(), seen);
    }
    let means = text!("whoever has seen it can still use it", "曾经接触过它的人仍可使用");
    let todo = text!(
        "make a new one where it comes from, write it into the file, reload; previous_… keys keep the old one valid meanwhile",
        "请在其来源处生成新的密钥，写入文件并重新加载；期间可用 previous_… 键保留旧密钥",
    );
    Finding::trouble(Code::SecretsAge, FindingState::Warn, Subject::default(), seen).that(means, todo)
}

/// Whether the service has the version of this program.
pub(super) fn version(of_service: &str) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    let (code, subject) = (Code::ProcessVersion, Subject::default());
    if of_service == own {
        return Finding::ok(code, subject, text!("{own}", "{own}"));
    }
    let seen =
        text!("the service is {of_service}, this program {own}", "服务为 {of_service}，本程序为 {own}");
    let means = text!("what was installed is not what runs", "已安装的版本并未运行");
    let todo = text!(
        "restart the service, or run the doctor of its version",
        "请重启服务，或使用与服务相同版本的 doctor"
    );
    Finding::trouble(code, FindingState::Warn, subject, seen).that(means, todo)
}

/// How the disk of an embedded store and the clock are, where no service says so.
pub(super) fn machine(config: &Config) -> Vec<Finding> {
    let (wanted, now) = (wanted(config), SystemClock.now());
    // Before the first start there is none.
    let has_store = wanted.store.as_deref().is_some_and(Path::exists);
    let disk = if has_store { wanted.disk(SyncTimes::default(), 0) } else { None };
    let facts = ServiceFacts { host: Some(wanted.host()), disk, ..ServiceFacts::default() };
    let is_known = |finding: &Finding| {
        matches!(finding.code, Code::StoreFilesystem | Code::StoreSpace | Code::BackupAge | Code::ClockSynced)
    };
    service_findings(&facts, now).into_iter().filter(is_known).collect()
}

/// Who holds the folder of an embedded store.
pub(super) fn lock(config: &Config, is_running: bool) -> Option<Finding> {
    let Place::Folder(folder) = &config.store.place else { return None };
    let (code, subject) = (Code::StoreLock, Subject::default());
    let shown = folder.path.display();
    let path = folder.path.join("lock");
    if !path.exists() && !is_running {
        return Some(Finding::ok(
            code,
            subject,
            text!("there is no store at {shown} yet", "{shown} 尚无存储"),
        ));
    }
    let holder = match holder_of(&path) {
        Ok(holder) => holder,
        Err(error) => {
            let why = text!("{shown} cannot be looked at: {error}", "无法查看 {shown}：{error}");
            return Some(Finding::unknown(code, subject, why));
        }
    };
    Some(match holder {
        None if is_running => {
            let why = text!("the kernel does not say who holds {shown}", "内核未提供 {shown} 的占用者");
            Finding::unknown(code, subject, why)
        }
        None => Finding::ok(code, subject, text!("nobody holds {shown}", "没有进程占用 {shown}")),
        Some(pid) if is_running => {
            Finding::ok(code, subject, text!("process {pid} holds {shown}", "进程 {pid} 占用 {shown}"))
        }
        Some(pid) => {
            let seen = text!(
                "process {pid} holds {shown}, and no service answers",
                "进程 {pid} 占用 {shown}，但没有服务响应",
            );
            let means = text!("another service cannot start with this store", "其他服务无法使用该存储启动");
            let todo = text!(
                "see what this process is; end it if it is a service that hangs",
                "请查看该进程；如果是无响应的服务，请终止它",
            );
            Finding::trouble(code, FindingState::Fail, subject, seen).that(means, todo)
        }
    })
}

/// The process that has locked a file, if the kernel says so: nothing is locked to find out.
fn holder_of(path: &Path) -> std::io::Result<Option<String>> {
    let file = fs::metadata(path)?;
    let locks = fs::read_to_string("/proc/locks")?;
    let place =
        format!("{:02x}:{:02x}:{}", rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()), file.ino());
    let holds = |line: &str| {
        let mut words = line.split_whitespace().filter(|word| *word != "->").skip(4);
        let pid = words.next()?;
        (words.next()? == place).then(|| pid.to_owned())
    };
    Ok(locks.lines().find_map(holds))
}

/// Whether the sinks can be delivered to. With `test`, webhooks get a test message.
pub(super) async fn sinks(config: &Config, offline: bool, test: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for sink in &config.sinks {
        let code = match &sink.target {
            SinkTarget::File(_) => Code::SinkFile,
            SinkTarget::Nats(_) => Code::SinkNats,
            SinkTarget::Webhook(_) if test => Code::SinkVerifies,
            SinkTarget::Webhook(_) => continue,
        };
        let subject = Subject { sink: Some(sink.name.clone()), ..Subject::default() };
        if offline && code != Code::SinkFile {
            findings.push(Finding::unknown(code, subject, not_offline()));
            continue;
        }
        let looked = tokio::time::timeout(SINK_TIMEOUT, look(sink, test)).await;
        let looked = looked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        findings.push(of_sink(code, subject, &sink.name, looked));
    }
    findings
}

async fn look(sink: &crate::config::Sink, test: bool) -> Result<Looked, String> {
    let built = build_sink(sink, std::sync::Arc::new(SystemClock));
    let mut built = built.map_err(|error| error.to_string())?;
    match built.look().await? {
        Looked::Nowhere if test && built.test().await? => {
            Ok(Looked::Well("the test message was accepted".to_owned()))
        }
        looked => Ok(looked),
    }
}

fn of_sink(code: Code, subject: Subject, name: &SinkName, looked: Result<Looked, String>) -> Finding {
    let todo = || text!("see to what is named; it is tried again by itself", "请处理上述问题；之后自动重试");
    match looked {
        Ok(Looked::Nowhere) => Finding::ok(code, subject, Text::default()),
        Ok(Looked::Unknown(why)) => Finding::unknown(code, subject, text!("{why}", "{why}")),
        Ok(Looked::Well(found)) => Finding::ok(code, subject, text!("{found}", "{found}")),
        Ok(Looked::Doubtful(found)) => {
            let means = text!("an entry may reach {name} twice", "{name} 可能两次收到同一条目");
            Finding::trouble(code, FindingState::Warn, subject, text!("{found}", "{found}"))
                .that(means, todo())
        }
        Err(reason) => {
            let means = text!(
                "entries for {name} wait in the feed and are delivered later, in order",
                "{name} 的条目留在 feed 中，之后按顺序推送",
            );
            Finding::trouble(code, FindingState::Fail, subject, text!("{reason}", "{reason}"))
                .that(means, todo())
        }
    }
}

/// Why something outside of this machine was not looked at.
pub(super) fn not_offline() -> Text {
    text!("not looked at: --offline", "未检查：--offline")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_locked_a_file_is_known_without_locking_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(holder_of(&path).unwrap(), None);
        file.lock().unwrap();
        assert_eq!(holder_of(&path).unwrap(), Some(std::process::id().to_string()));
        drop(file);
        assert_eq!(holder_of(&path).unwrap(), None);
        assert!(holder_of(&folder.path().join("none")).is_err());
    }
}
