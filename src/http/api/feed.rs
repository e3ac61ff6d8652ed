//! `GET /v1/links/feed` and `GET /v1/links/stream`: the same entries, page by page or as they come.
//!
//! Readers at the head of the feed all want the same page at the same moment. It is read and rendered once for all of
//! them ([`Pages`]), and each then writes it at the pace of its own connection, which alone suffers if that is slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::try_unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::links::query;
use super::{AdminState, Problem, Shared};
use crate::clock::Clock;
use crate::domain::link::FeedEntry;
use crate::store::{Store, StoreError};

const ENTRIES_DEFAULT: usize = 100;
const ENTRIES_MAX: usize = 1_000;
/// The longest that a request without news is held.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// How often a stream without news says that it is still there.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// Entries that a stream sends at a time.
const STREAM_PAGE: usize = 256;
/// Streams open at once.
pub(super) const STREAMS_MAX: usize = 1_000;
/// A page is read again after so long: what it tells of welcome codes becomes untrue.
const PAGE_KEPT: Duration = Duration::from_secs(1);
/// Readers of one page arrive together; a few pages are enough for those who are at the head.
const PAGES_KEPT: usize = 4;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FeedQuery {
    /// Entries behind this one; without it from the oldest that is kept.
    #[param(example = 42)]
    after: Option<u64>,
    /// At most so many entries; beyond 1 to 1000 it is the nearer of them.
    #[param(default = 100)]
    limit: Option<usize>,
    /// How long to wait for news if there is none: `30s`, `500ms`, or seconds; at most a minute.
    #[param(example = "30s", pattern = "^[0-9]+(ms|s)?$")]
    wait: Option<String>,
}

/// A page of the feed.
#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    /// Entries in order.
    entries: Vec<FeedEntry>,
    /// The number of the last of them, or `after` when there is none.
    #[schema(example = 42)]
    next: u64,
}

fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().ok()?;
    match unit {
        "" | "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        _ => None,
    }
}

/// The feed from a position on
///
/// Read it again with `after` = `next`. Numbers are strictly increasing and without gaps; ids are stable.
#[utoipa::path(operation_id = "read_feed", get, path = "/v1/links/feed", tag = "links", params(FeedQuery), responses(
    (status = 200, body = Page),
    (status = 410, response = super::openapi::Gone),
    super::openapi::Errors,
))]
pub(super) async fn feed(
    State(state): Shared,
    parsed: Result<Query<FeedQuery>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let FeedQuery { after, limit, wait } = query(parsed)?;
    let limit = limit.unwrap_or(ENTRIES_DEFAULT).clamp(1, ENTRIES_MAX);
    let wait = match wait.as_deref().map(duration) {
        None => Duration::ZERO,
        Some(Some(wait)) => wait.min(WAIT_MAX),
        Some(None) => {
            return Err(Problem::bad_request("wait is not a duration; they look like 30s or 500ms"));
        }
    };
    let give_up = tokio::time::Instant::now() + wait;
    let mut head = state.store.feed_head();
    let after = after.unwrap_or_else(|| state.store.counts().feed_pruned);
    loop {
        head.mark_unchanged();
        let entries = state.store.feed(after, limit, state.clock.now()).await?;
        let news = tokio::select! {
            biased;
            () = std::future::ready(()), if !entries.is_empty() => false,
            changed = head.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(give_up) => false,
            () = state.stop.cancelled() => false,
        };
        if !news {
            let next = entries.last().map_or(after, |entry| entry.seq);
            return Ok(Json(Page { entries, next }));
        }
    }
}

/// Some entries as a stream sends them.
#[derive(Clone)]
struct Rendered {
    text: Bytes,
    last: u64,
}

/// Pages that several readers want at once.
#[derive(Default)]
pub struct Pages(Mutex<VecDeque<(u64, Instant, Rendered)>>);

