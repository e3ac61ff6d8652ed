//! Cost of millions of live fans: memory, disk, opening, look-ups and joins.
//!
//! `cargo bench --bench fans -- --fans 1000000 [--cache-mb 256] [--keep FOLDER]`
//!
//! Loads minted fans, in the order of minting over 85 days, through the store's own transactions, then measures
//! look-ups and joins; reopens the store, and measures both again. Everything is durable when it is counted.
//! Resident memory is that of this process: to see that of a service that has only started, run it again on the
//! folder that was kept, into which nothing is loaded then.

#![expect(clippy::expect_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]
#![expect(clippy::cast_precision_loss, reason = "rates")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use unionlink::domain::event::{ContactChange, ContactEvent, Event};
use unionlink::domain::fan::{Minted, Priority};
use unionlink::domain::ids::{AppName, CorpId, ExternalUserid, FanKey, Openid, PendingId, Unionid, UserId};
use unionlink::domain::time::{DAY_MS, SECOND_MS, Timestamp};
use unionlink::store::embedded::{EmbeddedStore, Settings};
use unionlink::store::{
    Appended, Arrival, LinkBy, LinkQuery, MessageDigest, NewFan, Outcome, Payload, Store,
};

const NOW: Timestamp = Timestamp::from_secs(1_795_309_323);
const ROWS_AT_ONCE: usize = 8_192;
const SAMPLES: u64 = 10_000;

struct Arguments {
    fans: u64,
    cache_mb: u64,
    keep: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let given: Vec<_> = std::env::args().collect();
    let value = |name: &str| given.iter().position(|arg| arg == name).and_then(|at| given.get(at + 1));
    let number = |name, default| value(name).map_or(default, |text| text.parse().expect("a number"));
    Arguments {
        fans: number("--fans", 200_000),
        cache_mb: number("--cache-mb", 256),
        keep: value("--keep").map(PathBuf::from),
    }
}

/// An id like WeCom's: a prefix, then pseudo-random base64url.
fn id(prefix: &str, n: u64, length: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = prefix.to_owned();
    let mut state = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    while text.len() < length {
        state ^= state >> 30;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 27;
        state = state.wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_add(n);
        text.push(LETTERS[usize::try_from(state >> 58).expect("six bits")] as char);
    }
    text
}

fn app() -> AppName {
    AppName::new("brand").expect("a name")
}

fn unionid(n: u64) -> Unionid {
    Unionid::new(id("oU", n, 28)).expect("an id")
}

fn pending_id(n: u64) -> PendingId {
    PendingId::new(id("p", n ^ 0x5555, 32)).expect("an id")
}

fn fan(n: u64, of: u64) -> NewFan {
    let age_ms = 85 * DAY_MS / 100 * i64::try_from((of - n) * 99 / of).expect("a part") + SECOND_MS;
    NewFan {
        key: FanKey { app: app(), unionid: unionid(n) },
        openid: Openid::new(id("oP", n, 28)).expect("an id"),
        ask_existing: false,
        priority: Priority::Bulk,
        minted: Some(Minted::new(pending_id(n), NOW.plus_ms(-age_ms))),
        retry_rejected: false,
    }
}

/// Current and peak resident memory, in MiB.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1))
            .and_then(|kb| kb.parse::<u64>().ok())
            .unwrap_or(0)
    };
    (value("VmRSS") >> 10, value("VmHWM") >> 10)
}

/// What the files of a folder occupy, in bytes.
fn disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let occupied = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk(&entry.path()),
        // A file may go meanwhile.
        metadata => metadata.map_or(0, |meta| meta.blocks() * 512),
    };
    entries.map(occupied).sum()
}

fn quantiles(mut samples: Vec<Duration>) -> String {
    if samples.is_empty() {
        return "-, all of the sample are joined".to_owned();
    }
    samples.sort_unstable();
    let at = |part: usize| samples[(samples.len() - 1) * part / 100].as_secs_f64() * 1e3;
    format!("p50 {:.3} ms  p99 {:.3} ms", at(50), at(99))
}

