//! A group's record as it was stored before leaving was applied to the customers.

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;

/// The record. The order of the fields is the stored format.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChatVersion1 {
    version: Option<String>,
    pub(super) reading: Option<ReadingVersion1>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReadingVersion1 {
    pub(super) due_at: Timestamp,
    pub(super) complete_at: Timestamp,
    pub(super) older_than: Option<String>,
    pub(super) tries: u32,
}
