//! `unionlink events redrive`: returns dead letters to the inbox, and parses quarantined messages again.

use std::process::ExitCode;

use clap::ArgGroup;
use indicatif::HumanCount;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::selection::{Filters, event_id};
use crate::cli::admin::{AdminApi, LONG_TIMEOUT, Problem, ServiceArgs, TIMEOUT};
use crate::cli::output::Output;
use crate::cli::table::plain;
use crate::store::EventId;

const AFTER_HELP: &str = "\
Name the events by id, by filters, or with --all. Remove the cause first; unionlink events list shows the
remedies. An event that no longer needs a redrive is skipped. Exit status 1 means that the service refused at
least one.";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    group = ArgGroup::new("by_id").args(["ids"]).conflicts_with("by_filter"),
    group = ArgGroup::new("by_filter").args(["all", "state", "app", "corp_id", "errcode", "reason"]).multiple(true),
    group = ArgGroup::new("which").args(["ids", "all", "state", "app", "corp_id", "errcode", "reason"])
        .required(true).multiple(true)
)]
pub(super) struct Redrive {
    /// Ids of events, from events list
    #[arg(value_name = "ID", value_parser = event_id)]
    ids: Vec<EventId>,
    /// All dead letters and quarantined messages; can be combined with filters
    #[arg(long)]
    all: bool,
    /// Only events in this state
    #[arg(long, value_name = "STATE", value_parser = ["dead", "quarantined"])]
    state: Option<String>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    pub(super) service: ServiceArgs,
    /// Print the service's answer as JSON; with ids, one line for each
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Redriven {
    redriven: bool,
}

#[derive(Deserialize)]
struct Summary {
    redriven: u64,
    refused: Vec<Refused>,
    refused_total: u64,
}

#[derive(Deserialize)]
struct Refused {
    id: String,
    #[serde(default)]
    detail: String,
    hint: Option<String>,
}

impl Redrive {
    pub(super) async fn run(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let refused =
            if self.ids.is_empty() { self.by_filter(api, out).await? } else { self.by_id(api, out).await? };
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Redrives the named events one by one. Returns whether one was refused.
    async fn by_id(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<bool> {
        let mut refused = Vec::new();
        let mut done = Ok(());
        for id in &self.ids {
            done = self.one(api, out, id.to_string(), &mut refused).await;
            if done.is_err() {
                break;
            }
        }
        report(&refused, refused.len() as u64, out);
        done.map(|()| !refused.is_empty())
    }

    async fn one(
        &self,
        api: &AdminApi,
        out: &mut Output,
        id: String,
        refused: &mut Vec<Refused>,
    ) -> anyhow::Result<()> {
        let url = api.url(&["v1", "events", &id, "redrive"], &[]);
        let answer = api.send(api.request(Method::POST, url).timeout(TIMEOUT)).await?;
        let Problem { detail, hint, .. } = Problem::parse(&answer.body);
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT) && !detail.is_empty() {
            if self.json {
                // The answer does not name the event.
                let mut line: Map<String, Value> = api.parsed(&answer.body)?;
                line.insert("id".to_owned(), json!(id));
                out.print(&Value::from(line).to_string())?;
            }
            refused.push(Refused { id, detail, hint });
            return Ok(());
        }
        let body = api.success(answer)?;
        let Redriven { redriven } = api.parsed(&body)?;
        match redriven {
            _ if self.json => out.print_answer(&body),
            true => out.print(&format!("{id} redriven")),
            false => out.print(&format!("{id} needs no redrive any more")),
        }
    }

    /// Redrives all events that pass the filters, in one request. Returns whether one was refused.
    async fn by_filter(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<bool> {
        let Filters { app, corp_id, errcode, reason } = &self.filters;
        let mut filters = Map::new();
        for (name, value) in [
            ("state", self.state.as_ref().map(|state| json!(state))),
            ("app", app.as_ref().map(|app| json!(app))),
            ("corp_id", corp_id.as_ref().map(|corp_id| json!(corp_id))),
            ("errcode", errcode.map(|errcode| json!(errcode))),
            ("reason", reason.as_ref().map(|reason| json!(reason))),
        ] {
            filters.extend(value.map(|value| (name.to_owned(), value)));
        }
        let url = api.url(&["v1", "events", "redrive"], &[]);
        let request = api.request(Method::POST, url).timeout(LONG_TIMEOUT).json(&filters);
        let body = api.success(api.send(request).await?)?;
        let summary: Summary = api.parsed(&body)?;
        if self.json {
            out.print_answer(&body)?;
        } else {
            let refused = match summary.refused_total {
                0 => String::new(),
                n => format!(", {} refused", HumanCount(n)),
            };
            out.print(&format!("{} redriven{refused}", HumanCount(summary.redriven)))?;
        }
        report(&summary.refused, summary.refused_total, out);
        Ok(summary.refused_total > 0)
    }
}

/// Prints the refused events, and each hint once.
fn report(refused: &[Refused], total: u64, out: &mut Output) {
    let mut hints: Vec<&str> = Vec::new();
    for Refused { id, detail, hint } in refused {
        out.say(&format!("{} refused: {}", plain(id), plain(detail)));
        hints.extend(hint.as_deref().filter(|hint| !hints.contains(hint)));
    }
    match total.saturating_sub(refused.len() as u64) {
        0 => {}
        n => out.say(&format!("and {} more", HumanCount(n))),
    }
    for hint in hints {
        out.say(&format!("hint: {}", plain(hint)));
    }
}
