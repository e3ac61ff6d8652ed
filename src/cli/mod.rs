//! The command line: parses the arguments, runs one command, prints its error chain and sets the exit code
//! (0 success, 1 failure, 2 usage). Data goes to standard output, messages to standard error.
//!
//! Each command has a file of its own; what several share is in `admin` (the admin API's client),
//! `config_file`, `hardening`, `lang`, `output`, `private_file`, `progress_display` and `table`.

mod admin;
mod check;
mod config;
mod config_file;
mod demo;
mod doctor;
mod events;
mod explain;
mod fans;
mod forget;
mod hardening;
mod healthcheck;
mod lang;
mod links;
mod output;
mod private_file;
mod progress_display;
mod reconcile;
mod serve;
mod simulate;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod verify_url;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::config_file::ConfigFile;
use crate::telemetry::version::VERSION_AND_COMMIT;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "unionlink",
    version = VERSION_AND_COMMIT,
    about = "Joins WeChat unionids with WeCom external_userids the moment a dealer adds a customer",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a demonstration against a simulated WeCom; needs no configuration
    Demo(demo::Demo),
    /// Run the service
    Serve(ConfigFile),
    /// Check the configuration and print it with secrets redacted
    Check(check::Check),
    /// Print the example configuration, or every key with its default
    Config(config::Config),
    /// Find what is wrong between here and WeCom, and say what to do
    Doctor(doctor::Doctor),
    /// Print a URL and a QR code that show on a phone whether WeCom could reach the service
    VerifyUrl(verify_url::VerifyUrl),
    /// Exit with 0 if the service could make a callback durable now
    Healthcheck(healthcheck::Healthcheck),
    /// Import fans from a file, and list them
    Fans(fans::Fans),
    /// Export links
    Links(links::Links),
    /// Compare dealers' customers with WeCom's lists now
    Reconcile(reconcile::Reconcile),
    /// List, show, redrive and discard dead letters and quarantined messages
    Events(events::Events),
    /// Explain why a person is or is not linked, and what to do
    Explain(explain::Explain),
    /// Erase a person everywhere and print the receipt
    Forget(forget::Forget),
    /// Maintain the store: verify, back up, restore or compact it
    Store(store::Store),
    /// Run only the simulated WeCom platform, for development
    Simulate(simulate::Simulate),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    hardening::harden();
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
                    Command::Config(config) => config.run(),
                    Command::Doctor(doctor) => Box::pin(doctor.run()).await,
                    Command::VerifyUrl(verify_url) => verify_url.run(),
                    Command::Healthcheck(healthcheck) => Box::pin(healthcheck.run()).await,
                    Command::Fans(fans) => Box::pin(fans.run()).await,
                    Command::Links(links) => Box::pin(links.run()).await,
                    Command::Reconcile(reconcile) => Box::pin(reconcile.run()).await,
                    Command::Events(events) => Box::pin(events.run()).await,
                    Command::Explain(explain) => Box::pin(explain.run()).await,
                    Command::Forget(forget) => Box::pin(forget.run()).await,
                    Command::Store(store) => Box::pin(store.run()).await,
                    Command::Simulate(simulate) => Box::pin(simulate.run()).await,
                }
            });
            // Tasks that still run after the grace period are safe to drop.
            runtime.shutdown_timeout(std::time::Duration::from_millis(100));
            result
        });
    match result {
        Ok(code) => code,
        Err(error) if error.is::<output::StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("error: {error}"));
            for cause in error.chain().skip(1) {
                output::say(&format!("  because: {cause}"));
            }
            ExitCode::FAILURE
        }
    }
}
