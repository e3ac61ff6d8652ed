//! A backlog of events in the inbox, with all fans minted and 30 ms per call to the platform: how fast the
//! events become links, and how many calls that takes.
//!
//! `cargo bench --bench drain [-- --events N]`

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]
#![expect(clippy::cast_precision_loss, reason = "rates")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Brand, argument};
use unionlink::clock::{Clock, SystemClock};
use unionlink::domain::event::{ContactChange, ContactEvent, Event};
use unionlink::domain::ids::{AppName, CorpId, ExternalUserid, UserId};
use unionlink::simulator::{Api, Options};
use unionlink::store::embedded::{EmbeddedStore, Settings};
use unionlink::store::{Arrival, MessageDigest, Payload, Store};

const API_MS: u64 = 30;

fn main() {
    let events: usize = argument("--events", 100_000);
    let server = tokio::runtime::Runtime::new().unwrap();
    println!("dealers      links    links/s    seconds    calls   minimum");
    for dealers in [50, 1] {
        let brand = Brand::new(dealers, &Options { latency_ms: API_MS, ..Options::default() });
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("data");
        server.block_on(fill(&brand, &folder, events));
        brand.wecom.reset_counters();
        let (took, links) = server.block_on(async {
            let service = brand.serve(&folder, "").await;
            let began = Instant::now();
            while service.store.counts().links < events as u64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let measured = (began.elapsed().as_secs_f64(), service.store.counts().links);
            service.stop().await;
            measured
        });
        let calls = brand.wecom.counters().calls_of(Api::ExternalUseridToPendingId);
        let fewest = dealers * events.div_ceil(dealers).div_ceil(100);
        println!(
            "{dealers:>7}  {links:>9}  {:>9.0}  {took:>9.2}  {calls:>7}   {fewest:>7}",
            links as f64 / took
        );
    }
}

async fn fill(brand: &Brand, folder: &Path, events: usize) {
    let store = EmbeddedStore::open(folder, Settings::default()).unwrap();
    let (app, now) = (AppName::new("brand").unwrap(), SystemClock.now());
    let people = brand.wecom.add_people(events);
    brand.mint(&people, &store, now).await;
    for (chunk, people) in people.chunks(512).enumerate() {
        let appended = people.iter().enumerate().map(|(n, person)| {
            let n = chunk * 512 + n;
            let contact = ContactEvent {
                change: ContactChange::Added,
                user_id: UserId::new("zhangsan").unwrap(),
                external_userid: ExternalUserid::new(brand.befriend(n, person).0).unwrap(),
                state: Some("spring".to_owned()),
                welcome_code: None,
            };
            let corp_id = CorpId::new(&brand.dealers[n % brand.dealers.len()].corp_id).unwrap();
            let payload = Payload::Event(Event { corp_id, created_at: now, contact });
            let digest = MessageDigest::of(&app, &n.to_be_bytes());
            store.append(Arrival { app: app.clone(), digest, received_at: now, payload })
        });
        for appended in futures_util::future::join_all(appended).await {
            appended.unwrap();
        }
    }
    store.close().await;
}
