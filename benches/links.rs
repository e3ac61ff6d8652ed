//! Throughput of links to readers and receivers: feed, streams, export, file sink, and a webhook that catches
//! up after an outage of its receiver, compared with a bare client that posts the same bodies to the same
//! receiver.
//!
//! `cargo bench --bench links [-- --links N]`

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]
#![expect(clippy::cast_precision_loss, reason = "rates")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use common::{Service, argument, in_folder};
use serde_json::Value;
use tokio::net::TcpListener;
use unionlink::clock::{Clock, SystemClock};
use unionlink::domain::event::{ContactChange, ContactEvent, Event};
use unionlink::domain::fan::{Minted, Priority};
use unionlink::domain::ids::{AppName, CorpId, ExternalUserid, FanKey, Openid, PendingId, Unionid, UserId};
use unionlink::simulator::{AppSpec, CallbackSpec};
use unionlink::store::embedded::{EmbeddedStore, Settings};
use unionlink::store::{Arrival, MessageDigest, NewFan, Outcome, Payload, Store};

const SECRET: &str = "whsec_dW5pb25saW5rLWludmVudGVkLXNlY3JldC0x";
const STREAMS: usize = 50;

fn main() {
    tokio::runtime::Runtime::new().unwrap().block_on(run(argument("--links", 100_000)));
}

/// Creates a store with `links` links, each of another person.
async fn fill(folder: &Path, links: u64) {
    let store = EmbeddedStore::open(folder, Settings::default()).unwrap();
    let now = SystemClock.now();
    let app = AppName::new("brand").unwrap();
    let pending = |n: u64| PendingId::new(format!("inventedPendingId{n:015}")).unwrap();
    let numbers: Vec<_> = (0..links).collect();
    for chunk in numbers.chunks(1_024) {
        let fans = chunk.iter().map(|n| NewFan {
            key: FanKey {
                app: app.clone(),
                unionid: Unionid::new(format!("oINVENTEDunionid{n:012}")).unwrap(),
            },
            openid: Openid::new(format!("oINVENTEDopenid{n:013}")).unwrap(),
            ask_existing: false,
            priority: Priority::Bulk,
            minted: Some(Minted::new(pending(*n), now)),
            retry_rejected: false,
        });
        store.put_fans(fans.collect(), now).await.unwrap();
        let arrivals = chunk.iter().map(|n| {
            let contact = ContactEvent {
                change: ContactChange::Added,
                user_id: UserId::new("zhangsan").unwrap(),
                external_userid: ExternalUserid::new(format!("wmINVENTEDcustomer{n:014}")).unwrap(),
                state: Some("spring".to_owned()),
                welcome_code: None,
            };
            let corp_id = CorpId::new("wpINVENTEDdealer0000000000000000").unwrap();
            let digest = MessageDigest::of(&app, &n.to_be_bytes());
            let payload = Payload::Event(Event { corp_id, created_at: now, contact });
            store.append(Arrival { app: app.clone(), digest, received_at: now, payload })
        });
        futures_util::future::join_all(arrivals).await;
        let work = store.lease(now, 1_024, 1_024).await.unwrap();
        let settled = work.into_iter().map(|work| {
            let digits = work.contact.external_userid.as_str().trim_start_matches("wmINVENTEDcustomer");
            let outcome = Outcome::Resolved(pending(digits.parse().unwrap()));
            (work, outcome)
        });
        store.settle(settled.collect(), now).await.unwrap();
    }
    assert_eq!(store.counts().feed_head, links);
    store.close().await;
}

async fn serve(folder: &Path, sinks: &str) -> Service {
    // No call to the platform is made.
    let corp = AppSpec { corp_id: "wwINVENTED".into(), agent_id: 1, secret: "x".into(), callback: None };
    let callback = CallbackSpec { url: String::new(), token: "x".into(), aes_key: "a".repeat(43) };
    Service::start(&in_folder(folder), "http://127.0.0.1:9", &corp, &callback, sinks).await
}

async fn get(service: &Service, http: &reqwest::Client, path: &str) -> Value {
    http.get(format!("{}{path}", service.admin)).send().await.unwrap().json().await.unwrap()
}

