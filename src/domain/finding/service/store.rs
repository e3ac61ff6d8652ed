//! The findings about the store.

use super::ServiceFacts;
use crate::domain::finding::code::FindingCode as Code;
use crate::domain::finding::shape::{Finding, FindingState, Raw, Subject, Todo};
use crate::domain::text::text;

/// Whether it takes callbacks.
pub(super) fn ready(facts: &ServiceFacts<'_>) -> Finding {
    let Some(reason) = &facts.not_ready else {
        let seen = text!("the store takes callbacks", "存储可以接收回调");
        return Finding::ok(Code::StoreReady, Subject::default(), seen);
    };
    Finding {
        code: Code::StoreReady,
        state: FindingState::Fail,
        subject: Subject::default(),
        since: None,
        seen: text!("the store takes none: {reason}", "存储不接收回调：{reason}"),
        raw: Raw::default(),
        means: text!(
            "callbacks are answered 503; WeCom sends each a few times, and then never again",
            "回调返回 503；企业微信对每条回调只重试几次，之后不再发送",
        ),
        todo: Todo {
            text: text!(
                "free space on its disk, or see to its database; it goes on by itself",
                "请清理磁盘空间，或检查数据库；恢复后自动继续",
            ),
        },
    }
}

/// Whether its records can be read.
pub(super) fn damaged(facts: &ServiceFacts<'_>) -> Finding {
    let records = facts.damaged_records;
    if records == 0 {
        let seen = text!("no damaged record was found", "未发现损坏的记录");
        return Finding::ok(Code::StoreDamaged, Subject::default(), seen);
    }
    Finding {
        code: Code::StoreDamaged,
        state: FindingState::Fail,
        subject: Subject::default(),
        since: None,
        seen: text!("damaged records since the start: {records}", "启动以来发现 {records} 条损坏的记录"),
        raw: Raw::default(),
        means: text!("what they hold is skipped", "这些记录被跳过"),
        todo: Todo {
            text: text!(
                "stop the service and run store verify, which names them; restore the last backup",
                "请停止服务并运行 store verify，它会列出这些记录；然后恢复最近的备份",
            ),
        },
    }
}

/// Whether its checkpoints succeed.
pub(super) fn log(facts: &ServiceFacts<'_>) -> Option<Finding> {
    let Some(reason) = facts.checkpoints.as_ref()? else {
        let seen = text!("the last checkpoint succeeded", "最近一次检查点成功");
        return Some(Finding::ok(Code::StoreLog, Subject::default(), seen));
    };
    Some(Finding {
        code: Code::StoreLog,
        state: FindingState::Warn,
        subject: Subject::default(),
        since: None,
        seen: text!("the last checkpoint failed: {reason}", "最近一次检查点失败：{reason}"),
        raw: Raw::default(),
        means: text!(
            "the log grows; when it has become too large, callbacks are answered 503",
            "预写日志会变长；过长时回调返回 503",
        ),
        todo: Todo {
            text: text!(
                "see to space and permissions of the store's folder; it is tried again every minute",
                "请检查存储目录的空间和权限；每分钟自动重试",
            ),
        },
    })
}
