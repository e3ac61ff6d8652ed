//! Latency from sending a callback to its link on the feed, with 30 ms per call to the platform. Callbacks
//! are sent at a steady rate, whatever the response times; one reader follows the stream of links.
//!
//! With many dealers few callbacks share a lane, and a link takes one call. With one dealer events collect
//! while a call is in flight, so a link takes one call and the rest of the one before.
//!
//! Then the same without and with the comparison of a dealer of 100,000 customers, in turn: for live
//! customers of other dealers, and for those of that dealer. Every measurement has a new store, in which none
//! of the 100,000 is known: the comparison reads pages, looks customers up and makes links all the time, and
//! does not end before the measurement; both are asserted.
//!
//! `cargo bench --bench latency [-- --seconds N --customers N --rounds N]`; with `--postgres ADDRESS` the first part, on a
//! database.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::collections::{HashMap, HashSet};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::load::{connect, send};
use common::{Brand, Schema, Service, argument, median, quantile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use unionlink::clock::{Clock, SystemClock};
use unionlink::domain::reconcile::ReconcileRun;
use unionlink::simulator::{Api, Options, Person};

const API_MS: u64 = 30;
const DEALERS: usize = 500;
const CONNECTIONS: usize = 64;
const RATES: [u32; 3] = [50, 500, 2_000];
const RATE_WHILE_COMPARING: u32 = 500;
const NAME: &str = "\"external_userid\":\"";

/// The dealer of the nth callback.
type DealerOf = fn(usize) -> usize;

fn main() {
    let (seconds, server) = (argument("--seconds", 8), Runtime::new().unwrap());
    let postgres: String = argument("--postgres", String::new());
    at_steady_rates(&server, seconds, &postgres);
    if !postgres.is_empty() {
        return;
    }
    without_and_with_a_comparison(
        &server,
        seconds,
        argument("--customers", 100_000),
        argument("--rounds", 3),
    );
}

fn at_steady_rates(server: &Runtime, seconds: u32, postgres: &str) {
    println!("in milliseconds; the {API_MS} ms of the platform are subtracted from the link times");
    println!("dealers  callbacks/s   acknowledged p50   p99      link p50      p99     calls/callback");
    for (dealers, rate) in [DEALERS, 1].into_iter().flat_map(|dealers| RATES.map(|rate| (dealers, rate))) {
        // A new brand for each case, because one may make only 10,000 calls per minute.
        let brand = Brand::new(dealers, &Options::default());
        let (folder, schema) = (tempfile::tempdir().unwrap(), Schema::new(postgres));
        let service = if postgres.is_empty() {
            server.block_on(brand.serve(&folder.path().join("data"), ""))
        } else {
            server.block_on(brand.serve_on(&schema.configuration(), ""))
        };
        // A warm-up: fetches the tokens and the list of dealers.
        run(&brand, &service, server, |n| n, dealers, 1_000);
        brand.wecom.configure(|options| options.latency_ms = API_MS);
        brand.wecom.reset_counters();
        let count = usize::try_from(rate * seconds).unwrap();
        let (links, answers) = run(&brand, &service, server, |n| n, count, rate);
        let calls = brand.wecom.counters().calls_of(Api::ExternalUseridToPendingId);
        let late = |percent| quantile(&links, percent) - f64::from(u32::try_from(API_MS).unwrap());
        println!(
            "{dealers:>7}  {rate:>11}   {:>16.2}  {:>5.2}   {:>9.2}  {:>7.2}     {:.2}",
            quantile(&answers, 50),
            quantile(&answers, 99),
            late(50),
            late(99),
            f64::from(u32::try_from(calls).unwrap()) / f64::from(rate * seconds)
        );
        server.block_on(service.stop());
        if !postgres.is_empty() {
            server.block_on(schema.drop());
        }
    }
}

/// Measures live customers without and with a comparison of the first dealer, in turn.
fn without_and_with_a_comparison(server: &Runtime, seconds: u32, customers: usize, rounds: usize) {
    println!(
        "\nlink times without and with the comparison of a dealer of {customers} customers at \
         {RATE_WHILE_COMPARING} callbacks/s, in milliseconds,\n\
         the {API_MS} ms of the platform included, medians of {rounds} rounds"
    );
    println!(
        "live customers of     p50 without     with   ratio    p99 without     with   ratio   compared/s"
    );
    let brand = Brand::new(1 + DEALERS, &Options::default());
    let fans = brand.add_customers(&brand.dealers[..1], customers);
    let cases: [(&str, DealerOf); 2] = [("other dealers", |n| 1 + n % DEALERS), ("that dealer", |_| 0)];
    let mut samples = [const { [const { Vec::new() }; 5] }; 2];
    for _ in 0..rounds {
        for ((_, dealer_of), samples) in cases.iter().zip(&mut samples) {
            let without = measure(&brand, server, &fans, *dealer_of, seconds, None);
            let with = measure(&brand, server, &fans, *dealer_of, seconds, Some(customers));
            let row = [without.p50, with.p50, without.p99, with.p99, with.compared_a_second];
            samples.iter_mut().zip(row).for_each(|(samples, sample)| samples.push(sample));
        }
    }
    for ((live, _), samples) in cases.iter().zip(&samples).filter(|_| rounds > 0) {
        let [p50_without, p50_with, p99_without, p99_with, compared] =
            samples.each_ref().map(|samples| median(samples));
        println!(
            "{live:<18}  {p50_without:>13.2}  {p50_with:>7.2}  {:>6.2}  {p99_without:>13.2}  \
             {p99_with:>7.2}  {:>6.2}  {compared:>11.0}",
            p50_with / p50_without,
            p99_with / p99_without,
        );
    }
}

/// The milliseconds until links, and the customers compared meanwhile.
struct Measured {
    p50: f64,
    p99: f64,
    compared_a_second: f64,
}

/// Measures live customers in a new store; while the first dealer is compared, if that many `customers` of it
/// are given. `fans` are those of them whose pending ids are known.
fn measure(
    brand: &Brand,
    server: &Runtime,
    fans: &[Person],
    dealer_of: DealerOf,
    seconds: u32,
    customers: Option<usize>,
) -> Measured {
    let folder = tempfile::tempdir().unwrap();
    let service = server.block_on(brand.serve(&folder.path().join("data"), ""));
    server.block_on(brand.mint(fans, &*service.store, SystemClock.now()));
    brand.wecom.configure(|options| options.latency_ms = 0);
    run(brand, &service, server, dealer_of, DEALERS, 1_000);
    brand.wecom.configure(|options| options.latency_ms = API_MS);
    let comparison = || server.block_on(service.store.reconcile_run()).unwrap();
    assert_eq!(comparison(), None);
    if customers.is_some() {
        server.block_on(brand.compare(&service, brand.dealers.first()));
        while comparison().is_none_or(|run| run.links_made == 0) {
            server.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
        }
    }
    let (before, began) = (comparison(), Instant::now());
    let count = usize::try_from(RATE_WHILE_COMPARING * seconds).unwrap();
    let (links, _) = run(brand, &service, server, dealer_of, count, RATE_WHILE_COMPARING);
    let (after, took) = (comparison(), began.elapsed());
    let compared = before.zip(after).map_or(0, |(before, after)| compared(before, after, customers));
    server.block_on(service.stop());
    Measured {
        p50: quantile(&links, 50),
        p99: quantile(&links, 99),
        compared_a_second: f64::from(compared) / took.as_secs_f64(),
    }
}

/// How many customers were compared between two states of a comparison that was under way all the time.
fn compared(before: ReconcileRun, after: ReconcileRun, customers: Option<usize>) -> u32 {
    // Live customers of the same dealer are at the end of the list.
    let is_reading = after.is_running() && after.customers_seen < customers.unwrap() as u64;
    assert!(is_reading, "the comparison is over before the measurement; use more --customers: {after:?}");
    let has_advanced = after.customers_seen > before.customers_seen && after.links_made > before.links_made;
    assert!(has_advanced, "the comparison stands still: {before:?}, {after:?}");
    u32::try_from(after.customers_seen - before.customers_seen).unwrap()
}

/// Sends `count` callbacks at this rate. Returns the milliseconds until each link was on the feed, and until
/// each acknowledgement.
fn run(
    brand: &Brand,
    service: &Service,
    server: &Runtime,
    dealer_of: DealerOf,
    count: usize,
    rate: u32,
) -> (Vec<f64>, Vec<f64>) {
    let people = brand.wecom.add_people(count);
    server.block_on(brand.mint(&people, &*service.store, SystemClock.now()));
    let (ids, requests): (Vec<_>, Vec<_>) = people
        .iter()
        .enumerate()
        .map(|(n, person)| brand.befriend(dealer_of(n), person))
        .map(|(id, event)| (id, brand.request(&event)))
        .unzip();
    let seen = follow(service, ids.iter().cloned().collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sent = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            streams.push(connect(service.public).await);
        }
        let began = Instant::now();
        let senders = streams.into_iter().enumerate().map(|(first, mut stream)| {
            let requests = &requests;
            async move {
                let mut sent = Vec::new();
                for n in (first..count).step_by(CONNECTIONS) {
                    let due = began + Duration::from_secs(1) * u32::try_from(n).unwrap() / rate;
                    tokio::time::sleep_until(due.into()).await;
                    let at = Instant::now();
                    send(&mut stream, &requests[n]).await;
                    sent.push((n, at, at.elapsed().as_secs_f64() * 1e3));
                }
                sent
            }
        });
        futures_util::future::join_all(senders).await.concat()
    });
    let seen: HashMap<String, Instant> = seen.iter().collect();
    let links = sent.iter().map(|(n, at, _)| seen[&ids[*n]].duration_since(*at).as_secs_f64() * 1e3);
    (links.collect(), sent.iter().map(|(.., took)| *took).collect())
}

