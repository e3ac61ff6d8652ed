//! `msg_signature`: SHA-1 over the sorted values (document 90968).
//!
//! The values are concatenated without separators, so it is not certain where one ends and the next begins.
//! The signature does not prevent replay; deduplication in the store does.

use sha1::{Digest, Sha1};
use subtle::{Choice, ConstantTimeEq};

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

/// Compares in constant time.
pub(super) fn equal(ours: &[u8; 40], theirs: &str) -> bool {
    let (ours, theirs) = (ours.as_chunks::<8>().0, theirs.as_bytes().as_chunks::<8>());
    // By 8-byte words: byte by byte costs as much as parsing the query.
    let (theirs, []) = theirs else { return false };
    let words = ours.iter().zip(theirs).map(|(a, b)| u64::from_ne_bytes(*a).ct_eq(&u64::from_ne_bytes(*b)));
    ours.len() == theirs.len() && words.fold(Choice::from(1), |all, word| all & word).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_identical_signatures_are_equal() {
        let ours = sign("token", "1", "n", "x");
        let text = std::str::from_utf8(&ours).unwrap();
        assert!(equal(&ours, text));
        for at in 0..40 {
            let mut other = ours;
            other[at] ^= 1;
            assert!(!equal(&ours, std::str::from_utf8(&other).unwrap()), "{at}");
            assert!(!equal(&ours, &text[..at]), "{at}");
        }
        assert!(!equal(&ours, &format!("{text}0")) && !equal(&ours, &format!("{text}{text}")));
    }
}
