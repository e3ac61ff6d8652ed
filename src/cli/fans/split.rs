//! Where the first record of some bytes ends: a pure function.
//!
//! Agrees with the csv crate on everything well-formed; differs where that crate is lenient, because a guess at
//! what a broken row means would make a wrong fan.

/// The longest record.
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;

/// What holds a record together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Lines,
    Csv { delimiter: u8 },
}

/// What is wrong with a record before anybody looks into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    TooLong,
    OpenQuote,
    LongQuote,
    AfterQuote,
}

impl Flaw {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "is longer than 64 KiB",
            Self::OpenQuote => "a quote is never closed",
            Self::LongQuote => "a quote is not closed within 64 KiB",
            Self::AfterQuote => "there is text after a closing quote",
        }
    }
}

/// The first record of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// Its bytes, without the line end.
    pub(super) record: usize,
    /// And with it.
    pub(super) consumed: usize,
    pub(super) lines: u64,
    /// Bytes of its first line, with the line end.
    pub(super) first_line: usize,
    pub(super) flaw: Option<Flaw>,
    /// It goes on to the end of the bytes, and might have gone on.
    pub(super) unfinished: bool,
}

/// Splits off the first record. `bytes` are all there are, or more than [`RECORD_BYTES_MAX`] by a line end of two.
pub(super) fn split(bytes: &[u8], shape: Shape) -> Split {
    match shape {
        Shape::Lines => split_line(bytes),
        Shape::Csv { delimiter } => split_csv(bytes, delimiter),
    }
}

/// Where the first line of `bytes` ends, and how wide its end is.
pub(super) fn line_end(bytes: &[u8], shape: Shape) -> Option<(usize, usize)> {
    let ends = |byte: u8| byte == b'\n' || (byte == b'\r' && shape != Shape::Lines);
    // Looking for one byte is much faster than looking for either, and most of a long line has neither.
    if !bytes.contains(&b'\n') && !bytes.contains(&b'\r') {
        return None;
    }
    let at = bytes.iter().position(|byte| ends(*byte))?;
    Some((at, width(bytes, at)))
}

/// A carriage return and a line feed are one line end.
fn width(bytes: &[u8], at: usize) -> usize {
    if bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n') { 2 } else { 1 }
}

fn one_line(record: usize, consumed: usize, flaw: Option<Flaw>, unfinished: bool) -> Split {
    Split { record, consumed, lines: 1, first_line: consumed, flaw, unfinished }
}

fn too_long() -> Split {
    // Its end is not known, and left to the caller to find.
    one_line(RECORD_BYTES_MAX, RECORD_BYTES_MAX, Some(Flaw::TooLong), false)
}

fn split_line(bytes: &[u8]) -> Split {
    let near = bytes.get(..RECORD_BYTES_MAX + 2).unwrap_or(bytes);
    let (line, consumed, unfinished) = match line_end(near, Shape::Lines) {
        Some((at, width)) => (&bytes[..at], at + width, false),
        None => (near, near.len(), true),
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > RECORD_BYTES_MAX { too_long() } else { one_line(line.len(), consumed, None, unfinished) }
}

#[derive(Clone, Copy)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// A quote within quotes: the end of them, or the first of a pair.
    Quote,
    /// Beyond repair: only the end of the line matters.
    Spoilt,
}

fn split_csv(bytes: &[u8], delimiter: u8) -> Split {
    let (mut state, mut lines, mut flaw) = (State::FieldStart, 1, None);
    // Where the first line ends, once quotes carried the record past it: without and with its line end.
    let mut first: Option<(usize, usize)> = None;
    let only_first = |(record, consumed), flaw| one_line(record, consumed, Some(flaw), false);
    for (at, byte) in bytes.iter().enumerate() {
        let line_ends = matches!(byte, b'\r' | b'\n');
        if at >= RECORD_BYTES_MAX && !(at == RECORD_BYTES_MAX && line_ends && !matches!(state, State::Quoted))
        {
            return first.map_or_else(too_long, |first| only_first(first, Flaw::LongQuote));
        }
        state = match state {
            State::Quoted if line_ends => {
                let second_half = *byte == b'\n' && at > 0 && bytes[at - 1] == b'\r';
                if !second_half {
                    lines += 1;
                    first.get_or_insert((at, at + width(bytes, at)));
                }
                State::Quoted
            }
            State::Quoted if *byte == b'"' => State::Quote,
            State::Quoted => State::Quoted,
            _ if line_ends => {
                let consumed = at + width(bytes, at);
                let first_line = first.map_or(consumed, |(_, consumed)| consumed);
                return Split { record: at, consumed, lines, first_line, flaw, unfinished: false };
            }
            State::Spoilt => State::Spoilt,
            State::Quote if *byte == b'"' => State::Quoted,
            _ if *byte == delimiter => State::FieldStart,
            State::Quote => {
                if let Some(first) = first {
                    return only_first(first, Flaw::OpenQuote);
                }
                flaw = Some(Flaw::AfterQuote);
                State::Spoilt
            }
            State::FieldStart if *byte == b'"' => State::Quoted,
            State::FieldStart | State::Plain => State::Plain,
        };
    }
    let len = bytes.len();
    match (state, first) {
        (State::Quoted, Some(first)) => Split { unfinished: true, ..only_first(first, Flaw::OpenQuote) },
        (State::Quoted, None) => one_line(len, len, Some(Flaw::OpenQuote), true),
        (_, first) => {
            let first_line = first.map_or(len, |(_, consumed)| consumed);
            Split { record: len, consumed: len, lines, first_line, flaw, unfinished: true }
        }
    }
}
