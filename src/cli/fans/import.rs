//! One import from beginning to end: opens the input, resumes an earlier run, reads, sends and records.
//!
//! A few requests are in flight at once. Their results are recorded in file order, so that one position
//! describes the progress.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::Bytes;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::accounting::Accounts;
use super::batches::{self, Batch};
use super::detect::Encoding;
use super::progress::{Counts, Identity, Progress, with_suffix};
use super::send::{Patience, Receipt, Service};
use super::source::{ReadOptions, Source};
use crate::cli::progress_display::ProgressDisplay;
use crate::config::AdminAccess;

const REQUESTS_MAX: usize = 4;
/// Batches read ahead of the requests in flight.
const BATCHES_AHEAD: usize = 4;

/// An import to run.
pub(super) struct Job {
    /// The file; `-` is standard input.
    pub(super) file: PathBuf,
    pub(super) options: ReadOptions,
    /// The service; none for a dry run.
    pub(super) access: Option<AdminAccess>,
    pub(super) rejects: Option<PathBuf>,
    pub(super) progress: Option<PathBuf>,
    /// Whether to discard the progress of an earlier run.
    pub(super) restart: bool,
    /// Whether WeCom is asked again about fans that it refused.
    pub(super) retry_rejected: bool,
    /// The import stops once more rows than this are rejected.
    pub(super) max_rejects: Option<u64>,
    pub(super) patience: Patience,
    /// How often progress is saved: the work that a crash may repeat.
    pub(super) save_every: Duration,
    /// Whether to draw a progress bar.
    pub(super) terminal: bool,
}

/// How an import ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum End {
    /// The whole input is done.
    #[default]
    Complete,
    /// Stopped by a signal.
    Interrupted,
    /// Stopped because more rows were rejected than allowed.
    TooManyRejects,
}

/// The result of an import.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) end: End,
    pub(super) counts: Counts,
    pub(super) took: Duration,
    /// The last line that is done; 0 if nothing was sent.
    pub(super) line: u64,
    /// Line and reason of the first rows that this run rejected.
    pub(super) first_rejects: Vec<String>,
}

