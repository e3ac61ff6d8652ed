//! Errors of the admin API: `application/problem+json` (RFC 9457) with a stable `code`.

use std::sync::LazyLock;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::access::TokenScope;
use crate::domain::ids::AppName;
use crate::store::StoreError;
use crate::telemetry::throttle::LogThrottle;

/// Limits the log of requests that failed because of the store, by problem code.
static STORE_FAILURES: LazyLock<LogThrottle<&'static str>> = LazyLock::new(LogThrottle::default);

/// An error: `code` for programs, the texts for people.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    #[serde(serialize_with = "serialize_status")]
    #[schema(value_type = u16, example = 400)]
    status: StatusCode,
    /// A stable identifier of the kind of error, for programs.
    #[schema(example = "bad_request")]
    code: &'static str,
    /// The kind of error, in words.
    title: &'static str,
    /// What is wrong with this request.
    #[schema(value_type = String)]
    detail: Box<str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    /// With 410: the sequence number of the oldest feed entry kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest: Option<u64>,
    /// With `fan_rejected` because of its app: the configured apps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    apps: Option<Box<[AppName]>>,
    /// With `scope_missing`: the scope that the token would need.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    scope: Option<TokenScope>,
    /// With `configuration_invalid`: everything that is wrong with the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<ConfigurationProblem>>)]
    problems: Option<Box<[ConfigurationProblem]>>,
}

/// One thing wrong with the configuration, or a risk. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigurationProblem {
    /// Where.
    #[schema(example = "apps[0].secret")]
    pub key: String,
    /// What is wrong.
    #[schema(example = "is missing")]
    pub reason: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde wants")]
fn serialize_status<S: serde::Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

