//! The redo journal: everything that was ever committed, beside the database and independent of it.
//!
//! sled answers a flipped bit with a panic when it is opened, or with silence; it has no way to be repaired. So every
//! batch is written twice: to `journal/`, and to the database. It is acknowledged once it is durable in the journal; the
//! database is [flushed](flush) at intervals. The journal's files carry checksums and numbers, are never changed once
//! they are closed, and nothing that reads or writes them knows sled.
//!
//! | file | holds |
//! | --- | --- |
//! | `FROM.log` | a [`segment`]: batches as they were committed, the newest file being appended to |
//! | `FROM-TO.sorted` | what is left of many batches: the last value of each key ([`sorted`]) |
//!
//! Segments that are closed, and that the database has for good, are sorted and merged in the background ([`fold`]); the
//! oldest sorted file begins where the journal begins, so all of them with the segments behind them hold the whole store.
//!
//! **The journal comes first**: a batch is applied to the database once it is durable in the journal, so a crash leaves the
//! database behind, never ahead. It remembers the number of a batch up to which it has everything, and at the next start
//! it is given the rest ([`redo`]); that it may have half of some batch then does not matter. A database that has fallen
//! further behind, as sled does when it finds the end of its log damaged, is brought up to date the same way. What
//! remains to be mended by hand, and how, is in [`care`].

mod block;
pub(super) mod care;
mod cover;
mod error;
mod files;
mod flush;
mod fold;
mod pieces;
mod redo;
mod segment;
mod side_by_side;
mod sorted;
#[cfg(test)]
mod tests;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::engine::sled::or_abort;
use super::engine::{Batch, Database, Engine, EngineError, Logged, Rows, Write};
use super::records::{Record, decode, encode};
use block::{Kind, Lineage};
pub(super) use error::JournalError;
use files::{Piece, at};
use flush::Flusher;
use fold::{Bell, Folder, Room};
use pieces::{Pieces, Span};
use redo::level;
use segment::{Appender, Content};
use sorted::{SortedReader, SortedWriter};

/// Writes of the database that are not in the journal begin with this.
pub(super) const PRIVATE: u8 = 0;
const MARK_KEY: &[u8] = b"\0journal";

/// Where the database stands in the journal: everything up to this batch it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    lineage: Lineage,
    seq: u64,
}

impl Record for Mark {}

impl Mark {
    /// Of a database that is written without a journal: what may lie beside it is out of date.
    const OFF: Self = Self { lineage: [0; 16], seq: 0 };

    fn read(engine: &dyn Engine) -> Result<Option<Self>, JournalError> {
        let stored = engine.get(MARK_KEY)?;
        stored
            .map(|bytes| decode(MARK_KEY, &bytes))
            .transpose()
            .map_err(|e| JournalError::Database(e.to_string()))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        decode(MARK_KEY, bytes).ok()
    }

    fn to_write(self) -> Result<Write, EngineError> {
        let bytes = encode(MARK_KEY, &self).map_err(|e| EngineError(e.to_string()))?;
        Ok((MARK_KEY.to_vec(), Some(bytes)))
    }
}

/// A database with a journal beside it.
pub(super) struct Journaled<E> {
    flusher: Flusher,
    _folding: Folder,
    engine: Arc<E>,
    /// Only the writer locks it.
    end: Mutex<End>,
}

/// Where the journal ends.
struct End {
    appender: Appender,
    /// The number of the last batch handed to it.
    logged: u64,
    /// The number of the last batch that the database was given.
    applied: u64,
}

impl<E: Database> Journaled<E> {
    /// Puts the journal in `folder` beside `engine`, and gives that what it lacks.
    /// `spare_bytes` of the disk are left free when its files are merged.
    pub(super) fn open(engine: E, folder: &Path, spare_bytes: u64) -> Result<Self, JournalError> {
        let (lineage, last) = match standing(&engine, folder)? {
            Standing::Known(mark, pieces) => (mark.lineage, level(&engine, mark, &pieces, folder)?),
            Standing::New => begin(&engine, folder)?,
        };
        files::clear(folder)?;
        let (engine, bell) = (Arc::new(engine), Arc::new(Bell::new(last)));
        let closing = bell.clone();
        let appender = Appender::begin(folder, lineage, last + 1, move |last| closing.closed(last))?;
        // What an earlier process left is folded now.
        bell.ring();
        let (told, database) = (bell.clone(), engine.clone());
        let to_flush = move |seq| {
            let (key, mark) = Mark { lineage, seq }.to_write()?;
            database.write(Batch::from([(key, mark)]))?;
            database.flush()?;
            told.durable(seq);
            Ok(())
        };
        let flusher = Flusher::start(last, to_flush)?;
        let folding = Folder::start(folder, lineage, bell, Room { spare_bytes })?;
        let end = Mutex::new(End { appender, logged: last, applied: last });
        Ok(Self { flusher, _folding: folding, engine, end })
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error of either is final.
impl<E: Database> Engine for Journaled<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.get(key)
    }

    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a> {
        self.engine.range(from, to)
    }

    fn log(&self, batch: &Batch) -> Result<Logged, EngineError> {
        self.health()?;
        let mut end = self.end();
        end.logged += 1;
        let block = block::batch(end.logged, batch).map_err(journal_failed)?;
        end.appender.append(end.logged, block).map_err(journal_failed)?;
        Ok(Logged::Ahead)
    }

    fn logged(&self) -> Result<(), EngineError> {
        self.end().appender.wait().map_err(journal_failed)
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.health()?;
        self.engine.write(batch).inspect_err(|error| self.flusher.fail(error))?;
        let mut end = self.end();
        end.applied += 1;
        self.flusher.applied(end.applied);
        Ok(())
    }

