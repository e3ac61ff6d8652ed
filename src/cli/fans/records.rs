//! From bytes to records, in bounded memory whatever the bytes are.
//!
//! A record is a line, or, in CSV, as many lines as its quotes hold together. Its lines are numbered as an editor
//! numbers them. A record that is no good is told with what is wrong with it, and reading goes on at the line after
//! the one it begins on, so that one open quote does not swallow the good rows behind it.
//!
//! Deliberately absent: fields and characters (see `rows`).

use std::io::{self, Read};

use super::split::{Flaw, RECORD_BYTES_MAX, Shape, line_end, split};

/// With so much at hand every record is decided: the longest one, and its line end.
const ENOUGH: usize = RECORD_BYTES_MAX + 2;
const BUFFER_BYTES: usize = 4 * RECORD_BYTES_MAX;
/// What is shown of a line that is too long.
const EXCERPT_BYTES: usize = 1024;

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Bytes before it, decompressed.
    pub(super) offset: u64,
    /// The number of the line that begins there, from 1.
    pub(super) line: u64,
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The line it begins on.
    pub(super) line: u64,
    /// How many lines it has.
    pub(super) lines: u64,
    /// Without its line end. The beginning only, if it is too long.
    pub(super) bytes: &'a [u8],
    pub(super) flaw: Option<Flaw>,
}

/// Reads records one after the other.
pub(super) struct Records<R> {
    source: R,
    shape: Shape,
    buffer: Box<[u8]>,
    /// What was read and not yet given out: `buffer[start..end]`.
    start: usize,
    end: usize,
    ended: bool,
    /// Told after every record that was complete before it.
    failure: Option<io::Error>,
    position: Position,
    last: Last,
    excerpt: Box<[u8]>,
}

/// The record given out last, so that it can be taken back.
#[derive(Clone, Copy)]
struct Last {
    start: usize,
    position: Position,
    first_line: usize,
}

impl<R: Read> Records<R> {
    pub(super) fn new(source: R, shape: Shape, position: Position) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        let last = Last { start: 0, position, first_line: 0 };
        Self {
            source,
            shape,
            buffer,
            start: 0,
            end: 0,
            ended: false,
            failure: None,
            position,
            last,
            excerpt: Box::default(),
        }
    }

    /// Where the next record begins.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    pub(super) const fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// Forgets what was read: the source was moved to `position`.
    pub(super) const fn restart(&mut self, position: Position) {
        (self.start, self.end, self.ended, self.position) = (0, 0, false, position);
    }

    /// Reads on to `position`, throwing away what comes before it.
    pub(super) fn advance_to(&mut self, position: Position) -> io::Result<()> {
        while self.position.offset < position.offset {
            self.fill();
            let left = usize::try_from(position.offset - self.position.offset).unwrap_or(usize::MAX);
            match left.min(self.end - self.start) {
                0 => return Err(self.failure.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
                step => self.consume(step),
            }
        }
        self.position = position;
        Ok(())
    }

    /// The next record; `None` at the end.
    pub(super) fn read(&mut self) -> io::Result<Option<Record<'_>>> {
        self.fill();
        let bytes = &self.buffer[self.start..self.end];
        if bytes.is_empty() {
            return self.failure.take().map_or(Ok(None), Err);
        }
        let split = split(bytes, self.shape);
        // What a source that broke off left behind is no record, however much it looks like one.
        if split.unfinished && self.failure.is_some() {
            self.consume(self.end - self.start);
            return self.failure.take().map_or(Ok(None), Err);
        }
        let (start, position) = (self.start, self.position);
        self.last = Last { start, position, first_line: split.first_line };
        let (line, lines, flaw) = (position.line, split.lines, split.flaw);
        if flaw == Some(Flaw::TooLong) {
            self.excerpt = bytes[..EXCERPT_BYTES].into();
            self.skip_line()?;
            return Ok(Some(Record { line, lines, bytes: &self.excerpt, flaw }));
        }
        self.consume(split.consumed);
        self.position.line += lines;
        let bytes = &self.buffer[start..start + split.record];
        Ok(Some(Record { line, lines, bytes, flaw }))
    }

    /// Takes the last record back: it is read again.
    pub(super) const fn put_back(&mut self) {
        (self.start, self.position) = (self.last.start, self.last.position);
    }

    /// Takes the last record back but for the first of its lines.
    pub(super) fn put_back_all_but_first_line(&mut self) {
        self.put_back();
        self.consume(self.last.first_line);
        self.position.line += 1;
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.position.offset += bytes as u64;
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            self.fill();
            let bytes = &self.buffer[self.start..self.end];
            match line_end(bytes, self.shape) {
                // Whether a line feed follows is not known yet.
                Some((at, 1)) if at + 1 == bytes.len() && bytes[at] == b'\r' && !self.ended => {
                    self.consume(at);
                }
                Some((at, width)) => {
                    self.consume(at + width);
                    break;
                }
                None if self.ended => {
                    self.consume(bytes.len());
                    if let Some(failure) = self.failure.take() {
                        return Err(failure);
                    }
                    break;
                }
                None => self.consume(bytes.len()),
            }
        }
        self.position.line += 1;
        Ok(())
    }

    /// Reads until there is [`ENOUGH`] to decide on a record, or nothing more to come.
    fn fill(&mut self) {
        if self.ended || self.end - self.start >= ENOUGH {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < ENOUGH {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    return;
                }
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    (self.ended, self.failure) = (true, Some(error));
                    return;
                }
            }
        }
    }
}
