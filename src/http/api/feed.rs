//! `GET /v1/links/feed` and `GET /v1/links/stream`: the same entries, page by page or as server-sent events.
//!
//! Streams share rendered pages ([`Pages`]), and each writes them at the pace of its own connection: a slow
//! reader delays only itself.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::try_unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::extract::QueryParams;
use super::pages::{Pages, Rendered};
use super::state::{AdminState, Shared};
use crate::clock::Clock;
use crate::domain::link::FeedEntry;
use crate::http::problem::Problem;
use crate::store::{Store, StoreError};

const ENTRIES_DEFAULT: usize = 100;
const ENTRIES_MAX: usize = 1_000;
/// The longest time a long poll is held.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// How often an idle stream sends a comment as a sign of life.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FeedQuery {
    /// Only entries after this sequence number. Default: from the oldest entry kept.
    #[param(example = 42)]
    after: Option<u64>,
    /// The maximum number of entries, 1 to 1000; values outside this range are clamped.
    #[param(default = 100)]
    limit: Option<usize>,
    /// How long to wait for a new entry when there is none yet: `30s`, `500ms` or a number of seconds; one
    /// minute at most.
    #[param(example = "30s", pattern = "^[0-9]+(ms|s)?$")]
    wait: Option<String>,
}

/// A page of the feed.
#[derive(Serialize, ToSchema)]
#[schema(as = FeedPage)]
pub(super) struct Page {
    /// The entries in order.
    entries: Vec<FeedEntry>,
    /// The sequence number of the last of them; `after` when there is none.
    #[schema(example = 42)]
    next: u64,
}

/// Parses the parameter `wait`.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().ok()?;
    match unit {
        "" | "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        _ => None,
    }
}

/// Read the feed of link changes, page by page
///
/// Pass `next` as `after` to read the next page. Sequence numbers increase by one from entry to entry,
/// without gaps; ids are stable.
#[utoipa::path(operation_id = "read_feed", get, path = "/v1/links/feed",
    tag = "links", params(FeedQuery), responses(
    (status = 200, body = Page, description = "A page of the feed"),
    (status = 410, response = super::openapi::Gone),
    super::openapi::Errors,
))]
pub(super) async fn feed(
    State(state): Shared,
    QueryParams(query): QueryParams<FeedQuery>,
) -> Result<Json<Page>, Problem> {
    let FeedQuery { after, limit, wait } = query;
    let limit = limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX);
    let wait = wait.as_deref().map_or(Some(Duration::ZERO), duration);
    let wait = wait.ok_or_else(|| Problem::bad_request("wait is not a duration such as 30s or 500ms"))?;
    let _permit = if wait.is_zero() {
        None
    } else {
        let permit = state.permits.polls.try_acquire();
        Some(permit.map_err(|_| Problem::busy("too many long polls are waiting; try again later"))?)
    };
    let deadline = tokio::time::Instant::now() + wait.min(WAIT_MAX);
    let mut head = state.store.feed_head();
    let after = after.unwrap_or_else(|| state.store.counts().feed_pruned);
    loop {
        head.mark_unchanged();
        let entries = state.store.feed(after, limit, state.clock.now()).await?;
        let has_news = tokio::select! {
            biased;
            () = std::future::ready(()), if !entries.is_empty() => false,
            changed = head.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(deadline) => false,
            () = state.stop.cancelled() => false,
        };
        if !has_news {
            let next = entries.last().map_or(after, |entry| entry.seq);
            return Ok(Json(Page { entries, next }));
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// Only entries after this sequence number. Default: from the oldest entry kept. `Last-Event-ID` takes
    /// precedence.
    #[param(example = 42)]
    after: Option<u64>,
}

/// An open stream.
struct Reader {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    pages: Arc<Pages>,
    head: watch::Receiver<u64>,
    stop: CancellationToken,
    after: u64,
    /// Whether the last event was sent.
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// The next bytes to send; `None` ends the stream.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, std::io::Error> {
        if self.is_over || self.stop.is_cancelled() {
            return Ok(None);
        }
        let heartbeat = tokio::time::sleep(HEARTBEAT_EVERY);
        tokio::pin!(heartbeat);
        loop {
            self.head.mark_unchanged();
            match self.pages.after(self.after, &*self.store, &*self.clock).await {
                Ok(Some(Rendered { text, last })) => {
                    self.after = last;
                    return Ok(Some((text, self)));
                }
                Ok(None) => {}
                Err(error @ StoreError::Gone { .. }) => {
                    // The reader is so slow that the entries were pruned before they were sent.
                    let problem = serde_json::to_string(&Problem::from(error)).unwrap_or_default();
                    self.is_over = true;
                    return Ok(Some((format!("event: gone\ndata: {problem}\n\n").into(), self)));
                }
                Err(error) => return Err(std::io::Error::other(error)),
            }
            tokio::select! {
                changed = self.head.changed() => if changed.is_err() { return Ok(None) },
                () = &mut heartbeat => return Ok(Some((Bytes::from_static(b": heartbeat\n\n"), self))),
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }
}

/// The sequence number after which a reader resumes. Browsers and most libraries send it when they reconnect.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::bad_request("Last-Event-ID is not a sequence number of the feed"))
}

/// Stream the feed as server-sent events
///
/// `id` is the sequence number, `event` the type, `data` the entry. Resumes after `Last-Event-ID` or `after`.
/// After 15 seconds without an entry a comment is sent to keep the connection open. A reader that reads
/// nothing for 30 seconds is disconnected and can resume. If the next entry was pruned meanwhile, the stream
/// ends with an event `gone`.
#[utoipa::path(operation_id = "stream_feed", get, path = "/v1/links/stream", tag = "links", params(
    StreamQuery,
    ("Last-Event-ID" = Option<u64>, Header, description = "The sequence number of the last entry received"),
), responses(
    (status = 200, content_type = "text/event-stream", body = String, description = "The stream",
     example = "id: 42\nevent: link.created\ndata: {\"seq\":42, …}\n\n"),
    (status = 410, response = super::openapi::Gone),
    super::openapi::Errors,
))]
pub(super) async fn stream(
    State(state): Shared,
    headers: HeaderMap,
    QueryParams(StreamQuery { after }): QueryParams<StreamQuery>,
) -> Result<Response, Problem> {
    let after = last_event_id(&headers)?.or(after).unwrap_or_else(|| state.store.counts().feed_pruned);
    let permit = state.permits.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::busy("too many streams are open; try again later"))?;
    // A pruned position is answered 410 before the stream begins.
    state.store.feed(after, 1, state.clock.now()).await?;
    let AdminState { store, clock, pages, stop, .. } = &*state;
    let reader = Reader {
        store: store.clone(),
        clock: clock.clone(),
        pages: pages.clone(),
        head: store.feed_head(),
        stop: stop.clone(),
        after,
        is_over: false,
        _permit: permit,
    };
    let mut response = Body::from_stream(try_unfold(reader, Reader::next)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Tells nginx and others not to buffer the response.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

#[cfg(test)]
mod tests;
