//! The rows in which the admin API describes events, as people read them.
//!
//! Rows stay JSON, so that a field a later version adds is shown too.

use std::time::Duration;

use indicatif::HumanDuration;
use serde_json::Value;

use crate::cli::table::china_time;
use crate::domain::dealer::named;
use crate::domain::text::Text;

/// The text of a field; none if it is missing or null.
pub(super) fn field(row: &Value, name: &str) -> Option<String> {
    match row.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The text of a field for people: an instant in China time, a dealer by its name with the id behind it, a
/// reason without the remedy, which is printed by itself.
pub(super) fn shown(row: &Value, name: &str) -> Option<String> {
    let text = field(row, name)?;
    Some(match name {
        "corp_id" => named(field(row, "corp_name").as_deref(), &text),
        "reason" => match field(row, "remedy") {
            Some(remedy) => text.replace(&format!(": {remedy}"), ""),
            None => text,
        },
        name if name.ends_with("_at") => china_time(&text),
        _ => text,
    })
}

/// What to do about an event.
pub(super) fn remedy(row: &Value) -> Option<Text> {
    let en = field(row, "remedy")?;
    Some(Text { zh: field(row, "remedy_zh").unwrap_or_else(|| en.clone()), en })
}

/// The age of an event.
pub(super) fn age(row: &Value) -> Option<HumanDuration> {
    row.get("age_seconds")?.as_u64().map(Duration::from_secs).map(HumanDuration)
}
