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
mod files;
mod flush;
mod fold;
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

use super::engine::{Batch, Database, Engine, EngineError, Logged, Rows, Write};
use super::records::{Record, decode, encode};
use super::sled_engine::or_abort;
use block::{Kind, Lineage};
use files::{Piece, at};
use flush::Flusher;
use fold::{Bell, Folder};
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

    fn to_write(self) -> Result<Write, EngineError> {
        let bytes = encode(MARK_KEY, &self).map_err(|e| EngineError(e.to_string()))?;
        Ok((MARK_KEY.to_vec(), Some(bytes)))
    }
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the database cannot be read: {0}")]
    Database(String),
    #[error(
        "the database lacks what was committed after batch {have}, and the journal has nothing before {next}"
    )]
    Gap {
        /// The last batch that is there.
        have: u64,
        /// Where it goes on.
        next: u64,
    },
    #[error("the journal holds {batches} batches, and the database is empty")]
    DatabaseGone {
        /// The number of its last one.
        batches: u64,
    },
    #[error("it is the journal of another database")]
    Foreign,
    #[error("there is no journal")]
    None,
    #[error("there is something else in that folder")]
    Occupied,
}

impl JournalError {
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Io(_) => {
                "is the disk full, or failing? files that are damaged: unionlink store rebuild --backup FOLDER"
            }
            Self::Database(_) => "keep a copy of the folder, then run unionlink store rebuild",
            Self::Gap { .. } => {
                "with a copy made by unionlink store backup: unionlink store rebuild --backup FOLDER"
            }
            Self::DatabaseGone { .. } => {
                "run unionlink store rebuild; to begin with nothing, move the journal away"
            }
            Self::Foreign => {
                "put the folder together again as it was, or move the journal away to begin it anew"
            }
            Self::None => "it is written while the service runs with [store] journal = true",
            Self::Occupied => "name a folder that is empty or new, or one that was copied to before",
        }
    }
}

impl From<EngineError> for JournalError {
    fn from(error: EngineError) -> Self {
        Self::Database(error.0)
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
    pub(super) fn open(engine: E, folder: &Path) -> Result<Self, JournalError> {
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
        let folding = Folder::start(folder, lineage, bell)?;
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

/// Lets a database be written without a journal. What may lie beside it is out of date from now on.
pub(super) fn turn_off(engine: &dyn Engine) -> Result<(), JournalError> {
    if Mark::read(engine)?.is_some_and(|mark| mark != Mark::OFF) {
        tracing::warn!("the store is written without its journal from now on; it could not be rebuilt");
        let mark = Mark::OFF.to_write()?;
        or_abort(|| engine.commit(vec![mark]))?;
    }
    Ok(())
}

/// A file of the journal with the number of its last batch.
#[derive(Debug, Clone)]
struct Span {
    piece: Piece,
    to: u64,
}

/// What the journal in a folder is.
struct Pieces {
    lineage: Lineage,
    spans: Vec<Span>,
}

impl Pieces {
    /// `None` if there is none, or one that was never written to.
    fn of(folder: &Path) -> io::Result<Option<Self>> {
        let (mut lineage, mut spans) = (None, Vec::new());
        for piece in files::list(folder)? {
            let (header, to) = match piece.kind {
                // That one is damaged matters only to who needs it, and is found then.
                Kind::Sorted => {
                    let header = SortedReader::open(&piece.path).map(|reader| reader.header);
                    (header.ok(), piece.to.unwrap_or(piece.from))
                }
                Kind::Segment => match Content::read(&piece.path)? {
                    Some(content) => (Some(content.header), content.to),
                    None => continue,
                },
            };
            lineage = lineage.or(header.map(|header| header.lineage));
            if to >= piece.from {
                spans.push(Span { piece, to });
            }
        }
        Ok(lineage.filter(|_| !spans.is_empty()).map(|lineage| Self { lineage, spans }))
    }

    fn last(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.to)
    }
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
        (Some(mark), _) if mark == Mark::OFF => Standing::New,
        (Some(mark), None) => {
            tracing::error!(batches = mark.seq, "the journal of this store is gone; it is begun anew");
            Standing::New
        }
        (Some(mark), Some(pieces)) if mark.lineage == pieces.lineage => Standing::Known(mark, pieces),
        // Begun, and interrupted before the database was told.
        (_, Some(pieces)) if pieces.last() <= FIRST => Standing::New,
        (None, Some(pieces)) if is_empty(engine)? => {
            return Err(JournalError::DatabaseGone { batches: pieces.last() });
        }
        (_, Some(_)) => return Err(JournalError::Foreign),
    })
}

fn is_empty(engine: &dyn Engine) -> Result<bool, EngineError> {
    Ok(records(engine).next().transpose()?.is_none())
}

/// All that is in the database but for what it keeps to itself.
fn records(engine: &dyn Engine) -> Rows<'_> {
    engine.range(&[PRIVATE + 1], &super::keys::after(&[u8::MAX]))
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

/// Where a journal goes that is no longer written.
pub(super) fn aside(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".set-aside");
    name.into()
}

/// Puts away what an earlier journal left, so that a person can still look at it.
fn set_aside(folder: &Path) -> io::Result<()> {
    if files::list(folder)?.is_empty() {
        return Ok(());
    }
    let aside = aside(folder);
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(at(&aside))?;
    }
    std::fs::rename(folder, &aside).map_err(at(folder))?;
    files::sync(folder.parent().unwrap_or(Path::new(".")))
}
