//! Reading the log.
//!
//! A crash may leave half a record at the end of a segment; nobody was told that it was durable. What tells such
//! an end from damage is what follows: a whole record behind it (only one is ever on its way), or the next
//! segment, which begins with the number that has to follow. Whole records are looked for at every byte behind one that
//! is not whole, since its length may be what is damaged. The last record of the whole log, damaged, cannot be
//! told from one that was being written; an index that has applied it, or a clean stop, can tell.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::files::SegmentFile;
use super::record::{self, BLOCK_HEAD_BYTES, Entry, Header, Kind, Lineage};
use crate::store::embedded::folder::files::at;

/// The number of a record.
const NUMBER_BYTES: usize = 8;

/// A segment, read whole.
pub(crate) struct Content {
    bytes: Vec<u8>,
    /// The number of its first record.
    from: u64,
    /// Its whole records: their numbers, which rise, and where their entries are.
    records: Vec<(u64, Range<usize>)>,
    has_header: bool,
}

impl Content {
    /// Reads a segment. `None` if it has not even a header: a crash came while it was begun. One whose header is
    /// damaged is read all the same, since every record has its own number and checksum.
    ///
    /// # Errors
    /// [`damaged`] if it is something else than its name says.
    pub(crate) fn read(segment: &SegmentFile) -> io::Result<Option<Self>> {
        let path = &segment.path;
        let bytes = std::fs::read(path).map_err(at(path))?;
        let header = Header::decode(&bytes);
        if header.is_some_and(|header| header.kind != Kind::Segment || header.from != segment.from) {
            return Err(damaged(path));
        }
        // Nothing is written behind a header before it is durable.
        if header.is_none() && bytes.len() <= Header::BYTES {
            return Ok(None);
        }
        let records = whole_records(&bytes, segment.from);
        Ok(Some(Self { bytes, from: segment.from, records, has_header: header.is_some() }))
    }

    /// The last record that is known to have been in it; one less than its first if it has none.
    pub(crate) fn end(&self) -> u64 {
        let before = self.from.saturating_sub(1);
        let begun = if self.has_header { before } else { self.from };
        self.records.last().map_or(begun, |(seq, _)| *seq)
    }

    /// The last record, of those after `after`, before any that is missing; `after`, or the one before its first, if
    /// there is none.
    pub(crate) fn reaches(&self, after: u64) -> u64 {
        let before = after.max(self.from.saturating_sub(1));
        self.numbers_after(before).last().unwrap_or(before)
    }

    /// Whether its header or a record before its last whole one is damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.has_header || self.reaches(0) != self.end()
    }

    /// Whether there is something behind the last whole record: half a record, or damage.
    pub(crate) fn has_rest(&self) -> bool {
        self.bytes_up_to(self.end()) < self.bytes.len()
    }

    /// Where the record `seq` ends; where the header does, if that is not one of its whole records.
    pub(crate) fn bytes_up_to(&self, seq: u64) -> usize {
        let found = self.records.iter().find(|(number, _)| *number == seq);
        found.map_or(Header::BYTES, |(_, entries)| entries.end)
    }

    /// Its records after `after`, in order, up to the first that is not whole.
    pub(crate) fn records_after(&self, after: u64) -> impl Iterator<Item = (u64, Vec<Entry<'_>>)> {
        let to = self.reaches(after);
        let wanted = self.records.iter().filter(move |(seq, _)| *seq > after && *seq <= to);
        wanted.map(|(seq, entries)| {
            let mut rest = &self.bytes[entries.clone()];
            (*seq, std::iter::from_fn(|| record::take_entry(&mut rest)).collect())
        })
    }

    /// The numbers that follow on `before` without a gap.
    fn numbers_after(&self, before: u64) -> impl Iterator<Item = u64> {
        let behind = self.records.iter().map(|(seq, _)| *seq).filter(move |seq| *seq > before);
        behind.zip(before + 1..).take_while(|(seq, expected)| seq == expected).map(|(seq, _)| seq)
    }
}

/// The whole records of a segment.
fn whole_records(bytes: &[u8], from: u64) -> Vec<(u64, Range<usize>)> {
    let (mut records, mut position, mut expected) = (Vec::new(), Header::BYTES.min(bytes.len()), from);
    while position < bytes.len() {
        match record_at(&bytes[position..], expected) {
            Some((seq, length)) => {
                let entries = position + BLOCK_HEAD_BYTES + NUMBER_BYTES;
                position += length;
                records.push((seq, entries..position));
                expected = seq.saturating_add(1);
            }
            None => position += 1,
        }
    }
    records
}

