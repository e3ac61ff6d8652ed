//! `unionlink events`: lists, shows and redrives dead letters and quarantined messages.
//!
//! Deliberately absent: diagnoses and remedies. The service sends them with each event.

mod list;
mod redrive;
mod row;
mod selection;
mod show;

use std::process::ExitCode;

use self::list::List;
use self::redrive::Redrive;
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
    Redrive(Redrive),
}

impl Events {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let service = match &self.command {
            Command::List(list) => &list.service,
            Command::Show(show) => &show.service,
            Command::Redrive(redrive) => &redrive.service,
        };
        self.run_with(&service.api()?, &mut Output::of_process()).await
    }

    pub(super) async fn run_with(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        match &self.command {
            Command::List(list) => list.run(api, out).await,
            Command::Show(show) => show.run(api, out).await,
            Command::Redrive(redrive) => redrive.run(api, out).await,
        }
    }
}
