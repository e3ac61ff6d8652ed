//! The private listener: the brand's own systems and operators. Contract in README.

mod events;
mod fans;
mod links;
mod status;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::door::Door;
use super::problem::Problem;
use crate::clock::Clock;
use crate::domain::fan::Renew;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Limits;
use crate::domain::time::Timestamp;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::worker::Wake;
use crate::worker::pause::Pauses;

/// What the admin API knows of an app.
#[derive(Debug, Clone)]
pub struct AdminApp {
    /// The brand's corp.
    pub corp_id: CorpId,
    /// Whether new fans are to be asked about.
    pub existing_customers: bool,
    /// Its budget.
    pub quota: Limits,
    /// Percent of it kept for those who register now.
    pub reserve_percent: u8,
    /// Whose pending ids are renewed.
    pub renew: Renew,
}

/// What the handlers share.
pub struct AdminState {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// What a quarantined message means now.
    pub door: Arc<Door>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whom to wake.
    pub wake: Arc<Wake>,
    /// Who is left alone for now.
    pub pauses: Arc<Pauses>,
    /// The apps.
    pub apps: HashMap<AppName, AdminApp>,
    /// Bearer token; nobody is asked for one if there is none.
    pub token: Option<SecretString>,
    /// Since when the service runs.
    pub started_at: Timestamp,
}

type Shared = State<Arc<AdminState>>;

/// The private router.
pub fn router(state: Arc<AdminState>) -> Router {
    let guarded = Router::new()
        .route("/v1/fans", post(fans::register))
        .route("/v1/fans/{unionid}", get(fans::show))
        .route("/v1/links", get(links::find))
        .route("/v1/links/feed", get(links::feed))
        .route("/v1/events", get(events::list))
        .route("/v1/events/{id}/redrive", post(events::redrive))
        .route("/v1/status", get(status::show))
        .route("/metrics", get(status::metrics))
        .route_layer(middleware::from_fn_with_state(state.clone(), authorised));
    Router::new()
        .merge(guarded)
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(status::ready))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::not_found("no such path; README lists them") })
        .with_state(state)
}

/// Lets a request pass that carries the admin token. Digests are compared, so the time tells neither content nor
/// length.
async fn authorised(State(state): Shared, request: Request, next: Next) -> Response {
    if let Some(token) = &state.token {
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")))
            .unwrap_or_default();
        let (given, wanted) = (Sha256::digest(given), Sha256::digest(token.expose_secret()));
        if !bool::from(given.as_slice().ct_eq(wanted.as_slice())) {
            return Problem::unauthorized().into_response();
        }
    }
    next.run(request).await
}

impl AdminState {
    /// The app of this name; the only one, if none is named.
    fn app(&self, name: Option<&str>) -> Result<AppName, String> {
        match name {
            Some(name) => {
                let known = AppName::new(name).ok().filter(|name| self.apps.contains_key(name));
                let shown: String = name.chars().take(64).collect();
                known.ok_or_else(|| format!("there is no app named {shown:?}"))
            }
            None => match self.apps.keys().next() {
                Some(only) if self.apps.len() == 1 => Ok(only.clone()),
                _ => Err("there are several apps; name one in app".to_owned()),
            },
        }
    }
}