/// Reads the stream of links on a thread of its own. Sends each of these `external_userid`s with the time it
/// was read.
fn follow(service: &Service, mut awaited: HashSet<String>) -> mpsc::Receiver<(String, Instant)> {
    let (seen, receiver) = mpsc::channel();
    let (following, follows) = mpsc::channel();
    let address = service.admin.trim_start_matches("http://").parse().unwrap();
    let after = service.store.counts().feed_head;
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut stream = connect(address).await;
            let request = format!("GET /v1/links/stream?after={after} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            following.send(()).unwrap();
            let (mut text, mut bytes) = (String::new(), vec![0; 256 << 10]);
            while !awaited.is_empty() {
                let read = stream.read(&mut bytes).await.unwrap();
                let now = Instant::now();
                assert!(read > 0, "the stream ended");
                text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
                let mut rest = 0;
                while let Some(at) = text[rest..].find(NAME) {
                    let from = rest + at + NAME.len();
                    let Some(length) = text[from..].find('"') else { break };
                    if let Some(id) = awaited.take(&text[from..from + length]) {
                        seen.send((id, now)).unwrap();
                    }
                    rest = from + length;
                }
                // The rest may end in the middle of a field name or an id.
                let kept = rest.max(text.len().saturating_sub(256));
                text.drain(..kept);
            }
        });
    });
    follows.recv().unwrap();
    receiver
}
