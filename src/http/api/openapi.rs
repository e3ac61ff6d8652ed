//! The description of the admin API at `/openapi.json`, generated from the handlers and their types.

use axum::Json;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, SecurityRequirement};
use utoipa::{IntoResponses, Modify, ToResponse};

pub(super) use super::super::problem::Problem;

/// Errors that any request may meet.
#[derive(IntoResponses)]
pub(super) enum Errors {
    /// The request is malformed: `bad_request`, `body_broken`.
    #[response(status = 400, content_type = "application/problem+json")]
    #[expect(dead_code, reason = "a description")]
    BadRequest(Problem),
    /// The admin token is missing or wrong: `unauthorized`.
    #[response(status = 401, content_type = "application/problem+json")]
    #[expect(dead_code, reason = "a description")]
    Unauthorized(Problem),
    /// A change that a page of another origin asks for: `cross_origin`.
    #[response(status = 403, content_type = "application/problem+json")]
    #[expect(dead_code, reason = "a description")]
    CrossOrigin(Problem),
    /// The service does not know the name in the `Host` header to be its own: `host_not_allowed`.
    #[response(status = 421, content_type = "application/problem+json")]
    #[expect(dead_code, reason = "a description")]
    HostNotAllowed(Problem),
    #[response(status = 503)]
    #[expect(dead_code, reason = "a description")]
    Unavailable(#[ref_response] Unavailable),
}

/// The store cannot do this now: `no_space`, `inbox_full`, `store_stalled`, `store_failed`, `store_damaged`,
/// `store_closed`, `snapshot_lost`; or `too_busy`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "a description")]
pub(super) struct Unavailable(Problem);

/// There is no such thing: `not_found`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "a description")]
pub(super) struct NotFound(Problem);

/// Not in this state: `conflict`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "a description")]
pub(super) struct Conflict(Problem);

/// The feed no longer has what was asked for: `feed_gone`. `oldest` is where it begins.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "a description")]
pub(super) struct Gone(Problem);

/// The body is too large (`body_too_large`).
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "a description")]
pub(super) struct TooLarge(Problem);

/// The body did not arrive in time (`body_timeout`).
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "a description")]
pub(super) struct TooSlow(Problem);

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "unionlink admin API", description = "Fans in, links out, and what operators ask. Private: keep it off the internet.\n\nErrors are `application/problem+json` with a stable `code`. A path that is not listed here is 404 `not_found`, a method that is not is 405 `method_not_allowed`."),
    components(responses(NotFound, Conflict, Gone, TooLarge, TooSlow, Unavailable)),
    tags(
        (name = "fans", description = "The brand's side"),
        (name = "links", description = "What came of it"),
        (name = "sinks", description = "Where links go"),
        (name = "events", description = "The inbox, dead letters, quarantine"),
        (name = "people", description = "One person: explained, forgotten"),
        (name = "service", description = "How it goes"),
    ),
    modifiers(&Bearer),
)]
pub(super) struct Api;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("admin_token", scheme);
        api.security = Some(vec![SecurityRequirement::new("admin_token", Vec::<String>::new())]);
    }
}

/// This description
#[utoipa::path(operation_id = "describe", get, path = "/openapi.json", tag = "service", responses((status = 200, body = Object), Errors))]
pub(super) async fn describe(
    axum::extract::Extension(description): axum::extract::Extension<std::sync::Arc<OpenApi>>,
) -> Response {
    Json(&*description).into_response()
}
