//! Checkpoint and segments as one sorted source; and two sorted sources compared key by key.

use std::cmp::{Ordering, Reverse};
use std::io;
use std::path::Path;

use itertools::{EitherOrBoth, Itertools as _};

use super::file::{Checkpoint, Entries, SortedWriter};
use crate::store::embedded::engine::{EngineError, Write};
use crate::store::embedded::wal::record::{Entry, owned};
use crate::store::embedded::wal::{Content, SegmentFile, damaged};

/// Bytes of segments that are sorted in memory at a time. Small in tests, to have several runs.
const RUN_BYTES: u64 = if cfg!(test) { 8 << 10 } else { 64 << 20 };

/// The records of a checkpoint and of the segments behind it, in the order of the keys, of each key the newest
/// value. Where there are many segments, runs of them are written to `folder`; they are deleted with what is
/// returned.
///
/// # Errors
/// Those of reading and writing; [`damaged`] names a segment that lacks a record up to `to`.
pub(super) fn merged(
    folder: &Path,
    checkpoint: Option<&Checkpoint>,
    segments: &[SegmentFile],
    to: u64,
) -> io::Result<Merged> {
    let after = checkpoint.map_or(0, |checkpoint| checkpoint.seq);
    let (mut sources, mut runs): (Vec<Entries>, _) = (Vec::new(), Vec::new());
    if let Some(checkpoint) = checkpoint {
        sources.push(Box::new(checkpoint.entries()?));
    }
    let wanted = wanted(segments, after, to);
    let mut left = wanted.as_slice();
    while !left.is_empty() {
        let (mut bytes, mut count) = (0, 0);
        while count < left.len() && (count == 0 || bytes < RUN_BYTES) {
            bytes += left[count].0.bytes()?;
            count += 1;
        }
        let (some, rest) = left.split_at(count);
        let contents =
            some.iter().map(|(segment, end)| whole(segment, after, *end)).collect::<io::Result<Vec<_>>>()?;
        let entries = sorted(&contents, after, to);
        if rest.is_empty() {
            let entries: Vec<Write> = entries.into_iter().map(owned).collect();
            sources.push(Box::new(entries.into_iter().map(Ok)));
        } else {
            let mut run = SortedWriter::run(folder, some[0].0.from, some[count - 1].1)?;
            entries.into_iter().try_for_each(|entry| run.push(entry))?;
            run.end()?;
            sources.push(Box::new(run.reader()?));
            runs.push(run);
        }
        left = rest;
    }
    Ok(Merged { entries: newest(sources), _runs: runs })
}

/// What [`merged`] returns. The runs that it is read from are deleted with it.
pub(super) struct Merged {
    entries: Entries,
    _runs: Vec<SortedWriter>,
}

impl Iterator for Merged {
    type Item = io::Result<Write>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next()
    }
}

/// The segments with records after `after` and up to `to`, each with the last record that it must have.
fn wanted(segments: &[SegmentFile], after: u64, to: u64) -> Vec<(&SegmentFile, u64)> {
    let ends = segments.iter().skip(1).map(|next| next.from.saturating_sub(1)).chain([to]);
    let with_ends = segments.iter().zip(ends).map(|(segment, end)| (segment, end.min(to)));
    with_ends.filter(|(segment, end)| *end > after && segment.from <= to && segment.from <= *end).collect()
}

/// Reads a segment that must have every record after `after` and up to `end`.
fn whole(segment: &SegmentFile, after: u64, end: u64) -> io::Result<Content> {
    let content = Content::read(segment)?;
    content.filter(|content| content.reaches(after) >= end).ok_or_else(|| damaged(&segment.path))
}

/// The last value of every key in the records after `after` and up to `to`, in the order of the keys.
fn sorted(contents: &[Content], after: u64, to: u64) -> Vec<Entry<'_>> {
    let records = contents.iter().flat_map(|content| content.records_after(after));
    let records = records.filter(|(seq, _)| *seq <= to);
    let mut entries: Vec<Entry<'_>> = records.flat_map(|(_, entries)| entries).collect();
    // Stable: of several with one key, the latest stays last.
    entries.sort_by_key(|(key, _)| *key);
    entries.reverse();
    entries.dedup_by_key(|(key, _)| *key);
    entries.reverse();
    entries
}

/// Several sources as one, in the order of the keys; of one key the latest source has the last word.
pub(crate) fn newest(sources: Vec<Entries>) -> Entries {
    let numbered =
        sources.into_iter().enumerate().map(|(n, entries)| entries.map(move |entry| (Reverse(n), entry)));
    let before = |(a_source, a): &(_, io::Result<Write>), (b_source, b): &(_, io::Result<Write>)| match (a, b)
    {
        (Ok((a, _)), Ok((b, _))) => (a, a_source) < (b, b_source),
        // An error comes first.
        (a, b) => a.is_err() && b.is_ok(),
    };
    let entries = numbered.kmerge_by(before).map(|(_, entry)| entry);
    Box::new(entries.dedup_by(|a, b| matches!((a, b), (Ok((a, _)), Ok((b, _))) if a == b)))
}

/// Without tombstones.
pub(crate) fn live(
    entries: impl Iterator<Item = io::Result<Write>>,
) -> impl Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>> {
    entries.filter_map(|entry| match entry {
        Ok((key, value)) => value.map(|value| Ok((key, value))),
        Err(error) => Some(Err(error)),
    })
}

/// A key, what the log says of it, and what the index says.
pub(crate) type Row = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

/// Why a comparison ended.
#[derive(Debug)]
pub(crate) enum CompareError {
    Log(io::Error),
    Index(EngineError),
}

/// Log and index side by side, in the order of the keys. The first error ends it.
pub(crate) fn side_by_side(
    log: impl Iterator<Item = io::Result<(Vec<u8>, Vec<u8>)>>,
    index: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), EngineError>>,
) -> impl Iterator<Item = Result<Row, CompareError>> {
    let rows = log.merge_join_by(index, |log, index| match (log, index) {
        (Ok((log, _)), Ok((index, _))) => log.cmp(index),
        // An error comes first.
        (Err(_), _) => Ordering::Less,
        (_, Err(_)) => Ordering::Greater,
    });
    rows.map(|row| {
        Ok(match row {
            EitherOrBoth::Left(log) => {
                let (key, log) = log.map_err(CompareError::Log)?;
                (key, Some(log), None)
            }
            EitherOrBoth::Right(index) => {
                let (key, index) = index.map_err(CompareError::Index)?;
                (key, None, Some(index))
            }
            EitherOrBoth::Both(log, index) => {
                let (key, log) = log.map_err(CompareError::Log)?;
                (key, Some(log), Some(index.map_err(CompareError::Index)?.1))
            }
        })
    })
}
