//! `unionlink events redrive`: dead letters back into the inbox, quarantined messages read once more.

use std::process::ExitCode;

use clap::ArgGroup;
use indicatif::HumanCount;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Filters, event_id};
use crate::cli::admin::{AdminApi, LONG_TIMEOUT, Problem, TIMEOUT, ToService};
use crate::cli::output::Output;
use crate::cli::table::plain;
use crate::store::EventId;

const AFTER_HELP: &str = "\
Name events, or say which with filters, or --all. Remove the cause first: see `unionlink events list`. An event that
needs it no more is no failure; exit status 1 means that one was refused.";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    group = ArgGroup::new("named").args(["ids"]).conflicts_with("meant"),
    group = ArgGroup::new("meant").args(["all", "state", "app", "corp_id", "errcode", "reason"]).multiple(true),
    group = ArgGroup::new("which").args(["ids", "all", "state", "app", "corp_id", "errcode", "reason"])
        .required(true).multiple(true)
)]
pub(super) struct Redrive {
    /// The events, as `events list` names them
    #[arg(value_name = "ID", value_parser = event_id)]
    ids: Vec<EventId>,
    /// All that are dead or quarantined; filters narrow it down
    #[arg(long)]
    all: bool,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = ["dead", "quarantined"])]
    state: Option<String>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    pub(super) service: ToService,
    /// Print what the service answered, as JSON; with ids one line for each
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
    pub(super) async fn ask(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let refused =
            if self.ids.is_empty() { self.meant(api, out).await? } else { self.named(api, out).await? };
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Redrives one after the other; whether one was refused.
    async fn named(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<bool> {
        let mut refused = Vec::new();
        let mut done = Ok(());
        for id in &self.ids {
            done = self.one(api, out, id.to_string(), &mut refused).await;
            if done.is_err() {
                break;
            }
        }
        tell(&refused, refused.len() as u64, out);
        done.map(|()| !refused.is_empty())
    }

    async fn one(
        &self,
        api: &AdminApi,
        out: &mut Output,
        id: String,
        refused: &mut Vec<Refused>,
    ) -> anyhow::Result<()> {
        let url = api.address(&["v1", "events", &id, "redrive"], &[]);
        let answer = api.ask(api.request(Method::POST, url).timeout(TIMEOUT)).await?;
        let Problem { detail, hint } = Problem::of(&answer.body);
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT) && !detail.is_empty() {
            if self.json {
                // The problem does not say whose it is.
                let mut line: Map<String, Value> = api.parsed(&answer.body)?;
                line.insert("id".to_owned(), json!(id));
                out.print(&Value::from(line).to_string())?;
            }
            refused.push(Refused { id, detail, hint });
            return Ok(());
        }
        let body = api.good(answer)?;
        let Redriven { redriven } = api.parsed(&body)?;
        match redriven {
            _ if self.json => out.print_answer(&body),
            true => out.print(&format!("{id} redriven")),
            false => out.print(&format!("{id} needs no redrive any more")),
        }
    }

    /// Redrives all that is meant at once; whether something was refused.
    async fn meant(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<bool> {
        let Filters { app, corp_id, errcode, reason } = &self.filters;
        let mut which = Map::new();
        for (name, value) in [
            ("state", self.state.as_ref().map(|state| json!(state))),
            ("app", app.as_ref().map(|app| json!(app))),
            ("corp_id", corp_id.as_ref().map(|corp_id| json!(corp_id))),
            ("errcode", errcode.map(|errcode| json!(errcode))),
            ("reason", reason.as_ref().map(|reason| json!(reason))),
        ] {
            which.extend(value.map(|value| (name.to_owned(), value)));
        }
        let url = api.address(&["v1", "events", "redrive"], &[]);
        let request = api.request(Method::POST, url).timeout(LONG_TIMEOUT).json(&which);
        let body = api.good(api.ask(request).await?)?;
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
        tell(&summary.refused, summary.refused_total, out);
        Ok(summary.refused_total > 0)
    }
}

/// Says what was refused, and each hint once.
fn tell(refused: &[Refused], total: u64, out: &mut Output) {
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
