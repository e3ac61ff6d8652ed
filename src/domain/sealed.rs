//! An encrypted secret, as it is stored.
//!
//! Deliberately absent: the cryptography (see [`crate::at_rest`]).

use std::fmt;

use serde::{Deserialize, Serialize};

/// An encrypted secret. The order of the fields is the stored format.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Identifies the key that encrypted it.
    pub key: [u8; 8],
    /// Its nonce, never used twice with one key.
    pub nonce: [u8; 12],
    /// The encrypted text, and the tag that authenticates it.
    pub text: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_sealed_secret_is_printed() {
        let sealed = Sealed { key: [1; 8], nonce: [2; 12], text: vec![3; 40] };
        assert_eq!(format!("{sealed:?}"), "Sealed(..)");
    }
}
