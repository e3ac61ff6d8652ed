//! What a person does with the journal: compare the store with it, copy it away, build the store anew from it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::super::compaction::BEING_REBUILT;
use super::super::engine::Engine;
use super::super::engine::sled::{
    OpenError, SledEngine, delete_unfinished_snapshots, folder_error, lock, panic_text,
};
use super::super::fresh;
use super::super::private::create_folder;
use super::block::{Kind, Lineage};
use super::cover::{Cover, live, merged, whole};
use super::files::{self, Piece, at};
use super::fold::{self, Last, Room};
use super::redo::{level, redo};
use super::segment::Content;
use super::side_by_side::SideBySide;
use super::sorted::{damaged, read_through};
use super::{JournalError, MARK_KEY, Mark, Pieces, SET_ASIDE, Standing, records, set_aside, standing};

/// The journal of the store in a folder.
pub(in crate::store::embedded) fn journal_in(folder: &Path) -> PathBuf {
    folder.join("journal")
}

/// What comparing came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// The number of the last batch.
    pub batches: u64,
    /// Records that are in both, and equal.
    pub records: u64,
    /// Batches that the database lacked at its end, as after a crash; it has been given them.
    pub redone: u64,
    /// What differs, by the first letter of the records' keys.
    pub differences: BTreeMap<char, Differences>,
}

/// How many records of one kind differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Differences {
    /// In the journal, not in the database.
    pub missing: u64,
    /// In both, with another value.
    pub stale: u64,
    /// In the database, not in the journal.
    pub surplus: u64,
}

/// Compares every record of the store in `folder` with its journal. Nobody may serve it meanwhile.
///
/// # Errors
/// [`OpenError`] where either cannot be read at all.
pub fn verify(folder: &Path, cache_bytes: u64) -> Result<Verified, OpenError> {
    let (journal, database) = (journal_in(folder), folder.join("sled"));
    if !database.exists() {
        return Err(folder_error("find a database in", folder)(io::ErrorKind::NotFound.into()));
    }
    let engine = SledEngine::open(folder, cache_bytes)?;
    // What sled finds damaged it may tell by panicking.
    let compared = catch_unwind(AssertUnwindSafe(|| compare(&engine, &journal)));
    let result = compared.unwrap_or_else(|panic| Err(JournalError::Database(panic_text(&*panic).to_owned())));
    result.map_err(|error| OpenError::journal(&journal, &error))
}

pub(super) fn compare(engine: &dyn Engine, journal: &Path) -> Result<Verified, JournalError> {
    let Standing::Known(mark, pieces) = standing(engine, journal)? else {
        return Err(JournalError::None);
    };
    if pieces.last() < mark.seq {
        return Err(JournalError::Behind { journal: pieces.last(), database: mark.seq });
    }
    // What a crash kept from the database the next start would give it; that is no difference.
    let redone = pieces.last().saturating_sub(mark.seq);
    if redone > 0 {
        redo(engine, mark, &pieces)?;
    }
    let mut verified = Verified { batches: pieces.last(), records: 0, redone, differences: BTreeMap::new() };
    for row in SideBySide::of(whole(&pieces)?, records(engine)) {
        let (key, ours, theirs) = row?;
        if ours == theirs {
            verified.records += 1;
            continue;
        }
        let kind = key.first().copied().unwrap_or_default() as char;
        let differences = verified.differences.entry(kind).or_default();
        match (ours, theirs) {
            (Some(_), None) => differences.missing += 1,
            (None, _) => differences.surplus += 1,
            (Some(_), Some(_)) => differences.stale += 1,
        }
    }
    Ok(verified)
}

/// What a copy came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BackedUp {
    /// The number of the last batch in the copy.
    pub batches: u64,
    /// Files of the copy.
    pub files: u64,
    /// Those of them that were not there before.
    pub copied: u64,
    /// Bytes of the whole copy.
    pub bytes: u64,
}

/// The journal changes while it is copied; a list of its files may be out of date by the time they are opened.
const ATTEMPTS: usize = 20;

/// Copies the journal of the store in `folder` to `to`, whether or not it is being served. A copy made there earlier is
/// brought up to date.
///
/// # Errors
/// [`OpenError`]; what was copied earlier is still whole then.
pub fn backup(folder: &Path, to: &Path) -> Result<BackedUp, OpenError> {
    let journal = journal_in(folder);
    if matches!(Pieces::of(&journal), Ok(None)) {
        return Err(OpenError::journal(&journal, &JournalError::None));
    }
    create_folder(to)?;
    let inside = |to: &Path| Ok(to.canonicalize()?.starts_with(folder.canonicalize()?));
    if inside(to).map_err(folder_error("find", to))? {
        return Err(OpenError::journal(&journal, &JournalError::Inside));
    }
    let mut reason = None;
    for _ in 0..ATTEMPTS {
        match copy(&journal, to) {
            Ok(done) => return Ok(done),
            Err(error) => reason = Some(error),
        }
        if !reason.as_ref().is_some_and(may_pass) {
            break;
        }
    }
    Err(OpenError::journal(&journal, &reason.unwrap_or(JournalError::None)))
}

