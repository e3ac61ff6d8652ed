//! Looks every six hours for how long the certificate at `server.public_url` is still valid.
//!
//! A network may not lead back to itself: then it is not known, and `unionlink doctor` from outside tells.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;
use tokio_util::sync::CancellationToken;

use crate::certificate;
use crate::clock::Clock;
use crate::telemetry::metrics::Metrics;

const EVERY: Duration = Duration::from_hours(6);
/// The wait after a look that failed; what was seen before stays.
const AGAIN_AFTER: Duration = Duration::from_mins(10);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until `stop`.
pub(super) async fn watch(url: Url, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let host = url.host_str().unwrap_or_default().to_owned();
    loop {
        let Some(read) = stop.run_until_cancelled(read(url.clone())).await else { return };
        if let Some(read) = &read {
            metrics.machine.certificate_days(&host, read.days_left(clock.now()));
        }
        let wait = if read.is_some() { EVERY } else { AGAIN_AFTER };
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

async fn read(url: Url) -> Option<certificate::Read> {
    let client =
        reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(TIMEOUT).tls_info(true);
    // One that has expired, or is another's, is to be read too; nothing is sent but a GET of the address.
    let client = client.tls_danger_accept_invalid_certs(true).build().ok()?;
    certificate::Read::of_answer(&client.get(url).send().await.ok()?)
}
