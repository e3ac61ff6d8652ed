//! A group's record as it was stored before leaving was applied to the customers.

use serde::{Deserialize, Serialize};

use super::{Chat, MemberVersion, Reading};
use crate::domain::time::Timestamp;

/// The record. The order of the fields is the stored format.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChatVersion1 {
    version: Option<MemberVersion>,
    reading: Option<ReadingVersion1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReadingVersion1 {
    due_at: Timestamp,
    complete_at: Timestamp,
    older_than: Option<MemberVersion>,
    tries: u32,
}

impl From<ChatVersion1> for Chat {
    fn from(ChatVersion1 { version: _, reading }: ChatVersion1) -> Self {
        let replaced = reading.as_ref().and_then(|reading| reading.older_than.clone());
        let due = |ReadingVersion1 { due_at, complete_at, tries, .. }| Reading { due_at, complete_at, tries };
        // Without a version the next event has the list read: some of the customers held may have left.
        Self { version: None, reading: reading.map(due), replaced: replaced.into_iter().collect() }
    }
}
