//! Seals an echo string as WeCom does (documents 90930 and 90968), so that an operator can try a callback URL without
//! WeCom: from a phone, or from this machine.
//!
//! Deliberately absent: messages. Nobody but WeCom sends those.

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::zeroize::Zeroizing;

use super::cipher::{AesKeyError, LENIENT, PAD_MAX};
use super::signature::sign;
use crate::domain::time::Timestamp;

/// What the nonce of a trial begins with, so that it is not taken for a check by WeCom.
const TRIAL: &str = "unionlink";

/// A check of a callback URL that is no check by WeCom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The query of the URL, percent-encoded as WeCom's.
    pub query: String,
    /// What has to be answered, and nothing else.
    pub number: String,
}

/// What a trial is sealed with.
#[derive(Clone, Copy)]
pub struct Seal<'a> {
    /// The token of the URL.
    pub token: &'a str,
    /// Its `EncodingAESKey`, 43 characters.
    pub aes_key: &'a str,
    /// The receive id: the corp's, or the suite's.
    pub receive_id: &'a str,
}

impl Trial {
    /// Seals a number. With `plus`, the encrypted text has the characters that a proxy may spoil (`+`, `/` and `=`), or
    /// else no `+`.
    ///
    /// # Errors
    /// [`AesKeyError`].
    pub fn seal(with: Seal<'_>, now: Timestamp, plus: bool) -> Result<Self, AesKeyError> {
        let key = Zeroizing::new(LENIENT.decode(with.aes_key).map_err(|_| AesKeyError::Character)?);
        let key: &[u8; 32] =
            key.as_slice().try_into().map_err(|_| AesKeyError::Length(with.aes_key.len()))?;
        let number = format!("{}", rand::random_range(1_000_000_000_000_000_000..=u64::MAX / 2));
        // About three in four have a plus.
        let encrypted = loop {
            let encrypted = encrypt(key, rand::random(), &number, with.receive_id);
            if encrypted.contains('+') == plus && (!plus || encrypted.contains('/')) {
                break encrypted;
            }
        };
        let (timestamp, nonce) = (now.as_secs().to_string(), format!("{TRIAL}{}", rand::random::<u32>()));
        let signature = sign(with.token, &timestamp, &nonce, &encrypted);
        let signature: String = signature.iter().map(|byte| char::from(*byte)).collect();
        let echo = utf8_percent_encode(&encrypted, NON_ALPHANUMERIC);
        let query = format!("msg_signature={signature}&timestamp={timestamp}&nonce={nonce}&echostr={echo}");
        Ok(Self { query, number })
    }
}

/// Whether a URL check with this nonce, whose signature was verified, is a trial.
#[must_use]
pub fn is_trial(nonce: &str) -> bool {
    nonce.starts_with(TRIAL)
}

fn encrypt(key: &[u8; 32], random: [u8; 16], text: &str, receive_id: &str) -> String {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut plain = [&random, length.as_slice(), text.as_bytes(), receive_id.as_bytes()].concat();
    let pad = PAD_MAX - plain.len() % PAD_MAX;
    plain.extend(std::iter::repeat_n(u8::try_from(pad).unwrap_or_default(), pad));
    let mut iv = [0; 16];
    iv.copy_from_slice(&key[..16]);
    let encryptor = cbc::Encryptor::<Aes256>::new(key.into(), &iv.into());
    let length = plain.len();
    // Whole blocks by now.
    STANDARD.encode(encryptor.encrypt_padded::<NoPadding>(&mut plain, length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::{AesKey, Keys, Query, verify_echo};
    use super::*;

    #[test]
    fn a_trial_is_a_url_check_that_shows_its_number() {
        let aes_key = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
        let with = Seal { token: "token", aes_key, receive_id: "ww0123456789abcdef" };
        let keys = Keys::new("token".into(), AesKey::decode(aes_key).unwrap());
        for plus in [true, false] {
            for _ in 0..50 {
                let trial = Trial::seal(with, Timestamp::from_secs(1_795_309_323), plus).unwrap();
                let query = Query::parse(&trial.query).unwrap();
                assert!(is_trial(&query.nonce) && query.echostr.as_ref().unwrap().contains('+') == plus);
                let echo = verify_echo(&query, &keys).unwrap();
                assert_eq!(echo.text(), trial.number.as_bytes());
                assert_eq!(echo.receive_id(), b"ww0123456789abcdef");
            }
        }
        let short = Seal { aes_key: "abc", ..with };
        assert!(Trial::seal(short, Timestamp::EPOCH, true).is_err());
    }
}