/// Reads a file that was copied, before it takes the place of what was copied earlier and is whole.
fn takes_the_place(piece: &Piece, copied: &Path, target: &Path) -> io::Result<()> {
    if piece.kind == Kind::Sorted {
        return read_through(copied).map(drop);
    }
    let copied = Content::read(copied)?;
    let there = if target.exists() { Content::read(target)? } else { None };
    let last = |content: Option<&Content>| content.map_or(0, |content| content.to);
    let is_damaged = copied.as_ref().is_some_and(Content::is_damaged);
    if is_damaged || last(copied.as_ref()) < last(there.as_ref()) {
        return Err(damaged(&piece.path));
    }
    Ok(())
}

/// Whether this comes of files that were replaced while they were looked at.
fn may_pass(error: &JournalError) -> bool {
    match error {
        JournalError::Io(error) => error.kind() == io::ErrorKind::NotFound,
        JournalError::Gap { .. } | JournalError::LaterCopy { .. } | JournalError::None => true,
        _ => false,
    }
}

fn copy(journal: &Path, to: &Path) -> Result<BackedUp, JournalError> {
    // What an earlier time did not finish.
    files::clear_unfinished(to)?;
    let there = Pieces::of(to)?;
    let own = Pieces::of(journal)?.ok_or(JournalError::None)?;
    if let Some(reason) = own.gap(0) {
        return Err(reason);
    }
    let last = own.last();
    match there {
        Some(there) if there.lineage != own.lineage => return Err(JournalError::OtherCopy),
        // The store was put back to an earlier state since; the same numbers mean other batches now.
        Some(there) if there.last() > last => {
            return Err(JournalError::LaterCopy { copy: there.last(), journal: last });
        }
        None if fs::read_dir(to).map_err(at(to))?.next().is_some() => return Err(JournalError::Occupied),
        _ => {}
    }
    // Opened all at once: what is deleted from here on is still read to its end.
    let mut open = Vec::new();
    for piece in files::list(journal)? {
        open.push((File::open(&piece.path).map_err(at(&piece.path))?, piece));
    }
    let mut copied = 0;
    for (mut from, piece) in open {
        let target = to.join(piece.path.file_name().unwrap_or_default());
        let length = from.metadata().map_err(at(&piece.path))?.len();
        if fs::metadata(&target).is_ok_and(|there| there.len() == length) {
            continue;
        }
        let unfinished = files::unfinished(&target);
        let mut copy = || {
            let mut file = files::create(&unfinished)?;
            io::copy(&mut from, &mut file).and_then(|_| file.sync_all()).map_err(at(&target))?;
            takes_the_place(&piece, &unfinished, &target)
        };
        copy().inspect_err(|_| {
            let _ = fs::remove_file(&unfinished);
        })?;
        files::finish(&target)?;
        copied += 1;
    }
    // Read back from where it is now.
    let copy = Pieces::of(to)?;
    let cover = Cover::of(&copy.iter().collect::<Vec<_>>());
    if let Some(reason) = cover.reason {
        return Err(reason);
    }
    files::clear(to)?;
    let lengths = cover.pieces.iter().map(|piece| fs::metadata(&piece.path).map_or(0, |meta| meta.len()));
    Ok(BackedUp { batches: cover.to, files: cover.pieces.len() as u64, copied, bytes: lengths.sum() })
}

/// What building anew came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rebuilt {
    /// The number of the last batch.
    pub batches: u64,
    /// Records written.
    pub records: u64,
    /// Where the database is that was in the way.
    pub set_aside: Option<PathBuf>,
    /// What could not be had, where that was accepted.
    pub lost: Option<String>,
}

/// How to build anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rebuild<'a> {
    /// A copy of the journal, for what the journal itself no longer has.
    pub backup: Option<&'a Path>,
    /// The folder of the new store; the old one's own if there is none.
    pub into: Option<&'a Path>,
    /// Whether what comes before a gap will do.
    pub partial: bool,
}

