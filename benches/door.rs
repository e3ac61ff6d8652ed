//! Durable acknowledgements per second of the callback handler, compared in one run with the same HTTP server
//! answering `success` without reading the request, with one that verifies and parses but stores nothing, and
//! with the callback handler over an in-memory store. The callbacks are genuine, all different, and sealed
//! beforehand.
//!
//! `cargo bench --bench door [-- --rounds N --connections N --server N]`; `--server 1` to `4` runs one of the
//! four alone, to profile it (4: the durable service).

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::routing::post;
use common::load::{Measured, load};
use common::{Brand, argument, median};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unionlink::callback::{AesKey, Keys, Query, verify};
use unionlink::clock::SystemClock;
use unionlink::domain::ids::{AppName, CorpId};
use unionlink::http::doors::{AppDoor, AppRecipients, Door};
use unionlink::http::{
    CallbackLog, CallbackState, DoorSet, Limits, Listener, TrustedProxies, UnservedCorps, public, serve,
};
use unionlink::intake::{Recipients, classify};
use unionlink::simulator::{Fault, Options, Target};
use unionlink::store::embedded::engine::Memory;
use unionlink::store::embedded::{EmbeddedStore, Settings};
use unionlink::telemetry::metrics::Metrics;
use unionlink::worker::Wake;

const CONNECTIONS: [(usize, usize); 4] = [(1, 600), (16, 5_000), (64, 8_000), (256, 8_000)];
const SERVERS: [&str; 4] =
    ["answers, reads nothing", "parses, stores nothing", "stores in memory", "durable"];

fn main() {
    let (rounds, only) = (argument("--rounds", 5), argument("--connections", 0));
    let alone: usize = argument("--server", 0);
    let brand = Brand::new(8, &Options::default());
    // The platform never answers, so that only callbacks are written and no results of workers.
    brand.wecom.inject(Target::Every, Fault::Hang, None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service = runtime.block_on(brand.serve(&folder.path().join("data"), ""));
    let others = [
        Router::new().route("/callback/brand", post(async || "success")),
        parsing(&brand),
        in_memory(&brand),
    ];
    let others = others.map(|router| runtime.block_on(listening(router)));
    let servers = [others[0], others[1], others[2], service.public];

    println!(
        "medians of {rounds} rounds: rate; ratio to the first server; p50, p99; CPU time per request of server and client"
    );
    for (connections, count) in CONNECTIONS.into_iter().filter(|(some, _)| only == 0 || only == *some) {
        let mut rounds: Vec<[Measured; 4]> = (0..=rounds)
            .map(|_| {
                let requests = brand.requests(count);
                std::array::from_fn(|n| match alone {
                    0 => load(servers[n], connections, &requests),
                    alone if alone == n + 1 => load(servers[n], connections, &requests),
                    _ => Measured::default(),
                })
            })
            .collect();
        // The first round is a warm-up.
        rounds.remove(0);
        println!("\n{connections} connections");
        let of = |server: usize, what: fn(&Measured) -> f64| {
            median(&rounds.iter().map(|round| what(&round[server])).collect::<Vec<_>>())
        };
        for (server, name) in SERVERS.iter().enumerate() {
            let ratios: Vec<_> = rounds.iter().map(|round| round[server].rate / round[0].rate).collect();
            println!(
                "  {name:<24} {:>7.0}/s   {:.2}   p50 {:>6.2} ms  p99 {:>6.2} ms   server {:>5.1} µs  client {:>4.1} µs",
                of(server, |measured| measured.rate),
                median(&ratios),
                of(server, |measured| measured.p50_ms),
                of(server, |measured| measured.p99_ms),
                of(server, |measured| measured.server_us),
                of(server, |measured| measured.client_us)
            );
        }
    }
    runtime.block_on(service.stop());
}

fn keys(brand: &Brand) -> Keys {
    Keys::new(brand.callback.token.as_str().into(), AesKey::decode(&brand.callback.aes_key).unwrap())
}

fn recipients(brand: &Brand) -> Recipients {
    Recipients { corp_id: CorpId::new(&brand.corp.corp_id).unwrap(), accept_receive_ids: Vec::new() }
}

/// Verifies, decrypts, parses and classifies, stores nothing.
fn parsing(brand: &Brand) -> Router {
    let (keys, recipients) = (Arc::new(keys(brand)), recipients(brand));
    let open = async move |RawQuery(query): RawQuery, body: Bytes| {
        let query = query.unwrap_or_default();
        let query = Query::parse(&query).map_err(|_| StatusCode::FORBIDDEN)?;
        let message = verify(&query, &body, &keys).map_err(|_| StatusCode::FORBIDDEN)?;
        // The receive id is the brand's, so no store is needed.
        classify(&message, &recipients, None, async |_| Err(StatusCode::BAD_REQUEST)).await?;
        Ok::<_, StatusCode>("success")
    };
    Router::new().route("/callback/brand", post(open))
}

/// The callback handler over an in-memory store.
fn in_memory(brand: &Brand) -> Router {
    let store = Arc::new(EmbeddedStore::in_memory(Memory::default(), Settings::default()).unwrap());
    let name = AppName::new("brand").unwrap();
    let (keys, recipients) = (keys(brand), AppRecipients::SelfBuilt(recipients(brand)));
    let door = Door::App(AppDoor { name: name.clone(), keys, recipients, customer_groups: true });
    public::router(Arc::new(CallbackState {
        doors: Arc::new(DoorSet::new([(name, Arc::new(door))].into())),
        apps: Arc::default(),
        nonces: Arc::new(|| [0; 12]),
        store,
        clock: Arc::new(SystemClock),
        metrics: Arc::new(Metrics::default()),
        wake: Arc::new(Wake::default()),
        activity: Arc::default(),
        unserved: UnservedCorps::default(),
        source_check: None,
        url_checks: Arc::default(),
        log: CallbackLog::default(),
        event_days_max: 0,
        body_bytes_max: 64 << 10,
        body_timeout: Duration::from_secs(3),
    }))
}

async fn listening(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        connections_max: 1_000,
        source_connections_max: None,
        head_bytes_max: 16 << 10,
        bodies_bytes_max: Some(32 << 20),
        header_timeout: Duration::from_secs(5),
        connection_life: Duration::from_mins(2),
        write_timeout: Duration::from_secs(30),
        cut_off_after: Some(Duration::from_mins(4)),
    };
    let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
    let (listener, proxies) = (Listener::Tcp(listener), TrustedProxies::new(&[]));
    tokio::spawn(serve(listener, router, limits, proxies, metrics, TaskTracker::new(), stop));
    address
}
