//! Splits a stream of bytes into records, in bounded memory for any input.
//!
//! An NDJSON record is a line; a CSV record extends over several lines if its quotes do. Lines end with LF,
//! CRLF or CR and are numbered as in an editor. A malformed record is returned with the reason, and reading
//! continues at its second line, so that an unclosed quote does not swallow the valid rows after it.
//!
//! `csv::Reader` only splits single records, in `rows`. On the stream it would read from an unclosed quote to
//! the end of the file as one record, accept text after a closing quote, count LF only, and discard the raw
//! text of rejected rows.
//!
//! Deliberately absent: fields and characters (see `rows`).

use std::io::{self, Read};

use memchr::{memchr, memchr2};
use serde::{Deserialize, Serialize};

/// The longest record.
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Enough to find the end of any record: the longest one and its line end.
const LOOKAHEAD_BYTES: usize = RECORD_BYTES_MAX + 2;
const BUFFER_BYTES: usize = 4 * RECORD_BYTES_MAX;
/// How much is returned of a line that is too long.
const EXCERPT_BYTES: usize = 1024;

/// A position between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Bytes of the decoded stream before it.
    pub(super) offset: u64,
    /// The number of the line that begins there, from 1.
    pub(super) line: u64,
}

/// Why a record is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the line is longer than 64 KiB")]
    TooLong,
    #[error("a quote is not closed")]
    OpenQuote,
    #[error("there is text after a closing quote")]
    TextAfterQuote,
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The number of its first line.
    pub(super) line: u64,
    /// The record without its line end; of a malformed one only the first line, truncated if it is too long.
    pub(super) bytes: &'a [u8],
    pub(super) malformed: Option<Malformed>,
}

/// Reads records one by one.
pub(super) struct Records<R> {
    source: R,
    /// The delimiter of CSV; none in NDJSON, where quotes do not span lines.
    pub(super) delimiter: Option<u8>,
    /// `buffer[start..]` was read from the source and not yet returned.
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
    /// The error that ended the source early; returned after all complete records.
    failure: Option<io::Error>,
    position: Position,
    excerpt: Vec<u8>,
}

impl<R: Read> Records<R> {
    pub(super) fn new(source: R, delimiter: Option<u8>) -> Self {
        let (buffer, excerpt) = (Vec::with_capacity(BUFFER_BYTES), Vec::new());
        let position = Position { offset: 0, line: 1 };
        Self { source, delimiter, buffer, start: 0, ended: false, failure: None, position, excerpt }
    }

    /// The position of the next record.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// The buffered bytes: at least the next record.
    pub(super) fn peek(&mut self) -> &[u8] {
        self.fill();
        &self.buffer[self.start..]
    }

    /// Skips to `position`, which an earlier run reached in the same stream.
    pub(super) fn skip_to(&mut self, position: Position) -> io::Result<()> {
        while self.position.offset < position.offset {
            let left = usize::try_from(position.offset - self.position.offset).unwrap_or(usize::MAX);
            match self.peek().len().min(left) {
                0 => return Err(self.failure.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
                bytes => self.advance(bytes, 0),
            }
        }
        self.position = position;
        Ok(())
    }

    /// The next record; none at the end. A record of several lines for which `swallows_rows` is true is
    /// returned as malformed, as an open quote.
    pub(super) fn read(
        &mut self,
        swallows_rows: impl FnOnce(&[u8]) -> bool,
    ) -> io::Result<Option<Record<'_>>> {
        self.fill();
        let bytes = &self.buffer[self.start..];
        let mut split = split(bytes, self.delimiter);
        if bytes.is_empty() || (split.unfinished && self.failure.is_some()) {
            // What precedes a read error may be half a record.
            self.buffer.truncate(self.start);
            return self.failure.take().map_or(Ok(None), Err);
        }
        let line = self.position.line;
        if split.malformed == Some(Malformed::TooLong) {
            self.excerpt.clear();
            self.excerpt.extend_from_slice(&bytes[..EXCERPT_BYTES]);
            self.skip_line()?;
            return Ok(Some(Record { line, bytes: &self.excerpt, malformed: split.malformed }));
        }
        if split.lines > 1 && swallows_rows(&bytes[..split.len]) {
            split = first_line(bytes, Malformed::OpenQuote);
        }
        let start = self.start;
        self.advance(split.end, split.lines);
        let bytes = &self.buffer[start..start + split.len];
        Ok(Some(Record { line, bytes, malformed: split.malformed }))
    }

