//! From a file to the service: nothing lost, nothing done twice, whatever happens on the way.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::import::End;
use super::super::progress::Counts;
use super::service::{Answer, Service, run};
use super::{ID, with_ids};

const ROWS: usize = 20_000;
const ONE_FAN: &[u8] = b"unionid,openid\noINVENTED-id-of-fan-u,oINVENTED-id-of-fan-o\n";

fn folder_with(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

/// `rows` fans; of every hundred one is invalid, and one is refused by the service.
fn fans(rows: usize) -> String {
    let mut text = "unionid,openid,app\n".to_owned();
    let valid = format!("{ID}o");
    for n in 0..rows {
        let (openid, app) = match n % 100 {
            50 => ("", ""),
            51 => (valid.as_str(), "unknown"),
            _ => (valid.as_str(), ""),
        };
        writeln!(text, "{ID}u{n},{openid},{app}").unwrap();
    }
    text
}

fn good(rows: usize) -> usize {
    (0..rows).filter(|n| !matches!(n % 100, 50 | 51)).count()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The lines in a rejects file, in its order.
fn rejected_lines(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].as_u64().unwrap()).collect()
}

fn bad_lines(rows: usize) -> Vec<u64> {
    (0..rows).filter(|n| matches!(n % 100, 50 | 51)).map(|n| n as u64 + 2).collect()
}

fn progress_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.progress", path.display()))
}