impl Problem {
    /// What is wrong, for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            title,
            detail: detail.into().into(),
            hint: None,
            oldest: None,
            apps: None,
            scope: None,
            problems: None,
        }
    }

    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "The request is malformed", detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    /// A request names an app that is not configured.
    pub(super) fn unknown_app(detail: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_app", "No such app", detail)
            .hint("use the name of an [[apps]] section of the configuration")
    }

    /// A request names a suite that is not configured.
    pub(super) fn unknown_suite(name: &str) -> Self {
        let shown: String = name.chars().take(64).collect();
        let detail = format!("there is no suite named {shown:?}");
        Self::new(StatusCode::NOT_FOUND, "unknown_suite", "No such suite", detail)
            .hint("use the name of a [[suites]] section of the configuration")
    }

    /// A request names a corp that the app is not shared with.
    pub(super) fn unknown_dealer() -> Self {
        let detail = "this corp is not a dealer of the app, or of any app";
        Self::new(StatusCode::NOT_FOUND, "unknown_dealer", "No such dealer", detail)
            .hint("GET /v1/dealers lists the dealers with their state")
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path does not support the method of the request";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail)
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "the admin token is missing or wrong";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Not authorised", detail)
            .hint("send Authorization: Bearer, with the value of admin.token or of one of [[admin.tokens]]")
    }

    /// The token does not allow the request.
    pub(super) fn scope_missing(scope: TokenScope) -> Self {
        let detail = format!("this needs a token with the scope {}", <&str>::from(scope));
        let problem = Self::new(StatusCode::FORBIDDEN, "scope_missing", "Not allowed", detail)
            .hint("use another token, or add the scope to allow of this one in [[admin.tokens]]");
        Self { scope: Some(scope), ..problem }
    }

    /// The `Host` header is not one of this service's names.
    pub(super) fn host_not_allowed() -> Self {
        let detail = "the Host header is not one of this service's names";
        Self::new(StatusCode::MISDIRECTED_REQUEST, "host_not_allowed", "Host not allowed", detail)
            .hint("add the name to [admin] hosts, or use the IP address")
    }

    /// A change requested by a page of another origin.
    pub(super) fn cross_origin() -> Self {
        let detail = "pages of another origin may not make changes";
        Self::new(StatusCode::FORBIDDEN, "cross_origin", "Cross-origin request", detail)
            .hint("send no Origin header; if the page belongs to this service, add its host to [admin] hosts")
    }

    /// The only fan of a request is rejected.
    pub(super) fn fan_rejected(reason: String) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "fan_rejected", "The fan is rejected", reason)
    }

    /// Lists the configured apps, where the request names none of them.
    pub(super) fn with_apps(self, apps: Vec<AppName>) -> Self {
        let apps = Some(apps.into());
        Self { apps, ..self.hint("set app to one of the configured apps, which are listed in apps") }
    }

    /// The configuration cannot be reloaded.
    pub(super) fn configuration_invalid(problems: Vec<ConfigurationProblem>) -> Self {
        let detail = "the configuration was not reloaded: nothing has changed";
        let problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "configuration_invalid",
            "The configuration is invalid",
            detail,
        );
        Self { problems: Some(problems.into()), ..problem.hint("correct what problems lists") }
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Conflict with the current state", detail)
    }

    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_busy", "Too busy", detail)
    }

    /// The requested part of the feed was pruned.
    fn gone(oldest: u64) -> Self {
        let detail = format!(
            "the oldest entry kept is {oldest}; continue with after={}; /v1/links/export has older links",
            oldest - 1
        );
        Self {
            oldest: Some(oldest),
            ..Self::new(StatusCode::GONE, "feed_gone", "No longer in the feed", detail)
        }
    }

    /// The body could not be read; `status` is 413, 408, 503 or 400.
    pub(super) fn body(status: StatusCode) -> Self {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Self::busy("too many large bodies at once")
                .hint("send it later, or as application/x-ndjson, which is not held in memory"),
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(status, "body_too_large", "The body is too large", "the body exceeds the limit")
                    .hint("split it into several requests")
            }
            StatusCode::REQUEST_TIMEOUT => {
                Self::new(status, "body_timeout", "The body took too long", "the body did not arrive in time")
            }
            _ => Self::new(
                status,
                "body_broken",
                "The body is incomplete",
                "the connection ended before the whole body arrived",
            ),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let (code, hint) = match &error {
            StoreError::Gone { oldest } => return Self::gone(*oldest),
            StoreError::BeyondHead { head } => {
                let detail = format!("the newest feed entry is {head}; a sink cannot be moved beyond it");
                return Self::conflict(detail)
                    .hint("send {\"to\": \"now\"} to continue after the newest entry");
            }
            StoreError::NoSpace { .. } => {
                ("no_space", Some("free space on the disk of [store] path; the service resumes by itself"))
            }
            StoreError::NoCheckpoint { .. } => {
                ("no_checkpoint", Some("see the log; the service resumes once a checkpoint has been written"))
            }
            StoreError::InboxFull { .. } | StoreError::AuthCodesFull { .. } => {
                ("inbox_full", Some("see /v1/status for the open circuit breakers"))
            }
            StoreError::Stalled => (
                "store_stalled",
                Some("try again; if it persists, check the disk, or the database and its standby"),
            ),
            StoreError::Unavailable(_) => (
                "store_unavailable",
                Some("see whether the database of [store] url runs; the service resumes by itself"),
            ),
            StoreError::Failed(_) => {
                ("store_failed", Some("restart the service; nothing that was acknowledged is lost"))
            }
            StoreError::Damaged(_) => ("store_damaged", None),
            StoreError::Closed => ("store_closed", None),
        };
        if let Some(requests) = STORE_FAILURES.count(code) {
            let error = error.to_string();
            tracing::warn!(requests, error, "admin requests failed: the store is unavailable");
        }
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { hint, ..Self::new(status, code, "The store is unavailable", error.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let is_unauthorized = self.status == StatusCode::UNAUTHORIZED;
        let mut response = (self.status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if is_unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
