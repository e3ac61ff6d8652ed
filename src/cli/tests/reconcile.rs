//! `unionlink reconcile`: its requests, its progress and its result.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::Response;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::service::{Heard, Service, json as answer, parsed};
use crate::cli::Command;
use crate::cli::admin::AdminApi;
use crate::cli::output::Output;
use crate::cli::progress_display::ProgressDisplay;
use crate::config::{AdminAccess, Environment};

const NOTHING: &str = r#"{"app":null,"corp_id":null}"#;

/// A run over two dealers.
fn run(dealers_done: u64) -> Value {
    let is_running = dealers_done < 2;
    json!({"running": is_running, "started_at": "2026-11-22T01:02:03.000Z",
        "finished_at": if is_running { json!(null) } else { json!("2026-11-22T01:02:15.340Z") },
        "dealers_total": 2, "dealers_done": dealers_done, "customers_seen": 6_000 * dealers_done,
        "customers_new": 12, "links_made": 1})
}

/// A service that begins a run, and then gives these answers, the last one for ever.
async fn service(answers: impl Fn(usize) -> Response + Send + Sync + 'static) -> Arc<Service> {
    let asked = AtomicUsize::new(0);
    Service::start(move |request| {
        if request.starts_with("POST ") {
            return answer(202, &run(0).to_string());
        }
        answers(asked.fetch_add(1, Ordering::SeqCst))
    })
    .await
}

fn shown(run: &Value) -> Response {
    answer(200, &run.to_string())
}

#[tokio::test]
async fn a_comparison_is_watched_to_its_end_and_summarised() {
    let service = service(|asked| shown(&run([1, 2][asked.min(1)]))).await;
    let ran = service.run(&["reconcile"]).await;
    ran.ends_with(0);
    assert_eq!(ran.data, "2 dealers compared in 12.3 s: 12,000 customers seen, 12 new, 1 linked\n");
    let post = format!("POST /v1/reconcile {NOTHING}");
    assert_eq!(service.asked(), [post.as_str(), "GET /v1/reconcile", "GET /v1/reconcile"]);
    let one = service.run(&["reconcile", "--app", "brand", "--corp-id", "wpA", "--json"]).await;
    one.ends_with(0);
    assert_eq!(serde_json::from_str::<Value>(&one.data).unwrap(), run(2));
    assert_eq!(service.asked()[3], r#"POST /v1/reconcile {"app":"brand","corp_id":"wpA"}"#);
}

#[tokio::test]
async fn a_comparison_without_dealers_ends_at_once_and_says_so() {
    let mut none = run(2);
    none["dealers_total"] = json!(0);
    none["dealers_done"] = json!(0);
    let service = Service::start(move |_| answer(202, &none.to_string())).await;
    let ran = service.run(&["reconcile"]).await;
    ran.ends_with(0);
    assert!(ran.data.starts_with("0 dealers compared") && ran.talk.contains("no dealer"), "{}", ran.talk);
    assert_eq!(service.asked().len(), 1);
}

#[tokio::test]
async fn a_service_that_restarts_is_waited_for() {
    let closed = r#"{"status":503,"detail":"the store is closed"}"#;
    let service = service(move |asked| if asked < 2 { answer(503, closed) } else { shown(&run(2)) }).await;
    let ran = service.run(&["reconcile"]).await;
    ran.ends_with(0);
    assert!(ran.data.starts_with("2 dealers compared"), "{}", ran.data);
}

#[tokio::test]
async fn the_next_comparison_is_not_taken_for_the_one_that_was_asked_for() {
    let mut next = run(0);
    next["started_at"] = json!("2026-11-22T02:00:00.000Z");
    let first = run(1);
    let service = service(move |asked| shown(if asked == 0 { &first } else { &next })).await;
    let ran = service.run(&["reconcile"]).await;
    ran.ends_with(0);
    assert_eq!(ran.data, "1 dealer compared: 6,000 customers seen, 12 new, 1 linked\n");
}

#[tokio::test]
async fn a_corp_that_is_no_dealer_fails_with_the_hint_of_the_service() {
    let problem = r#"{"status":404,"detail":"no such dealer","hint":"look at the list"}"#;
    let service = Service::start(move |_| answer(404, problem)).await;
    let error = service.run(&["reconcile", "--corp-id", "wpNOBODY"]).await.error();
    assert!(error.ends_with("404 Not Found: no such dealer\nhint: look at the list"), "{error}");
    assert!(parsed(&["reconcile", "--app", "two words"]).is_err());
}

#[tokio::test]
async fn when_interrupted_it_says_that_the_comparison_goes_on() {
    let stop = CancellationToken::new();
    let interrupt = stop.clone();
    let service = service(move |_| {
        interrupt.cancel();
        shown(&run(1))
    })
    .await;
    let token = ("UNIONLINK_ADMIN_TOKEN".to_owned(), "right".to_owned());
    let environment: Environment = [token].into_iter().collect();
    let api = AdminApi::new(&AdminAccess::at(&service.base_url, &environment)).unwrap();
    let Command::Reconcile(reconcile) = parsed(&["reconcile"]).unwrap() else { panic!() };
    let heard = Heard::default();
    let mut out = Output::to(heard.clone(), Heard::default());
    let error = Box::pin(reconcile.run_with(&api, &mut out, &stop)).await.unwrap_err().to_string();
    assert!(error.starts_with("interrupted; the comparison goes on in the service\nhint: "), "{error}");
    assert_eq!(heard.text(), "");
}

#[test]
fn the_time_left_follows_from_the_dealers_done_since_the_command_began() {
    let display = ProgressDisplay::new(false, Some(12), 0);
    display.advance_to(2, 12, "");
    let line = display.with_time_left("6/12 dealers".to_owned(), 6, Duration::from_secs(10));
    assert_eq!(line, "6/12 dealers · about 15 seconds left");
    assert_eq!(display.with_time_left("2/12 dealers".to_owned(), 2, Duration::from_secs(10)), "2/12 dealers");
}
