//! Bringing a database and its journal in step, when the store is opened.

use std::path::Path;

use super::super::engine::sled::or_abort;
use super::super::engine::{Engine, Write};
use super::block::Kind;
use super::cover::whole;
use super::side_by_side::SideBySide;
use super::{JournalError, Mark, Pieces, Span, begin, entries, files, records};

/// Larger batches make sled's memory grow.
const WRITES_AT_A_TIME: usize = 99;

/// Gives the database what it lacks. The number of the journal's last batch.
pub(super) fn level(
    engine: &dyn Engine,
    mark: Mark,
    pieces: &Pieces,
    folder: &Path,
) -> Result<u64, JournalError> {
    let last = pieces.last();
    if last < mark.seq {
        // No crash does this: a file was lost, or a disk does not keep what it says it keeps.
        tracing::error!(
            database = mark.seq,
            journal = last,
            "the journal lacks its end; it is begun anew, and copies of it need a new folder"
        );
        return begin(engine, folder).map(|(_, last)| last);
    }
    redo(engine, mark, pieces)?;
    if let Some(reason) = pieces.gap(0) {
        // The database has what is missing here.
        tracing::error!(%reason, "a file of the journal is lost or damaged; it is begun anew, and copies of it need a new folder");
        return begin(engine, folder).map(|(_, last)| last);
    }
    Ok(last)
}

/// Gives the database what the journal has beyond it.
pub(super) fn redo(engine: &dyn Engine, mark: Mark, pieces: &Pieces) -> Result<(), JournalError> {
    let (have, last) = (mark.seq, pieces.last());
    if last == have {
        return Ok(());
    }
    // What a killed process wrote last may not be on the disk yet. The database must not be the only one to have it.
    if let Some(Span { piece, .. }) = pieces.spans.last() {
        files::sync(&piece.path)?;
    }
    let oldest_reaches = pieces.spans.first().filter(|span| span.piece.kind == Kind::Sorted);
    if oldest_reaches.is_some_and(|span| span.to > have) {
        // The oldest file does not tell what was deleted. Only a damaged database falls back that far.
        tracing::warn!(
            have,
            last,
            "the database has fallen far behind the journal; every record is compared"
        );
        compare_all(engine, pieces)?;
    } else {
        tracing::info!(batches = last - have, "the database is given what the journal has beyond it");
        replay(engine, have, pieces)?;
    }
    let mark = Mark { seq: last, ..mark }.to_write()?;
    Ok(or_abort(|| engine.commit(vec![mark]))?)
}

fn replay(engine: &dyn Engine, after: u64, pieces: &Pieces) -> Result<(), JournalError> {
    let mut have = after;
    for Span { piece, to, .. } in pieces.spans.iter().filter(|span| span.to > after) {
        if piece.from > have + 1 {
            return Err(JournalError::Gap { have, next: piece.from });
        }
        write_all(engine, entries(piece, after)?.map(|entry| Ok(entry?)))?;
        have = *to;
    }
    Ok(())
}

/// Writes whatever is not as the whole journal says.
fn compare_all(engine: &dyn Engine, pieces: &Pieces) -> Result<(), JournalError> {
    let rows = SideBySide::of(whole(pieces)?, records(engine));
    let differing = rows.filter_map(|row| match row {
        Ok((key, ours, theirs)) => (ours != theirs).then_some(Ok((key, ours))),
        Err(error) => Some(Err(error)),
    });
    write_all(engine, differing)
}

fn write_all(
    engine: &dyn Engine,
    mut writes: impl Iterator<Item = Result<Write, JournalError>>,
) -> Result<(), JournalError> {
    loop {
        let some: Vec<Write> = writes.by_ref().take(WRITES_AT_A_TIME).collect::<Result<_, _>>()?;
        if some.is_empty() {
            return Ok(());
        }
        or_abort(|| engine.commit(some))?;
    }
}
