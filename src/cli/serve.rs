//! `unionlink serve`: runs the service until a signal stops it.

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
    for problem in &config.warnings {
        tracing::warn!(hint = problem.hint, "configuration: {problem}");
    }
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    lifecycle::listen_for_signals(soft.clone(), hard.clone())?;
    lifecycle::survive_hangups(|| {
        tracing::warn!(
            "received SIGHUP; reload is not supported yet: restart to apply a changed configuration"
        );
    })?;
    let app = App::start(&config, Arc::new(SystemClock), soft).await?;
    // The store is leaked so that sled does not close: it would write and sync once more, and on a failing
    // disk panic or hang. Whatever was acknowledged is durable already.
    std::mem::forget(app.store.clone());
    // With its secrets: the service holds what it needs.
    drop(config);
    app.run_until(hard).await?;
    Ok(ExitCode::SUCCESS)
}
