//! Middleware of the admin listener: applies the checks of [`Guard`](super::guard::Guard) to every request
//! and adds the security headers to every response.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{self, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::state::Shared;

/// Refuses requests for unknown hosts, and requests from other origins that could change something.
pub(super) async fn host_and_origin(State(state): Shared, request: Request, next: Next) -> Response {
    let head = (request.method(), request.uri(), request.headers());
    match state.guard.check_host_and_origin(head, &state.metrics) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Refuses requests without the admin token.
pub(super) async fn token(State(state): Shared, request: Request, next: Next) -> Response {
    match state.guard.check_token(request.headers(), &state.metrics) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
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
