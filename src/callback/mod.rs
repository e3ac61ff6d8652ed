//! WeCom's callback format, without any I/O: bytes in, verdict out. Documents 90930, 90238 and 90968.
//!
//! ```text
//! query + body ──envelope──▶ Sealed ──open(&Keys)──▶ Opened ──message──▶ Event
//!                         (unverified)             (verified)
//! ```
//!
//! [`Sealed`] and [`Opened`] are different types and [`Sealed::open`] is the only way from one to the other:
//! what nobody has verified cannot be acted upon. Nothing outside this module sees ciphertext or the AES key.
//!
//! No bytes whatsoever, signed or not, make anything here panic.

mod cipher;
mod envelope;
pub mod message;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod query;
mod signature;
mod xml;

pub use cipher::{AesKey, AesKeyError};
pub use query::{Query, QueryError};
pub use signature::sign;

use secrecy::{ExposeSecret, SecretString};

/// Why a callback is refused. Told to nobody but our own metrics: the caller gets the same empty answer for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// A parameter is missing or given twice, or the query is not valid UTF-8 after decoding.
    #[error("the query lacks a parameter")]
    Query,
    /// The body is neither WeCom's XML envelope nor its JSON one.
    #[error("the body is not an envelope")]
    Envelope,
    /// The signature is not ours.
    #[error("the signature does not match")]
    Signature,
    /// The text is not base64, or not whole AES blocks.
    #[error("the ciphertext is malformed")]
    Cipher,
    /// The padding after decryption is not 1 to 32 equal bytes.
    #[error("the padding is malformed")]
    Padding,
    /// The length inside the plaintext leaves its bounds.
    #[error("the length is out of bounds")]
    Length,
}

impl Refusal {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [Self; 6] =
        [Self::Query, Self::Envelope, Self::Signature, Self::Cipher, Self::Padding, Self::Length];

    /// The name used in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Envelope => "envelope",
            Self::Signature => "signature",
            Self::Cipher => "cipher",
            Self::Padding => "padding",
            Self::Length => "length",
        }
    }
}

/// What an app shares with WeCom for its callbacks.
#[derive(Debug)]
pub struct Keys {
    token: SecretString,
    aes_key: AesKey,
}

impl Keys {
    /// The pair entered in the admin console.
    #[must_use]
    pub const fn new(token: SecretString, aes_key: AesKey) -> Self {
        Self { token, aes_key }
    }
}

/// A callback as it arrived: nothing in it can be believed.
#[derive(Debug)]
pub struct Sealed<'a> {
    query: &'a Query<'a>,
    encrypted: std::borrow::Cow<'a, str>,
}

/// A callback whose signature and encryption are WeCom's.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    plaintext: Vec<u8>,
    message: std::ops::Range<usize>,
    receive_id: std::ops::Range<usize>,
}

impl<'a> Sealed<'a> {
    /// The verification request (GET): the sealed text is the `echostr` parameter.
    ///
    /// # Errors
    /// [`Refusal::Query`] without `echostr`.
    pub fn from_echo(query: &'a Query<'_>) -> Result<Self, Refusal> {
        let encrypted = query.echostr.as_deref().ok_or(Refusal::Query)?;
        Ok(Self { query, encrypted: encrypted.into() })
    }

    /// An event (POST): the sealed text is the `Encrypt` field of an XML or JSON envelope. Its other fields
    /// are not authenticated and not looked at.
    ///
    /// # Errors
    /// [`Refusal::Envelope`] when there is no such field.
    pub fn from_body(query: &'a Query<'_>, body: &'a [u8]) -> Result<Self, Refusal> {
        Ok(Self { query, encrypted: envelope::encrypted(body).ok_or(Refusal::Envelope)? })
    }

    /// Verifies the signature, then decrypts.
    ///
    /// # Errors
    /// The [`Refusal`] that applies; the cheapest checks come first.
    pub fn open(&self, keys: &Keys) -> Result<Opened, Refusal> {
        let Query { msg_signature, timestamp, nonce, .. } = self.query;
        let ours = sign(keys.token.expose_secret(), timestamp, nonce, &self.encrypted);
        if !signature::equal(&ours, msg_signature) {
            return Err(Refusal::Signature);
        }
        keys.aes_key.decrypt(&self.encrypted)
    }
}

impl Opened {
    /// The message: an echo's text, or an event's XML or JSON.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.plaintext.get(self.message.clone()).unwrap_or_default()
    }

    /// Whom WeCom sealed this for: a corp id or suite id; may be empty.
    #[must_use]
    pub fn receive_id(&self) -> &[u8] {
        self.plaintext.get(self.receive_id.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
