//! The platform's half of the callback cipher: sign and encrypt (documents 90968 and 90930).
//!
//! Written from the documents alone and apart from `crate::callback`, so that an error in one of the two
//! cannot hide behind the same error in the other.
//!
//! Deliberately absent: decryption and verification; the platform never receives sealed messages here.

use aes::Aes256;
use aes::cipher::{Array, BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::{Digest, Sha1};

use super::error::SimulatorError;
use super::ids;

/// The block the padding fills, which is not the block of AES.
const PAD_BYTES: usize = 32;

/// `WeCom`'s generator leaves the two surplus bits of the 43rd character set as they fall.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A callback as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCallback {
    /// The callback URL without the query.
    pub url: String,
    /// `msg_signature=…&timestamp=…&nonce=…`, percent-encoded.
    pub query: String,
    /// The XML envelope.
    pub body: String,
}

impl SealedCallback {
    /// The URL with the query.
    #[must_use]
    pub fn full_url(&self) -> String {
        join(&self.url, &self.query)
    }
}

/// What surrounds a sealed message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer<'a> {
    pub(super) to_user_name: &'a str,
    pub(super) agent_id: &'a str,
}

/// The token and key of one callback configuration.
#[derive(Clone)]
pub(super) struct Sealer {
    token: String,
    key: [u8; 32],
}

impl Sealer {
    pub(super) fn new(token: &str, encoding_aes_key: &str) -> Result<Self, SimulatorError> {
        let is_well_formed =
            encoding_aes_key.len() == 43 && encoding_aes_key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let key = KEY_BASE64
            .decode(encoding_aes_key)
            .ok()
            .filter(|_| is_well_formed)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or(SimulatorError::BadAesKey)?;
        Ok(Self { token: token.to_owned(), key })
    }

    /// `base64(aes-256-cbc(random ‖ length ‖ message ‖ receive id ‖ padding))`
    pub(super) fn encrypt(&self, random: [u8; 16], message: &str, receive_id: &str) -> String {
        let mut plain = Vec::with_capacity(20 + message.len() + receive_id.len() + PAD_BYTES);
        plain.extend_from_slice(&random);
        plain.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        plain.extend_from_slice(message.as_bytes());
        plain.extend_from_slice(receive_id.as_bytes());
        let pad = PAD_BYTES - plain.len() % PAD_BYTES;
        plain.resize(plain.len() + pad, u8::try_from(pad).unwrap_or_default());

        let mut iv = [0_u8; 16];
        iv.copy_from_slice(&self.key[..16]);
        let mut cipher = cbc::Encryptor::<Aes256>::new(&self.key.into(), &iv.into());
        // 32 is a multiple of the AES block, so nothing remains.
        let (blocks, _) = Array::slice_as_chunks_mut(&mut plain);
        cipher.encrypt_blocks(blocks);
        STANDARD.encode(plain)
    }

    /// `sha1` over the sorted token, timestamp, nonce and ciphertext, in lower-case hexadecimal.
    pub(super) fn signature(&self, timestamp: &str, nonce: &str, encrypted: &str) -> String {
        let mut parts = [self.token.as_str(), timestamp, nonce, encrypted];
        parts.sort_unstable();
        let mut sha1 = Sha1::new();
        for part in parts {
            sha1.update(part.as_bytes());
        }
        sha1.finalize().iter().fold(String::with_capacity(40), |mut hex, byte| {
            for digit in [byte >> 4, byte & 0xf] {
                hex.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
            hex
        })
    }
}

/// What a seal draws from chance and from the clock.
#[derive(Debug, Clone)]
pub(super) struct Salt {
    pub(super) random: [u8; 16],
    pub(super) nonce: String,
    pub(super) timestamp: String,
}

impl Salt {
    pub(super) fn draw(rng: &mut rand::rngs::StdRng, now_secs: i64) -> Self {
        let mut random = [0_u8; 16];
        rand::RngExt::fill(rng, &mut random);
        Self { random, nonce: ids::nonce(rng), timestamp: now_secs.to_string() }
    }
}

/// Seals `message` for `url`.
pub(super) fn seal(
    sealer: &Sealer,
    url: &str,
    message: &str,
    receive_id: &str,
    outer: Outer<'_>,
    salt: &Salt,
) -> SealedCallback {
    envelope(sealer, url, &sealer.encrypt(salt.random, message, receive_id), outer, salt)
}

/// Signs and wraps something that is, or pretends to be, a ciphertext.
pub(super) fn envelope(
    sealer: &Sealer,
    url: &str,
    encrypted: &str,
    outer: Outer<'_>,
    salt: &Salt,
) -> SealedCallback {
    let body = format!(
        "<xml><ToUserName><![CDATA[{}]]></ToUserName><Encrypt><![CDATA[{encrypted}]]></Encrypt>\
         <AgentID><![CDATA[{}]]></AgentID></xml>",
        outer.to_user_name, outer.agent_id,
    );
    let signature = sealer.signature(&salt.timestamp, &salt.nonce, encrypted);
    let query =
        query(&[("msg_signature", &signature), ("timestamp", &salt.timestamp), ("nonce", &salt.nonce)]);
    SealedCallback { url: url.to_owned(), query, body }
}

/// The URL that verifies a callback configuration; the right answer to it is `echo`.
pub(super) fn verification_url(
    sealer: &Sealer,
    url: &str,
    echo: &str,
    receive_id: &str,
    salt: &Salt,
) -> String {
    let echostr = sealer.encrypt(salt.random, echo, receive_id);
    let signature = sealer.signature(&salt.timestamp, &salt.nonce, &echostr);
    join(
        url,
        &query(&[
            ("msg_signature", &signature),
            ("timestamp", &salt.timestamp),
            ("nonce", &salt.nonce),
            ("echostr", &echostr),
        ]),
    )
}

fn query(pairs: &[(&str, &str)]) -> String {
    let encoded: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    encoded.join("&")
}

fn join(url: &str, query: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{query}")
}
