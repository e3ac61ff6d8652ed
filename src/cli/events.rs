//! `unionlink events`: what died in the inbox or was set aside, and giving it another chance.
//!
//! Deliberately absent: what is wrong with an event and what helps. The service says so, row by row.

mod list;
mod redrive;
mod show;

use std::process::ExitCode;

use serde_json::Value;

use self::list::List;
use self::redrive::Redrive;
use self::show::Show;
use super::admin::AdminApi;
use super::output::Output;
use crate::domain::ids::{AppName, CorpId};
use crate::store::EventId;

#[derive(Debug, clap::Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters and quarantined messages, with what helps
    List(List),
    /// Show all that is known of one event
    Show(Show),
    /// Give events another chance
    Redrive(Redrive),
}

/// Narrows down which events are meant.
#[derive(Debug, clap::Args)]
struct Filters {
    /// Only those of this app
    #[arg(long, value_name = "NAME", value_parser = |name: &str| AppName::new(name))]
    app: Option<AppName>,
    /// Only those of this dealer; quarantined messages have none
    #[arg(long, value_name = "ID", value_parser = |id: &str| CorpId::new(id))]
    corp_id: Option<CorpId>,
    /// Only those that WeCom answered with this code; quarantined messages have none
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    errcode: Option<i64>,
    /// Only those with this reason: `receive_id`, `not_understood` or `far_off` of quarantined messages
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
}

impl Events {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let service = match &self.command {
            Command::List(list) => &list.service,
            Command::Show(show) => &show.service,
            Command::Redrive(redrive) => &redrive.service,
        };
        self.ask(&service.api()?, &mut Output::of_process()).await
    }

    pub(super) async fn ask(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::List(list) => list.ask(api, out).await,
            Command::Show(show) => show.ask(api, out).await,
            Command::Redrive(redrive) => redrive.ask(api, out).await,
        }
    }
}

fn event_id(text: &str) -> Result<EventId, String> {
    text.parse().map_err(|_| "event ids look like evt_42".to_owned())
}

/// A field of a row as text; nothing if it is not there.
fn field(row: &Value, name: &str) -> Option<String> {
    match row.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// How long ago, in the unit that says it best.
fn age(row: &Value) -> Option<String> {
    let seconds = row.get("age_seconds")?.as_u64()?;
    Some(match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    })
}
