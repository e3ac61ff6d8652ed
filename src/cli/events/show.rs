//! `unionlink events show`: every field of one event.

use std::process::ExitCode;

use serde_json::Value;

use super::row::{age, field, remedy, shown};
use super::selection::event_id;
use crate::cli::admin::{AdminApi, ServiceArgs};
use crate::cli::lang::Lang;
use crate::cli::output::Output;
use crate::cli::table::{plain, plain_lines};
use crate::store::EventId;

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The id of the event, from events list
    #[arg(value_name = "ID", value_parser = event_id)]
    id: EventId,
    #[command(flatten)]
    pub(super) service: ServiceArgs,
    /// The language of the remedy
    #[arg(long, value_enum, value_name = "LANGUAGE", default_value = "both")]
    lang: Lang,
    /// Print the service's answer as JSON
    #[arg(long)]
    json: bool,
}

/// The fields that have a fixed place in the list; unknown ones follow.
const LISTED_FIRST: [&str; 15] = [
    "app",
    "type",
    "corp_id",
    "external_userid",
    "user_id",
    "created_at",
    "received_at",
    "due_at",
    "died_at",
    "attempts",
    "errcode",
    "reason",
    "detail",
    "receive_id",
    "message_bytes",
];
/// Fields that are printed before or after the list, or with another field.
const NOT_LISTED: [&str; 7] = ["id", "state", "age_seconds", "corp_name", "remedy", "remedy_zh", "message"];

impl Show {
    pub(super) async fn run(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let body = api.get(api.url(&["v1", "events", &self.id.to_string()], &[])).await?;
        let row: Value = api.parsed(&body)?;
        if self.json {
            out.print_answer(&body)?;
            return Ok(ExitCode::SUCCESS);
        }
        let text = |name| field(&row, name).map_or_else(|| "?".to_owned(), |text| plain(&text));
        let age = age(&row).map(|age| format!(", {age} old")).unwrap_or_default();
        out.print(&format!("{}: {}{age}", text("id"), text("state")))?;
        let others = row.as_object().into_iter().flat_map(serde_json::Map::keys).map(String::as_str);
        let others = others.filter(|name| !LISTED_FIRST.contains(name));
        for name in LISTED_FIRST.into_iter().chain(others).filter(|name| !NOT_LISTED.contains(name)) {
            if let Some(text) = shown(&row, name) {
                out.print(&format!("  {name:<15}  {}", plain(&text)))?;
            }
        }
        for line in remedy(&row).iter().flat_map(|text| self.lang.lines(text)) {
            out.print(&format!("  → {line}"))?;
        }
        if let Some(message) = field(&row, "message") {
            out.print(&format!("\n{}", plain_lines(&message)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
