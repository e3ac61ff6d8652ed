//! What an import has accounted for: counts, rejects and progress, which must agree.
//!
//! Rejects are durable before the progress that counts them, so that a row is never passed over unlisted.

use anyhow::Context as _;

use super::batches::{Bad, Batch};
use super::progress::{Counts, Kept};
use super::records::Position;
use super::rejects::Rejects;
use super::send::Receipt;
use crate::cli::show::Show;

pub(super) struct Ledger {
    pub(super) counts: Counts,
    /// Everything before it is accounted for.
    pub(super) position: Position,
    pub(super) read_bytes: u64,
    rejects: Rejects,
    /// Not there for a stream and a dry run.
    progress: Option<Kept>,
    dirty: bool,
}

impl Ledger {
    pub(super) fn new(position: Position, rejects: Rejects, progress: Option<Kept>) -> Self {
        let counts = progress.as_ref().map(|kept| kept.progress.counts).unwrap_or_default();
        // Dirty, so that what cannot be written is noticed before anything is sent.
        Self { counts, position, read_bytes: 0, rejects, progress, dirty: true }
    }

    /// Accounts for a batch and what the service said of it.
    pub(super) fn enter(&mut self, batch: Batch, receipt: Receipt, show: &Show) -> anyhow::Result<()> {
        let Batch { mut sent, mut bad, end, read_bytes, .. } = batch;
        self.counts.rows += (sent.len() + bad.len()) as u64;
        self.counts.accepted += receipt.accepted;
        self.counts.known += receipt.known;
        let ours = bad.len();
        // From behind, so that taking one out does not move those still to come.
        let mut refused = receipt.rejected;
        refused.sort_by_key(|rejected| std::cmp::Reverse(rejected.line));
        for rejected in refused {
            let at = usize::try_from(rejected.line).ok().and_then(|line| line.checked_sub(1));
            let at = at
                .filter(|at| *at < sent.len())
                .context("the service rejected a row that it was not sent\nhint: is it unionlink?")?;
            bad.push(Bad { origin: sent.swap_remove(at), reason: rejected.reason });
        }
        if bad.len() > ours {
            bad.sort_by_key(|bad| bad.origin.line);
        }
        self.counts.rejected += bad.len() as u64;
        for bad in &bad {
            self.rejects.note(bad, show)?;
        }
        (self.position, self.read_bytes, self.dirty) = (end, read_bytes, true);
        Ok(())
    }

    /// Makes everything entered durable. Takes as long as the disk does, a few milliseconds.
    pub(super) fn save(&mut self) -> anyhow::Result<()> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        let rejects_bytes = self.rejects.flush()?;
        if let Some(Kept { file, progress, .. }) = &mut self.progress {
            progress.advance(self.position, self.counts, rejects_bytes);
            file.save(progress)?;
        }
        Ok(())
    }

    /// The import is complete: there is nothing to go on with.
    pub(super) fn close(mut self) -> anyhow::Result<Counts> {
        self.rejects.flush()?;
        if let Some(kept) = &self.progress {
            kept.file.remove()?;
        }
        Ok(self.counts)
    }
}
