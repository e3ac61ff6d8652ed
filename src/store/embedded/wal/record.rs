//! The format of the log's and the checkpoint's files: a header that says what the file is, then blocks, each with
//! its length and checksum. A block holds entries: a key with its value, or a tombstone. A record of the log is
//! one block: its number, then the entries of one commit group.

use std::io;

use crate::store::embedded::engine::Write;
use crate::store::rows::source::Batch;

/// Names the history that a file belongs to: made at random when the log was begun.
pub(crate) type Lineage = [u8; 16];

/// A key and its value, or `None` where it was deleted.
pub(crate) type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

const DELETED: u32 = u32::MAX;
/// No record comes near; a length beyond it is damage, and nothing is allocated for it.
const BLOCK_BYTES_MAX: usize = 256 << 20;
/// Length and checksum.
pub(crate) const BLOCK_HEAD_BYTES: usize = 8;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Records in the order they were committed.
    Segment,
    /// Every live record as of a position in the log, in the order of the keys.
    Checkpoint,
    /// The last value of every key that some records wrote, in the order of the keys: a file of versions before
    /// 0.3, or of a merge under way.
    Run,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Segment, Self::Checkpoint, Self::Run];

    fn magic(self) -> [u8; 8] {
        match self {
            Self::Segment => *b"ULJRNL\x001",
            Self::Checkpoint => *b"ULCKPT\x001",
            Self::Run => *b"ULSORT\x001",
        }
    }
}

/// The head of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) lineage: Lineage,
    /// The number of its first record; of a checkpoint, which begins with the first of all, the record that the log
    /// has to reach for the checkpoint to be consistent.
    pub(crate) from: u64,
    /// The number of the last record that it contains; a segment does not know yet and says 0.
    pub(crate) to: u64,
}

impl Header {
    pub(crate) const BYTES: usize = 44;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend(self.kind.magic());
        bytes.extend(self.lineage);
        bytes.extend(self.from.to_le_bytes());
        bytes.extend(self.to.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.get(..Self::BYTES)?.split_last_chunk::<4>()?;
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return None;
        }
        let kind = Kind::ALL.into_iter().find(|kind| content.starts_with(&kind.magic()))?;
        let lineage = content.get(8..24)?.try_into().ok()?;
        let (from, to) = (number(content.get(24..32)?)?, number(content.get(32..40)?)?);
        Some(Self { kind, lineage, from, to })
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Room for the head of a block, to be filled by [`seal`].
pub(crate) fn begin() -> Vec<u8> {
    vec![0; BLOCK_HEAD_BYTES]
}

/// Fills in the head of a block whose payload is complete.
pub(crate) fn seal(block: &mut [u8]) -> io::Result<()> {
    let length = u32::try_from(block.len() - BLOCK_HEAD_BYTES).map_err(io::Error::other)?;
    let crc = crc32fast::hash(&block[BLOCK_HEAD_BYTES..]);
    block[..4].copy_from_slice(&length.to_le_bytes());
    block[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// The length of the payload behind a block's head; `None` if no block can be that long.
pub(crate) fn payload_length(head: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(head.get(..4)?.try_into().ok()?) as usize;
    (length <= BLOCK_BYTES_MAX).then_some(length)
}

/// Whether a payload is what its head says.
pub(crate) fn intact(head: &[u8], payload: &[u8]) -> bool {
    head.get(4..8).is_some_and(|crc| crc == crc32fast::hash(payload).to_le_bytes())
}

/// Takes a block off the front; `None` where there is none that is whole.
pub(crate) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(BLOCK_HEAD_BYTES)?;
    let (payload, rest) = rest.split_at_checked(payload_length(head)?)?;
    intact(head, payload).then(|| {
        *bytes = rest;
        payload
    })
}

pub(crate) fn put_entry(block: &mut Vec<u8>, (key, value): Entry<'_>) -> io::Result<()> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    block.extend(length(key)?.to_le_bytes());
    block.extend(value.map_or(Ok(DELETED), length)?.to_le_bytes());
    block.extend(key);
    block.extend(value.unwrap_or_default());
    Ok(())
}

/// Takes an entry off the front; `None` at the end, or where none can be read.
pub(crate) fn take_entry<'a>(bytes: &mut &'a [u8]) -> Option<Entry<'a>> {
    let (lengths, rest) = bytes.split_at_checked(8)?;
    let key_length = u32::from_le_bytes(lengths[..4].try_into().ok()?);
    let value_length = u32::from_le_bytes(lengths[4..].try_into().ok()?);
    let (key, rest) = rest.split_at_checked(key_length as usize)?;
    let (value, rest) = match value_length {
        DELETED => (None, rest),
        length => rest.split_at_checked(length as usize).map(|(value, rest)| (Some(value), rest))?,
    };
    *bytes = rest;
    Some((key, value))
}

/// An entry that does not borrow.
pub(crate) fn owned((key, value): Entry<'_>) -> Write {
    (key.to_vec(), value.map(<[u8]>::to_vec))
}

/// A commit group as a record: its number, then its writes.
pub(crate) fn record(seq: u64, writes: &Batch) -> io::Result<Vec<u8>> {
    let mut block = begin();
    block.extend(seq.to_le_bytes());
    for (key, value) in writes {
        put_entry(&mut block, (key, value.as_deref()))?;
    }
    seal(&mut block)?;
    Ok(block)
}

/// Takes a record off the front: its number and its entries.
pub(crate) fn take_record<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Vec<Entry<'a>>)> {
    let mut rest = *bytes;
    let (seq, mut payload) = take(&mut rest)?.split_at_checked(8)?;
    let mut entries = Vec::new();
    while let Some(entry) = take_entry(&mut payload) {
        entries.push(entry);
    }
    if !payload.is_empty() {
        return None;
    }
    *bytes = rest;
    Some((number(seq)?, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    fn writes() -> impl Strategy<Value = Batch> {
        btree_map(vec(any::<u8>(), 1..20), option::of(vec(any::<u8>(), 0..40)), 0..12)
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written_and_any_changed_bit_is_noticed(
            seq: u64, writes in writes(), at: usize, bit in 0_u8..8,
        ) {
            let block = record(seq, &writes).unwrap();
            let mut rest = block.as_slice();
            let (read_seq, entries) = take_record(&mut rest).unwrap();
            let read: Batch = entries.iter().copied().map(owned).collect();
            prop_assert_eq!((read_seq, read, rest.len()), (seq, writes, 0));
            let mut flipped = block.clone();
            flipped[at % block.len()] ^= 1 << bit;
            prop_assert!(take_record(&mut flipped.as_slice()).is_none());
            prop_assert!(take_record(&mut &block[..at % block.len()]).is_none(), "cut short");
        }

        #[test]
        fn no_bytes_whatsoever_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = take_record(&mut bytes.as_slice());
            let _ = Header::decode(&bytes);
            let mut rest = bytes.as_slice();
            while take_entry(&mut rest).is_some() {}
        }

        #[test]
        fn a_header_is_read_as_it_was_written(lineage: Lineage, from: u64, to: u64, at in 0..Header::BYTES) {
            for kind in Kind::ALL {
                let header = Header { kind, lineage, from, to };
                let mut bytes = header.encode();
                prop_assert_eq!(Header::decode(&bytes), Some(header));
                bytes[at] ^= 1;
                prop_assert_eq!(Header::decode(&bytes), None);
            }
        }
    }
}
