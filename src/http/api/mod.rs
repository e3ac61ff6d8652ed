//! The admin listener's JSON API, for the brand's own systems and its operators: the routes, and the
//! middleware that each request passes. The handlers are in one file per resource; what they share is in
//! `state` and `extract`.

mod audit;
mod authorizations;
mod dealers;
mod events;
mod explain;
mod export;
mod extract;
pub(super) mod fans;
mod feed;
mod forget;
mod guard;
mod import_log;
mod late_answers;
mod links;
mod middleware;
mod openapi;
mod pages;
mod reconcile;
mod refused_tokens;
mod reload;
mod resume;
#[cfg(test)]
mod scene;
mod sinks;
mod state;
mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use crate::domain::access::TokenScope;
pub use guard::{Guard, Token};
pub use import_log::ImportLog;
pub use late_answers::LateAnswers;
pub use pages::Pages;
pub use refused_tokens::RefusedTokens;
pub use state::{AdminState, Permits};
pub use status::published;

/// How often runs of refused tokens are added to the audit trail.
const REFUSALS_RECORDED_EVERY: Duration = Duration::from_mins(1);

/// Adds the runs of refused tokens to the audit trail, until `stop` is cancelled.
pub async fn record_refused_tokens(state: Arc<AdminState>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(REFUSALS_RECORDED_EVERY)).await.is_some() {
        audit::record_refused_tokens(&state).await;
    }
    audit::record_refused_tokens(&state).await;
}

/// The admin listener's router.
pub fn router(state: Arc<AdminState>) -> Router {
    let (guarded, mut description) = OpenApiRouter::with_openapi(openapi::Api::openapi())
        .merge(allowed_to(&state, TokenScope::Fans, fan_routes()))
        .merge(allowed_to(&state, TokenScope::Links, link_routes()))
        .merge(allowed_to(&state, TokenScope::Operate, operator_routes()))
        .merge(allowed_to(&state, TokenScope::People, OpenApiRouter::new().routes(routes!(explain::show))))
        .merge(allowed_to(&state, TokenScope::Erase, erasure_routes()))
        .merge(allowed_to(&state, TokenScope::Metrics, OpenApiRouter::new().routes(routes!(status::metrics))))
        .routes(routes!(openapi::describe))
        .split_for_parts();
    let (open, open_description) = OpenApiRouter::<Arc<AdminState>>::new()
        .routes(routes!(status::live))
        .routes(routes!(status::ready))
        .split_for_parts();
    description.merge(open_description);
    let guarded = guarded
        .layer(Extension(Arc::new(description)))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::not_found("path not found; /openapi.json lists all paths") })
        .with_state(state.clone());
    // Around the whole router: without a token nobody learns which paths and methods there are.
    let guarded = Router::new()
        .fallback_service(guarded)
        .layer(from_fn_with_state(state.clone(), middleware::token))
        .layer(from_fn_with_state(state.clone(), middleware::host_and_origin));
    // Health checks have no token and use any host name.
    let open = open.method_not_allowed_fallback(|| async { Problem::method_not_allowed() });
    open.merge(guarded).layer(from_fn(middleware::security_headers)).with_state(state)
}

type Routes = OpenApiRouter<Arc<AdminState>>;

fn fan_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(fans::register))
        .routes(routes!(fans::list::list))
        .routes(routes!(fans::show::show))
}

fn link_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(links::find))
        .routes(routes!(feed::feed))
        .routes(routes!(feed::stream))
        .routes(routes!(export::export))
}

fn operator_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(status::doctor::diagnose))
        .routes(routes!(sinks::list))
        .routes(routes!(sinks::show))
        .routes(routes!(sinks::pause))
        .routes(routes!(sinks::resume))
        .routes(routes!(sinks::rewind))
        .routes(routes!(events::list))
        .routes(routes!(events::show))
        .routes(routes!(events::redrive::one))
        .routes(routes!(events::redrive::several))
        .routes(routes!(events::discard::one))
        .routes(routes!(events::discard::several))
        .routes(routes!(dealers::list))
        .routes(routes!(dealers::show))
        .routes(routes!(authorizations::list))
        .routes(routes!(reconcile::begin))
        .routes(routes!(reconcile::show))
        .routes(routes!(reload::reload))
        .routes(routes!(resume::resume))
        .routes(routes!(audit::list))
        .routes(routes!(status::history::show))
        .routes(routes!(status::show))
}

fn erasure_routes() -> Routes {
    OpenApiRouter::new().routes(routes!(forget::forget)).routes(routes!(forget::receipt))
}

/// These routes, for tokens with `scope` only.
fn allowed_to(state: &Arc<AdminState>, scope: TokenScope, mut routes: Routes) -> Routes {
    openapi::require_scope(routes.get_openapi_mut(), scope);
    routes.route_layer(from_fn_with_state((scope, state.clone()), middleware::scope))
}
