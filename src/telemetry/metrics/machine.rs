//! The metrics of the machine and of what is before it: whether the service is ready, its disk, its clock, its certificate.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::Labels;
use super::optional::OptionalGauge;
use super::register::new;
use crate::domain::finding::BackupFacts;

/// Answers of WeCom in a row that have to agree about the time: each names the second only.
const AGREEING: usize = 2;

/// The metrics of the machine.
pub struct MachineMetrics {
    ready: Gauge,
    inbox_oldest: Gauge,
    disk_free_bytes: OptionalGauge,
    backup_timestamp: OptionalGauge,
    backup_bytes: OptionalGauge,
    clock_skew: Family<Labels<0>, Gauge<f64, AtomicU64>>,
    certificate_days: Family<Labels<1, String>, Gauge>,
    /// By how much our clock was ahead of WeCom's at its last answers, in milliseconds.
    skews_ms: Mutex<Vec<i64>>,
    certificate: Mutex<Option<(String, i64)>>,
}

impl MachineMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            ready: new(r, "ready", "1 while a callback could be made durable, else 0"),
            inbox_oldest: new(
                r,
                "inbox_oldest_seconds",
                "Age of the oldest event that waits, 0 if none does",
            ),
            disk_free_bytes: new(r, "disk_free_bytes", "Free bytes on the disk that the store writes to"),
            backup_timestamp: new(
                r,
                "backup_timestamp_seconds",
                "When store backup last made a copy of the embedded store, since the Unix epoch",
            ),
            backup_bytes: new(r, "backup_bytes", "The size of that copy"),
            clock_skew: new(
                r,
                "clock_skew_seconds",
                "By how many seconds our clock is ahead of WeCom's; absent while its answers do not agree",
            ),
            certificate_days: new(
                r,
                "certificate_days",
                "Days left of the certificate at server.public_url; absent while it cannot be seen \
                 from here",
            ),
            skews_ms: Mutex::default(),
            certificate: Mutex::default(),
        }
    }

    /// Sets whether a callback could be made durable now.
    pub fn ready(&self, is_ready: bool) {
        self.ready.set(i64::from(is_ready));
    }

    /// Sets the age of the oldest event that waits, in seconds.
    pub fn inbox_oldest(&self, seconds: i64) {
        self.inbox_oldest.set(seconds);
    }

    /// Sets the free space on the store's disk; `None` if it is not known.
    pub fn disk_free_bytes(&self, bytes: Option<u64>) {
        self.disk_free_bytes.set(bytes);
    }

    /// Sets when the store was last backed up, and how large that is; `None` if it never was.
    pub fn backup(&self, backup: Option<&BackupFacts>) {
        self.backup_timestamp.set(backup.map(|backup| backup.at.as_secs().unsigned_abs()));
        self.backup_bytes.set(backup.map(|backup| backup.bytes));
    }

    /// Sets for how many days the certificate of this host is still valid.
    pub fn certificate_days(&self, host: &str, days: i64) {
        self.certificate_days.get_or_create(&[("url", host.to_owned())]).set(days);
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = Some((host.to_owned(), days));
    }

    /// The host of the callback URLs and for how many days its certificate is still valid; `None` while that could not be seen.
    #[must_use]
    pub fn certificate(&self) -> Option<(String, i64)> {
        self.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes by how much our clock is ahead of WeCom's, as one answer says.
    pub fn clock_compared(&self, ahead_ms: i64) {
        let mut skews = self.skews_ms.lock().unwrap_or_else(PoisonError::into_inner);
        skews.push(ahead_ms);
        let surplus = skews.len().saturating_sub(AGREEING);
        skews.drain(..surplus);
        drop(skews);
        self.clock_skew.clear();
        if let Some(ms) = self.clock_skew_ms() {
            #[expect(clippy::cast_precision_loss, reason = "a number of seconds")]
            self.clock_skew.get_or_create(&[]).set(ms as f64 / 1_000.0);
        }
    }

    /// By how many milliseconds our clock is ahead of WeCom's, as its last answers agree; `None` if they do not, or there
    /// were none.
    #[must_use]
    pub fn clock_skew_ms(&self) -> Option<i64> {
        let skews = self.skews_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] = skews.as_slice() else { return None };
        ((first - second).abs() <= 2_000).then_some(i64::midpoint(*first, *second))
    }
}
