//! One import from beginning to end: open, go on where an earlier run stopped, read, send, account.
//!
//! A few requests are under way at once, and accounted for in the order of the file, so that there is always one
//! place before which everything is done.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::batches::{self, Batch};
use super::format::Encoding;
use super::ledger::Ledger;
use super::progress::{Counts, Identity, Kept, Progress, ProgressFile};
use super::rejects::Rejects;
use super::send::{Patience, Receipt, Service};
use super::source::{Input, Reading, Source};
use crate::cli::show::Show;
use crate::config::AdminAccess;

/// Requests under way at once.
const REQUESTS_MAX: usize = 4;
/// Batches read ahead of them.
const BATCHES_AHEAD: usize = 4;

/// What is to be imported, and how.
pub(super) struct Job {
    pub(super) input: Input,
    pub(super) reading: Reading,
    /// The service; nothing is sent without.
    pub(super) access: Option<AdminAccess>,
    pub(super) rejects: Option<PathBuf>,
    pub(super) progress: Option<PathBuf>,
    /// Whether to forget what an earlier run did.
    pub(super) restart: bool,
    pub(super) patience: Patience,
    /// How much of the work a crash may repeat.
    pub(super) save_every: Duration,
    /// Whether somebody watches.
    pub(super) terminal: bool,
}

/// How an import ended, if it did not fail.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) counts: Counts,
    pub(super) took: Duration,
    /// The last line that is done, if it was told to stop before the end.
    pub(super) interrupted_after: Option<u64>,
}

/// A batch and the request that carries it; none, if there is nothing to send.
struct Flight {
    batch: Batch,
    request: Option<JoinHandle<anyhow::Result<Option<Receipt>>>>,
}

