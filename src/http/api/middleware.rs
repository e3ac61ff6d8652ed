//! Middleware of the admin listener: applies the checks of [`Guard`](super::guard::Guard) to every request
//! and adds the security headers to every response.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{self, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::guard::{Caller, TokenRefusal};
use super::state::{AdminState, Shared};
use crate::domain::access::TokenScope;
use crate::http::problem::Problem;

/// Refuses requests for unknown hosts, and requests from other origins that could change something.
pub(super) async fn host_and_origin(State(state): Shared, request: Request, next: Next) -> Response {
    let head = (request.method(), request.uri(), request.headers());
    match state.guard.check_host_and_origin(head, &state.metrics) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Refuses requests without a valid token, those with a wrong one late; adds the [`Caller`] to the others.
pub(super) async fn token(State(state): Shared, mut request: Request, next: Next) -> Response {
    let refusal = match state.guard.caller(request.headers(), &state.metrics) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            return next.run(request).await;
        }
        Err(refusal) => refusal,
    };
    let mut response = Problem::unauthorized().into_response();
    if refusal == TokenRefusal::Wrong {
        let source = request.extensions().get().copied().unwrap_or_default();
        state.refused_tokens.count(source, state.clock.now());
        let is_late = state.late_answers.wait(source).await;
        if !is_late {
            // Too many are waiting: so that a guess costs at least a connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// Refuses requests whose token does not allow `scope`.
pub(super) async fn scope(
    State((scope, state)): State<(TokenScope, Arc<AdminState>)>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    if caller.scopes.contain(scope) {
        return next.run(request).await;
    }
    state.guard.scope_missing(&state.metrics);
    Problem::scope_missing(scope).into_response()
}

/// Headers of every response. There are no CORS headers, so no other origin can read one.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];
/// The content security policy of a response without one of its own, which only pages have.
const NO_PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

/// Adds the security headers.
pub(super) async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NO_PAGE_POLICY);
    response
}
