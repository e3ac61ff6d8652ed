//! What a journal, or several copies of one, hold in all.

use std::io;

use super::super::engine::Write;
use super::block::Kind;
use super::files::Piece;
use super::sorted::{Entries, Merged, damaged, read_through};
use super::{JournalError, Pieces, Span, entries};

/// Files that together hold everything from the first batch on, as far as that can be had.
pub(super) struct Cover {
    pub(super) pieces: Vec<Piece>,
    /// The number of the last batch that is had.
    pub(super) to: u64,
    /// What ends it before its end.
    pub(super) reason: Option<JournalError>,
}

impl Cover {
    /// Takes, one after the other, the readable file that reaches furthest.
    pub(super) fn of(journals: &[&Pieces]) -> Self {
        let mut spans: Vec<_> = journals.iter().flat_map(|journal| &journal.spans).cloned().collect();
        let end = spans.iter().map(|span| span.end).max().unwrap_or(0);
        let mut cover = Self { pieces: Vec::new(), to: 0, reason: None };
        while cover.to < end {
            let follows = |span: &&Span| span.piece.from <= cover.to + 1 && span.to > cover.to;
            let Some(span) = spans.iter().filter(follows).max_by_key(|span| span.to).cloned() else {
                let behind = |span: &&Span| span.is_damaged() && span.end > cover.to;
                let later = spans.iter().map(|span| span.piece.from).filter(|from| *from > cover.to).min();
                let gap = spans
                    .iter()
                    .find(behind)
                    .map_or(JournalError::Gap { have: cover.to, next: later.unwrap_or(end) }, |span| {
                        damaged(&span.piece.path).into()
                    });
                cover.reason = Some(cover.reason.unwrap_or(gap));
                break;
            };
            match readable(&span.piece) {
                Ok(()) => {
                    cover.to = span.to;
                    cover.pieces.push(span.piece);
                }
                Err(error) => {
                    cover.reason = Some(error.into());
                    spans.retain(|other| other.piece != span.piece);
                }
            }
        }
        if cover.to == end {
            cover.reason = None;
        }
        cover
    }
}

/// Reads a sorted file to its end; of a segment everything that can be had is known already.
fn readable(piece: &Piece) -> io::Result<()> {
    match piece.kind {
        Kind::Sorted => read_through(&piece.path).map(drop),
        Kind::Segment => Ok(()),
    }
}

/// Everything that a journal says is there, in the order of the keys.
pub(super) fn whole(
    pieces: &Pieces,
) -> Result<impl Iterator<Item = io::Result<Write>> + use<>, JournalError> {
    let cover = Cover::of(&[pieces]);
    match cover.reason {
        Some(reason) => Err(reason),
        None => Ok(live(merged(&cover.pieces)?)),
    }
}

pub(super) fn merged(pieces: &[Piece]) -> io::Result<Merged> {
    let sources = pieces.iter().map(|piece| entries(piece, 0)).collect::<io::Result<Vec<Entries>>>()?;
    Ok(Merged::of(sources))
}

/// Without what was deleted.
pub(super) fn live(entries: Merged) -> impl Iterator<Item = io::Result<Write>> {
    entries.filter(|entry| !matches!(entry, Ok((_, None))))
}