/// A sample of all fans, another one in each round.
fn sampled(of: u64, round: u64) -> impl Iterator<Item = u64> {
    (0..SAMPLES.min(of)).map(move |n| (n * 7_919 + round * 104_729) * (of / SAMPLES.min(of) + 1) % of)
}

async fn measure(store: &EmbeddedStore, of: u64, round: u64) {
    let mut samples = Vec::new();
    for n in sampled(of, round) {
        let unionid = unionid(n);
        let began = Instant::now();
        let found = store.fans(&unionid).await.expect("readable");
        samples.push(began.elapsed());
        assert!(found.len() == 1, "fan {n} is not found");
    }
    println!("  look-up of a fan         {}", quantiles(samples));
    let mut samples = Vec::new();
    for n in sampled(of, round).take(2_000) {
        let change = ContactEvent {
            change: ContactChange::Added,
            user_id: UserId::new("zhangsan").expect("an id"),
            external_userid: ExternalUserid::new(id("wm", n, 32)).expect("an id"),
            state: None,
            welcome_code: None,
        };
        let event =
            Event { corp_id: CorpId::new("wpDEALER").expect("an id"), created_at: NOW, contact: change };
        let digest = MessageDigest::of(&app(), &n.to_le_bytes());
        let arrival = Arrival { app: app(), digest, received_at: NOW, payload: Payload::Event(event) };
        if store.append(arrival).await.expect("stored") == Appended::Duplicate {
            continue;
        }
        let work = store.lease(NOW, 1, 1).await.expect("leased").pop().expect("there is work");
        let began = Instant::now();
        store.settle(vec![(work, Outcome::Resolved(pending_id(n)))], NOW).await.expect("settled");
        samples.push(began.elapsed());
        let query = LinkQuery { by: LinkBy::Unionid(unionid(n)), corp_id: None, app: None };
        assert!(!store.links(&query, NOW).await.expect("readable").is_empty(), "fan {n} is not linked");
    }
    println!("  join, durable            {}", quantiles(samples));
}

async fn load(folder: &Path, settings: Settings, fans: u64) {
    let store = EmbeddedStore::open(folder, settings).expect("opened");
    let (began, mut last) = (Instant::now(), Instant::now());
    let mut loaded = 0;
    while loaded < fans {
        let next = (loaded + ROWS_AT_ONCE as u64).min(fans);
        let rows = (loaded..next).map(|n| fan(n, fans)).collect();
        store.put_fans(rows, NOW).await.expect("registered");
        let step = (fans / 10).max(1);
        if next / step > loaded / step {
            let (now, peak) = resident();
            println!(
                "  loaded {next:>9}  {:>7.0}/s  resident {now} MiB (peak {peak})  disk {} MiB",
                step as f64 / last.elapsed().as_secs_f64(),
                disk(folder) >> 20
            );
            last = Instant::now();
        }
        loaded = next;
    }
    let rate = fans as f64 / began.elapsed().as_secs_f64();
    let per_fan = disk(folder) / fans.max(1);
    println!("  load                     {rate:.0} fans/s, {per_fan} bytes of disk per fan");
    measure(&store, fans, 1).await;
    store.close().await;
}

#[tokio::main]
async fn main() {
    let Arguments { fans, cache_mb, keep } = arguments();
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = keep.unwrap_or_else(|| temporary.path().join("data"));
    let settings = Settings { cache_mb, ..Settings::default() };
    println!("{fans} live fans, cache {cache_mb} MiB");
    if !folder.exists() {
        load(&folder, settings, fans).await;
    }
    for name in ["open", "open again"] {
        let began = Instant::now();
        let store = EmbeddedStore::open(&folder, settings).expect("opened");
        let accepting = began.elapsed();
        let known = store.fans(&unionid(0)).await.expect("readable");
        let (now, peak) = resident();
        println!(
            "  {name:<24} {:.2} s until callbacks are accepted, {:.2} s until fans are found; resident {now} MiB (peak {peak})",
            accepting.as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
        assert_eq!(known.len(), 1);
        if name == "open again" {
            measure(&store, fans, 2).await;
            let (now, peak) = resident();
            println!("  resident                 {now} MiB (peak {peak}); disk {} MiB", disk(&folder) >> 20);
        }
        store.close().await;
    }
}
