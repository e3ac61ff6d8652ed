//! AES-256-CBC as WeCom uses it (document 90968).
//!
//! Three things differ from what libraries assume. The key's 43 base64 characters usually carry non-zero
//! trailing bits, which a strict decoder refuses. The padding is PKCS#7 to **32** bytes, so pads of 17 to 32
//! are common and a block-16 unpadder refuses them. And the plaintext has a header of its own:
//! `random (16) ‖ length (4, big-endian, of bytes) ‖ message ‖ receive id`.
//!
//! Deliberately absent: encryption, of which we need little (see `seal`).

use std::fmt;

use aes::Aes256Dec;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, InnerIvInit, KeyInit};
use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretBox};

use super::refusal::Refusal;
use super::verified::{KeyAge, VerifiedMessage};

pub(super) const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const KEY_CHARS: usize = 43;
pub(super) const HEADER_BYTES: usize = 20;
pub(super) const PAD_MAX: usize = 32;

/// The decoded `EncodingAESKey`: the AES round keys, expanded once, and the IV (the key's first half). Both
/// are wiped from memory when dropped.
pub struct AesKey {
    rounds: Box<Aes256Dec>,
    iv: SecretBox<[u8; 16]>,
}

/// Why a text is not an `EncodingAESKey`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AesKeyError {
    /// Not 43 characters.
    #[error("has {0} characters instead of 43")]
    Length(usize),
    /// A character other than a letter or digit.
    #[error("has a character other than A-Z, a-z and 0-9")]
    Character,
}

impl AesKey {
    /// Decodes the 43 characters shown in the admin console.
    ///
    /// # Errors
    /// [`AesKeyError`] when it is not 43 letters and digits.
    pub fn decode(text: &str) -> Result<Self, AesKeyError> {
        if text.len() != KEY_CHARS {
            return Err(AesKeyError::Length(text.chars().count()));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(AesKeyError::Character);
        }
        let bytes = Zeroizing::new(LENIENT.decode(text).map_err(|_| AesKeyError::Character)?);
        let rounds = Aes256Dec::new_from_slice(&bytes).map_err(|_| AesKeyError::Length(text.len()))?;
        let iv = *bytes.first_chunk().ok_or(AesKeyError::Length(text.len()))?;
        Ok(Self { rounds: Box::new(rounds), iv: SecretBox::new(Box::new(iv)) })
    }

    /// Decrypts base64 text whose signature was verified.
    pub(super) fn decrypt(&self, encrypted: &str) -> Result<VerifiedMessage, Refusal> {
        let mut plaintext = LENIENT.decode(encrypted).map_err(|_| Refusal::Cipher)?;
        let whole = cbc::Decryptor::inner_iv_init(&*self.rounds, self.iv.expose_secret().into())
            .decrypt_padded::<NoPadding>(&mut plaintext)
            .map_err(|_| Refusal::Cipher)?;
        let length = unpadded_length(whole)?;
        let (header, content) = whole[..length].split_first_chunk::<HEADER_BYTES>().ok_or(Refusal::Length)?;
        let [.., a, b, c, d] = *header;
        let message_length =
            usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| Refusal::Length)?;
        if message_length > content.len() {
            return Err(Refusal::Length);
        }
        let text = HEADER_BYTES..HEADER_BYTES + message_length;
        let receive_id = text.end..length;
        Ok(VerifiedMessage { plaintext, text, receive_id, opened_with: KeyAge::Current })
    }
}

/// The length without the padding, which is 1 to 32 bytes, each equal to their count.
fn unpadded_length(whole: &[u8]) -> Result<usize, Refusal> {
    let pad = *whole.last().ok_or(Refusal::Cipher)?;
    let length = match usize::from(pad) {
        count @ 1..=PAD_MAX => whole.len().checked_sub(count).ok_or(Refusal::Padding)?,
        _ => return Err(Refusal::Padding),
    };
    let equal = whole[length..].iter().all(|byte| *byte == pad);
    if equal { Ok(length) } else { Err(Refusal::Padding) }
}

impl fmt::Debug for AesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesKey([REDACTED])")
    }
}