impl Pages {
    /// The entries behind `after`, if there are any. While one reader reads them the others wait for what it finds.
    async fn after(
        &self,
        after: u64,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<Option<Rendered>, StoreError> {
        let mut pages = self.0.lock().await;
        pages.retain(|(_, read_at, _)| read_at.elapsed() < PAGE_KEPT);
        if let Some((.., page)) = pages.iter().find(|(from, ..)| *from == after) {
            return Ok(Some(page.clone()));
        }
        let entries = store.feed(after, STREAM_PAGE, clock.now()).await?;
        let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(None) };
        let page = Rendered { text: entries.iter().map(event).collect::<String>().into(), last };
        if pages.len() >= PAGES_KEPT {
            pages.pop_front();
        }
        pages.push_back((after, Instant::now(), page.clone()));
        Ok(Some(page))
    }

    /// Forgets what it has: somebody was erased from the feed.
    pub(super) async fn clear(&self) {
        self.0.lock().await.clear();
    }
}

fn event(entry: &FeedEntry) -> String {
    // Neither can have a line end in it; JSON escapes them.
    let name = serde_json::to_value(entry.change).unwrap_or_default();
    let data = serde_json::to_string(entry).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", entry.seq, name.as_str().unwrap_or_default())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// Entries behind this one; without it from the oldest that is kept. `Last-Event-ID` goes first.
    #[param(example = 42)]
    after: Option<u64>,
}

/// One open stream.
struct Reader {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    pages: Arc<Pages>,
    head: watch::Receiver<u64>,
    stop: CancellationToken,
    after: u64,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// What to send next; `None` ends the stream.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, std::io::Error> {
        if self.over || self.stop.is_cancelled() {
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
                    // So slow that the feed has moved on.
                    let problem = serde_json::to_string(&Problem::from(error)).unwrap_or_default();
                    self.over = true;
                    return Ok(Some((format!("event: gone\ndata: {problem}\n\n").into(), self)));
                }
                Err(error) => return Err(std::io::Error::other(error)),
            }
            tokio::select! {
                changed = self.head.changed() => if changed.is_err() { return Ok(None) },
                () = &mut heartbeat => return Ok(Some((Bytes::from_static(b": still there\n\n"), self))),
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }
}

/// Where a reader goes on: browsers and most libraries say so by themselves when they connect again.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().filter(|text| !text.is_empty()).map(str::parse);
    match number {
        None if value.is_empty() => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        None | Some(Err(_)) => Err(Problem::bad_request("Last-Event-ID is not a number of the feed")),
    }
}

/// The feed as server-sent events
///
/// `id` is the number, `event` the type, `data` the entry. Goes on from `Last-Event-ID` or `after`; a comment every
/// 15 seconds keeps the connection open. A reader that takes nothing for 30 seconds is cut off, and goes on when it
/// connects again.
#[utoipa::path(operation_id = "stream_feed", get, path = "/v1/links/stream", tag = "links", params(
    StreamQuery,
    ("Last-Event-ID" = Option<u64>, Header, description = "The number of the last entry that arrived"),
), responses(
    (status = 200, content_type = "text/event-stream", body = String,
     example = "id: 42\nevent: link.created\ndata: {\"seq\":42, …}\n\n"),
    (status = 410, response = super::openapi::Gone),
    super::openapi::Errors,
))]
pub(super) async fn stream(
    State(state): Shared,
    headers: HeaderMap,
    parsed: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let after = query(parsed)?.after;
    let after = last_event_id(&headers)?.or(after).unwrap_or_else(|| state.store.counts().feed_pruned);
    let place = state.streams.clone().try_acquire_owned();
    let place =
        place.map_err(|_| Problem::busy("so many streams are open that there is no room for another"))?;
    // Whether it can begin there is told before anything is sent.
    state.store.feed(after, 1, state.clock.now()).await?;
    let AdminState { store, clock, pages, stop, .. } = &*state;
    let reader = Reader {
        store: store.clone(),
        clock: clock.clone(),
        pages: pages.clone(),
        head: store.feed_head(),
        stop: stop.clone(),
        after,
        over: false,
        _place: place,
    };
    let mut response = Body::from_stream(try_unfold(reader, Reader::next)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies are not to gather it up.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

#[cfg(test)]
mod tests;
