//! `GET /v1/links/export`: all links, as they are at one instant.

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::try_unfold;
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::links::query;
use super::{Problem, Shared};
use crate::clock::Clock;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::link::LinkData;
use crate::domain::time::Timestamp;
use crate::store::LinksSnapshot;

/// However slowly it is read.
const LIFE: Duration = Duration::from_hours(2);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// One link a line, as JSON or as CSV.
    #[param(inline)]
    #[serde(default)]
    format: Format,
    /// CSV for Excel: with a byte order mark, and with an apostrophe before what Excel would run as a formula.
    #[serde(default)]
    bom: bool,
    /// Found at this instant or later.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-11-01T00:00:00Z")]
    since: Option<Timestamp>,
    /// Found before this instant.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-12-01T00:00:00Z")]
    until: Option<Timestamp>,
    /// Only of this dealer.
    #[param(value_type = Option<String>, example = "wpDEALER")]
    corp_id: Option<CorpId>,
    /// Only of this app.
    #[param(value_type = Option<String>, example = "brand")]
    app: Option<AppName>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Ndjson,
    Csv,
}

const COLUMNS: [&str; 12] = [
    "app",
    "unionid",
    "external_userid",
    "corp_id",
    "pending_id",
    "source",
    "linked_at",
    "user_ids",
    "states",
    "first_added_at",
    "followers",
    "link_id",
];

struct Export {
    snapshot: Box<dyn LinksSnapshot>,
    clock: Arc<dyn Clock>,
    query: ExportQuery,
    begun: bool,
    stop: CancellationToken,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Export {
    fn wants(&self, link: &LinkData) -> bool {
        let ExportQuery { since, until, corp_id, app, .. } = &self.query;
        since.is_none_or(|since| link.linked_at >= since)
            && until.is_none_or(|until| link.linked_at < until)
            && corp_id.as_ref().is_none_or(|corp_id| *corp_id == link.corp_id)
            && app.as_ref().is_none_or(|app| *app == link.app)
    }

    /// Some more of the body; `None` at its end.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let mut text = Vec::new();
        let csv = self.query.format == Format::Csv;
        if !self.begun && csv {
            if self.query.bom {
                text.extend("\u{feff}".as_bytes());
            }
            write_csv(&mut text, |csv| csv.write_record(COLUMNS))?;
        }
        self.begun = true;
        while text.is_empty() {
            if self.stop.is_cancelled() || self.until <= Instant::now() {
                return Err(io::Error::other("the export was given up"));
            }
            // What does not end is an error of the transfer, which the reader notices.
            let some = self.snapshot.next(self.clock.now()).await.map_err(io::Error::other)?;
            let Some(links) = some else { return Ok(None) };
            for link in links.iter().filter(|link| self.wants(link)) {
                if csv {
                    write_csv(&mut text, |csv| csv.write_record(columns(link, self.query.bom)))?;
                } else {
                    serde_json::to_writer(&mut text, link)?;
                    text.push(b'\n');
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(Some((text.into(), self)))
    }
}

fn write_csv(
    text: &mut Vec<u8>,
    write: impl FnOnce(&mut csv::Writer<&mut Vec<u8>>) -> csv::Result<()>,
) -> io::Result<()> {
    let mut csv = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(text);
    write(&mut csv)?;
    csv.flush()
}

fn columns(link: &LinkData, for_excel: bool) -> [String; 12] {
    let followers = &link.followers;
    let joined = |texts: Vec<&str>| texts.join(";");
    let source = serde_json::to_value(link.source).unwrap_or_default();
    let columns = [
        link.app.to_string(),
        link.unionid.as_str().to_owned(),
        link.external_userid.as_str().to_owned(),
        link.corp_id.to_string(),
        link.pending_id.as_ref().map_or(String::new(), |id| id.as_str().to_owned()),
        source.as_str().unwrap_or_default().to_owned(),
        link.linked_at.to_string(),
        joined(followers.iter().map(|follower| follower.user_id.as_str()).collect()),
        joined(followers.iter().map(|follower| follower.state.as_deref().unwrap_or_default()).collect()),
        followers.first().map_or(String::new(), |follower| follower.added_at.to_string()),
        followers.len().to_string(),
        link.link_id.clone(),
    ];
    if for_excel { columns.map(harmless) } else { columns }
}

/// A spreadsheet runs what begins like a formula, and a member's or a channel's name is not ours to trust.
fn harmless(cell: String) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell }
}

/// All links at one instant
///
/// Streamed, however many there are. `x-unionlink-feed` is the position of the feed that the links stand for: who
/// goes on reading there misses nothing. `x-unionlink-links` is how many links there are before any filter. A transfer
/// that breaks off is incomplete.
#[utoipa::path(operation_id = "export_links", get, path = "/v1/links/export", tag = "links", params(ExportQuery), responses(
    (status = 200, content(
        (crate::domain::link::LinkData = "application/x-ndjson"),
        (String = "text/csv", example = "app,unionid,external_userid,…\r\n"),
     ), headers(
        ("x-unionlink-feed" = u64, description = "The position of the feed that the links stand for"),
        ("x-unionlink-links" = u64, description = "How many links there are before any filter"),
     )),
    super::openapi::Errors,
))]
pub(super) async fn export(
    State(state): Shared,
    parsed: Result<Query<ExportQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = query(parsed)?;
    let kind = match query.format {
        Format::Ndjson if query.bom => {
            return Err(Problem::bad_request("a byte order mark is for format=csv"));
        }
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8; header=present",
    };
    let place = state.heavy.clone().try_acquire_owned();
    let place =
        place.map_err(|_| Problem::busy("other requests read the whole store now; try again later"))?;
    let snapshot = state.store.snapshot().await?;
    let (feed, links) = (snapshot.feed_head(), snapshot.links());
    let export = Export {
        snapshot,
        clock: state.clock.clone(),
        query,
        begun: false,
        stop: state.stop.clone(),
        until: Instant::now() + LIFE,
        _place: place,
    };
    let mut response = Body::from_stream(try_unfold(export, Export::next)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("x-unionlink-feed", feed.into());
    headers.insert("x-unionlink-links", links.into());
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_run_is_made_harmless() {
        for (cell, shown) in [("=1+1", "'=1+1"), ("-1", "'-1"), ("@x", "'@x"), ("wmX", "wmX"), ("", "")] {
            assert_eq!(harmless(cell.to_owned()), shown);
        }
    }

    #[test]
    fn a_cell_with_a_separator_or_a_quote_is_quoted() {
        let mut text = Vec::new();
        write_csv(&mut text, |csv| csv.write_record(["a,b", "c\"d", "e"])).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "\"a,b\",\"c\"\"d\",e\r\n");
    }
}
