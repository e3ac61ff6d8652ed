//! The signature of [Standard Webhooks](https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body.
//!
//! Signing only; who receives verifies. Nothing here reads a clock.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::zeroize::Zeroizing;
use sha2::Sha256;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// How long a key may be, in bytes, by the specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret shared with the receiver, ready to sign. `Debug` does not show it, and it is wiped when it is dropped.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// Why a text is not a secret. Does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It begins otherwise.
    #[error("does not begin with whsec_")]
    Prefix,
    /// What follows is something else.
    #[error("is not base64 after whsec_")]
    Encoding,
    /// Too short to be safe, or longer than receivers take.
    #[error("is {bytes} bytes long instead of 24 to 64")]
    Length {
        /// How long it is.
        bytes: usize,
    },
}

impl SigningKey {
    /// Reads `whsec_` and 24 to 64 bytes in base64.
    ///
    /// # Errors
    /// [`SecretError`] when it is anything else.
    pub fn parse(secret: &str) -> Result<Self, SecretError> {
        let encoded = secret.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        let key = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| SecretError::Encoding)?);
        let length = SecretError::Length { bytes: key.len() };
        if !KEY_BYTES.contains(&key.len()) {
            return Err(length);
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|_| length)
    }

    /// The signature of a message, as `webhook-signature` carries it.
    pub(super) fn sign(&self, id: &str, timestamp_secs: i64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp_secs}.");
        let mac = self.0.clone().chain_update(head).chain_update(body).finalize();
        format!("v1,{}", STANDARD.encode(mac.into_bytes()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: usize) -> String {
        format!("{PREFIX}{}", STANDARD.encode(vec![7; bytes]))
    }

    #[test]
    fn the_specifications_example_comes_out() {
        let key = SigningKey::parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            key.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn a_secret_is_taken_at_its_word_and_never_shown() {
        for bytes in [24, 32, 64] {
            assert!(SigningKey::parse(&secret(bytes)).is_ok());
        }
        for bytes in [0, 23, 65] {
            assert_eq!(SigningKey::parse(&secret(bytes)).unwrap_err(), SecretError::Length { bytes });
        }
        assert_eq!(SigningKey::parse("C2FVsBQIhrsc").unwrap_err(), SecretError::Prefix);
        assert_eq!(SigningKey::parse("whsec_CANARY!").unwrap_err(), SecretError::Encoding);
        assert_eq!(format!("{:?}", SigningKey::parse(&secret(24))), "Ok(SigningKey([redacted]))");
    }
}
