//! `unionlink check`: prints the configuration as it will be used, or every problem with it.

use std::process::ExitCode;

use serde_json::json;

use super::config_file::ConfigFile;
use super::output::{print, say};
use crate::config::{self, ConfigError, Environment, Problem};

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
        let loaded = config::load(path, &Environment::of_process());
        if let Some(warning) = loaded.as_ref().ok().and_then(|config| config::exposed(path, config)) {
            say(&format!("warning: {warning}"));
        }
        match loaded {
            Ok(config) if self.json => print(&json!({"ok": true, "config": config}).to_string())?,
            Ok(config) => {
                print(toml::to_string(&config)?.trim_end())?;
                say(&format!("{} is valid", path.display()));
            }
            Err(error) if self.json => {
                let problems = match error {
                    ConfigError::Problems { problems, .. } => problems,
                    other => vec![Problem { key: String::new(), reason: other.to_string(), hint: None }],
                };
                print(&json!({"ok": false, "problems": problems}).to_string())?;
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
