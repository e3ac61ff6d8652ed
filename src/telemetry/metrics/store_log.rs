//! The gauges of a store's write-ahead log and its checkpoints.

use prometheus_client::registry::Registry;

use super::optional::OptionalGauge;
use crate::store::LogStatus;

/// Absent while the store has no log of its own.
pub(super) struct StoreLog {
    log_bytes: OptionalGauge,
    checkpoint_bytes: OptionalGauge,
    checkpoints_failed: OptionalGauge,
    index_rebuilt: OptionalGauge,
}

impl StoreLog {
    pub(super) fn register(r: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let gauge = OptionalGauge::default();
            r.register(name, help, gauge.clone());
            gauge
        };
        Self {
            log_bytes: gauge(
                "store_log_bytes",
                "Bytes of the store's write-ahead log behind its last checkpoint",
            ),
            checkpoint_bytes: gauge("store_checkpoint_bytes", "Bytes of the store's last checkpoint"),
            checkpoints_failed: gauge(
                "store_checkpoints_failed",
                "Checkpoints of the store that failed since the start",
            ),
            index_rebuilt: gauge(
                "store_index_rebuilt",
                "1 if the store's index was missing or damaged at the start and was built anew",
            ),
        }
    }

    pub(super) fn set(&self, log: &LogStatus) {
        self.log_bytes.set(Some(log.log_bytes));
        self.checkpoint_bytes.set(Some(log.checkpoint_bytes));
        self.checkpoints_failed.set(Some(log.checkpoints_failed));
        self.index_rebuilt.set(Some(u64::from(log.index_rebuilt)));
    }
}
