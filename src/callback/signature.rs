//! `msg_signature`: SHA-1 over the sorted values (document 90968).
//!
//! The values are concatenated without separators, so the signature tells no field from another and stops no
//! replay; the store's deduplication does.

use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

/// The signature of one callback under `token`: forty lower-case hexadecimal digits.
#[must_use]
pub fn sign(token: &str, timestamp: &str, nonce: &str, encrypted: &str) -> [u8; 40] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut values = [token, timestamp, nonce, encrypted];
    values.sort_unstable();
    let mut sha1 = Sha1::new();
    for value in values {
        sha1.update(value);
    }
    let mut hex = [0; 40];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(sha1.finalize()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

/// Whether `theirs` is `ours`, in a time that does not depend on where they differ.
pub(super) fn equal(ours: &[u8; 40], theirs: &str) -> bool {
    ours.as_slice().ct_eq(theirs.as_bytes()).into()
}
