//! The log of imports: when one begins, when it ends or breaks off, and how many rows it had.
//!
//! An import is a request with more rows than live registrations have, or requests with priority `bulk`.
//! `unionlink fans import` sends one file as many requests, so requests that overlap, or follow each other
//! within [`QUIET`], are one import. It begins when its first rows are stored.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long after its last request an import is over.
const QUIET: Duration = Duration::from_secs(5);
/// How often that is checked.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The log of imports, with the import in progress.
#[derive(Debug, Default)]
pub struct ImportLog(Mutex<Option<Import>>);

#[derive(Debug)]
struct Import {
    began_at: Instant,
    /// Requests in progress.
    requests: usize,
    /// When rows were last stored.
    ended_at: Instant,
    /// The rows that are stored or rejected.
    rows: Rows,
    /// Whether the request that ended last broke off.
    broke_off: bool,
}

/// Rows by result.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rows {
    pub(super) accepted: u64,
    pub(super) known: u64,
    pub(super) rejected: u64,
}

/// A request of an import. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct ImportRequest {
    log: Arc<ImportLog>,
    /// The rows of this request so far.
    rows: Rows,
    /// Whether all rows were processed; otherwise the request broke off.
    pub(super) is_complete: bool,
}

impl ImportLog {
    /// Adds a request to the import in progress, or begins an import.
    pub(super) fn join(self: &Arc<Self>) -> ImportRequest {
        let mut current = self.current();
        let import = current.get_or_insert_with(|| {
            tracing::info!("import begun");
            tokio::spawn(self.clone().end_when_quiet());
            let now = Instant::now();
            Import { began_at: now, requests: 0, ended_at: now, rows: Rows::default(), broke_off: false }
        });
        import.requests += 1;
        ImportRequest { log: self.clone(), rows: Rows::default(), is_complete: false }
    }

    /// Logs the end of the import once it is over.
    async fn end_when_quiet(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            let mut current = self.current();
            let is_over = |import: &mut Import| import.requests == 0 && import.ended_at.elapsed() >= QUIET;
            if let Some(import) = current.take_if(is_over) {
                import.log_end();
            }
            if current.is_none() {
                return;
            }
        }
    }

    /// Ends the import in progress, if there is one, because the service stops.
    pub fn end(&self) {
        if let Some(import) = self.current().take() {
            import.log_end();
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Import>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Import {
    fn log_end(&self) {
        let Rows { accepted, known, rejected } = self.rows;
        let took = self.ended_at.duration_since(self.began_at);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if self.broke_off || self.requests > 0 {
            tracing::warn!(accepted, known, rejected, took_ms, "import broke off");
        } else {
            tracing::info!(accepted, known, rejected, took_ms, "import ended");
        }
    }
}

impl ImportRequest {
    /// Records the rows of this request so far.
    pub(super) fn record(&mut self, rows: Rows) {
        if let Some(import) = &mut *self.log.current() {
            import.rows.accepted += rows.accepted - self.rows.accepted;
            import.rows.known += rows.known - self.rows.known;
            import.rows.rejected += rows.rejected - self.rows.rejected;
            import.ended_at = Instant::now();
        }
        self.rows = rows;
    }
}

impl Drop for ImportRequest {
    fn drop(&mut self) {
        if let Some(import) = &mut *self.log.current() {
            import.requests = import.requests.saturating_sub(1);
            import.ended_at = Instant::now();
            import.broke_off = !self.is_complete;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_in_quick_succession_are_one_import() {
        let log = Arc::new(ImportLog::default());
        for accepted in [3, 4] {
            let mut request = log.join();
            request.record(Rows { accepted, ..Rows::default() });
            request.is_complete = true;
            drop(request);
            tokio::time::sleep(QUIET / 2).await;
        }
        let accepted = log.current().as_ref().map(|import| import.rows.accepted);
        assert_eq!(accepted, Some(7));
        let slow = log.join();
        tokio::time::sleep(QUIET * 2).await;
        assert!(log.current().is_some(), "a request is in progress");
        drop(slow);
        tokio::time::sleep(QUIET + CHECK_EVERY * 2).await;
        assert!(log.current().is_none());
    }
}
