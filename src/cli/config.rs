//! `unionlink config`: prints the configuration files that are part of the program, byte for byte.

use std::process::ExitCode;

use super::output::Output;
use crate::config::{DEFAULTS, EXAMPLE};

#[derive(Debug, clap::Args)]
pub(super) struct Config {
    #[command(subcommand)]
    file: File,
}

#[derive(Debug, clap::Subcommand)]
enum File {
    /// Print what a new operator fills in
    Example,
    /// Print every key with its default
    Default,
}

impl Config {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let text = match self.file {
            File::Example => EXAMPLE,
            File::Default => DEFAULTS,
        };
        let mut out = Output::of_process();
        out.write(text.as_bytes())?;
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
