//! What both listeners answer while the store is being opened, which takes long only if its index has to be built
//! anew: 503, so that WeCom sends its callbacks again, and on `/readyz` how far it is.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::problem::Problem;

/// How far the opening of the store is.
#[derive(Debug, Clone, Default)]
pub struct StartProgress(Arc<Mutex<Step>>);

#[derive(Debug, Clone, Default)]
enum Step {
    #[default]
    Opening,
    Rebuilding {
        reason: String,
        records: u64,
    },
}

impl StartProgress {
    fn set(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    /// The index is built anew, for this reason; so many records have been written.
    pub fn rebuilding(&self, reason: &str, records: u64) {
        self.set(Step::Rebuilding { reason: reason.to_owned(), records });
    }
}

impl fmt::Display for StartProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Step::Opening => f.write_str("the store is being opened"),
            Step::Rebuilding { reason, records } => {
                write!(f, "the store's index is being built anew, {records} records so far: {reason}")
            }
        }
    }
}

/// The routes of the admin listener until the store is open.
pub fn starting(progress: StartProgress) -> Router {
    let unavailable = move || {
        let detail = progress.to_string();
        async move { Unavailable(detail) }
    };
    Router::new().route("/livez", get(|| async { "alive\n" })).fallback(unavailable)
}

/// The routes of the public listener until the store is open: they tell strangers nothing.
pub fn starting_in_public() -> Router {
    let unavailable = || async { (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")]) };
    Router::new().route("/livez", get(|| async { "alive\n" })).fallback(unavailable)
}

struct Unavailable(String);

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let problem = Problem::new(status, "starting", "The service is starting", self.0)
            .hint("wait; callbacks are accepted once it is done, and WeCom repeats those that were not");
        ([(header::RETRY_AFTER, "5")], problem).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    async fn answer(progress: &StartProgress, path: &str) -> (u16, String) {
        let service = TowerToHyperService::new(starting(progress.clone()));
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = service.call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn until_the_store_is_open_it_is_alive_and_not_ready_and_says_how_far_it_is() {
        let progress = StartProgress::default();
        assert_eq!(answer(&progress, "/livez").await, (200, "alive\n".to_owned()));
        for path in ["/readyz", "/callback/brand", "/v1/links"] {
            let (status, text) = answer(&progress, path).await;
            assert!(status == 503 && text.contains("is being opened"), "{path}: {status} {text}");
        }
        progress.rebuilding("its files have changed since it was closed", 4_096);
        let (status, text) = answer(&progress, "/readyz").await;
        assert!(status == 503 && text.contains("4096 records so far: its files"), "{status} {text}");
    }
}
