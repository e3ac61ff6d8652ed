//! Latency from sending a callback to its link on the feed, with 30 ms per call to the platform. Callbacks
//! are sent at a steady rate, whatever the response times; one reader follows the stream of links.
//!
//! With many dealers few callbacks share a lane, and a link takes one call. With one dealer events collect
//! while a call is in flight, so a link takes one call and the rest of the one before.
//!
//! `cargo bench --bench latency [-- --seconds N]`

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::load::{connect, send};
use common::{Brand, Service, argument, quantile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use unionlink::clock::{Clock, SystemClock};
use unionlink::simulator::{Api, Options};

const API_MS: u64 = 30;
const DEALERS: usize = 500;
const CONNECTIONS: usize = 64;
const RATES: [u32; 3] = [50, 500, 2_000];
const NAME: &str = "\"external_userid\":\"";

fn main() {
    let seconds: u32 = argument("--seconds", 8);
    let server = tokio::runtime::Runtime::new().unwrap();
    println!("in milliseconds; the {API_MS} ms of the platform are subtracted from the link times");
    println!("dealers  callbacks/s   acknowledged p50   p99      link p50      p99     calls/callback");
    for (dealers, rate) in [DEALERS, 1].into_iter().flat_map(|dealers| RATES.map(|rate| (dealers, rate))) {
        // A new brand for each case, because one may make only 10,000 calls per minute.
        let brand = Brand::new(dealers, &Options::default());
        let folder = tempfile::tempdir().unwrap();
        let service = server.block_on(brand.serve(&folder.path().join("data"), ""));
        // A warm-up: fetches the tokens and the list of dealers.
        run(&brand, &service, &server, dealers, 1_000);
        brand.wecom.configure(|options| options.latency_ms = API_MS);
        brand.wecom.reset_counters();
        let count = usize::try_from(rate * seconds).unwrap();
        let (links, answers) = run(&brand, &service, &server, count, rate);
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
    }
}

/// Sends `count` callbacks at this rate. Returns the milliseconds until each link was on the feed, and until
/// each acknowledgement.
fn run(
    brand: &Brand,
    service: &Service,
    server: &tokio::runtime::Runtime,
    count: usize,
    rate: u32,
) -> (Vec<f64>, Vec<f64>) {
    let people = brand.wecom.add_people(count);
    server.block_on(brand.mint(&people, &*service.store, SystemClock.now()));
    let (ids, requests): (Vec<_>, Vec<_>) = people
        .iter()
        .enumerate()
        .map(|(n, person)| brand.befriend(n, person))
        .map(|(id, event)| (id, brand.request(&event)))
        .unzip();
    let seen = follow(service, count);
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

/// Reads the stream of links on a thread of its own. Sends each `external_userid` with the time it was read,
/// up to `count`.
fn follow(service: &Service, count: usize) -> mpsc::Receiver<(String, Instant)> {
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
            let (mut text, mut links, mut bytes) = (String::new(), 0, vec![0; 256 << 10]);
            while links < count {
                let read = stream.read(&mut bytes).await.unwrap();
                let now = Instant::now();
                assert!(read > 0, "the stream ended");
                text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
                let mut rest = 0;
                while let Some(at) = text[rest..].find(NAME) {
                    let from = rest + at + NAME.len();
                    let Some(length) = text[from..].find('"') else { break };
                    seen.send((text[from..from + length].to_owned(), now)).unwrap();
                    links += 1;
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
