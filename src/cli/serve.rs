//! `unionlink serve`: the service.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::SystemClock;
use crate::config::{self, Environment};
use crate::lifecycle;
use crate::telemetry::logs;

pub(super) async fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path, &Environment::of_process())?;
    logs::start(&config.log.filter, config.log.format)?;
    if let Some(warning) = config::exposed(path, &config) {
        tracing::warn!("{warning}");
    }
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    lifecycle::listen_for_signals(soft.clone(), hard.clone())?;
    let app = App::start(&config, Arc::new(SystemClock), soft).await?;
    // What was answered is durable, so nothing is left to be written when the process ends. sled would write and sync
    // once more as it closes, and on a failing disk panic or wait for ever; it is left open instead.
    std::mem::forget(app.store.clone());
    app.run_until(hard).await?;
    Ok(ExitCode::SUCCESS)
}
