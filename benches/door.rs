//! Durable acknowledgements per second of the callback handler, compared in one run with four other handlers
//! behind the same listener:
//!
//! 1. reads the body and answers `success`, whatever it is;
//! 2. verifies, decrypts, parses and classifies, and stores nothing;
//! 3. the callback handler over a store in memory;
//! 4. the *bare durable* one: as 2, then a record of the event is appended to a single file, by one thread
//!    with group commit: it takes all records that wait, writes them at once, calls `fdatasync` once and
//!    answers them all. No deduplication, no index. Nothing that acknowledges durable callbacks on this
//!    machine is faster, so it is what the others are compared with;
//! 5. the durable service.
//!
//! With `--postgres ADDRESS` also, on that database, which is best on a machine of its own:
//!
//! 6. the *bare insert*: as 4, but each record is inserted into a table, in a transaction of its own, from as many
//!    connections as there are clients;
//! 7. the callback handler over the store on PostgreSQL, without workers;
//! 8. two of them on one database, which the callbacks reach in turn: replicas, but for their machines.
//!
//! The callbacks are genuine, all different, and sealed beforehand; only servers that do not notice
//! repetitions (1, 2 and 4) may be sent the same ones again. In each round each server is loaded once, in an
//! order that moves on by one from round to round. A server is started for its burst, with an empty store,
//! and stopped afterwards, so none works while another is measured. Ratios are computed within a round; all
//! figures are medians of the rounds.
//!
//! ```text
//! cargo bench --bench door [-- --seconds S] [--rounds N] [--connections N] [--server N] [--platform P] [--postgres ADDRESS]
//! ```
//!
//! `--seconds` is the time of each burst, `--connections` replaces the usual numbers of connections by one,
//! and `--server` loads one of them alone, to profile it. `--platform` is what WeCom does meanwhile:
//!
//! * `hangs`: it never answers. The workers have calls in flight that do not end, and no results to store. A
//!   call is given up after ten seconds, which only longer bursts see.
//! * `errors`: it answers each call with HTTP 502, so that everything is put off and tried again.
//! * `none`: nothing is to be resolved. Any event about a customer is work for the resolver, even the removal
//!   of an unknown one, and other messages are stored in other records; so it is the same callbacks that are
//!   stored, by the same handler in the same store on disk, but no worker runs that would take them up.
//!
//! The time of the platform's own thread is shown apart from the server's. It is still taken from the same
//! cores.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use common::handlers::{
    Inserts, Log, answering, bare_durable, bare_insert, parsing, storing, storing_in_turn,
};
use common::load::{Burst, Measured, Requests, load};
use common::{Brand, INBOX_EVENTS_MAX, Schema, argument, median};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unionlink::http::{Limits, Listener, TrustedProxies, serve};
use unionlink::simulator::{Fault, Options, Target};
use unionlink::store::Store;
use unionlink::store::embedded::engine::Memory;
use unionlink::store::embedded::{EmbeddedStore, Settings};
use unionlink::store::postgres::PostgresStore;
use unionlink::telemetry::metrics::Metrics;

const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
const SERVERS: [Server; 8] = [
    Server::Answers,
    Server::Parses,
    Server::InMemory,
    Server::BareDurable,
    Server::Durable,
    Server::BareInsert,
    Server::Postgres,
    Server::TwoReplicas,
];
/// How long each server is loaded before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// How much faster than in earlier rounds a server may be before it runs out of requests.
const MARGIN: f64 = 1.5;
/// The most bytes of requests that are prepared at a time.
const REQUEST_BYTES_MAX: usize = 2 << 30;
/// The size of a request, approximately.
const REQUEST_BYTES: usize = 1_300;
/// The requests of the first round, in which the servers' rates are still unknown.
const FIRST_REQUESTS: usize = 50_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Answers,
    Parses,
    InMemory,
    BareDurable,
    Durable,
    BareInsert,
    Postgres,
    TwoReplicas,
}

impl Server {
    const fn name(self) -> &'static str {
        match self {
            Self::Answers => "reads, opens nothing",
            Self::Parses => "parses, stores nothing",
            Self::InMemory => "stores in memory",
            Self::BareDurable => "bare durable",
            Self::Durable => "durable",
            Self::BareInsert => "bare insert",
            Self::Postgres => "on PostgreSQL",
            Self::TwoReplicas => "the same, two replicas",
        }
    }

    /// Whether it drops a callback that it has had before.
    const fn notices_repetitions(self) -> bool {
        matches!(self, Self::InMemory | Self::Durable | Self::Postgres | Self::TwoReplicas)
    }

    const fn needs_postgres(self) -> bool {
        matches!(self, Self::BareInsert | Self::Postgres | Self::TwoReplicas)
    }
}

/// What WeCom does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Platform {
    Hangs,
    Errors,
    None,
}

