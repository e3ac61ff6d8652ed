//! The description of the admin API at `/openapi.json`, generated from the handlers and their types.

use axum::Json;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, SecurityRequirement};
use utoipa::{IntoResponses, Modify, ToResponse};

use crate::domain::access::TokenScope;
use crate::http::problem::Problem;

/// Errors that any request may be answered with.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only describes the responses")]
pub(super) enum Errors {
    /// The request is malformed: `bad_request`, `body_broken`.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// The admin token is missing or wrong: `unauthorized`.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// The token does not allow this, `scope` says which scope it would need: `scope_missing`; or a change
    /// requested by a page of another origin: `cross_origin`.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// The `Host` header is not one of this service's names: `host_not_allowed`.
    #[response(status = 421, content_type = "application/problem+json")]
    HostNotAllowed(Problem),
    #[response(status = 503)]
    Unavailable(#[ref_response] Unavailable),
}

/// The store cannot serve the request now: `no_space`, `no_checkpoint`, `inbox_full`, `store_stalled`,
/// `store_unavailable`, `store_failed`, `store_damaged`, `store_closed`; or `too_busy`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct Unavailable(Problem);

/// Not found: `not_found`, `unknown_app`, `unknown_suite`, `unknown_dealer`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct NotFound(Problem);

/// Not possible in the current state: `conflict`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct Conflict(Problem);

/// The requested part of the feed was pruned: `feed_gone`. `oldest` is the sequence number of the oldest
/// entry kept.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct Gone(Problem);

/// The only fan of the request is rejected: `fan_rejected`. `detail` is the reason.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct FanRejected(Problem);

/// The configuration is invalid and was not reloaded: `configuration_invalid`, with `problems`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct ConfigurationInvalid(Problem);

/// The body is too large: `body_too_large`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct TooLarge(Problem);

/// The body did not arrive in time: `body_timeout`.
#[derive(ToResponse)]
#[response(content_type = "application/problem+json")]
#[expect(dead_code, reason = "only describes the response")]
pub(super) struct TooSlow(Problem);

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "unionlink admin API",
        description = "Registers fans, serves links, and gives operators status and control. It is private: \
            do not expose it to the internet.\n\nA token of `[[admin.tokens]]` allows the operations whose \
            `x-required-scope` it has; `admin.token` allows all.\n\nErrors are `application/problem+json` with a stable `code`. \
            A path that is not listed here is answered 404 `not_found`, a method that is not listed 405 \
            `method_not_allowed`."
    ),
    components(responses(
        NotFound,
        Conflict,
        Gone,
        FanRejected,
        ConfigurationInvalid,
        TooLarge,
        TooSlow,
        Unavailable
    )),
    tags(
        (name = "fans", description = "Registered (unionid, openid) pairs and their pending ids"),
        (name = "links", description = "Fans linked to dealers' customers: look-up, feed, export"),
        (name = "dealers", description = "The dealers, and comparing their customers with WeCom's lists"),
        (name = "agency", description = "Agency-developed apps (代开发应用): the corps that have authorised a \
            suite"),
        (name = "sinks", description = "Receivers to which link changes are delivered"),
        (name = "events", description = "The inbox, dead letters, quarantine"),
        (name = "people", description = "One person: why they are linked or not, and erasure"),
        (name = "service", description = "Status, metrics and health"),
    ),
    modifiers(&Bearer),
)]
pub(super) struct Api;

/// Adds the bearer token as the security scheme of all operations.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("admin_token", scheme);
        api.security = Some(vec![SecurityRequirement::new("admin_token", Vec::<String>::new())]);
    }
}

/// Writes the scope that they need into all operations of `api`.
pub(super) fn require_scope(api: &mut OpenApi, scope: TokenScope) {
    for path in api.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            let scope = Extensions::builder().add("x-required-scope", <&str>::from(scope)).build();
            operation.extensions.get_or_insert_default().merge(scope);
        }
    }
}

/// The description of this API
#[utoipa::path(operation_id = "describe", get, path = "/openapi.json",
    tag = "service", responses((status = 200, body = Object, description = "This description"), Errors))]
pub(super) async fn describe(
    axum::extract::Extension(description): axum::extract::Extension<std::sync::Arc<OpenApi>>,
) -> Response {
    Json(&*description).into_response()
}