    fn health(&self) -> Result<(), EngineError> {
        self.flusher.failure()
    }

    fn close(&self) -> Result<(), EngineError> {
        self.flusher.stop();
        self.health()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.engine.free_bytes()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn journal_failed(error: io::Error) -> EngineError {
    EngineError(format!("the journal: {error}"))
}

/// Lets a database be written without a journal: gives it what it lacks, and puts the journal aside, which is out of date
/// from now on.
pub(super) fn turn_off(engine: &dyn Engine, folder: &Path) -> Result<(), JournalError> {
    if let Standing::Known(mark, pieces) = standing(engine, folder)? {
        // One that lost its end has nothing that the database lacks.
        if pieces.last() > mark.seq {
            redo::redo(engine, mark, &pieces)?;
        }
    }
    if Mark::read(engine)?.is_some_and(|mark| mark != Mark::OFF) {
        tracing::warn!("the store is written without its journal from now on; it could not be rebuilt");
        let mark = Mark::OFF.to_write()?;
        or_abort(|| engine.commit(vec![mark]))?;
    }
    Ok(set_aside(folder)?)
}

/// How database and journal stand to each other.
enum Standing {
    /// They belong together.
    Known(Mark, Pieces),
    /// There is no journal yet, or none any more.
    New,
}

/// A journal is begun with one file that holds whatever the database has, under this number.
const FIRST: u64 = 1;

fn standing(engine: &dyn Engine, folder: &Path) -> Result<Standing, JournalError> {
    let (mark, pieces) = (Mark::read(engine)?, Pieces::of(folder)?);
    Ok(match (mark, pieces) {
        (None, None) => Standing::New,
        (Some(mark), pieces) if mark == Mark::OFF => {
            if pieces.is_some_and(|pieces| pieces.last() > FIRST) {
                tracing::warn!("the database was written without this journal, which is out of date");
            }
            Standing::New
        }
        (Some(mark), None) => {
            tracing::error!(batches = mark.seq, "the journal of this store is gone; it is begun anew");
            Standing::New
        }
        (Some(mark), Some(pieces)) if mark.lineage == pieces.lineage => {
            // What cannot be had is needed only if the database lacks it.
            match pieces.gap(mark.seq) {
                Some(reason) if pieces.end() > mark.seq => return Err(reason),
                _ => Standing::Known(mark, pieces),
            }
        }
        (None, Some(pieces)) if is_empty(engine)? && holds_something(&pieces)? => {
            return Err(JournalError::DatabaseGone { batches: pieces.last() });
        }
        // Begun, and interrupted before the database was told.
        (_, Some(pieces)) if pieces.last() <= FIRST => Standing::New,
        (_, Some(_)) => return Err(JournalError::Foreign),
    })
}

fn is_empty(engine: &dyn Engine) -> Result<bool, EngineError> {
    Ok(records(engine).next().transpose()?.is_none())
}

fn holds_something(pieces: &Pieces) -> io::Result<bool> {
    match pieces.spans.first() {
        Some(Span { piece, to, .. }) if *to <= FIRST => Ok(entries(piece, 0)?.next().transpose()?.is_some()),
        first => Ok(first.is_some()),
    }
}

/// All that is in the database but for what it keeps to itself.
fn records(engine: &dyn Engine) -> Rows<'_> {
    engine.range(&[PRIVATE + 1], &super::rows::keys::after(&[u8::MAX]))
}

/// Begins a journal with all that the database holds. What it is named, and its last batch.
fn begin(engine: &dyn Engine, folder: &Path) -> Result<(Lineage, u64), JournalError> {
    set_aside(folder)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    files::sync(folder.parent().unwrap_or(Path::new(".")))?;
    let lineage = rand::random();
    let mut writer = SortedWriter::create(folder, lineage, FIRST, FIRST)?;
    for row in records(engine) {
        let (key, value) = row?;
        writer.push((&key, Some(&value)))?;
    }
    writer.finish()?;
    let mark = Mark { lineage, seq: FIRST }.to_write()?;
    or_abort(|| engine.commit(vec![mark]))?;
    Ok((lineage, FIRST))
}

/// The last values of a file's keys, in the order of the keys; of a segment only those that were written after a batch.
fn entries(piece: &Piece, after: u64) -> io::Result<sorted::Entries> {
    Ok(match piece.kind {
        Kind::Sorted => Box::new(SortedReader::open(&piece.path)?),
        Kind::Segment => {
            let content = Content::read(&piece.path)?.ok_or_else(|| sorted::damaged(&piece.path))?;
            let owned = |(key, value): &block::Entry<'_>| Ok((key.to_vec(), value.map(<[u8]>::to_vec)));
            let entries: Vec<_> = content.sorted(after).iter().map(owned).collect();
            Box::new(entries.into_iter())
        }
    })
}

/// How the names of journals begin that are no longer written.
const SET_ASIDE: &str = "journal.set-aside";

fn asides(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let folder = folder.to_owned();
    (1_u32..).map(move |n| folder.with_file_name(format!("{SET_ASIDE}-{n}")))
}

/// Puts away what an earlier journal left, so that a person can still look at it.
fn set_aside(folder: &Path) -> io::Result<()> {
    if files::list(folder)?.is_empty() {
        return Ok(());
    }
    let aside = asides(folder).find(|path| !path.exists()).unwrap_or_default();
    std::fs::rename(folder, &aside).map_err(at(folder))?;
    tracing::warn!(now = %aside.display(), "the journal that was there is put aside; delete it when nobody needs it");
    files::sync(folder.parent().unwrap_or(Path::new(".")))
}