    const fn advance(&mut self, bytes: usize, lines: u64) {
        self.start += bytes;
        self.position.offset += bytes as u64;
        self.position.line += lines;
    }

    /// Skips to the next line, which may be beyond the buffer.
    fn skip_line(&mut self) -> io::Result<()> {
        let width = loop {
            let bytes = self.peek();
            let all = bytes.len();
            match line_end(bytes) {
                Some((0, width)) => break width,
                // Read on before the line end itself: it may be a CRLF.
                Some((len, _)) => self.advance(len, 0),
                None if all > 0 => self.advance(all, 0),
                None => match self.failure.take() {
                    Some(failure) => return Err(failure),
                    None => break 0,
                },
            }
        };
        self.advance(width, 1);
        Ok(())
    }

    /// Fills the buffer with at least one whole record, or to the end of the source.
    fn fill(&mut self) {
        if self.ended || self.buffer.len() - self.start >= LOOKAHEAD_BYTES {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let wanted = BUFFER_BYTES - self.buffer.len();
        match self.source.by_ref().take(wanted as u64).read_to_end(&mut self.buffer) {
            Ok(read) => self.ended = read < wanted,
            Err(error) => (self.ended, self.failure) = (true, Some(error)),
        }
    }
}

/// The first record of some bytes.
struct Split {
    /// Its length without the line end.
    len: usize,
    /// The offset of the next record.
    end: usize,
    lines: u64,
    malformed: Option<Malformed>,
    /// Whether it reaches the end of the bytes, and might continue.
    unfinished: bool,
}

/// Finds the first record of `bytes`, which are at least [`LOOKAHEAD_BYTES`] or all that is left.
fn split(bytes: &[u8], delimiter: Option<u8>) -> Split {
    let (mut from, mut lines, mut open) = (0, 0, false);
    loop {
        let ending = line_end(&bytes[from..]).map(|(len, end)| (from + len, from + end));
        let (len, end) = ending.unwrap_or((bytes.len(), bytes.len()));
        lines += 1;
        if len > RECORD_BYTES_MAX {
            return first_line(bytes, if lines == 1 { Malformed::TooLong } else { Malformed::OpenQuote });
        }
        match delimiter.map_or(Ok(false), |delimiter| ends_open(&bytes[from..len], delimiter, open)) {
            Ok(false) => return Split { len, end, lines, malformed: None, unfinished: ending.is_none() },
            Ok(true) if end == bytes.len() => {
                return Split { unfinished: true, ..first_line(bytes, Malformed::OpenQuote) };
            }
            Ok(true) => (from, open) = (end, true),
            // The open quote was closed by the first quote of another row.
            Err(_) if lines > 1 => return first_line(bytes, Malformed::OpenQuote),
            Err(malformed) => {
                return Split { unfinished: ending.is_none(), ..first_line(bytes, malformed) };
            }
        }
    }
}

/// The first line of `bytes` as a malformed record.
fn first_line(bytes: &[u8], malformed: Malformed) -> Split {
    let (len, end) = line_end(bytes).unwrap_or((bytes.len(), bytes.len()));
    Split { len, end, lines: 1, malformed: Some(malformed), unfinished: false }
}

/// The offsets at which the first line of `bytes` ends and the next one begins.
fn line_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let len = memchr2(b'\r', b'\n', bytes)?;
    Some((len, if bytes[len..].starts_with(b"\r\n") { len + 2 } else { len + 1 }))
}

/// Whether a quote is open at the end of `line`, given whether one is `open` at its beginning.
fn ends_open(line: &[u8], delimiter: u8, mut open: bool) -> Result<bool, Malformed> {
    if memchr(b'"', line).is_none() {
        return Ok(open);
    }
    let mut field_begins = !open;
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if !open {
            // A quote in the middle of a field is an ordinary character.
            open = field_begins && byte == b'"';
            field_begins = byte == delimiter;
        } else if byte == b'"' && bytes.next_if_eq(&b'"').is_none() {
            // A doubled quote is an escaped one; a single quote closes the field.
            open = false;
            if bytes.peek().is_some_and(|next| *next != delimiter) {
                return Err(Malformed::TextAfterQuote);
            }
        }
    }
    Ok(open)
}
