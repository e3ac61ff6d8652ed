//! The option `--config`, which many commands share.

use std::path::PathBuf;

use crate::config;

/// Which configuration file a command reads.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigFile {
    /// The configuration file
    #[arg(long = "config", env = "UNIONLINK_CONFIG", default_value = config::DEFAULT_PATH, value_name = "FILE")]
    pub(super) path: PathBuf,
}
