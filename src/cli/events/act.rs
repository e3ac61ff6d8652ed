//! `unionlink events redrive` and `unionlink events discard`: returns dead letters to the inbox and parses
//! quarantined messages again, or deletes them.

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

pub(super) const REDRIVE_HELP: &str = "\
Name the events by id, by filters, or with --all. Remove the cause first; unionlink events list shows the
remedies. An event that no longer needs a redrive is skipped. Exit status 1 means that the service refused at
least one.";

pub(super) const DISCARD_HELP: &str = "\
Name the events by id, by filters, or with --all. A discarded event cannot be restored. One that is in neither
state any more is skipped. Exit status 1 means that the service refused at least one.";

/// What is done with the events.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Redrive,
    Discard,
}

impl Act {
    /// The last part of the path.
    const fn name(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Discard => "discard",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }

    /// What is said of an event for which there was nothing to do.
    const fn needless(self) -> &'static str {
        match self {
            Self::Redrive => "needs no redrive any more",
            Self::Discard => "is no dead letter or quarantined message any more",
        }
    }
}

// Not a doc comment, which would be the help of either command.
// The events, and how the result is printed.
#[derive(Debug, clap::Args)]
#[command(
    group = ArgGroup::new("by_id").args(["ids"]).conflicts_with("by_filter"),
    group = ArgGroup::new("by_filter").args(["all", "state", "app", "corp_id", "errcode", "reason"]).multiple(true),
    group = ArgGroup::new("which").args(["ids", "all", "state", "app", "corp_id", "errcode", "reason"])
        .required(true).multiple(true)
)]
pub(super) struct Chosen {
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
struct One {
    #[serde(alias = "redriven", alias = "discarded")]
    done: bool,
}

#[derive(Deserialize)]
struct Summary {
    #[serde(alias = "redriven", alias = "discarded")]
    done: u64,
    /// A discard is never refused.
    #[serde(default)]
    refused: Vec<Refused>,
    #[serde(default)]
    refused_total: u64,
}

#[derive(Deserialize)]
struct Refused {
    id: String,
    #[serde(default)]
    detail: String,
    hint: Option<String>,
}

impl Chosen {
    pub(super) async fn run(&self, act: Act, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let refused = if self.ids.is_empty() {
            self.by_filter(act, api, out).await?
        } else {
            self.by_id(act, api, out).await?
        };
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Handles the named events one by one. Returns whether one was refused.
    async fn by_id(&self, act: Act, api: &AdminApi, out: &mut Output) -> anyhow::Result<bool> {
        let mut refused = Vec::new();
        let mut done = Ok(());
        for id in &self.ids {
            done = self.one(act, api, out, id.to_string(), &mut refused).await;
            if done.is_err() {
                break;
            }
        }
        report(&refused, refused.len() as u64, out);
        done.map(|()| !refused.is_empty())
    }

    async fn one(
        &self,
        act: Act,
        api: &AdminApi,
        out: &mut Output,
        id: String,
        refused: &mut Vec<Refused>,
    ) -> anyhow::Result<()> {
        let url = api.url(&["v1", "events", &id, act.name()], &[]);
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
        let One { done } = api.parsed(&body)?;
        match done {
            _ if self.json => out.print_answer(&body),
            true => out.print(&format!("{id} {}", act.done())),
            false => out.print(&format!("{id} {}", act.needless())),
        }
    }

    /// Handles all events that pass the filters, in one request. Returns whether one was refused.
    async fn by_filter(&self, act: Act, api: &AdminApi, out: &mut Output) -> anyhow::Result<bool> {
        let Filters { app, corp_id, errcode, reason } = &self.filters;
        // A redrive without filters is one of all events.
        let all = matches!(act, Act::Discard) && self.all;
        let mut filters = Map::new();
        for (name, value) in [
            ("all", all.then_some(json!(true))),
            ("state", self.state.as_ref().map(|state| json!(state))),
            ("app", app.as_ref().map(|app| json!(app))),
            ("corp_id", corp_id.as_ref().map(|corp_id| json!(corp_id))),
            ("errcode", errcode.map(|errcode| json!(errcode))),
            ("reason", reason.as_ref().map(|reason| json!(reason))),
        ] {
            filters.extend(value.map(|value| (name.to_owned(), value)));
        }
        let url = api.url(&["v1", "events", act.name()], &[]);
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
            out.print(&format!("{} {}{refused}", HumanCount(summary.done), act.done()))?;
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
