//! `unionlink check`: prints the configuration as it will be used, or every problem with it.

use std::process::ExitCode;

use serde_json::json;

use super::config_file::ConfigFile;
use super::output::{print, say};
use crate::config::{self, ConfigError, Environment, Problem, Severity};

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let path = &self.file.path;
        let checked = config::check(path, &Environment::of_process());
        if self.json {
            return print_json(checked);
        }
        let warnings: &[Problem] = match &checked {
            Ok(config) => &config.warnings,
            Err(ConfigError::Problems { warnings, .. }) => warnings,
            Err(_) => &[],
        };
        for problem in warnings {
            say(&format!("warning: {problem}"));
            if let Some(hint) = &problem.hint {
                say(&format!("  hint: {hint}"));
            }
        }
        print(toml::to_string(&checked?)?.trim_end())?;
        say(&format!("{} is valid", path.display()));
        Ok(ExitCode::SUCCESS)
    }
}

fn print_json(checked: Result<config::Config, ConfigError>) -> anyhow::Result<ExitCode> {
    let (problems, warnings) = match checked {
        Ok(config) => {
            print(&json!({"ok": true, "config": config, "warnings": config.warnings}).to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(ConfigError::Problems { problems, warnings, .. }) => (problems, warnings),
        Err(other) => {
            let (severity, key, reason) = (Severity::Error, String::new(), other.to_string());
            (vec![Problem { severity, key, reason, hint: None }], Vec::new())
        }
    };
    print(&json!({"ok": false, "problems": problems, "warnings": warnings}).to_string())?;
    Ok(ExitCode::FAILURE)
}
