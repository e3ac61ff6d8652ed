//! `POST /v1/reload`: the service takes over a changed configuration without a restart.
//!
//! Deliberately absent: what is reloaded and how, which is the application's.

use axum::Json;
use axum::extract::State;

use super::audit::By;
use super::state::{Shared, task_failed};
use crate::http::problem::Problem;
use crate::http::reload::Reloaded;

/// Reload the configuration
///
/// Reads the configuration file again, as SIGHUP does. Reloaded are the apps' `secret`, callback tokens and
/// keys, `accept_receive_ids` and `quota`, the callback tokens and keys of suites, the tokens and `hosts` of
/// `[admin]`, the sinks, and `log.filter`. Everything is checked first: an invalid configuration changes
/// nothing. Requests in progress are not affected, and deliveries in progress are finished.
///
/// The environment of a process does not change: a secret that is written as `{ env = "…" }` needs a restart,
/// one in a file of its own does not.
#[utoipa::path(operation_id = "reload", post, path = "/v1/reload", tag = "service",
    responses(
        (status = 200, body = Reloaded, description = "What has changed, and what needs a restart"),
        (status = 409, response = super::openapi::Conflict),
        (status = 422, response = super::openapi::ConfigurationInvalid),
        super::openapi::Errors,
    ))]
pub(super) async fn reload(State(state): Shared, By(by): By) -> Result<Json<Reloaded>, Problem> {
    let Some(reload) = state.reload.clone() else {
        return Err(Problem::conflict("this service was not started from a configuration file"));
    };
    // In a task of its own: a client that gives up does not stop it halfway.
    let reloaded = tokio::spawn(async move { reload.reload(by).await }).await;
    let reloaded = reloaded.map_err(|error| task_failed(&error))?;
    reloaded.map(Json).map_err(Problem::configuration_invalid)
}
