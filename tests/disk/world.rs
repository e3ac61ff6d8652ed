//! The harness of the disk tests: a service on a test disk, and the ledger of what it acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::load::{add, run_load, send_again};
use crate::machine::{Disk, Kind};
use crate::service::{PATIENCE, Service};

/// The smallest size that XFS supports.
pub const DISK_MIB: usize = 320;

pub struct World {
    // Fields are dropped in this order: the service before the disk it is on.
    pub service: Service,
    pub ledger: Arc<Ledger>,
    pub disk: Disk,
}

impl World {
    pub async fn new(kind: Kind, size_mib: usize, seed: u64) -> Self {
        let disk = Disk::new(kind, size_mib).unwrap();
        let service = Service::with_store_in(&disk.path(), seed).await;
        Self { service, ledger: Arc::default(), disk }
    }

    /// A running service that has acknowledged something.
    pub async fn with_something_to_lose(kind: Kind, size_mib: usize, store_lines: &'static str) -> Self {
        let mut world = Self::new(kind, size_mib, 7).await;
        world.service.store_lines = store_lines;
        world.start().await.unwrap();
        world.load_until("acknowledgements", |world| world.ledger.acknowledgements() >= 20).await;
        world
    }

    pub async fn start(&mut self) -> Result<(), String> {
        self.service.start().await.map_err(|ended| format!("it does not start: {ended}"))
    }

    /// Runs the load until `is` holds.
    pub async fn load_until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let stop = CancellationToken::new();
        let watching = async {
            let give_up = Instant::now() + PATIENCE;
            while !is(self) {
                let readiness = self.service.readiness().await;
                assert!(Instant::now() < give_up, "gave up on {what}: {readiness:?}\n{}", self.service.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stop.cancel();
        };
        tokio::join!(run_load(&self.service, &self.ledger, &stop), watching);
    }

    /// A dealer adds a person who is no fan. Returns the status of the callback; only 200 is an
    /// acknowledgement.
    pub async fn send_callback(&self) -> Option<u16> {
        let stranger = self.service.wecom.add_person();
        let (is_acknowledged, status) = add(&self.service, &self.ledger, 0, &stranger, true).await;
        assert_eq!(is_acknowledged, status == Some(200));
        status
    }

    /// Sends callbacks until one is acknowledged: on a slow machine a commit may take too long.
    pub async fn until_acknowledged(&self) {
        let give_up = Instant::now() + PATIENCE;
        while self.send_callback().await != Some(200) {
            assert!(!self.service.has_ended(), "{}", self.service.log());
            assert!(Instant::now() < give_up, "nothing is acknowledged");
        }
    }

    /// Waits until `/readyz` answers 503 with this reason, and the process still runs.
    pub async fn not_ready_because(&self, reason: &str) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let (status, text) = self.service.readiness().await;
            if status == 503 && text.contains(reason) {
                return;
            }
            assert!(!self.service.has_ended(), "{}", self.service.log());
            assert!(Instant::now() < give_up, "/readyz says {status} {text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Checks the service, sends everything unacknowledged again, checks once more, and stops the service.
    pub async fn finish(mut self) -> Result<(), String> {
        self.ledger.check(&self.service).await?;
        send_again(&self.service, &self.ledger).await?;
        self.ledger.check(&self.service).await?;
        let counters = self.service.wecom.counters();
        if counters.quota_violations > 0 {
            return Err(format!("the quota was exceeded {} times", counters.quota_violations));
        }
        let ended = self.service.terminate().await;
        if ended.code == Some(0) { Ok(()) } else { Err(format!("it did not stop with exit code 0: {ended}")) }
    }
}

/// Waits until `is` holds.
pub async fn until(what: &str, is: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < give_up, "gave up on {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
