//! Bringing log, checkpoint and index in step when a store is opened.
//!
//! The log is the truth. The index is given what the log has beyond its applied mark; where it is missing, does not open or
//! has fallen behind what can be replayed, it is built anew from checkpoint and log, unattended. Only where log or
//! checkpoint lack something that the index still has do they get it from there.

use std::io;

use super::backlog::{Backlog, ReplayError, apply_all};
use super::filling::{damaged_keys, replace};
use super::mark::{Mark, set_mark};
use super::{layout, sums};
use crate::store::embedded::checkpoint::{self, Inventory};
use crate::store::embedded::engine::sled::SledEngine;
use crate::store::embedded::engine::{EngineError, records};
use crate::store::embedded::folder::files::{remove_file, remove_folder, rename, sync, sync_all};
use crate::store::embedded::folder::private::create_folder;
use crate::store::embedded::folder::{Folder, OpenError, folder_error, replacement};
use crate::store::embedded::wal::{self, Lineage, SegmentFile};
use crate::store::rows::source::Batch;

/// Opening sled needs space: with less than this, that it does not open says nothing.
const OPENING_BYTES: u64 = 16 << 20;

/// Called while an index is built anew, with the reason and how many records have been written. Returns whether to go
/// on; if not, it can be begun again later.
pub type Rebuilding<'a> = &'a mut dyn FnMut(&str, u64) -> bool;

/// A store that can be served.
pub(crate) struct Recovered {
    pub(crate) engine: SledEngine,
    pub(crate) lineage: Lineage,
    /// The last record that the index has for good.
    pub(crate) applied: u64,
    /// The last record of the log.
    pub(crate) last: u64,
    /// The records behind the applied mark.
    pub(crate) backlog: Vec<(u64, Batch)>,
    /// Whether the index is known to be as the log says: it was built from it just now.
    pub(crate) is_rebuilt: bool,
    /// Whether the process before this one ended without closing the store.
    pub(crate) was_killed: bool,
    /// Keys of records that are damaged in log or checkpoint too.
    pub(crate) damaged: Vec<Vec<u8>>,
}

/// How the index was found.
enum Index {
    Missing,
    Unusable(String),
    Open(SledEngine, Option<Mark>),
}

/// Brings the store in `folder`, which is locked, in step.
///
/// # Errors
/// [`OpenError::Incomplete`] where something is lost that nothing here has.
pub(crate) fn recover(
    folder: &Folder,
    cache_bytes: u64,
    rebuilding: Rebuilding<'_>,
) -> Result<Recovered, OpenError> {
    replacement::finish(folder.path())?;
    layout::upgrade(folder)?;
    remove_folder(&folder.building())?;
    for path in [folder.wal(), folder.checkpoint()] {
        create_folder(&path)?;
    }
    checkpoint::clear_unfinished(&folder.checkpoint())
        .map_err(folder_error("clear", &folder.checkpoint()))?;
    let cannot_read = folder_error("read", folder.path());
    let log = Inventory::read(folder).map_err(cannot_read)?;
    let lineage = log.lineage().map_err(cannot_read)?;
    let opening = Opening { folder, cache_bytes, log, lineage };
    let was_killed = !folder.sums().exists() && folder.index().exists();
    let recovered = opening.recover(rebuilding)?;
    sync(folder.path())?;
    layout::keep_earlier_versions_out(folder)?;
    Ok(Recovered { was_killed, ..recovered })
}

struct Opening<'a> {
    folder: &'a Folder,
    cache_bytes: u64,
    log: Inventory,
    lineage: Option<Lineage>,
}