/// The number and length of the record at the front, if there is a whole one that can follow on those before `expected`.
fn record_at(bytes: &[u8], expected: u64) -> Option<(u64, usize)> {
    // First what is cheap, since this may be asked of every byte.
    let number = bytes.get(BLOCK_HEAD_BYTES..BLOCK_HEAD_BYTES + NUMBER_BYTES)?;
    let seq = u64::from_le_bytes(number.try_into().ok()?);
    let ahead = seq.checked_sub(expected)?;
    if ahead > (bytes.len() / (BLOCK_HEAD_BYTES + NUMBER_BYTES)) as u64 {
        return None;
    }
    let mut rest = bytes;
    record::take_record(&mut rest)?;
    Some((seq, bytes.len() - rest.len()))
}

/// Records that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The last record before them.
    pub(crate) have: u64,
    /// The last record that is known to have been in the log.
    pub(crate) end: u64,
    /// The file that is damaged, if one is.
    pub(crate) damaged: Option<PathBuf>,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { have, end, damaged } = self;
        match damaged {
            Some(path) => {
                write!(f, "{} is damaged: the log has records up to {have}, and had {end}", path.display())
            }
            None => write!(f, "a file of the log is missing: it has records up to {have}, and had {end}"),
        }
    }
}

/// What reading the log came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// The last record that was read; `after` if there was none.
    pub(crate) last: u64,
    /// What is missing behind it.
    pub(crate) gap: Option<Gap>,
    /// The last whole record of the segments that were read, whether or not it is behind `after`.
    pub(crate) seen: u64,
    /// A segment with damage, of those that were read, though all that is wanted of it could be read.
    pub(crate) damaged: Option<PathBuf>,
    /// Whether the log ends in half a record.
    pub(crate) torn: bool,
}

/// Reads the records after `after`, in order, up to the first that is missing. Segments without such records are not
/// opened.
///
/// # Errors
/// Those of `record`, and those of reading; a damaged segment is a [`Gap`], not an error.
pub(crate) fn replay<E: From<io::Error>>(
    segments: &[SegmentFile],
    after: u64,
    mut record: impl FnMut(u64, Vec<Entry<'_>>) -> Result<(), E>,
) -> Result<Replayed, E> {
    let mut replayed = Replayed { last: after, gap: None, seen: 0, damaged: None, torn: false };
    for (n, segment) in segments.iter().enumerate() {
        let next = segments.get(n + 1).map(|next| next.from);
        if next.is_some_and(|next| next <= after.saturating_add(1)) {
            continue;
        }
        // What is known to have been in it, if the next one says so.
        let known_end = next.map_or(0, |next| next.saturating_sub(1));
        let content = match Content::read(segment) {
            Ok(Some(content)) => content,
            Ok(None) => {
                replayed.lacks(known_end, segment);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                replayed.lacks(known_end.max(segment.from), segment);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if replayed.gap.is_none() && segment.from > replayed.last.saturating_add(1) {
            replayed.add_gap(content.end().max(segment.from.saturating_sub(1)), None);
        }
        if replayed.gap.is_none() {
            for (seq, entries) in content.records_after(replayed.last) {
                record(seq, entries)?;
                replayed.last = seq;
            }
        }
        let seen = content.records.last().map_or(segment.from.saturating_sub(1), |(seq, _)| *seq);
        replayed.seen = replayed.seen.max(seen);
        if content.is_damaged() {
            replayed.damaged.get_or_insert_with(|| segment.path.clone());
        }
        replayed.lacks(content.end().max(known_end), segment);
        replayed.torn = next.is_none() && replayed.gap.is_none() && content.has_rest();
    }
    Ok(replayed)
}

impl Replayed {
    /// A segment has had records up to `end`, of which those that were not read are damaged.
    fn lacks(&mut self, end: u64, segment: &SegmentFile) {
        if end > self.last {
            self.add_gap(end, Some(&segment.path));
        } else if end >= segment.from && self.seen < end {
            self.damaged.get_or_insert_with(|| segment.path.clone());
        }
    }

    fn add_gap(&mut self, end: u64, damaged: Option<&PathBuf>) {
        let have = self.last;
        let gap = self.gap.get_or_insert_with(|| Gap { have, end, damaged: damaged.cloned() });
        gap.end = gap.end.max(end);
    }
}

/// The history that the segments belong to; `None` if there is none with a readable header.
pub(crate) fn lineage(segments: &[SegmentFile]) -> io::Result<Option<Lineage>> {
    for SegmentFile { path, .. } in segments {
        let mut head = Vec::with_capacity(Header::BYTES);
        let file = std::fs::File::open(path).map_err(at(path))?;
        io::Read::read_to_end(&mut io::Read::take(file, Header::BYTES as u64), &mut head)
            .map_err(at(path))?;
        if let Some(header) = Header::decode(&head) {
            return Ok(Some(header.lineage));
        }
    }
    Ok(None)
}

pub(crate) fn damaged(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()))
}
