//! The gauges of a store's write-ahead log and its checkpoints.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::optional::OptionalGauge;
use crate::domain::sync_times::SyncTimes;
use crate::store::LogStatus;

/// Absent while the store has no log of its own.
pub(super) struct StoreLog {
    log_bytes: OptionalGauge,
    checkpoint_bytes: OptionalGauge,
    checkpoints_failed: OptionalGauge,
    index_rebuilt: OptionalGauge,
    syncs: SyncHistogram,
}

impl StoreLog {
    pub(super) fn register(r: &mut Registry) -> Self {
        let gauge = |r: &mut Registry, name: &str, help: &str| {
            let gauge = OptionalGauge::default();
            r.register(name, help, gauge.clone());
            gauge
        };
        let syncs = SyncHistogram::default();
        let help = "Time until a commit of the store was durable, in seconds: written and synced";
        r.register("store_fsync_seconds", help, syncs.clone());
        Self {
            syncs,
            log_bytes: gauge(
                r,
                "store_log_bytes",
                "Bytes of the store's write-ahead log behind its last checkpoint",
            ),
            checkpoint_bytes: gauge(r, "store_checkpoint_bytes", "Bytes of the store's last checkpoint"),
            checkpoints_failed: gauge(
                r,
                "store_checkpoints_failed",
                "Checkpoints of the store that failed since the start",
            ),
            index_rebuilt: gauge(
                r,
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
        self.syncs.set(log.syncs);
    }
}

/// How long commits took to become durable; absent before the first. Clones share it.
#[derive(Debug, Clone, Default)]
struct SyncHistogram(Arc<Mutex<SyncTimes>>);

impl SyncHistogram {
    fn set(&self, times: SyncTimes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = times;
    }

    fn times(&self) -> SyncTimes {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for SyncHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let times = self.times();
        let bound = |bound: Duration| if bound == Duration::MAX { f64::MAX } else { bound.as_secs_f64() };
        let buckets: Vec<_> = times.buckets().map(|(upper, count)| (bound(upper), count)).collect();
        encoder.encode_histogram::<NoLabelSet>(times.sum().as_secs_f64(), times.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }

    fn is_empty(&self) -> bool {
        self.times().count() == 0
    }
}