impl Opening<'_> {
    fn recover(self, rebuilding: Rebuilding<'_>) -> Result<Recovered, OpenError> {
        match (self.index()?, self.lineage) {
            (Index::Missing, None) if self.log.is_empty() => self.begin(),
            (Index::Missing, None) => Err(self.unreadable_log("it is missing")),
            (Index::Missing, Some(lineage)) => self.rebuild("it is missing", lineage, rebuilding),
            (Index::Unusable(reason), None) if self.log.is_empty() => Err(self.unusable(reason)),
            (Index::Unusable(reason), None) => Err(self.unreadable_log(&reason)),
            (Index::Unusable(reason), Some(lineage)) => self.rebuild(&reason, lineage, rebuilding),
            // Written by a version before 0.3 without a log: what is left of one is out of date.
            (Index::Open(engine, Some(Mark::OFF)), _) => self.take_over(engine),
            (Index::Open(engine, None), None) if self.log.is_empty() => self.take_over(engine),
            (Index::Open(_, None), None) => Err(self.foreign()),
            // The log is gone, or the header of its only segment.
            (Index::Open(engine, None), Some(lineage)) => {
                let is_empty = records(&engine).next().is_none();
                drop(engine);
                if is_empty { self.rebuild("it is empty", lineage, rebuilding) } else { Err(self.foreign()) }
            }
            (Index::Open(_, Some(mark)), Some(lineage)) if mark.lineage != lineage => Err(self.foreign()),
            (Index::Open(engine, Some(mark)), _) => self.catch_up(engine, mark, rebuilding),
        }
    }

    /// Opens the index, unless it is known to be damaged.
    fn index(&self) -> Result<Index, OpenError> {
        let path = self.folder.index();
        if !path.exists() {
            return Ok(Index::Missing);
        }
        if let Some(reason) = self.folder.damage() {
            return Ok(Index::Unusable(reason));
        }
        if sums::have_changed(self.folder)? {
            return Ok(Index::Unusable("its files have changed since it was closed".to_owned()));
        }
        sums::forget(self.folder)?;
        let opened = SledEngine::open(&path, self.cache_bytes).and_then(|engine| {
            let mark = Mark::read(&engine).map_err(|EngineError(reason)| self.unusable(reason))?;
            Ok(Index::Open(engine, mark))
        });
        match opened {
            Err(OpenError::Index { path, reason }) => {
                if self.folder.free_bytes().is_some_and(|free| free < OPENING_BYTES) {
                    return Err(OpenError::Index { path, reason });
                }
                Ok(Index::Unusable(reason))
            }
            opened => opened,
        }
    }

    /// The last record that is known to have been in the log.
    fn end_of_log(&self) -> io::Result<u64> {
        let replayed = wal::replay::<io::Error>(&self.log.segments, 0, |_, _| Ok(()))?;
        let of_segments = replayed.gap.map_or(replayed.last, |gap| gap.end);
        Ok(of_segments.max(self.log.needs()).max(self.log.segments.last().map_or(0, |segment| segment.from)))
    }

    /// Makes what a killed process wrote last durable: the index must not be the only one to have it.
    fn sync_log(&self) -> Result<(), OpenError> {
        self.log.segments.last().map_or(Ok(()), |segment| sync(&segment.path))
    }

    fn unusable(&self, reason: String) -> OpenError {
        OpenError::Index { path: self.folder.index(), reason }
    }

    fn incomplete(&self, reason: String) -> OpenError {
        let hint = "restore it from a copy made by unionlink store backup: unionlink store restore FOLDER";
        OpenError::Incomplete { path: self.folder.path().to_owned(), reason, hint }
    }

    fn foreign(&self) -> OpenError {
        let reason = "its index and its log are of two different stores".to_owned();
        let hint = "put the folder together again as it was; or, if the log is the right one, move index/ away, \
                    and it is built anew";
        OpenError::Incomplete { path: self.folder.path().to_owned(), reason, hint }
    }

    fn unreadable_log(&self, reason: &str) -> OpenError {
        let segments = self.log.segments.iter().map(|segment| &segment.path);
        let damaged = self.log.unreadable.iter().chain(segments).map(|path| path.display().to_string());
        let damaged = damaged.collect::<Vec<_>>().join(" and ");
        self.incomplete(format!("{damaged} is damaged, and the index: {reason}"))
    }

    /// A new store.
    fn begin(self) -> Result<Recovered, OpenError> {
        let lineage = rand::random();
        let building = self.folder.building();
        let engine = SledEngine::open(&building, self.cache_bytes)?;
        set_mark(&engine, Mark { lineage, seq: 0 }).map_err(|EngineError(reason)| self.unusable(reason))?;
        drop(engine);
        sync_all(&building)?;
        rename(&building, &self.folder.index())?;
        let engine = SledEngine::open(&self.folder.index(), self.cache_bytes)?;
        Ok(recovered(engine, lineage, 0))
    }

    /// The index has everything up to its mark; it is given the rest.
    fn catch_up(
        self,
        engine: SledEngine,
        mark: Mark,
        rebuilding: Rebuilding<'_>,
    ) -> Result<Recovered, OpenError> {
        let Mark { lineage, seq: applied } = mark;
        let (checkpointed, segments) = (self.log.checkpointed(), &self.log.segments);
        let begins_at = segments.first().map_or(checkpointed + 1, |segment| segment.from);
        if applied + 1 < begins_at && applied < checkpointed {
            drop(engine);
            return self.rebuild("it has fallen behind the log", lineage, rebuilding);
        }
        let mut backlog = Backlog::new(&engine, lineage, applied);
        let replayed = wal::replay(segments, applied, |seq, entries| {
            backlog.add(seq, entries.into_iter().map(wal::record::owned).collect())
        });
        let replayed = replayed.map_err(|error| match error {
            ReplayError::Io(source) => folder_error("read", &self.folder.wal())(source),
            ReplayError::Index(EngineError(reason)) => self.unusable(reason),
        })?;
        let (written, backlog) = backlog.into_records();
        if let Some(gap) = replayed.gap {
            drop(engine);
            // Where the checkpoint has what is missing.
            let is_covered = gap.have < checkpointed;
            return if is_covered {
                self.rebuild("it has fallen behind the log", lineage, rebuilding)
            } else {
                Err(self.incomplete(gap.to_string()))
            };
        }
        if replayed.torn {
            tracing::info!(
                "the log ends in half a record: it was being written, or is damaged; nobody can tell"
            );
        }
        let last = replayed.last;
        self.sync_log()?;
        let needs = self.log.needs();
        let is_incomplete = replayed.seen.max(checkpointed) < applied || self.log.lacks_its_beginning();
        if is_incomplete || replayed.damaged.is_some() || needs > last {
            if needs > last {
                return Err(self.incomplete(format!("the log ends with record {last}, and had {needs}")));
            }
            apply_all(&engine, &backlog).map_err(|EngineError(reason)| self.unusable(reason))?;
            return self.heal(engine, Mark { lineage, seq: last });
        }
        tracing::debug!(applied = written, last, "the log has been replayed");
        let damaged = damaged_keys(&engine).map_err(|EngineError(reason)| self.unusable(reason))?;
        Ok(Recovered { applied: written, last, backlog, damaged, ..recovered(engine, lineage, last) })
    }

    /// The index is all there is of the store: a log is begun, behind whatever is left of another one.
    fn take_over(self, engine: SledEngine) -> Result<Recovered, OpenError> {
        let end = self.end_of_log().map_err(folder_error("read", &self.folder.wal()))?;
        self.heal(engine, Mark { lineage: rand::random(), seq: end + 1 })
    }

    /// Log or checkpoint lack something that the index has: a checkpoint is written from it. The index has everything up
    /// to `mark`, and there is nothing behind that.
    fn heal(self, engine: SledEngine, mark: Mark) -> Result<Recovered, OpenError> {
        let is_new = self.lineage != Some(mark.lineage);
        if !self.log.is_empty() || mark.seq > 1 {
            tracing::error!(
                seq = mark.seq,
                "log or checkpoint lack something that the index has; a checkpoint is written from the index"
            );
        }
        let set_mark = || set_mark(&engine, mark).map_err(|EngineError(reason)| self.unusable(reason));
        // Where it is interrupted it begins again: so an index that belongs to no log yet belongs to this one first, and
        // one that has to leave another log does so last.
        let marks_first = !is_new || self.lineage.is_none();
        if marks_first {
            set_mark()?;
        }
        let folder = self.folder.checkpoint();
        let cannot = folder_error("write a checkpoint in", &folder);
        checkpoint::from_index(&engine, &folder, mark.lineage, mark.seq, &|| mark.seq, &|| false)
            .map_err(cannot)?;
        for SegmentFile { path, .. } in &self.log.segments {
            remove_file(path)?;
        }
        if let Some(path) = &self.log.unreadable {
            remove_file(path)?;
        }
        let cannot = folder_error("clear", &folder);
        checkpoint::clear_unfinished(&folder).map_err(cannot)?;
        sync(&self.folder.wal())?;
        sync(&folder)?;
        if !marks_first {
            set_mark()?;
        }
        Ok(recovered(engine, mark.lineage, mark.seq))
    }

    /// Builds the index anew from checkpoint and log.
    fn rebuild(
        self,
        reason: &str,
        lineage: Lineage,
        rebuilding: Rebuilding<'_>,
    ) -> Result<Recovered, OpenError> {
        if let (Some(path), None) = (&self.log.unreadable, &self.log.checkpoint) {
            return Err(self.incomplete(format!("{} is damaged, and the index: {reason}", path.display())));
        }
        let replayed = self.log.replay().map_err(folder_error("read", &self.folder.wal()))?;
        if let Some(gap) = replayed.gap {
            return Err(self.incomplete(format!("{gap}, and the index: {reason}")));
        }
        let (last, needs) = (replayed.last, self.log.needs());
        if needs > last {
            return Err(self.incomplete(format!("the log ends with record {last}, and had {needs}")));
        }
        self.sync_log()?;
        tracing::warn!(reason, "the index is built anew from checkpoint and log");
        if !rebuilding(reason, 0) {
            return Err(OpenError::Interrupted);
        }
        let cannot_read = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => self.incomplete(format!("{error}, and the index: {reason}")),
            _ => folder_error("read", self.folder.path())(error),
        };
        let rows = self.log.rows(last).map_err(cannot_read)?.map(|row| row.map_err(cannot_read));
        let mark = Mark { lineage, seq: last };
        let (records, damaged) =
            replace(self.folder, mark, rows, &mut |records| rebuilding(reason, records))?;
        tracing::info!(records, "the index has been built anew; the previous one is in index.set-aside");
        let engine = SledEngine::open(&self.folder.index(), self.cache_bytes)?;
        Ok(Recovered { is_rebuilt: true, damaged, ..recovered(engine, lineage, last) })
    }
}

/// Of an index that has everything.
fn recovered(engine: SledEngine, lineage: Lineage, last: u64) -> Recovered {
    Recovered {
        engine,
        lineage,
        applied: last,
        last,
        backlog: Vec::new(),
        is_rebuilt: false,
        was_killed: false,
        damaged: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
