//! `unionlink events list`: a table of events, followed by the remedies.

use std::process::ExitCode;

use indicatif::HumanCount;
use serde::Deserialize;
use serde_json::Value;

use super::row::{age, field, remedy, shown};
use super::selection::Filters;
use crate::cli::admin::{AdminApi, ServiceArgs};
use crate::cli::lang::Lang;
use crate::cli::output::Output;
use crate::cli::table::{Table, plain};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::text::Text;

/// Rows in one answer of the admin API.
const PAGE_ROWS_MAX: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only events in this state [default: dead and quarantined]
    #[arg(long, value_name = "STATE", value_parser = ["dead", "quarantined", "waiting", "leased"])]
    state: Option<String>,
    #[command(flatten)]
    filters: Filters,
    /// At most N events of each state
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// List all events, without a limit
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    pub(super) service: ServiceArgs,
    /// The language of the remedies, and with zh that of the table's header
    #[arg(long, value_enum, value_name = "LANGUAGE", default_value = "both")]
    lang: Lang,
    /// Print the rows as NDJSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Value>,
    next: Option<String>,
}

/// A remedy, and how many events it applies to.
struct Remedy {
    text: Text,
    first_id: String,
    others: u64,
}

/// The table and the remedies being collected for it.
struct Found {
    table: Table<7>,
    remedies: Vec<Remedy>,
}

impl List {
    pub(super) async fn run(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let header = match self.lang {
            Lang::En | Lang::Both => ["ID", "STATE", "AGE", "APP", "CORP", "ERRCODE", "REASON"],
            Lang::Zh => ["ID", "状态", "时长", "应用", "企业", "错误码", "原因"],
        };
        let mut found = Found { table: Table::new(header), remedies: Vec::new() };
        let mut counts = Vec::new();
        let (mut total, mut truncated) = (0, false);
        for state in self.states() {
            let (rows, more) = self.read(api, out, state, &mut found).await?;
            total += rows;
            counts.push(format!("{} {state}{}", HumanCount(rows), if more { ", and more" } else { "" }));
            truncated |= more;
        }
        if !self.json && total > 0 {
            found.print(self.lang, out)?;
        }
        let hint = if truncated { " (--all lists them)" } else { "" };
        out.say(&format!("{}{hint}", counts.join("; ")));
        Ok(ExitCode::SUCCESS)
    }

    fn states(&self) -> Vec<&str> {
        // Quarantined messages have neither.
        let of_events_only = self.filters.corp_id.is_some() || self.filters.errcode.is_some();
        match &self.state {
            Some(state) => vec![state],
            None if of_events_only => vec!["dead"],
            None => vec!["dead", "quarantined"],
        }
    }

    /// Reads the events in `state`: how many rows, and whether there are more.
    async fn read(
        &self,
        api: &AdminApi,
        out: &mut Output,
        state: &str,
        found: &mut Found,
    ) -> anyhow::Result<(u64, bool)> {
        let mut left = if self.all { usize::MAX } else { self.limit as usize };
        let mut rows = 0;
        let mut after: Option<String> = None;
        loop {
            let (errcode, limit) = (self.filters.errcode.map(|n| n.to_string()), left.min(PAGE_ROWS_MAX));
            let url = api.url(
                &["v1", "events"],
                &[
                    ("state", Some(state)),
                    ("app", self.filters.app.as_ref().map(AppName::as_str)),
                    ("corp_id", self.filters.corp_id.as_ref().map(CorpId::as_str)),
                    ("errcode", errcode.as_deref()),
                    ("reason", self.filters.reason.as_deref()),
                    ("after", after.as_deref()),
                    ("limit", Some(&limit.to_string())),
                ],
            );
            let Page { events, next } = api.parsed(&api.get(url).await?)?;
            for row in &events {
                rows += 1;
                if self.json {
                    out.print(&row.to_string())?;
                } else {
                    found.add(row);
                }
            }
            left = left.saturating_sub(events.len());
            match next {
                None => return Ok((rows, false)),
                Some(_) if left == 0 => return Ok((rows, true)),
                // A cursor that does not move would make this loop endless.
                Some(_) if next == after => return Err(api.unexpected_answer(reqwest::StatusCode::OK)),
                Some(_) => after = next,
            }
        }
    }
}

impl Found {
    fn add(&mut self, row: &Value) {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let cell = |name| or_dash(shown(row, name));
        let more = field(row, "detail").or_else(|| field(row, "receive_id").filter(|id| !id.is_empty()));
        let reason = match (shown(row, "reason"), more) {
            (Some(reason), Some(more)) => format!("{reason}: {more}"),
            (reason, more) => or_dash(reason.or(more)),
        };
        let age = or_dash(age(row).map(|age| format!("{age:#}")));
        let [id, state, app, corp_id, errcode] = ["id", "state", "app", "corp_id", "errcode"].map(cell);
        self.table.push([id, state, age, app, corp_id, errcode, reason]);
        if let Some(text) = remedy(row) {
            match self.remedies.iter_mut().find(|remedy| remedy.text.en == text.en) {
                Some(remedy) => remedy.others += 1,
                None => self.remedies.push(Remedy { text, first_id: cell("id"), others: 0 }),
            }
        }
    }

    fn print(&self, lang: Lang, out: &mut Output) -> anyhow::Result<()> {
        for line in self.table.lines(out.columns) {
            out.print(&line)?;
        }
        for Remedy { text, first_id, others } in &self.remedies {
            let events = match (*others, lang) {
                (0, _) => first_id.clone(),
                (n, Lang::En | Lang::Both) => format!("{first_id} and {} more", HumanCount(n)),
                (n, Lang::Zh) => format!("{first_id} 等 {} 条", HumanCount(n + 1)),
            };
            out.print(&format!("\n{}", plain(&events)))?;
            for line in lang.lines(text) {
                out.print(&format!("  → {line}"))?;
            }
        }
        Ok(())
    }
}
