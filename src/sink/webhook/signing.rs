//! The signature of [Standard Webhooks](https://www.standardwebhooks.com): HMAC-SHA256 over id, timestamp and
//! body. Deliberately absent: verification, which is the receiver's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::zeroize::Zeroizing;
use sha2::Sha256;

const PREFIX: &str = "whsec_";
/// The lengths of a key in bytes that the specification allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The key shared with the receiver. `Debug` does not print it, and its memory is zeroed when it is dropped.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// Why a text is not a secret. Does not contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It does not begin with `whsec_`.
    #[error("does not begin with whsec_")]
    Prefix,
    /// The rest is not base64.
    #[error("is not base64 after whsec_")]
    Encoding,
    /// The key has fewer than 24 or more than 64 bytes.
    #[error("is {bytes} bytes long instead of 24 to 64")]
    Length {
        /// Its length.
        bytes: usize,
    },
}

impl SigningKey {
    /// Parses `whsec_` followed by 24 to 64 bytes in base64.
    ///
    /// # Errors
    /// [`SecretError`] for any other text.
    pub fn parse(secret: &str) -> Result<Self, SecretError> {
        let encoded = secret.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        let key = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| SecretError::Encoding)?);
        let length = SecretError::Length { bytes: key.len() };
        if !KEY_BYTES.contains(&key.len()) {
            return Err(length);
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|_| length)
    }

    /// The signature of a message, as the header `webhook-signature` carries it.
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
    fn the_example_of_the_specification_is_signed_as_there() {
        let key = SigningKey::parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            key.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn a_secret_is_checked_and_never_printed() {
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
