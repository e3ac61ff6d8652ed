//! The platform's half of the callback cipher: encrypting and signing (documents 90968 and 90930).
//!
//! Written from the documents alone and apart from `crate::callback`, so that an error in one of the two
//! cannot be hidden by the same error in the other.
//!
//! Deliberately absent: decryption and verification; the platform never receives sealed messages.

use aes::Aes256;
use aes::cipher::{Array, BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::RngExt;
use rand::rngs::StdRng;
use sha1::{Digest, Sha1};

use super::error::SimulatorError;
use super::event::Event;
use super::ids;
use super::model::CallbackSpec;
use crate::domain::ids::hex;

/// The block size of the padding, which is not the block size of AES.
const PAD_BYTES: usize = 32;

/// Decodes an AES key. WeCom's generator does not clear the two surplus bits of the 43rd character, so they
/// are ignored.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A callback as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCallback {
    /// The callback URL without the query.
    pub url: String,
    /// `msg_signature=…&timestamp=…&nonce=…`
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

/// What differs between two callbacks with the same event.
#[derive(Debug)]
pub(super) struct SealParams {
    /// The random bytes that are encrypted before the message.
    pub(super) random: [u8; 16],
    pub(super) nonce: String,
    pub(super) timestamp: String,
}

impl SealParams {
    pub(super) fn draw(rng: &mut StdRng, now_secs: i64) -> Self {
        let mut random = [0_u8; 16];
        rng.fill(&mut random);
        Self { random, nonce: ids::nonce(rng), timestamp: now_secs.to_string() }
    }
}

/// Seals messages for one callback configuration.
pub(super) struct Sealer {
    pub(super) url: String,
    token: String,
    key: [u8; 32],
}

impl Sealer {
    pub(super) fn new(callback: &CallbackSpec) -> Result<Self, SimulatorError> {
        let CallbackSpec { url, token, aes_key } = callback;
        let is_well_formed = aes_key.len() == 43 && aes_key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let key = KEY_BASE64
            .decode(aes_key)
            .ok()
            .filter(|_| is_well_formed)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or(SimulatorError::BadAesKey)?;
        Ok(Self { url: url.clone(), token: token.clone(), key })
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
        hex(&Sha1::digest(parts.concat()))
    }

    /// Seals an event for `receive_id`.
    pub(super) fn seal(&self, event: &Event, receive_id: &str, params: &SealParams) -> SealedCallback {
        self.envelope(&self.encrypt(params.random, &event.inner, receive_id), event, params)
    }

    /// The signed envelope around a real or forged ciphertext, with the unencrypted fields of `event`.
    pub(super) fn envelope(&self, encrypted: &str, event: &Event, params: &SealParams) -> SealedCallback {
        // Empty in the events of a template.
        let agent_id = if event.suite_id.is_some() { String::new() } else { event.agent_id.to_string() };
        let body = format!(
            "<xml><ToUserName><![CDATA[{}]]></ToUserName><Encrypt><![CDATA[{encrypted}]]></Encrypt>\
             <AgentID><![CDATA[{agent_id}]]></AgentID></xml>",
            event.to_user_name,
        );
        SealedCallback { url: self.url.clone(), query: self.signed_query(encrypted, params), body }
    }

    /// The URL that verifies the callback configuration: the service has to answer it with `echo`.
    pub(super) fn verification_url(&self, echo: &str, receive_id: &str, params: &SealParams) -> String {
        let encrypted = self.encrypt(params.random, echo, receive_id);
        let query = self.signed_query(&encrypted, params);
        join(&self.url, &format!("{query}&echostr={}", utf8_percent_encode(&encrypted, NON_ALPHANUMERIC)))
    }

    /// The query that signs `encrypted`. Only digits and hexadecimal: nothing has to be percent-encoded.
    fn signed_query(&self, encrypted: &str, params: &SealParams) -> String {
        let SealParams { timestamp, nonce, .. } = params;
        let signature = self.signature(timestamp, nonce, encrypted);
        format!("msg_signature={signature}&timestamp={timestamp}&nonce={nonce}")
    }
}

fn join(url: &str, query: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{query}")
}
