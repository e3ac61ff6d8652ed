//! `GET /v1/links/export`: all links, streamed as NDJSON or CSV.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::try_unfold;
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::audit::By;
use super::extract::{QueryParams, instant_param};
use super::state::{AdminState, Shared};
use crate::domain::audit::AuditAction;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::link::LinkData;
use crate::domain::time::Timestamp;
use crate::http::problem::Problem;
use crate::store::LinksScan;

/// The longest time an export may take; it holds a permit.
const EXPORT_MAX: Duration = Duration::from_hours(2);
/// The size of a part of the body, in bytes: small enough to notice how fast the client reads.
const PART_BYTES: usize = 32 << 10;
/// How fast a client has to read on average, in bytes a second, once it has had [`GRACE`].
const RATE_MIN: u64 = 64 << 10;
const GRACE: Duration = Duration::from_mins(1);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// `ndjson`: one JSON object per line; `csv`: one row per link, after a header row.
    #[param(inline)]
    #[serde(default)]
    format: Format,
    /// CSV for Excel: begins with a byte order mark, times are in China time and without an offset, so that
    /// Excel takes them for dates, and cells that Excel would run as a formula begin with an apostrophe.
    #[serde(default)]
    bom: bool,
    /// Only links made at this instant or later: RFC 3339 (a `+` in a URL is written `%2B`), a date with or
    /// without a time of day in China time, or Unix seconds or milliseconds. A date means its first instant.
    #[param(value_type = Option<String>, example = "2026-11-01")]
    #[serde(default, deserialize_with = "instant_param")]
    since: Option<Timestamp>,
    /// Only links made before this instant, in the same forms: `until=2026-12-01` includes all of November.
    #[param(value_type = Option<String>, example = "2026-12-01T00:00:00+08:00")]
    #[serde(default, deserialize_with = "instant_param")]
    until: Option<Timestamp>,
    /// Only links of this dealer.
    #[param(value_type = Option<String>, example = "wpDEALER")]
    corp_id: Option<CorpId>,
    /// Only links of this app.
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

/// The columns of the CSV. For Excel, the names of the columns with times contain the offset.
const COLUMNS: [&str; 14] = [
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
    "corp_name",
    "chat_id",
];

/// An export under way.
struct Export {
    scan: Box<dyn LinksScan>,
    state: Arc<AdminState>,
    query: ExportQuery,
    has_begun: bool,
    /// What is rendered and not sent yet.
    rendered: Bytes,
    pace: Pace,
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

/// How fast the client reads: only the time counts in which it has a part that it has not read.
#[derive(Default)]
struct Pace {
    given_at: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The client has read the last part. Returns whether it is too slow.
    fn is_too_slow(&mut self, now: Instant) -> bool {
        let given_at = self.given_at.take();
        self.waited += given_at.map_or(Duration::ZERO, |given_at| now.duration_since(given_at));
        self.waited > GRACE && self.bytes < RATE_MIN.saturating_mul(self.waited.as_secs())
    }

    fn gave(&mut self, bytes: usize, now: Instant) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.given_at = Some(now);
    }
}

impl Export {
    fn wants(&self, link: &LinkData) -> bool {
        let ExportQuery { since, until, corp_id, app, .. } = &self.query;
        since.is_none_or(|since| link.linked_at >= since)
            && until.is_none_or(|until| link.linked_at < until)
            && corp_id.as_ref().is_none_or(|corp_id| *corp_id == link.corp_id)
            && app.as_ref().is_none_or(|app| *app == link.app)
    }