/// Waits until the reading thread of a dropped import has closed its file.
async fn until_nobody_reads(path: &Path) {
    while File::open(path).unwrap().try_lock().is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_row_is_taken_known_or_rejected_with_its_line() {
    let service = Service::start(|_| Answer::Take).await;
    let (folder, path) = folder_with("fans.csv", fans(2_500).as_bytes());
    let rejects = folder.path().join("rejects");
    let mut job = service.job(&path);
    job.rejects = Some(rejects.clone());
    let counts = run(job).await.unwrap().counts;
    let accepted = good(2_500) as u64;
    assert_eq!(counts, Counts { rows: 2_500, accepted, known: 0, rejected: 50 });
    assert_eq!(rejected_lines(&rejects), bad_lines(2_500));
    let first: Value =
        serde_json::from_str(std::fs::read_to_string(&rejects).unwrap().lines().next().unwrap()).unwrap();
    let row = format!("{ID}u50,,");
    assert_eq!(first, serde_json::json!({"line": 52, "reason": "openid is missing", "row": row}));
    assert!(!progress_of(&path).exists(), "a complete import leaves no progress behind");
    let again = run(service.job(&path)).await.unwrap().counts;
    assert_eq!(again, Counts { rows: 2_500, accepted: 0, known: accepted, rejected: 50 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_broken_connections_lose_no_row() {
    let service = Service::start(|n| match n % 5 {
        1 => Answer::Refuse,
        3 => Answer::TakeAndBreak,
        _ => Answer::Take,
    })
    .await;
    let (_folder, path) = folder_with("fans.csv", fans(ROWS).as_bytes());
    let counts = run(service.job(&path)).await.unwrap().counts;
    assert_eq!(service.fans().len(), good(ROWS));
    assert_eq!((counts.rows, counts.accepted + counts.known), (ROWS as u64, good(ROWS) as u64));
    assert!(counts.known > 0, "some answers were lost, so some rows were sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_killed_twice_resumes_and_loses_no_row() {
    for compressed in [false, true] {
        let reached = std::sync::Arc::new(tokio::sync::Notify::new());
        let service = Service::start({
            let reached = reached.clone();
            move |n| {
                if n % 7 == 6 {
                    reached.notify_one();
                }
                if n % 6 == 5 { Answer::TakeAndBreak } else { Answer::Take }
            }
        })
        .await;
        let content = fans(ROWS);
        let content = if compressed { gzip(content.as_bytes()) } else { content.into_bytes() };
        let (folder, path) = folder_with("fans", &content);
        let rejects = folder.path().join("rejects");
        for _ in 0..2 {
            let mut job = service.job(&path);
            job.rejects = Some(rejects.clone());
            let import = tokio::spawn(run(job));
            reached.notified().await;
            import.abort();
            assert!(import.await.is_err(), "it was to be killed before its end");
            until_nobody_reads(&path).await;
            assert!(progress_of(&path).exists());
        }
        let mut job = service.job(&path);
        job.rejects = Some(rejects.clone());
        let counts = run(job).await.unwrap().counts;
        assert_eq!(service.fans().len(), good(ROWS));
        assert_eq!((counts.rows, counts.rejected), (ROWS as u64, bad_lines(ROWS).len() as u64));
        assert_eq!(rejected_lines(&rejects), bad_lines(ROWS));
        assert!(!progress_of(&path).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_import_sends_no_row_twice() {
    let chinese = fans(ROWS).replacen("unionid", "微信unionid", 1);
    for content in [
        fans(ROWS).into_bytes(),
        zstd::encode_all(fans(ROWS).as_bytes(), 1).unwrap(),
        encoding_rs::GB18030.encode(&chinese).0.into_owned(),
    ] {
        let stop = CancellationToken::new();
        let service = Service::start({
            let stop = stop.clone();
            move |n| {
                if n == 7 {
                    stop.cancel();
                }
                Answer::Take
            }
        })
        .await;
        let (_folder, path) = folder_with("fans", &content);
        let interrupted = service.job(&path).run(stop).await.unwrap();
        assert_eq!(interrupted.end, End::Interrupted);
        let line = interrupted.line;
        // The header is line 1, and what was under way was waited for.
        assert_eq!(line, interrupted.counts.rows + 1);
        assert!(line >= 8_000, "{line}");
        until_nobody_reads(&path).await;
        let counts = run(service.job(&path)).await.unwrap().counts;
        assert_eq!(counts.accepted, good(ROWS) as u64);
        assert_eq!((counts.rows, counts.known), (ROWS as u64, 0));
        let sent = ROWS - bad_lines(ROWS).len() / 2;
        assert_eq!(service.rows.load(Ordering::SeqCst), sent, "no row was sent twice");
    }
}

#[tokio::test]
async fn an_import_of_a_changed_file_is_not_resumed() {
    let stop = CancellationToken::new();
    let service = Service::start({
        let stop = stop.clone();
        move |_| {
            stop.cancel();
            Answer::Take
        }
    })
    .await;
    let (_folder, path) = folder_with("fans.csv", fans(ROWS).as_bytes());
    assert_eq!(service.job(&path).run(stop).await.unwrap().end, End::Interrupted);
    until_nobody_reads(&path).await;

    let (mut other_app, mut retry) = (service.job(&path), service.job(&path));
    other_app.options.app = Some(crate::domain::ids::AppName::new("other").unwrap());
    retry.retry_rejected = true;
    for job in [other_app, retry] {
        let error = run(job).await.unwrap_err().to_string();
        assert!(
            error.contains("--app, --format, --encoding or --retry-rejected were different")
                && error.contains("hint: start from the beginning with --restart"),
            "{error}"
        );
    }

    std::fs::write(&path, fans(100)).unwrap();
    let error = run(service.job(&path)).await.unwrap_err().to_string();
    assert!(error.contains("the file has changed since"), "{error}");
    let mut job = service.job(&path);
    job.restart = true;
    assert_eq!(run(job).await.unwrap().counts.rows, 100);
}

#[tokio::test]
async fn an_unavailable_service_is_given_up_with_a_hint() {
    let service = Service::start(|_| Answer::Refuse).await;
    let (_folder, path) = folder_with("fans.csv", ONE_FAN);
    let mut job = service.job(&path);
    job.patience.total = std::time::Duration::ZERO;
    let error = run(job).await.unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("no space"), "{error}");
    assert!(
        error.contains("hint: look at the disk; once it does, run the same command again to resume"),
        "{error}"
    );
    assert!(progress_of(&path).exists());
    until_nobody_reads(&path).await;

    // Nobody listens at all.
    let mut job = service.job(&path);
    job.restart = true;
    // Nobody else gets the port while it is bound.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    job.access.as_mut().unwrap().base_url = format!("http://{}", socket.local_addr().unwrap());
    job.patience.total = std::time::Duration::ZERO;
    let error = run(job).await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_permanent_refusal_is_not_retried() {
    let (_folder, path) = folder_with("fans.csv", ONE_FAN);
    for (answer, wanted) in [
        (Answer::Fail(400), "400 Bad Request: that will not do\nhint: look at the disk"),
        (Answer::Fail(413), "that will not do"),
        (Answer::OtherServer, "is it the admin listener's address?"),
    ] {
        let service = Service::start(move |_| answer).await;
        let mut job = service.job(&path);
        job.restart = true;
        let error = run(job).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(service.requests(), 1);
        until_nobody_reads(&path).await;
    }
    let service = Service::start(|_| Answer::Take).await;
    let mut job = service.job(&path);
    job.restart = true;
    job.access.as_mut().unwrap().token = Some("CANARY".into());
    let error = run(job).await.unwrap_err().to_string();
    assert!(error.contains("refuses the admin token") && !error.contains("CANARY"), "{error}");
}

#[tokio::test]
async fn a_dry_run_checks_every_row_and_leaves_no_trace() {
    let service = Service::start(|_| Answer::Take).await;
    let (folder, path) = folder_with("fans.csv", fans(2_500).as_bytes());
    let mut job = service.job(&path);
    job.access = None;
    let counts = run(job).await.unwrap().counts;
    assert_eq!(counts, Counts { rows: 2_500, accepted: 0, known: 0, rejected: 25 });
    assert_eq!(service.requests(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn unwritable_progress_stops_the_import_before_anything_is_sent() {
    let service = Service::start(|_| Answer::Take).await;
    let (folder, path) = folder_with("fans.csv", ONE_FAN);
    let mut job = service.job(&path);
    job.progress = Some(folder.path().join("no/such/folder"));
    let error = run(job).await.unwrap_err();
    assert!(error.to_string().contains("hint: name a writable file with --progress FILE"), "{error}");
    for option in ["progress", "rejects"] {
        let mut job = service.job(&path);
        let file = Some(folder.path().join("./fans.csv"));
        if option == "progress" {
            job.progress = file;
        } else {
            job.rejects = file;
        }
        let error = run(job).await.unwrap_err().to_string();
        assert!(error.contains(&format!("--{option} names")), "{error}");
    }
    assert_eq!(service.requests(), 0);
    assert_eq!(std::fs::read(&path).unwrap(), ONE_FAN);
}

#[tokio::test]
async fn two_imports_of_one_file_do_not_run_at_once() {
    let service = Service::start(|_| Answer::Take).await;
    let (_folder, path) = folder_with("fans.csv", ONE_FAN);
    let other = File::open(&path).unwrap();
    other.lock().unwrap();
    let error = format!("{:#}", run(service.job(&path)).await.unwrap_err());
    assert!(error.contains("another import of it is running"), "{error}");
}

#[tokio::test]
async fn an_app_that_is_not_configured_fails_the_import_before_a_row_is_sent() {
    let service = Service::start(|_| Answer::Take).await;
    let (folder, path) = folder_with("fans.csv", ONE_FAN);
    let fails = async |app: Option<&str>, wanted: &str| {
        let mut job = service.job(&path);
        job.options.app = app.map(|name| crate::domain::ids::AppName::new(name).unwrap());
        let error = run(job).await.unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("\nhint: "), "{error}");
        assert!(error.ends_with("with --app: brand, shop"), "{error}");
        // No progress is left that a corrected command would have to discard.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(service.requests(), 0);
    };
    fails(Some("unknown"), "there is no app named \"unknown\"").await;
    service.several_apps.store(true, Ordering::SeqCst);
    fails(None, "app is missing").await;
    // Rows that name their app need no default.
    std::fs::write(&path, with_ids(b"unionid,openid,app\n@u1,@o1,shop\n@u2,@o2,\n")).unwrap();
    assert_eq!(run(service.job(&path)).await.unwrap().counts.accepted, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_stops_once_more_rows_are_rejected_than_allowed_and_can_be_resumed() {
    let service = Service::start(|_| Answer::Take).await;
    let (_folder, path) = folder_with("fans.csv", fans(ROWS).as_bytes());
    let up_to = async |max_rejects: Option<u64>| {
        let mut job = service.job(&path);
        job.max_rejects = max_rejects;
        let report = run(job).await.unwrap();
        until_nobody_reads(&path).await;
        report
    };
    // Twenty rows of each batch of a thousand are rejected.
    let stopped = up_to(Some(50)).await;
    let rows = stopped.counts.rows;
    assert_eq!((stopped.end, stopped.line), (End::TooManyRejects, rows + 1));
    // The third batch is one too many; up to three requests more were under way, and are finished.
    assert!([3_000, 4_000, 5_000, 6_000].contains(&rows), "{rows}");
    assert_eq!(stopped.counts.rejected, rows / 50);
    assert_eq!(service.rows.load(Ordering::SeqCst) as u64, rows - rows / 100, "every row sent is counted");
    assert_eq!(stopped.first_rejects[0], "line 52: openid is missing");
    assert_eq!(stopped.first_rejects.len(), 3);
    assert!(progress_of(&path).exists());
    let again = up_to(Some(59)).await;
    assert_eq!((again.end, again.counts), (End::TooManyRejects, stopped.counts));
    let done = up_to(Some(bad_lines(ROWS).len() as u64)).await;
    assert_eq!((done.end, done.counts.rows), (End::Complete, ROWS as u64));
    assert_eq!(service.fans().len(), good(ROWS));
    assert!(!progress_of(&path).exists());
}