/// Builds the database of the store in `folder` anew from its journal. Nobody may serve it meanwhile. What was there is
/// put aside. `told` hears how many records are written.
///
/// # Errors
/// [`OpenError`]; the store is as it was then.
pub fn rebuild(folder: &Path, how: Rebuild<'_>, told: impl FnMut(u64)) -> Result<Rebuilt, OpenError> {
    let journal = journal_in(folder);
    let target = how.into.unwrap_or(folder);
    create_folder(target)?;
    let _locked = lock(target)?;
    let _own_locked = if target == folder { None } else { Some(lock(folder)?) };
    let unusable = |error: JournalError| OpenError::journal(&journal, &error);
    let Plan { pieces, batches, goes_on, lineage, lost } = plan(&journal, how).map_err(unusable)?;
    if how.into.is_none() && !how.partial {
        not_ahead(&target.join("sled"), lineage, batches).map_err(unusable)?;
    }
    let mark = if goes_on { Mark { lineage, seq: batches } } else { Mark::OFF };
    let mark = mark.to_write().map_err(|error| unusable(error.into()))?;
    let rows = live(merged(&pieces).map_err(|error| unusable(error.into()))?);
    let rows = std::iter::once(Ok(mark)).chain(rows).map(|row| row.map_err(|error| error.to_string()));
    let (live, copy) = (target.join("sled"), target.join(BEING_REBUILT));
    fresh::remove(&copy)?;
    // The mark is not counted.
    let filled = fresh::fill(&copy, rows, told).inspect_err(|_| {
        let _ = fs::remove_dir_all(&copy);
    });
    let records = filled?.saturating_sub(1);
    let set_aside = live.exists().then(|| unused(target));
    if let Some(aside) = &set_aside {
        fresh::rename(target, &live, aside)?;
    }
    fresh::rename(target, &copy, &live)?;
    Ok(Rebuilt { batches, records, set_aside, lost })
}

/// Refuses to replace a database that has more than can be built. One that cannot be read is what rebuilding is for.
fn not_ahead(database: &Path, lineage: Lineage, batches: u64) -> Result<(), JournalError> {
    if !database.exists() {
        return Ok(());
    }
    // As before any opening; else what an interruption left would pass for damage.
    delete_unfinished_snapshots(database).map_err(|error| JournalError::Database(error.to_string()))?;
    let read = || Mark::decode(&fresh::open(database).ok()?.get(MARK_KEY).ok()??);
    match catch_unwind(AssertUnwindSafe(read)).ok().flatten() {
        Some(mark) if mark.lineage == lineage && mark.seq > batches => {
            Err(JournalError::Behind { journal: batches, database: mark.seq })
        }
        _ => Ok(()),
    }
}

/// What a database is built from.
struct Plan {
    pieces: Vec<Piece>,
    /// The number of the last batch that is had.
    batches: u64,
    lineage: Lineage,
    /// Whether the journal goes on behind it. Else it is begun anew at the next start.
    goes_on: bool,
    lost: Option<String>,
}

fn plan(journal: &Path, how: Rebuild<'_>) -> Result<Plan, JournalError> {
    let own = Pieces::of(journal)?;
    let copy = how.backup.map(Pieces::of).transpose()?.flatten();
    if how.backup.is_some() && copy.is_none() {
        return Err(JournalError::None);
    }
    if let (Some(own), Some(copy)) = (&own, &copy)
        && own.lineage != copy.lineage
    {
        return Err(JournalError::Foreign);
    }
    let lineage = own.as_ref().or(copy.as_ref()).ok_or(JournalError::None)?.lineage;
    let Cover { pieces, to, reason } = Cover::of(&own.iter().chain(&copy).collect::<Vec<_>>());
    let lost = match reason {
        Some(reason) if !how.partial => return Err(reason),
        reason => reason.map(|reason| reason.to_string()),
    };
    let own_alone = pieces.iter().all(|piece| piece.path.parent() == Some(journal));
    let goes_on = how.into.is_none() && lost.is_none() && own_alone;
    Ok(Plan { pieces, batches: to, lineage, goes_on, lost })
}

/// A name for the database that is in the way.
fn unused(folder: &Path) -> PathBuf {
    let mut names = (1_u32..).map(|n| folder.join(format!("sled.set-aside-{n}")));
    names.find(|path| !path.exists()).unwrap_or_default()
}

/// Gives the database what the journal has beyond it.
pub(in crate::store::embedded) fn settle(folder: &Path, cache_bytes: u64) -> Result<(), OpenError> {
    let journal = journal_in(folder);
    let engine = SledEngine::open(folder, cache_bytes)?;
    let settled = || match standing(&engine, &journal)? {
        Standing::Known(mark, pieces) => level(&engine, mark, &pieces, &journal).map(drop),
        // Out of date.
        Standing::New => Ok(set_aside(&journal)?),
    };
    settled().map_err(|error| OpenError::journal(&journal, &error))
}

/// Leaves nothing in the journal but what is live. Nobody may serve the store meanwhile.
pub(in crate::store::embedded) fn shrink(folder: &Path) -> Result<(), OpenError> {
    let journal = journal_in(folder);
    let shrunk = || -> io::Result<()> {
        if let Some(Pieces { lineage, .. }) = Pieces::of(&journal)? {
            fold::fold(&journal, lineage, Last::Closed, Room::ANY, &|| false)?;
            fold::merge_all(&journal, lineage)?;
            files::clear(&journal)?;
            files::sync(&journal)?;
        }
        for entry in fs::read_dir(folder).map_err(at(folder))? {
            let path = entry.map_err(at(folder))?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SET_ASIDE)) {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        files::sync(folder)
    };
    shrunk().map_err(|error| OpenError::journal(&journal, &error.into()))
}