impl Job {
    /// Imports until the end, a failure, or `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<Report> {
        // What is read ahead is of no use once this function is left, however it is left.
        let reading = stop.child_token();
        let _reading = reading.clone().drop_guard();
        let (input, how, token) = (self.input.clone(), self.reading.clone(), reading.clone());
        let opening = tokio::task::spawn_blocking(move || Source::open(&input, &how, token));
        let source = tokio::select! {
            opened = opening => opened.context("reading ended unexpectedly")??,
            () = stop.cancelled() => return Ok(Report::stopped_early()),
        };
        let kept = self.kept(&source)?;
        let resume_at = kept.as_ref().filter(|kept| kept.resumed).map(|kept| kept.progress.position());
        let (mut ledger, show) = self.ledger(&source, kept)?;
        if source.encoding == Encoding::Gb18030 && self.reading.encoding.is_none() {
            show.say(&format!("{} is GB18030, not UTF-8; reading it as such", source.name));
        }
        if let Some(at) = resume_at {
            show.say(&format!("resuming after line {}", at.line - 1));
        }
        let service = match &self.access {
            Some(access) => Some(Service::new(access, self.patience, show.clone(), stop.clone())?),
            None => None,
        };
        // What cannot be written is noticed before anything is sent.
        ledger.save()?;
        let (to, batches) = mpsc::channel(BATCHES_AHEAD);
        let reader = tokio::task::spawn_blocking(move || batches::read(source, resume_at, &to));
        let sent = self.send(batches, service.map(Arc::new), &mut ledger, &show, &stop).await;
        let read = match &sent {
            Ok(true) => reader.await.context("reading ended unexpectedly").flatten(),
            // It may wait for a terminal that nobody types on.
            Ok(false) | Err(_) => Ok(()),
        };
        show.finish();
        // Whatever happened, what is done stays done.
        let saved = ledger.save();
        let complete = sent?;
        read?;
        saved?;
        let (took, last_line) = (show.elapsed(), ledger.position.line - 1);
        if complete {
            Ok(Report { counts: ledger.close()?, took, interrupted_after: None })
        } else {
            Ok(Report { counts: ledger.counts, took, interrupted_after: Some(last_line) })
        }
    }

    /// Sends batch after batch and enters them in order. Whether it came to the end.
    async fn send(
        &self,
        mut batches: mpsc::Receiver<Batch>,
        service: Option<Arc<Service>>,
        ledger: &mut Ledger,
        show: &Show,
        stop: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let mut flights: VecDeque<Flight> = VecDeque::new();
        let mut more = true;
        let mut tick = tokio::time::interval(self.save_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while more || !flights.is_empty() {
            tokio::select! {
                batch = batches.recv(), if more && flights.len() < REQUESTS_MAX => match batch {
                    Some(batch) => flights.push_back(Flight::new(batch, service.as_ref())),
                    None => more = false,
                },
                answer = answered(&mut flights), if !flights.is_empty() => {
                    let (Some(receipt), Some(flight)) = (answer?, flights.pop_front()) else {
                        return Ok(false);
                    };
                    ledger.enter(flight.batch, receipt, show)?;
                    show.advance(ledger.counts.rows, ledger.read_bytes);
                }
                _ = tick.tick() => ledger.save()?,
                () = stop.cancelled(), if more => {
                    more = false;
                    batches.close();
                }
            }
        }
        Ok(!stop.is_cancelled())
    }

    /// The progress of this import, if it is one that can be gone on with.
    fn kept(&self, source: &Source) -> anyhow::Result<Option<Kept>> {
        let (Some(regular), Some(access), Input::File(path)) = (&source.regular, &self.access, &self.input)
        else {
            if let (Some(_), Some(_)) = (&self.progress, &self.access) {
                bail!(
                    "{} cannot be read again from the middle, so there is no progress to keep\nhint: leave out \
                     --progress, or import a file",
                    source.name
                );
            }
            return Ok(None);
        };
        let file = match &self.progress {
            Some(path) => ProgressFile::new(path.clone()),
            None => ProgressFile::beside(path),
        };
        distinct(path, file.path(), "--progress")?;
        let identity = Identity::new(regular, &access.base_url, &self.reading);
        let earlier = if self.restart { None } else { file.load(&identity)? };
        let resumed = earlier.is_some();
        let progress = earlier
            .unwrap_or_else(|| Progress::begun(identity, source.records.position(), self.rejects.clone()));
        Ok(Some(Kept { file, progress, resumed }))
    }

    fn ledger(&self, source: &Source, mut kept: Option<Kept>) -> anyhow::Result<(Ledger, Arc<Show>)> {
        if let (Some(rejects), Input::File(input)) = (&self.rejects, &self.input) {
            distinct(input, rejects, "--rejects")?;
        }
        if let (Some(rejects), Some(kept)) = (&self.rejects, &kept) {
            distinct(kept.file.path(), rejects, "--rejects")?;
        }
        let keep_bytes = kept.as_mut().map_or(0, |kept| kept.progress.rejects_now(self.rejects.clone()));
        let rejects = Rejects::open(self.rejects.as_deref(), keep_bytes)?;
        let position =
            kept.as_ref().map_or_else(|| source.records.position(), |kept| kept.progress.position());
        let ledger = Ledger::new(position, rejects, kept);
        let total_bytes = source.regular.as_ref().map(|regular| regular.bytes);
        let show = Show::new(self.terminal, total_bytes, ledger.counts.rows);
        Ok((ledger, Arc::new(show)))
    }
}

impl Report {
    fn stopped_early() -> Self {
        Self { counts: Counts::default(), took: Duration::ZERO, interrupted_after: Some(0) }
    }
}

impl Flight {
    fn new(batch: Batch, service: Option<&Arc<Service>>) -> Self {
        let request = service.filter(|_| !batch.sent.is_empty()).map(|service| {
            let (service, body, rows) = (service.clone(), batch.body.clone(), batch.sent.len());
            tokio::spawn(async move { service.send(body, rows).await })
        });
        Self { batch, request }
    }
}

/// What became of the first flight; `None` if it was told to stop. May be dropped and asked again.
async fn answered(flights: &mut VecDeque<Flight>) -> anyhow::Result<Option<Receipt>> {
    match flights.front_mut().and_then(|flight| flight.request.as_mut()) {
        Some(request) => request.await.context("a request ended unexpectedly")?,
        None => Ok(Some(Receipt::default())),
    }
}

/// Refuses to write over `read`.
fn distinct(read: &Path, written: &Path, option: &str) -> anyhow::Result<()> {
    let same = match (read.canonicalize(), written.canonicalize()) {
        (Ok(read), Ok(written)) => read == written,
        // One of them is not there, so they are not the same file yet.
        _ => read == written,
    };
    if same {
        bail!("{option} names {}, which is in use\nhint: name another file", written.display());
    }
    Ok(())
}