/// Starts a webhook receiver. Returns its URL, its count of requests, and the status it answers with.
async fn receiver() -> (String, Arc<AtomicU64>, Arc<AtomicU16>) {
    let (received, status) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU16::new(200)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (counted, answered) = (received.clone(), status.clone());
    let take = move |body: Bytes| {
        let (received, status) = (counted.clone(), answered.clone());
        async move {
            received.fetch_add(u64::from(!body.is_empty()), Ordering::Relaxed);
            StatusCode::from_u16(status.load(Ordering::Relaxed)).unwrap()
        }
    };
    let router = Router::new().route("/", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, received, status)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn report(what: &str, links: u64, took: Duration, more: &str) {
    println!(
        "{what:<44} {:>9.0} links/s   {:>7.2} s   {more}",
        links as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
}

async fn read_stream(http: &reqwest::Client, admin: &str, last: u64) {
    let mut response = http.get(format!("{admin}/v1/links/stream")).send().await.unwrap();
    let (end, mut tail) = (format!("id: {last}\n"), String::new());
    while let Some(chunk) = response.chunk().await.unwrap() {
        tail.push_str(std::str::from_utf8(&chunk).unwrap());
        if tail.contains(&end) {
            return;
        }
        tail = tail.split_off(tail.len().saturating_sub(64));
    }
}

/// Posts up to `bodies` of these bodies one after the other, on the same threads as the sinks.
async fn bare_client(http: &reqwest::Client, url: &str, some: Vec<String>, bodies: usize) -> Duration {
    let (http, url) = (http.clone(), url.to_owned());
    let posting = tokio::spawn(async move {
        let begun = Instant::now();
        for body in some.into_iter().take(bodies) {
            let answer = http.post(&url).header("content-type", "application/json").body(body).send();
            answer.await.unwrap().bytes().await.unwrap();
        }
        begun.elapsed()
    });
    posting.await.unwrap()
}

async fn run(links: u64) {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    let begun = Instant::now();
    fill(&folder, links).await;
    println!("{links} links made in {:.1} s, durable\n", begun.elapsed().as_secs_f64());
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();

    let service = serve(&folder, "").await;
    let begun = Instant::now();
    let (mut after, mut bytes, mut some) = (0, 0, Vec::new());
    while after < links {
        let url = format!("{}/v1/links/feed?after={after}&limit=1000", service.admin);
        let page = http.get(url).send().await.unwrap().bytes().await.unwrap();
        bytes += page.len();
        let page: Value = serde_json::from_slice(&page).unwrap();
        after = page["next"].as_u64().unwrap();
        if some.is_empty() {
            some = page["entries"].as_array().unwrap().iter().map(Value::to_string).collect();
        }
    }
    report("feed, in pages of 1000", links, begun.elapsed(), &format!("{} MiB", bytes >> 20));

    let begun = Instant::now();
    read_stream(&http, &service.admin, links).await;
    report("one stream", links, begun.elapsed(), "");
    let begun = Instant::now();
    let streams = (0..STREAMS).map(|_| read_stream(&http, &service.admin, links));
    futures_util::future::join_all(streams).await;
    report(&format!("{STREAMS} concurrent streams, in total"), links * STREAMS as u64, begun.elapsed(), "");

    for format in ["ndjson", "csv"] {
        let begun = Instant::now();
        let url = format!("{}/v1/links/export?format={format}", service.admin);
        let mut response = http.get(url).send().await.unwrap();
        let (mut bytes, before, mut highest) = (0, resident_mib(), 0);
        while let Some(chunk) = response.chunk().await.unwrap() {
            bytes += chunk.len();
            highest = highest.max(resident_mib());
        }
        let more = format!("{} MiB; resident {before} MiB, peak {highest} MiB", bytes >> 20);
        report(&format!("export, {format}"), links, begun.elapsed(), &more);
    }
    service.stop().await;

    // The same bodies by a bare client, for comparison.
    let (url, _, status) = receiver().await;
    let bodies = some.len().min(20_000);
    let took = bare_client(&http, &url, some, bodies).await;
    let bare = bodies as f64 / took.as_secs_f64();
    println!("\n{:<44} {bare:>9.0} posts/s", "bare client, one entry per request");

    for batch in [1, 100] {
        let sink = format!(
            "[[sinks]]\nname = \"crm{batch}\"\nkind = \"webhook\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\nbatch = {batch}\n"
        );
        // The receiver is down at first and every entry waits, which must not cost memory.
        status.store(503, Ordering::Relaxed);
        let service = serve(&folder, &sink).await;
        let before = resident_mib();
        let path = format!("/v1/sinks/crm{batch}");
        while get(&service, &http, &path).await["failures"].as_u64() < Some(2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let down = resident_mib();
        status.store(200, Ordering::Relaxed);
        http.post(format!("{}{path}/resume", service.admin)).send().await.unwrap();
        http.post(format!("{}{path}/rewind", service.admin))
            .json(&serde_json::json!({"after": 0}))
            .send()
            .await
            .unwrap();
        let begun = Instant::now();
        while get(&service, &http, &path).await["after"].as_u64() < Some(links) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = begun.elapsed();
        let ratio = links as f64 / took.as_secs_f64() / bare;
        let more = format!(
            "{ratio:.2} of the bare client; resident {before} MiB, receiver down {down}, after {}",
            resident_mib()
        );
        report(&format!("webhook catches up, batch = {batch}"), links, took, &more);
        service.stop().await;
    }
    let archive = place.path().join("archive").display().to_string();
    let service =
        serve(&folder, &format!("[[sinks]]\nname = \"archive\"\nkind = \"file\"\npath = {archive:?}\n"))
            .await;
    let begun = Instant::now();
    while get(&service, &http, "/v1/sinks/archive").await["after"].as_u64() < Some(links) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    report("file catches up", links, begun.elapsed(), "");
    service.stop().await;
}
