//! `unionlink serve`: runs the service until a signal stops it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::{App, ConfigSource, StartError};
use crate::clock::SystemClock;
use crate::config::{self, Environment};
use crate::lifecycle;
use crate::store::embedded::OpenError;
use crate::store::postgres;
use crate::telemetry::logs;

pub(super) async fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = config::load(path, &Environment::of_process())?;
    let filter = logs::start(&config.log.filter, config.log.format)?;
    for problem in &config.warnings {
        tracing::warn!(hint = problem.hint, "configuration: {problem}");
    }
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    lifecycle::listen_for_signals(soft.clone(), hard.clone())?;
    let changed = Arc::new(Notify::new());
    lifecycle::survive_hangups({
        let changed = changed.clone();
        move || {
            tracing::info!("received SIGHUP: the configuration is reloaded");
            changed.notify_one();
        }
    })?;
    let source = ConfigSource { path: path.to_owned(), changed, filter };
    let app = match App::start_from(&config, Some(source), Arc::new(SystemClock), soft).await {
        Err(StartError::Store(OpenError::Interrupted)) => {
            tracing::info!("stopped while the store's index was built anew; the next start begins again");
            return Ok(ExitCode::SUCCESS);
        }
        Err(StartError::Database(postgres::OpenError::Interrupted)) => return Ok(ExitCode::SUCCESS),
        started => started?,
    };
    // The store is leaked so that sled does not close: it would write and sync once more, and on a failing
    // disk panic or hang. Whatever was acknowledged is durable already.
    std::mem::forget(app.store.clone());
    // With its secrets: the service holds what it needs, and reads the file again to reload it.
    drop(config);
    app.run_until(hard).await?;
    Ok(ExitCode::SUCCESS)
}