impl std::str::FromStr for Platform {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "hangs" => Ok(Self::Hangs),
            "errors" => Ok(Self::Errors),
            "none" => Ok(Self::None),
            _ => Err(()),
        }
    }
}

/// One burst on each server that is measured.
type Round = [Option<Measured>; SERVERS.len()];

fn main() -> ExitCode {
    let (seconds, rounds) = (argument("--seconds", 3.0), argument("--rounds", 5));
    let (only, alone) = (argument("--connections", 0), argument("--server", 0));
    let postgres: String = argument("--postgres", String::new());
    let bench = Bench {
        brand: Brand::new(8, &Options::default()),
        runtime: Runtime::new().unwrap(),
        platform: argument("--platform", Platform::Hangs),
        servers: SERVERS
            .into_iter()
            .filter(|server| alone == 0 || SERVERS.get(alone - 1) == Some(server))
            .filter(|server| !postgres.is_empty() || !server.needs_postgres())
            .collect(),
        postgres,
        time: Duration::from_secs_f64(seconds),
    };
    println!("medians of {rounds} rounds of {seconds} s each; WeCom: {:?}", bench.platform);
    println!("CPU time in microseconds per request: of server, client and platform");
    let connections = if only == 0 { CONNECTIONS.to_vec() } else { vec![only] };
    let mut failures = Vec::new();
    for connections in connections {
        let rounds = bench.rounds(connections, rounds);
        print(connections, &rounds);
        failures.extend(failures_of(connections, &rounds));
    }
    for failure in &failures {
        println!("error: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(connections: usize, rounds: &[Round]) {
    println!(
        "\n{connections:>3} connections              rate  of bare    p50 ms   p99 ms  of bare    \
         server  client  platform"
    );
    for (n, server) in SERVERS.into_iter().enumerate() {
        let Some(bursts) = rounds.iter().map(|round| round[n]).collect::<Option<Vec<_>>>() else { continue };
        let of = |what: fn(&Measured) -> f64| median(&bursts.iter().map(what).collect::<Vec<_>>());
        let of_bare = |what: fn(&Measured) -> f64| {
            let ratio = |round: &Round| Some(what(&round[n]?) / what(&round[Server::BareDurable as usize]?));
            let ratios: Option<Vec<f64>> = rounds.iter().map(ratio).collect();
            ratios.map_or("-".to_owned(), |ratios| format!("{:.2}", median(&ratios)))
        };
        println!(
            "  {} {:<22} {:>7.0}/s  {:>7}  {:>8.2} {:>8.2}  {:>7}  {:>8.1}  {:>6.1}  {:>8.1}",
            n + 1,
            server.name(),
            of(|burst| burst.rate),
            of_bare(|burst| burst.rate),
            of(|burst| burst.p50_ms),
            of(|burst| burst.p99_ms),
            of_bare(|burst| burst.p99_ms),
            of(|burst| burst.server_us),
            of(|burst| burst.client_us),
            of(|burst| burst.platform_us)
        );
    }
}

/// The bursts that ended early.
fn failures_of(connections: usize, rounds: &[Round]) -> Vec<String> {
    let mut failures = Vec::new();
    for (n, round) in rounds.iter().enumerate() {
        for (server, burst) in SERVERS.iter().zip(round) {
            if let Some(burst) = burst.filter(|burst| burst.ran_out) {
                failures.push(format!(
                    "{connections} connections, round {}: {} ran out of requests after {:.1} s",
                    n + 1,
                    server.name(),
                    burst.seconds
                ));
            }
        }
    }
    failures
}

struct Bench {
    brand: Brand,
    runtime: Runtime,
    platform: Platform,
    /// The servers to be measured.
    servers: Vec<Server>,
    /// The address of a database.
    postgres: String,
    /// The time of a burst.
    time: Duration,
}

impl Bench {
    fn rounds(&self, connections: usize, count: usize) -> Vec<Round> {
        // Shows how many requests are needed.
        let first = self.brand.requests(FIRST_REQUESTS);
        let mut rates = vec![self.round(0, connections, self.time.min(Duration::from_secs(1)), &first)];
        drop(first);
        for n in 0..count {
            let requests = self.brand.requests(self.needed(connections, &rates));
            rates.push(self.round(n, connections, self.time, &requests));
        }
        rates.split_off(1)
    }

    /// The number of requests that a round needs, by the rates of earlier ones.
    fn needed(&self, connections: usize, rounds: &[Round]) -> usize {
        let bursts = rounds.iter().flat_map(|round| SERVERS.iter().zip(round));
        let needy = bursts.filter(|(server, _)| server.notices_repetitions());
        let fastest = needy.filter_map(|(_, burst)| Some(burst.as_ref()?.rate)).fold(0.0, f64::max);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some millions")]
        let needed = (fastest * MARGIN * (WARM_UP + self.time).as_secs_f64()) as usize;
        (needed.max(FIRST_REQUESTS) + connections).min(REQUEST_BYTES_MAX / REQUEST_BYTES)
    }

    /// Loads each server once. The order depends on the number of the round.
    fn round(&self, n: usize, connections: usize, time: Duration, requests: &Requests) -> Round {
        let mut round = Round::default();
        for server in (0..SERVERS.len()).map(|turn| SERVERS[(n + turn) % SERVERS.len()]) {
            if self.servers.contains(&server) {
                let Running { address, end } = self.runtime.block_on(self.start(server, connections));
                let may_repeat = !server.notices_repetitions();
                let burst = Burst { connections, warm_up: WARM_UP, time, may_repeat };
                round[server as usize] = Some(load(address, burst, requests));
                self.runtime.block_on(end);
            }
        }
        round
    }

    async fn start(&self, server: Server, connections: usize) -> Running<'_> {
        let brand = &self.brand;
        let (folder, free_mb_min) = (tempfile::tempdir().unwrap(), 1);
        let settings = Settings { free_mb_min, inbox_events_max: INBOX_EVENTS_MAX, ..Settings::default() };
        match (server, self.platform) {
            (Server::Answers, _) => Running::of(answering()).await,
            (Server::Parses, _) => Running::of(parsing(brand)).await,
            (Server::InMemory, _) => {
                let store = EmbeddedStore::in_memory(Memory::default(), settings).unwrap();
                self.start_storing(Arc::new(store), folder).await
            }
            (Server::BareInsert, _) => {
                let schema = Schema::new(&self.postgres);
                let inserts = Inserts::begin(&self.postgres, &schema.name, connections).await;
                let running = Running::of(bare_insert(brand, Arc::new(inserts))).await;
                running.then(schema.drop())
            }
            (Server::Postgres, _) => {
                let schema = Schema::new(&self.postgres);
                let store = PostgresStore::open(&schema.settings()).await.unwrap();
                self.start_storing(Arc::new(store), folder).await.then(schema.drop())
            }
            (Server::TwoReplicas, _) => {
                let schema = Schema::new(&self.postgres);
                let mut stores: Vec<Arc<dyn Store>> = Vec::new();
                for _ in 0..2 {
                    stores.push(Arc::new(PostgresStore::open(&schema.settings()).await.unwrap()));
                }
                // Each learns that it is not alone.
                for store in stores.iter().chain(&stores) {
                    store.replicas().unwrap().beat(&BTreeMap::new(), None).await.unwrap();
                }
                let running = Running::of(storing_in_turn(brand, stores.clone())).await;
                running.then(async move {
                    for store in stores {
                        store.close().await;
                    }
                    schema.drop().await;
                })
            }
            (Server::BareDurable, _) => {
                let log = Log::begin(File::create(folder.path().join("log")).unwrap());
                Running::of(bare_durable(brand, log)).await.then(async move { drop(folder) })
            }
            (Server::Durable, Platform::None) => {
                let store = EmbeddedStore::open(&folder.path().join("data"), settings).unwrap();
                self.start_storing(Arc::new(store), folder).await
            }
            (Server::Durable, Platform::Hangs) => self.start_service(Fault::Hang, folder).await,
            (Server::Durable, Platform::Errors) => self.start_service(Fault::HttpStatus(502), folder).await,
        }
    }

    async fn start_storing(&self, store: Arc<dyn Store>, folder: TempDir) -> Running<'_> {
        let running = Running::of(storing(&self.brand, store.clone())).await;
        running.then(async move {
            store.close().await;
            drop(folder);
        })
    }

    async fn start_service(&self, fault: Fault, folder: TempDir) -> Running<'_> {
        self.brand.wecom.inject(Target::Every, fault, None);
        let service = self.brand.serve(&folder.path().join("data"), "").await;
        let address = service.public;
        let end = async move {
            // A call that hangs would be waited for; it is ended once the service has begun to stop.
            tokio::join!(service.stop(), async { self.brand.wecom.clear_faults() });
            drop(folder);
        };
        Running { address, end: Box::pin(end) }
    }
}

/// A server that is running, and the work that stops it.
struct Running<'a> {
    address: SocketAddr,
    end: Pin<Box<dyn Future<Output = ()> + 'a>>,
}

impl<'a> Running<'a> {
    /// A router behind the listener of the service, with its limits.
    async fn of(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            connections_max: 4_096,
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
        let connections = TaskTracker::new();
        let serving = serve(listener, router, limits, proxies, metrics, connections.clone(), stop.clone());
        let serving = tokio::spawn(serving);
        let end = async move {
            stop.cancel();
            serving.await.unwrap();
            connections.close();
            connections.wait().await;
        };
        Self { address, end: Box::pin(end) }
    }

    /// The same with something to do once it has stopped.
    fn then(self, more: impl Future<Output = ()> + 'a) -> Self {
        let end = async move {
            self.end.await;
            more.await;
        };
        Self { address: self.address, end: Box::pin(end) }
    }
}
