//! The commands. Data goes to standard output, talk to standard error; exit 0 ok, 1 failed, 2 usage.

mod admin;
mod check;
mod demo;
mod events;
mod explain;
mod fans;
mod forget;
mod instant;
mod links;
mod output;
mod serve;
mod show;
mod simulate;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "unionlink",
    version,
    about = "Joins WeChat unionids with WeCom external_userids the moment a dealer adds a customer",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole story on this machine, with a simulated WeCom; needs no configuration
    Demo(demo::Demo),
    /// Run the service
    Serve(ConfigFile),
    /// Check the configuration and print it without its secrets
    Check(check::Check),
    /// Work with fans: import them from a file
    Fans(fans::Fans),
    /// Work with links: export them
    Links(links::Links),
    /// Work with events that failed or were set aside: list, show, redrive
    Events(events::Events),
    /// Tell why a person is, or is not, linked, and what to do
    Explain(explain::Explain),
    /// Erase a person everywhere, and print the receipt
    Forget(forget::Forget),
    /// Care for the store's folder: verify, back up, rebuild, compact it
    Store(store::Store),
    /// Run the simulated WeCom platform alone, to develop against
    Simulate(simulate::Simulate),
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long = "config", env = "UNIONLINK_CONFIG", default_value = config::DEFAULT_PATH, value_name = "FILE")]
    path: PathBuf,
}

/// Runs the command on the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let result = runtime.block_on(async {
                match cli.command {
                    Command::Demo(demo) => Box::pin(demo.run()).await,
                    Command::Serve(file) => Box::pin(serve::run(&file.path)).await,
                    Command::Check(check) => check.run(),
                    Command::Fans(fans) => Box::pin(fans.run()).await,
                    Command::Links(links) => Box::pin(links.run()).await,
                    Command::Events(events) => Box::pin(events.run()).await,
                    Command::Explain(explain) => Box::pin(explain.run()).await,
                    Command::Forget(forget) => Box::pin(forget.run()).await,
                    Command::Store(store) => Box::pin(store.run()).await,
                    Command::Simulate(simulate) => Box::pin(simulate.run()).await,
                }
            });
            // What is still under way after the grace time is safe to drop.
            runtime.shutdown_timeout(std::time::Duration::from_millis(100));
            result
        });
    match result {
        Ok(code) => code,
        Err(error) if error.is::<output::ReadEnough>() => ExitCode::SUCCESS,
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            // There is nowhere left to complain to if this fails.
            let _ = write!(stderr, "error: {error}");
            for cause in error.chain().skip(1) {
                let _ = write!(stderr, "\n  because: {cause}");
            }
            let _ = writeln!(stderr);
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of data.
fn print(line: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    output::written(writeln!(stdout, "{line}").and_then(|()| stdout.flush()))
}

/// Prints a line of talk.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
