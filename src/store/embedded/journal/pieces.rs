//! What the files of a journal say of themselves, taken together.

use std::io;
use std::path::Path;

use super::JournalError;
use super::block::{Kind, Lineage};
use super::files::{self, Piece};
use super::segment::Content;
use super::sorted::{self, SortedReader};

/// The end of a segment of which nothing can be read, and that nothing follows.
const UNKNOWN: u64 = u64::MAX;

/// A file of the journal with the number of its last batch.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) piece: Piece,
    /// The last that can be read.
    pub(super) to: u64,
    /// The last that is known to have been in it.
    pub(super) end: u64,
}

impl Span {
    /// Whether something of it cannot be read.
    pub(super) const fn is_damaged(&self) -> bool {
        self.end > self.to
    }
}

/// What the journal in a folder is.
pub(super) struct Pieces {
    pub(super) lineage: Lineage,
    pub(super) spans: Vec<Span>,
}

impl Pieces {
    /// `None` if there is none, or one that was never written to.
    pub(super) fn of(folder: &Path) -> io::Result<Option<Self>> {
        let (mut lineage, mut spans) = (None, Vec::new());
        for piece in files::list(folder)? {
            let (header, to, end) = match piece.kind {
                // That one is damaged matters only to who needs it, and is found then.
                Kind::Sorted => {
                    let header = SortedReader::open(&piece.path).map(|reader| reader.header);
                    let to = piece.to.unwrap_or(piece.from);
                    (header.ok(), to, to)
                }
                Kind::Segment => match Content::read(&piece.path) {
                    Ok(Some(content)) => (Some(content.header), content.to, content.end),
                    Ok(None) => continue,
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        (None, piece.from.saturating_sub(1), UNKNOWN)
                    }
                    Err(error) => return Err(error),
                },
            };
            lineage = lineage.or(header.map(|header| header.lineage));
            if end >= piece.from {
                spans.push(Span { piece, to, end });
            }
        }
        // One of which nothing can be read ends before the next.
        for n in 1..spans.len() {
            let next = spans[n].piece.from;
            spans[n - 1].end = spans[n - 1].end.min(spans[n - 1].to.max(next.saturating_sub(1)));
        }
        Ok(lineage.filter(|_| !spans.is_empty()).map(|lineage| Self { lineage, spans }))
    }

    pub(super) fn last(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.to)
    }

    /// The last batch that is known to have been there.
    pub(super) fn end(&self) -> u64 {
        self.spans.iter().map(|span| span.end).max().unwrap_or(0)
    }

    /// Where something is missing that came after `have`: the last batch before it, and where it goes on.
    pub(super) fn gap(&self, have: u64) -> Option<JournalError> {
        let mut reached = have;
        for span in &self.spans {
            if span.piece.from > reached + 1 {
                return Some(JournalError::Gap { have: reached, next: span.piece.from });
            }
            if span.is_damaged() && span.end > reached {
                return Some(sorted::damaged(&span.piece.path).into());
            }
            reached = reached.max(span.to);
        }
        None
    }
}
