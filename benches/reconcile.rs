//! Speed of comparisons with WeCom's lists, with 30 ms per call to the platform: the first, which finds every
//! customer new, looks each of them up and links every fourth; and another one right after it, which finds
//! nothing new. With `contact_list`, and without it through the lists of members and their customers.
//!
//! One dealer is compared at a time, and its customers are looked up in one call of 100 after the other. So
//! the first comparison is at most as fast as these calls: 3,300 customers a second.
//!
//! `[UNIONLINK_CUSTOMERS=N] cargo bench --bench reconcile`: the number of customers, those of all dealers
//! together; 50,000 unless set.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]
#![expect(clippy::cast_precision_loss, reason = "rates")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::time::Duration;

use common::{Brand, Service};
use unionlink::clock::{Clock, SystemClock};
use unionlink::domain::reconcile::ReconcileRun;
use unionlink::simulator::{Api, Options, Permission};

const API_MS: u64 = 30;
const LISTS: [Api; 4] = [Api::ContactList, Api::GetFollowUserList, Api::GetByUser, Api::GroupChatList];

#[expect(clippy::disallowed_methods, reason = "a setting of the benchmark, not of the service")]
fn main() {
    let customers = std::env::var("UNIONLINK_CUSTOMERS").map_or(50_000, |text| text.parse().unwrap());
    let server = tokio::runtime::Runtime::new().unwrap();
    println!("{customers} customers in all");
    println!(
        "dealers  through        comparison   customers/s   seconds   list calls   lookup calls    links"
    );
    for dealers in [1, 50] {
        for (through, contact_list) in
            [("contact_list", Permission::Allowed), ("members", Permission::Refused(48_002))]
        {
            let brand =
                Brand::new(dealers, &Options { latency_ms: API_MS, contact_list, ..Options::default() });
            let label = format!("{dealers:>7}  {through:<12}");
            server.block_on(measure(&brand, customers, &label));
        }
    }
}

/// Compares all customers twice and prints a line for each.
async fn measure(brand: &Brand, customers: usize, label: &str) {
    let fans = brand.add_customers(&brand.dealers, customers);
    let folder = tempfile::tempdir().unwrap();
    let service = brand.serve(&folder.path().join("data"), "").await;
    brand.mint(&fans, &*service.store, SystemClock.now()).await;
    for (comparison, new, links) in [("first", customers, fans.len()), ("another", 0, 0)] {
        brand.wecom.reset_counters();
        brand.compare(&service, None).await;
        let run = finished(&service).await;
        let found = (run.customers_seen, run.customers_new, run.links_made);
        assert_eq!(found, (customers as u64, new as u64, links as u64));
        let seconds = run.finished_at.unwrap().millis_since(run.started_at) as f64 / 1e3;
        let counters = brand.wecom.counters();
        let list_calls: u64 = LISTS.iter().map(|&api| counters.calls_of(api)).sum();
        println!(
            "{label}   {comparison:<10}  {:>12.0}  {seconds:>8.2}  {list_calls:>11}  {:>13}  {links:>7}",
            customers as f64 / seconds,
            counters.calls_of(Api::ExternalUseridToPendingId),
        );
    }
    service.stop().await;
}

/// Waits until the comparison is over.
async fn finished(service: &Service) -> ReconcileRun {
    loop {
        let run = service.store.reconcile_run().await.unwrap().unwrap();
        if !run.is_running() {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
