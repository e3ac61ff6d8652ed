//! The format of a value: `version ‖ body ‖ CRC-32`, the checksum over key, version and body.
//!
//! In one case of six, sled returns stale or missing data for a flipped bit; with the key in the checksum a
//! value under the wrong key is detected too. The body is postcard: compact, and as stable as the order of
//! the fields. A record whose fields change gets a new version and a conversion here.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// A type of which values are stored.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// The version that is written.
    const VERSION: u8 = 1;

    /// Reads the body of an older version; `None` if this program does not know that version.
    fn of_version(_version: u8, _body: &[u8]) -> Option<Result<Self, postcard::Error>> {
        None
    }
}

/// Most records are shorter.
const SCRATCH_BYTES: usize = 512;
const CHECKSUM_BYTES: usize = 4;

pub(crate) fn encode<R: Record>(key: &[u8], record: &R) -> Result<Vec<u8>, StoreError> {
    // What is returned stays in memory for a while, so it takes no more than it needs.
    let mut scratch = [0; SCRATCH_BYTES];
    let content = if let Ok(body) = postcard::to_slice(record, &mut scratch) {
        let mut content = Vec::with_capacity(1 + body.len() + CHECKSUM_BYTES);
        content.push(R::VERSION);
        content.extend_from_slice(body);
        content
    } else {
        postcard::to_extend(record, vec![R::VERSION]).map_err(|e| StoreError::Damaged(e.to_string()))?
    };
    Ok(checked(key, content))
}

/// Version and body with their checksum.
pub(crate) fn checked(key: &[u8], mut content: Vec<u8>) -> Vec<u8> {
    let crc = checksum(key, &content);
    content.extend(crc.to_le_bytes());
    content
}

pub(crate) fn decode<R: Record>(key: &[u8], bytes: &[u8]) -> Result<R, StoreError> {
    let content = content(key, bytes)?;
    match content.split_first() {
        Some((version, body)) if *version != R::VERSION => match R::of_version(*version, body) {
            Some(read) => read.map_err(|_| damaged(key, "an unreadable body")),
            None => Err(damaged(key, "a version of another program")),
        },
        _ => current::<R, R>(key, content),
    }
}

/// Reads a record of type `R` as something with the same fields, which may borrow from it.
pub(crate) fn decode_as<'a, R: Record, T: Deserialize<'a>>(
    key: &[u8],
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    current::<R, T>(key, content(key, bytes)?)
}

fn current<'a, R: Record, T: Deserialize<'a>>(key: &[u8], content: &'a [u8]) -> Result<T, StoreError> {
    match content.split_first() {
        Some((version, body)) if *version == R::VERSION => {
            postcard::from_bytes(body).map_err(|_| damaged(key, "an unreadable body"))
        }
        _ => Err(damaged(key, "a version of another program")),
    }
}

/// Version and body, after their checksum was checked.
fn content<'a>(key: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let (content, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged(key, "too few bytes"))?;
    if checksum(key, content) != u32::from_le_bytes(*crc) {
        return Err(damaged(key, "a wrong checksum"));
    }
    Ok(content)
}

/// Whether a value is as it was written. A key without a value has no checksum.
pub(crate) fn is_intact(key: &[u8], bytes: &[u8]) -> bool {
    bytes.is_empty() || content(key, bytes).is_ok()
}

fn damaged(key: &[u8], what: &str) -> StoreError {
    let kind = key.first().copied().unwrap_or_default() as char;
    StoreError::Damaged(format!("{what} in a record of kind {kind:?}"))
}

/// The record, or `None` if it is damaged: for callers that replace or delete it.
pub(crate) fn readable<R>(read: Result<Option<R>, StoreError>) -> Result<Option<R>, StoreError> {
    match read {
        Err(StoreError::Damaged(_)) => Ok(None),
        other => other,
    }
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Record for (String, u64) {}

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(text in ".{0,40}", number: u64, at: usize, bit in 0_u8..8) {
            let bytes = encode(b"k1", &(text.clone(), number)).unwrap();
            prop_assert_eq!(decode::<(String, u64)>(b"k1", &bytes).unwrap(), (text, number));
            let mut flipped = bytes.clone();
            let at = at % flipped.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode::<(String, u64)>(b"k1", &flipped).is_err());
            prop_assert!(decode::<(String, u64)>(b"k2", &bytes).is_err(), "another key's value");
        }

        #[test]
        fn no_bytes_whatsoever_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode::<(String, u64)>(b"k", &bytes);
        }
    }
}
