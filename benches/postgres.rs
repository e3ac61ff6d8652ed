//! The store on a large database, and on one with an old snapshot.
//!
//! 1. `--fans N` registers fans with pending ids and looks some of them up by their unionids.
//! 2. `--seconds S` appends callbacks as fast as they are acknowledged, while a worker leases and settles them: without
//!    anything beside it, and with a snapshot that another session holds open from the beginning, which keeps the database
//!    from cleaning up. The first and the last tenth of the time are compared.
//!
//! `cargo bench --bench postgres -- --postgres ADDRESS [--fans N] [--seconds S]`

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{Schema, argument, quantile};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use unionlink::clock::{Clock, SystemClock};
use unionlink::domain::event::{ContactChange, ContactEvent, Event};
use unionlink::domain::fan::{Minted, Priority};
use unionlink::domain::ids::{AppName, CorpId, ExternalUserid, FanKey, Openid, PendingId, Unionid, UserId};
use unionlink::store::postgres::PostgresStore;
use unionlink::store::{Appended, Arrival, MessageDigest, NewFan, Outcome, Payload, Store as _};

/// Fans of one request, and requests at a time.
const FANS_AT_ONCE: usize = 500;
const REQUESTS_AT_ONCE: usize = 8;
const LOOKUPS: usize = 20_000;
/// Callbacks that wait for their acknowledgement at a time.
const CALLERS: usize = 32;

fn main() {
    let address: String = argument("--postgres", String::new());
    assert!(!address.is_empty(), "--postgres ADDRESS is missing");
    let (fans, seconds) = (argument("--fans", 100_000), argument("--seconds", 30));
    Runtime::new().unwrap().block_on(async {
        if fans > 0 {
            look_fans_up(&address, fans).await;
        }
        if seconds > 0 {
            println!(
                "callbacks            per second, first tenth   last   p99 ms, first tenth   last   slowest"
            );
            for is_held in [false, true] {
                append_and_settle(&address, Duration::from_secs(seconds), is_held).await;
            }
        }
    });
}

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn fan(n: usize) -> NewFan {
    NewFan {
        key: FanKey { app: app(), unionid: Unionid::new(format!("oBENCHFAN{n:019}")).unwrap() },
        openid: Openid::new(format!("oBENCHOPEN{n:018}")).unwrap(),
        ask_existing: false,
        priority: Priority::Bulk,
        minted: Some(Minted::new(PendingId::new(format!("BENCH{n:027}")).unwrap(), SystemClock.now())),
        retry_rejected: false,
    }
}

async fn look_fans_up(address: &str, fans: usize) {
    let schema = Schema::new(address);
    let store = Arc::new(PostgresStore::open(&schema.settings()).await.unwrap());
    let (began, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut requests = JoinSet::new();
    for _ in 0..REQUESTS_AT_ONCE {
        let (store, next) = (store.clone(), next.clone());
        requests.spawn(async move {
            loop {
                let first = usize::try_from(next.fetch_add(1, Relaxed)).unwrap() * FANS_AT_ONCE;
                if first >= fans {
                    return;
                }
                let rows = (first..(first + FANS_AT_ONCE).min(fans)).map(fan).collect();
                store.put_fans(rows, SystemClock.now()).await.unwrap();
            }
        });
    }
    requests.join_all().await;
    let took = began.elapsed().as_secs_f64();
    println!("{fans} fans registered, {:.0} a second", count(fans) / took);
    let mut times = Vec::new();
    for _ in 0..LOOKUPS {
        let unionid = fan(rand::random_range(0..fans)).key.unionid;
        let asked = Instant::now();
        assert_eq!(store.fans(&unionid).await.unwrap().len(), 1);
        times.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    println!("looked up by unionid: p50 {:.2} ms, p99 {:.2} ms", quantile(&times, 50), quantile(&times, 99));
    store.close().await;
    schema.drop().await;
}

#[expect(clippy::cast_precision_loss, reason = "some millions")]
const fn count(number: usize) -> f64 {
    number as f64
}

fn arrival() -> Arrival {
    let now = SystemClock.now();
    let contact = ContactEvent {
        change: ContactChange::Added,
        user_id: UserId::new("zhangsan").unwrap(),
        external_userid: ExternalUserid::new(format!("wmBENCH{:032x}", rand::random::<u128>())).unwrap(),
        state: None,
        welcome_code: None,
    };
    let digest = MessageDigest::of(&app(), contact.external_userid.as_str().as_bytes());
    let event = Event { corp_id: CorpId::new("wpBENCH").unwrap(), created_at: now, contact };
    Arrival { app: app(), digest, received_at: now, payload: Payload::Event(event) }
}

async fn append_and_settle(address: &str, time: Duration, is_held: bool) {
    let schema = Schema::new(address);
    let store = Arc::new(PostgresStore::open(&schema.settings()).await.unwrap());
    let holder = schema.connect().await;
    if is_held {
        let hold =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM {}.commit", schema.name);
        holder.batch_execute(&hold).await.unwrap();
    }
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for _ in 0..CALLERS {
        let store = store.clone();
        tasks.spawn(async move {
            let mut acknowledged = Vec::new();
            while began.elapsed() < time {
                let sent = Instant::now();
                assert!(matches!(store.append(arrival()).await, Ok(Appended::New(_))));
                acknowledged.push((began.elapsed(), sent.elapsed()));
            }
            acknowledged
        });
    }
    let settling = async {
        while began.elapsed() < time {
            let now = SystemClock.now();
            let work = store.lease(now, 200, 0).await.unwrap();
            if work.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let pending = |n: usize| PendingId::new(format!("PEND{n}{:x}", rand::random::<u64>())).unwrap();
            let settled = work.into_iter().enumerate().map(|(n, work)| (work, Outcome::Resolved(pending(n))));
            store.settle(settled.collect(), now).await.unwrap();
        }
    };
    let (acknowledged, ()) = tokio::join!(tasks.join_all(), settling);
    let tenth = time / 10;
    let of = |from: Duration| {
        let within = acknowledged.iter().flatten().filter(|(at, _)| (from..from + tenth).contains(at));
        let times: Vec<_> = within.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
        (count(times.len()) / tenth.as_secs_f64(), quantile(&times, 99))
    };
    let ((first, first_p99), (last, last_p99)) = (of(Duration::ZERO), of(tenth * 9));
    let slowest = acknowledged.iter().flatten().map(|(_, took)| *took).max().unwrap_or_default();
    let name = if is_held { "with an old snapshot" } else { "without" };
    println!(
        "{name:<20} {first:>24.0}  {last:>5.0}   {first_p99:>19.1}  {last_p99:>5.1}   {:>4.0} ms; {} wait",
        slowest.as_secs_f64() * 1e3,
        store.counts().inbox
    );
    drop(holder);
    store.close().await;
    schema.drop().await;
}