    /// The next part of the body; `None` at its end. An export that cannot be completed ends as a transfer
    /// error, so that the client notices.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.pace.is_too_slow(Instant::now()) {
            tracing::warn!(rate_min = RATE_MIN, "an export was stopped: its client read too slowly");
            return Err(io::Error::other("export stopped: read more slowly than 64 KiB a second"));
        }
        if self.rendered.is_empty() {
            self.rendered = self.render().await?;
        }
        if self.rendered.is_empty() {
            return Ok(None);
        }
        let part = self.rendered.split_to(PART_BYTES.min(self.rendered.len()));
        self.pace.gave(part.len(), Instant::now());
        Ok(Some((part, self)))
    }

    /// The rows of the next page of links that has some; empty at its end.
    async fn render(&mut self) -> io::Result<Bytes> {
        let mut text = Vec::new();
        let csv = self.query.format == Format::Csv;
        if !self.has_begun && csv {
            if self.query.bom {
                text.extend("\u{feff}".as_bytes());
            }
            let for_excel = self.query.bom;
            write_csv(&mut text, for_excel, |csv| csv.write_record(header_row(for_excel)))?;
        }
        self.has_begun = true;
        while text.is_empty() {
            if self.state.stop.is_cancelled() || self.deadline <= Instant::now() {
                return Err(io::Error::other("export stopped: shutdown or time limit"));
            }
            let next = self.scan.next(self.state.clock.now()).await.map_err(io::Error::other)?;
            let Some(links) = next else { return Ok(Bytes::new()) };
            for link in links.iter().filter(|link| self.wants(link)) {
                if csv {
                    let for_excel = self.query.bom;
                    write_csv(&mut text, for_excel, |csv| csv.write_record(columns(link, for_excel)))?;
                } else {
                    serde_json::to_writer(&mut text, link)?;
                    text.push(b'\n');
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(text.into())
    }
}

/// For Excel every cell is quoted: where its list separator is `;`, an unquoted cell would end there.
fn write_csv(
    text: &mut Vec<u8>,
    for_excel: bool,
    write: impl FnOnce(&mut csv::Writer<&mut Vec<u8>>) -> csv::Result<()>,
) -> io::Result<()> {
    let quotes = if for_excel { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
    let mut builder = csv::WriterBuilder::new();
    let mut csv = builder.terminator(csv::Terminator::CRLF).quote_style(quotes).from_writer(text);
    write(&mut csv)?;
    csv.flush()
}

fn header_row(for_excel: bool) -> [String; 14] {
    COLUMNS
        .map(|name| if for_excel && name.ends_with("_at") { format!("{name} (UTC+8)") } else { name.into() })
}

fn columns(link: &LinkData, for_excel: bool) -> [String; 14] {
    let followers = &link.followers;
    let time = |at: Timestamp| if for_excel { at.in_china_for_sheets() } else { at.to_string() };
    // Each value by itself, too: somebody may split the cell.
    let value = |text: &str| if for_excel { without_formula(text) } else { text.to_owned() };
    let joined = |texts: Vec<&str>| texts.into_iter().map(value).collect::<Vec<_>>().join(";");
    let source = serde_json::to_value(link.source).unwrap_or_default();
    let columns = [
        link.app.to_string(),
        link.unionid.as_str().to_owned(),
        link.external_userid.as_str().to_owned(),
        link.corp_id.to_string(),
        link.pending_id.as_ref().map_or(String::new(), |id| id.as_str().to_owned()),
        source.as_str().unwrap_or_default().to_owned(),
        time(link.linked_at),
        joined(followers.iter().map(|follower| follower.user_id.as_str()).collect()),
        joined(followers.iter().map(|follower| follower.state.as_deref().unwrap_or_default()).collect()),
        followers.first().map_or(String::new(), |follower| time(follower.added_at)),
        followers.len().to_string(),
        link.link_id.clone(),
        link.corp_name.clone().unwrap_or_default(),
        link.chat_id.as_ref().map(ToString::to_string).unwrap_or_default(),
    ];
    if for_excel { columns.map(|cell| without_formula(&cell)) } else { columns }
}

/// Escapes a cell that a spreadsheet would run as a formula; the names in it are untrusted input. Excel takes
/// full-width signs for the ASCII ones.
fn without_formula(cell: &str) -> String {
    let begins_formula = |text: &str| text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    if cell.starts_with(['\t', '\r', '\n']) || begins_formula(cell.trim_start()) {
        format!("'{cell}")
    } else {
        cell.to_owned()
    }
}

/// Export all links
///
/// Streams all links while they may change. The header `x-unionlink-feed` is the feed's sequence number when
/// the export began, and every link is shown as it was then or later: apply the feed with `after` = this
/// number to the exported links, by `link_id`, to have them as they are. `x-unionlink-links` is the number of
/// links when the export began, before any filter. An export that ends with a transfer error is incomplete.
#[utoipa::path(operation_id = "export_links", get, path = "/v1/links/export",
    tag = "links", params(ExportQuery), responses(
    (status = 200, description = "The links that match", content(
        (crate::domain::link::LinkData = "application/x-ndjson"),
        (String = "text/csv", example = "app,unionid,external_userid,…\r\n"),
     ), headers(
        ("x-unionlink-feed" = u64, description = "The feed's sequence number when the export began"),
        ("x-unionlink-links" = u64, description = "The number of links when the export began, before any filter"),
     )),
    super::openapi::Errors,
))]
pub(super) async fn export(
    State(state): Shared,
    by: By,
    QueryParams(query): QueryParams<ExportQuery>,
) -> Result<Response, Problem> {
    let kind = match query.format {
        Format::Ndjson if query.bom => {
            return Err(Problem::bad_request("bom requires format=csv"));
        }
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8; header=present",
    };
    let permit = state.permits.exports.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::busy("too many exports are running; try again later"))?;
    let scan = state.store.scan_links().await?;
    let (feed, links) = (scan.feed_head(), scan.links());
    let format = if query.format == Format::Csv { "csv" } else { "ndjson" };
    state.record(by.did(AuditAction::Export, &state).count("links", links).about("format", format)).await?;
    let export = Export {
        scan,
        state,
        query,
        has_begun: false,
        rendered: Bytes::new(),
        pace: Pace::default(),
        deadline: Instant::now() + EXPORT_MAX,
        _permit: permit,
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
    fn only_a_client_that_reads_slowly_for_long_is_too_slow() {
        let begin = Instant::now();
        let read = |parts: u32, each: Duration, ours: Duration| {
            let (mut pace, mut now) = (Pace::default(), begin);
            (0..parts).any(|_| {
                pace.gave(PART_BYTES, now);
                now += each;
                let is_too_slow = pace.is_too_slow(now);
                now += ours;
                is_too_slow
            })
        };
        let second = Duration::from_secs(1);
        assert!(!read(1_000, second / 2, second * 60), "the time that we take does not count");
        assert!(!read(60, second, Duration::ZERO), "it has a minute to begin");
        assert!(read(62, second, Duration::ZERO));
        assert!(read(1, second * 61, Duration::ZERO));
    }

    #[test]
    fn what_a_spreadsheet_would_run_is_made_harmless() {
        for harmful in
            ["=1+1", "-1", "@x", "+1", "＝1+1", "－1", "＠x", "＋1", " =1", "\t1", "\n1", "\u{3000}＝1"]
        {
            assert_eq!(without_formula(harmful), format!("'{harmful}"));
        }
        for harmless in ["wmX", "", "1-1", "a=b", "'=1", "甲＝乙"] {
            assert_eq!(without_formula(harmless), harmless);
        }
        let mut entry = crate::sink::sample::entries(1, 1).remove(0);
        let crate::domain::link::EntryData::Link(link) = &mut entry.data else { panic!("no link") };
        let mut second = link.followers[0].clone();
        (link.followers[0].state, second.state) =
            (Some("a".to_owned()), Some("=cmd|'/c calc'!A1".to_owned()));
        link.followers.push(second);
        assert_eq!(columns(link, true)[8], "a;'=cmd|'/c calc'!A1");
        assert_eq!(columns(link, false)[8], "a;=cmd|'/c calc'!A1");
    }

    #[test]
    fn a_date_in_the_query_is_one_in_china() {
        let since = |text: &str| {
            let uri = format!("/v1/links/export?since={text}").parse().unwrap();
            axum::extract::Query::<ExportQuery>::try_from_uri(&uri).map(|query| query.0.since)
        };
        let at: Timestamp = "2026-11-28T16:00:00Z".parse().unwrap();
        for text in [
            "2026-11-29",
            "2026-11-29%2000:00:00",
            "2026-11-29T00:00:00%2B08:00",
            "2026-11-28T16:00:00Z",
            "1795881600",
        ] {
            assert_eq!(since(text).unwrap(), Some(at), "{text}");
        }
        assert!(since("yesterday").unwrap_err().body_text().contains(crate::domain::instant::INSTANT_FORMS));
    }

    #[test]
    fn times_for_excel_are_dates_in_china_time_under_names_that_tell_the_offset() {
        let entry = &crate::sink::sample::entries(1, 1)[0];
        let cells = |for_excel| {
            let cells = columns(entry.data.link().unwrap(), for_excel);
            header_row(for_excel).into_iter().zip(cells).collect::<std::collections::BTreeMap<_, _>>()
        };
        let (plain, for_excel) = (cells(false), cells(true));
        for name in ["linked_at", "first_added_at"] {
            assert_eq!(plain[name], "2026-11-22T01:02:03.457Z");
            assert_eq!(for_excel[&format!("{name} (UTC+8)")], "2026-11-22 09:02:03");
        }
        assert_eq!((plain["corp_name"].as_str(), plain.len()), ("上海一店", for_excel.len()));
    }

    #[test]
    fn the_last_column_is_the_customer_group() {
        let entry = &crate::sink::sample::entries(1, 1)[0];
        let mut link = entry.data.link().unwrap().clone();
        assert_eq!(columns(&link, false)[13], "");
        link.chat_id = Some(crate::domain::ids::ChatId::new("wrGROUP").unwrap());
        assert_eq!((COLUMNS[13], columns(&link, false)[13].as_str()), ("chat_id", "wrGROUP"));
    }

    #[test]
    fn a_cell_with_a_separator_or_a_quote_is_quoted() {
        let written = |for_excel| {
            let mut text = Vec::new();
            write_csv(&mut text, for_excel, |csv| csv.write_record(["a,b", "c\"d", "e;f"])).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert_eq!(written(false), "\"a,b\",\"c\"\"d\",e;f\r\n");
        assert_eq!(written(true), "\"a,b\",\"c\"\"d\",\"e;f\"\r\n");
    }
}
