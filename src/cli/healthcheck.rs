//! `unionlink healthcheck`: whether the service could make a callback durable now, for containers and scripts.

use std::process::ExitCode;
use std::time::Duration;

use reqwest::{Method, StatusCode};

use super::admin::{AdminApi, ServiceArgs};

/// A container is asked every few seconds, and is given up after some failures.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Healthcheck {
    #[command(flatten)]
    service: ServiceArgs,
}

impl Healthcheck {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        check(&self.service.api()?).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Says nothing if the service is ready.
pub(super) async fn check(api: &AdminApi) -> anyhow::Result<()> {
    let answer = api.send(api.request(Method::GET, api.url(&["readyz"], &[])).timeout(TIMEOUT)).await?;
    match answer.status {
        StatusCode::OK => Ok(()),
        status => Err(api.refusal(status, &answer.body)),
    }
}
