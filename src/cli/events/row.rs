//! Fields of the rows in which the admin API describes events.
//!
//! Rows stay JSON, so that a field a later version adds is shown too.

use std::time::Duration;

use indicatif::HumanDuration;
use serde_json::Value;

/// The text of a field; none if it is missing or null.
pub(super) fn field(row: &Value, name: &str) -> Option<String> {
    match row.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The age of an event.
pub(super) fn age(row: &Value) -> Option<HumanDuration> {
    row.get("age_seconds")?.as_u64().map(Duration::from_secs).map(HumanDuration)
}
