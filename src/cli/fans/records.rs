//! Splits a stream of bytes into records, in bounded memory whatever the bytes are.
//!
//! An NDJSON record is a line; a CSV record is as many lines as its quotes hold together. Lines end with LF,
//! CRLF or CR and are numbered as an editor numbers them. A malformed record is returned with what is wrong
//! with it, and reading continues at its second line: an open quote must not swallow the good rows behind it.
//!
//! `csv::Reader` does not read the stream itself: it takes an open quote to the end of the file for one
//! record, guesses what text after a closing quote means, counts LF only, and keeps no raw text of a rejected
//! row. It takes single records apart, in `rows`.
//!
//! Deliberately absent: fields and characters (see `rows`).

use std::io::{self, Read};

use memchr::{memchr, memchr2};
use serde::{Deserialize, Serialize};

/// The longest record.
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Enough to judge any record: the longest one and its line end.
const LOOKAHEAD_BYTES: usize = RECORD_BYTES_MAX + 2;
const BUFFER_BYTES: usize = 4 * RECORD_BYTES_MAX;
/// How much of a line that is too long is returned.
const EXCERPT_BYTES: usize = 1024;

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Bytes of the decoded stream before it.
    pub(super) offset: u64,
    /// The number of the line that begins there, from 1.
    pub(super) line: u64,
}

/// What is wrong with a record, whatever its fields are.
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
    /// Without its line end; of a malformed one the first line, cut short if that is too long.
    pub(super) bytes: &'a [u8],
    pub(super) malformed: Option<Malformed>,
}

/// Reads records one after the other.
pub(super) struct Records<R> {
    source: R,
    /// The delimiter of CSV; none in NDJSON, where quotes hold no lines together.
    pub(super) delimiter: Option<u8>,
    /// `buffer[start..]` was read from the source and not yet returned.
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
    /// Why the source ended early; returned after every record that was complete before.
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

    /// Where the next record begins.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// The bytes of the next record, and more.
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

    /// The next record; none at the end. `swallows_rows` judges a record of several lines: one that swallows
    /// rows is returned as an open quote.
    pub(super) fn read(
        &mut self,
        swallows_rows: impl FnOnce(&[u8]) -> bool,
    ) -> io::Result<Option<Record<'_>>> {
        self.fill();
        let bytes = &self.buffer[self.start..];
        let mut split = split(bytes, self.delimiter);
        if bytes.is_empty() || (split.unfinished && self.failure.is_some()) {
            // The rest of a source that failed is no record, however much it looks like one.
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

    /// Skips to the next line, however far away it is.
    fn skip_line(&mut self) -> io::Result<()> {
        let width = loop {
            let bytes = self.peek();
            let all = bytes.len();
            match line_end(bytes) {
                Some((0, width)) => break width,
                // What follows is read first: the line end may be a CRLF.
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

    /// Reads until any record can be judged, or the source ends.
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
    /// Its bytes, without the line end.
    len: usize,
    /// Where the next record begins.
    end: usize,
    lines: u64,
    malformed: Option<Malformed>,
    /// It reaches the end of the bytes, and might have continued.
    unfinished: bool,
}

/// Splits off the first record of `bytes`: all there are, or at least [`LOOKAHEAD_BYTES`].
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
            // The first quote of another row closed the open one.
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

/// Where the first line of `bytes` ends, and where the next one begins.
fn line_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let len = memchr2(b'\r', b'\n', bytes)?;
    Some((len, if bytes[len..].starts_with(b"\r\n") { len + 2 } else { len + 1 }))
}

/// Whether a quote is open at the end of `line`, when one is `open` at its beginning.
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
            // Two quotes stand for one; a single one closes the field.
            open = false;
            if bytes.peek().is_some_and(|next| *next != delimiter) {
                return Err(Malformed::TextAfterQuote);
            }
        }
    }
    Ok(open)
}
