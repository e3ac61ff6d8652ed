//! A service on a disk, and the ledger of what it acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::load::{add, live, send_again};
use crate::machine::{Disk, Kind};
use crate::service::{PATIENCE, Service};

/// No smaller XFS can be made.
pub const DISK_MIB: usize = 320;

pub struct World {
    // Before the disk it is on: dropped in this order.
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
        world.lives_until("acknowledgements", |world| world.ledger.acknowledgements() >= 20).await;
        world
    }

    pub async fn start(&mut self) -> Result<(), String> {
        self.service.start().await.map_err(|ended| format!("it does not open: {ended}"))
    }

    /// Lets the service live until this is so.
    pub async fn lives_until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let stop = CancellationToken::new();
        let watching = async {
            let give_up = Instant::now() + PATIENCE;
            while !is(self) {
                let told = self.service.readiness().await;
                assert!(Instant::now() < give_up, "gave up on {what}: {told:?}\n{}", self.service.log());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stop.cancel();
        };
        tokio::join!(live(&self.service, &self.ledger, &stop), watching);
    }

    /// A dealer adds somebody: the status of the answer. Only 200 is an acknowledgement.
    pub async fn knock(&self) -> Option<u16> {
        let stranger = self.service.wecom.add_person();
        let (is_acknowledged, status) = add(&self.service, &self.ledger, 0, &stranger, true).await;
        assert_eq!(is_acknowledged, status == Some(200));
        status
    }

    /// Dealers add people until one is acknowledged: on a slow machine a commit may take too long.
    pub async fn acknowledges(&self) {
        let give_up = Instant::now() + PATIENCE;
        while self.knock().await != Some(200) {
            assert!(!self.service.has_ended(), "{}", self.service.log());
            assert!(Instant::now() < give_up, "nothing is acknowledged");
        }
    }

    /// Waits until `/readyz` answers 503, saying this; the process runs.
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

    /// Everything that was not acknowledged is sent again; then everything is linked, once.
    pub async fn end(mut self) -> Result<(), String> {
        self.ledger.judge(&self.service).await?;
        send_again(&self.service, &self.ledger).await?;
        self.ledger.judge(&self.service).await?;
        let counters = self.service.wecom.counters();
        if counters.quota_violations > 0 {
            return Err(format!("the quota was overrun {} times", counters.quota_violations));
        }
        let ended = self.service.terminate().await;
        if ended.code == Some(0) { Ok(()) } else { Err(format!("it does not stop well: {ended}")) }
    }
}

/// Waits until this is so.
pub async fn until(what: &str, is: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < give_up, "gave up on {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
