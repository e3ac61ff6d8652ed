//! `unionlink events`: lists, shows, redrives and discards dead letters and quarantined messages.
//!
//! Deliberately absent: diagnoses and remedies. The service sends them with each event.

mod act;
mod list;
mod row;
mod selection;
mod show;

use std::process::ExitCode;

use self::act::{Act, Chosen, DISCARD_HELP, REDRIVE_HELP};
use self::list::List;
use self::show::Show;
use super::admin::AdminApi;
use super::output::Output;

#[derive(Debug, clap::Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters and quarantined messages, with remedies
    List(List),
    /// Show everything known about one event
    Show(Show),
    /// Retry dead letters, and parse quarantined messages again
    #[command(after_help = REDRIVE_HELP)]
    Redrive(Chosen),
    /// Delete dead letters and quarantined messages for good
    #[command(after_help = DISCARD_HELP)]
    Discard(Chosen),
}

impl Events {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let service = match &self.command {
            Command::List(list) => &list.service,
            Command::Show(show) => &show.service,
            Command::Redrive(chosen) | Command::Discard(chosen) => &chosen.service,
        };
        self.run_with(&service.api()?, &mut Output::of_process()).await
    }

    pub(super) async fn run_with(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::List(list) => list.run(api, out).await,
            Command::Show(show) => show.run(api, out).await,
            Command::Redrive(chosen) => chosen.run(Act::Redrive, api, out).await,
            Command::Discard(chosen) => chosen.run(Act::Discard, api, out).await,
        }
    }
}