impl Job {
    /// Imports until the end, an error, or `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<Report> {
        let nothing_sent = || Report { end: End::Interrupted, ..Report::default() };
        let (file, options) = (self.file.clone(), self.options.clone());
        let opening = tokio::task::spawn_blocking(move || Source::open(&file, &options));
        let source = tokio::select! {
            opened = opening => opened.context("the reading thread ended unexpectedly")??,
            () = stop.cancelled() => return Ok(nothing_sent()),
        };
        let (mut accounts, resumed) = self.accounts(&source)?;
        let start = accounts.progress.position;
        let display =
            Arc::new(ProgressDisplay::new(self.terminal, source.bytes, accounts.progress.counts.rows));
        if source.encoding == Encoding::Gb18030 && self.options.encoding.is_none() {
            display.say(&format!("{} is not UTF-8; reading it as GB18030", source.name));
        }
        if resumed {
            display.say(&format!("resuming after line {}", start.line - 1));
        }
        let access = self.access.as_ref();
        let retry = self.retry_rejected;
        let service =
            access.map(|access| Service::new(access, self.patience, retry, display.clone(), stop.clone()));
        let service = service.transpose()?.map(Arc::new);
        let app = self.options.app.as_ref();
        if let Some(service) = &service
            && (app.is_some() || source.needs_app)
            && !service.check_app(app).await?
        {
            return Ok(nothing_sent());
        }
        // Saved first, so that a file that cannot be written fails before anything is sent.
        accounts.save()?;
        let (to, batches) = mpsc::channel(BATCHES_AHEAD);
        let reader = tokio::task::spawn_blocking(move || batches::read(source, start, &to));
        let sent = self.send(batches, service, &mut accounts, &display, &stop).await;
        display.finish();
        // The rows recorded so far are saved even after an error.
        let saved = accounts.save();
        let end = sent?;
        if end == End::Complete {
            reader.await.context("the reading thread ended unexpectedly")??;
        }
        saved?;
        let Progress { counts, position, .. } = &accounts.progress;
        let report = Report {
            end,
            counts: *counts,
            took: display.elapsed(),
            line: position.line - 1,
            first_rejects: std::mem::take(&mut accounts.first_rejects),
        };
        if end == End::Complete {
            accounts.close()?;
        }
        Ok(report)
    }

    /// Sends the batches and records the results in order.
    async fn send(
        &self,
        mut batches: mpsc::Receiver<Batch>,
        service: Option<Arc<Service>>,
        accounts: &mut Accounts,
        display: &ProgressDisplay,
        stop: &CancellationToken,
    ) -> anyhow::Result<End> {
        // Requests that are under way are finished, so that their rows are counted.
        let no_more = stop.child_token();
        let requests = stream::poll_fn(move |context| batches.poll_recv(context))
            .take_until(no_more.clone().cancelled_owned())
            .map(move |batch| submit(service.clone(), batch))
            .buffered(REQUESTS_MAX);
        let mut requests = pin!(requests);
        let mut tick = tokio::time::interval(self.save_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Before anything is sent, because an earlier run may have stopped for the same reason.
            let too_many = self.max_rejects.is_some_and(|max| accounts.progress.counts.rejected > max);
            if too_many {
                no_more.cancel();
            }
            tokio::select! {
                request = requests.next() => match request.transpose()? {
                    Some((batch, Some(receipt))) => {
                        let read_bytes = batch.read_bytes;
                        accounts.record(batch, receipt, display)?;
                        display.advance(accounts.progress.counts.rows, read_bytes);
                    }
                    Some((_, None)) => return Ok(End::Interrupted),
                    None if too_many => return Ok(End::TooManyRejects),
                    None if stop.is_cancelled() => return Ok(End::Interrupted),
                    None => return Ok(End::Complete),
                },
                _ = tick.tick() => accounts.save()?,
            }
        }
    }

    /// The bookkeeping of this import, and whether it resumes an earlier run.
    fn accounts(&self, source: &Source) -> anyhow::Result<(Accounts, bool)> {
        let path = match &self.progress {
            _ if self.access.is_none() => None,
            None => source.bytes.map(|_| with_suffix(&self.file, ".progress")),
            Some(path) if source.bytes.is_some() => Some(path.clone()),
            Some(_) => bail!(
                "{} cannot be resumed, so there is no progress to save\nhint: leave out --progress, or \
                 import a file",
                source.name
            ),
        };
        distinct(Some(&self.file), path.as_ref(), "--progress")?;
        distinct(Some(&self.file), self.rejects.as_ref(), "--rejects")?;
        distinct(path.as_ref(), self.rejects.as_ref(), "--rejects")?;
        let identity = Identity {
            file: source.fingerprint.clone(),
            service: self.access.as_ref().map(AdminAccess::shown).unwrap_or_default(),
            options: format!("{:?}{}", self.options, if self.retry_rejected { " retry" } else { "" }),
        };
        let earlier = match &path {
            Some(path) if !self.restart => Progress::load(path, &identity)?,
            _ => None,
        };
        let resumed = earlier.is_some();
        let mut progress = earlier.unwrap_or_else(|| Progress {
            identity,
            position: source.records.position(),
            counts: Counts::default(),
            rejects: None,
            rejects_bytes: 0,
        });
        if progress.rejects != self.rejects {
            (progress.rejects, progress.rejects_bytes) = (self.rejects.clone(), 0);
        }
        Ok((Accounts::open(progress, path)?, resumed))
    }
}

/// Sends a batch, unless all its rows are rejected or it is a dry run; no receipt if the import is stopped.
async fn submit(service: Option<Arc<Service>>, mut batch: Batch) -> anyhow::Result<(Batch, Option<Receipt>)> {
    let body = Bytes::from(std::mem::take(&mut batch.body));
    let rows = batch.rows.iter().filter(|row| row.rejected.is_none()).count();
    let receipt = match service {
        Some(service) if rows > 0 => service.send(body, rows).await?,
        _ => Some(Receipt::default()),
    };
    Ok((batch, receipt))
}

/// Fails if `written` is the file `used`.
fn distinct(used: Option<&PathBuf>, written: Option<&PathBuf>, option: &str) -> anyhow::Result<()> {
    let (Some(used), Some(written)) = (used, written) else { return Ok(()) };
    // A file that does not exist yet is compared by name.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real(used) == real(written) {
        bail!(
            "{option} names {}, which is used for something else\nhint: name another file",
            written.display()
        );
    }
    Ok(())
}
