//! `links export`.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::Response;
use tokio::sync::{Notify, mpsc};

use super::service::{Ran, Service, body, json, parsed};
use crate::cli::output::StdoutClosed;

const ROWS: usize = 200_000;

fn export(pieces: mpsc::Receiver<io::Result<String>>) -> Response {
    let mut response = Response::new(body(pieces));
    response.headers_mut().insert("x-unionlink-links", 200_000.into());
    response.headers_mut().insert("x-unionlink-feed", 4_711.into());
    response
}

/// An export that consists of `pieces`.
fn whole(pieces: &[Result<&str, &str>]) -> Response {
    let (to, from) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        to.try_send(piece.map(str::to_owned).map_err(|why| io::Error::other(why.to_owned()))).unwrap();
    }
    export(from)
}

/// Counts the bytes written, records the longest write, and notifies once half of them are written.
struct Measured {
    written: Arc<AtomicUsize>,
    longest: Arc<AtomicUsize>,
    half: usize,
    half_written: Arc<Notify>,
}

impl Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.longest.fetch_max(bytes.len(), Ordering::SeqCst);
        let written = self.written.fetch_add(bytes.len(), Ordering::SeqCst) + bytes.len();
        if written >= self.half {
            self.half_written.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `rows` rows, numbered from `first`.
fn rows(first: usize, rows: usize) -> String {
    (first..first + rows).fold(String::new(), |mut text, n| {
        writeln!(text, r#"{{"link_id":"lnk_{n:07}","unionid":"o{n:07}","external_userid":"wm{n:07}"}}"#)
            .unwrap();
        text
    })
}

#[tokio::test]
async fn rows_are_written_as_they_arrive() {
    let half_written = Arc::new(Notify::new());
    let piece_bytes = rows(0, 1_000).len();
    let half = ROWS / 2 / 1_000 * piece_bytes;
    let heard = half_written.clone();
    let service = Service::start(move |_| {
        let (to, from) = mpsc::channel(1);
        let heard = heard.clone();
        tokio::spawn(async move {
            for first in (0..ROWS).step_by(1_000) {
                if first == ROWS / 2 {
                    // Would wait for ever if the client waited for the end.
                    heard.notified().await;
                }
                to.send(Ok(rows(first, 1_000))).await.unwrap();
            }
        });
        export(from)
    })
    .await;
    let (written, longest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let measured = Measured { written: written.clone(), longest: longest.clone(), half, half_written };
    let ran = service.run_into(&["links", "export"], measured).await;
    ran.ends_with(0);
    assert_eq!(written.load(Ordering::SeqCst), 2 * half);
    assert!(longest.load(Ordering::SeqCst) < 1 << 20);
    assert!(ran.talk.starts_with("200,000 rows in "), "{}", ran.talk);
    assert!(ran.talk.ends_with(" s; the feed continues after 4711\n"), "{}", ran.talk);
    assert_eq!(service.asked(), ["GET /v1/links/export?format=ndjson"]);
}

#[tokio::test]
async fn filters_are_passed_on_and_a_date_is_one_in_china() {
    let service = Service::start(|_| whole(&[])).await;
    let filters =
        ["--since", "2026-11-22", "--until", "2026-11-23T00:00:00Z", "--corp-id", "wp&A", "--app", "b"];
    service.run(&[&["links", "export", "--excel"][..], &filters].concat()).await.ends_with(0);
    let wanted = "GET /v1/links/export?format=csv&bom=true&since=2026-11-21T16%3A00%3A00.000Z\
                  &until=2026-11-23T00%3A00%3A00.000Z&corp_id=wp%26A&app=b";
    assert_eq!(service.asked(), [wanted.to_owned()]);
    assert!(parsed(&["links", "export", "--since", "yesterday"]).unwrap_err().contains("2026-11-22"));
    let both = service.run(&["links", "export", "--excel", "--format", "ndjson"]).await;
    both.ends_with(2);
    assert!(both.talk.contains("--excel is CSV"), "{}", both.talk);
}

#[tokio::test]
async fn csv_rows_may_contain_line_ends_and_the_header_is_not_counted() {
    let csv = "\u{feff}unionid,state\r\no1,\"a\nb\"\r\no2,\"\"\"\n\"\r\n";
    let service = Service::start(move |_| whole(&[Ok(csv)])).await;
    let ran = service.run(&["links", "export", "--format", "csv"]).await;
    ran.ends_with(0);
    assert_eq!(ran.data, csv);
    assert!(ran.talk.starts_with("2 rows in "), "{}", ran.talk);
}

async fn export_to_file(service: &Service, path: &std::path::Path) -> Ran {
    service.run(&["links", "export", "--output", path.to_str().unwrap()]).await
}

#[tokio::test]
async fn a_file_is_created_once_it_is_complete() {
    let service = Service::start(|_| whole(&[Ok("{}\n"), Ok("{}\n")])).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("links.ndjson");
    std::fs::write(&path, "old").unwrap();
    let ran = export_to_file(&service, &path).await;
    ran.ends_with(0);
    assert_eq!((ran.data.as_str(), std::fs::read_to_string(&path).unwrap().as_str()), ("", "{}\n{}\n"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_export_that_breaks_off_fails_and_leaves_no_file() {
    // More than is held back before anything is sent.
    let many = rows(0, 20_000);
    let service = Service::start(move |_| whole(&[Ok(&many), Ok("half a "), Err("on purpose")])).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("links.ndjson");
    let error = export_to_file(&service, &path).await.error();
    assert!(error.starts_with("the export failed after ") && error.contains("hint: run it again"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::write(&path, "old").unwrap();
    assert!(export_to_file(&service, &path).await.outcome.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    let piped = service.run(&["links", "export"]).await;
    assert!(piped.error().contains("the output is incomplete"), "{}", piped.error());
    assert_eq!(piped.talk, "");
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_hint_and_leaves_no_file() {
    let problem = r#"{"status":503,"detail":"the store is closed","hint":"try again"}"#;
    let service = Service::start(|_| json(503, problem)).await;
    let folder = tempfile::tempdir().unwrap();
    let error = export_to_file(&service, &folder.path().join("links")).await.error();
    assert!(error.ends_with("the store is closed\nhint: try again"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_unwritable_file_fails_before_the_request() {
    let service = Service::start(|_| whole(&[])).await;
    let folder = tempfile::tempdir().unwrap();
    assert!(export_to_file(&service, folder.path()).await.error().contains("is a directory"));
    assert!(
        export_to_file(&service, &folder.path().join("no/such")).await.error().contains("cannot write to")
    );
    assert_eq!(service.asked(), [""; 0]);
}

/// A standard output that its reader has closed.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closed_standard_output_ends_the_export_quietly() {
    let service = Service::start(|_| whole(&[Ok("{}\n")])).await;
    let ran = service.run_into(&["links", "export"], Closed).await;
    assert!(ran.outcome.unwrap_err().is::<StdoutClosed>());
    assert_eq!(ran.talk, "");
}
