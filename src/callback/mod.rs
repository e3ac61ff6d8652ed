//! WeCom's callback format (documents 90930, 90238 and 90968): bytes in, verified message out, without I/O.
//!
//! ```text
//! query + body ──envelope──▶ encrypted text ──signature, then cipher──▶ VerifiedMessage
//! ```
//!
//! [`verify`] (a callback, POST) and [`verify_echo`] (the URL check, GET) are the only ways to a
//! [`VerifiedMessage`], so unverified input cannot be acted upon. Nothing outside this module decrypts. No
//! input, signed or not, causes a panic.
//!
//! Deliberately absent: what a message means ([`crate::intake`]).

mod cipher;
mod envelope;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod query;
mod refusal;
mod signature;
mod verified;
pub(crate) mod xml;

pub use cipher::{AesKey, AesKeyError};
pub use query::{Query, QueryError};
pub use refusal::Refusal;
pub use signature::sign;
pub use verified::VerifiedMessage;

use secrecy::{ExposeSecret, SecretString};

/// The secrets an app shares with WeCom for its callbacks: the token signs, the AES key encrypts.
#[derive(Debug)]
pub struct Keys {
    token: SecretString,
    aes_key: AesKey,
}

impl Keys {
    /// The token and the key that WeCom's admin console shows on the app's 接收消息 page.
    #[must_use]
    pub const fn new(token: SecretString, aes_key: AesKey) -> Self {
        Self { token, aes_key }
    }

    /// Checks the signature of `encrypted`, then decrypts it.
    fn open(&self, query: &Query<'_>, encrypted: &str) -> Result<VerifiedMessage, Refusal> {
        let Query { msg_signature, timestamp, nonce, .. } = query;
        let expected = sign(self.token.expose_secret(), timestamp, nonce, encrypted);
        if !signature::equal(&expected, msg_signature) {
            return Err(Refusal::Signature);
        }
        self.aes_key.decrypt(encrypted)
    }
}

/// Verifies and decrypts a callback (POST). The encrypted text is the `Encrypt` field of an XML or JSON
/// envelope; the envelope's other fields are not authenticated and are ignored.
///
/// # Errors
/// The [`Refusal`] of the first check that fails: envelope, signature, then content.
pub fn verify(query: &Query<'_>, body: &[u8], keys: &Keys) -> Result<VerifiedMessage, Refusal> {
    let encrypted = envelope::encrypted(body).ok_or(Refusal::Envelope)?;
    keys.open(query, &encrypted)
}

/// Verifies and decrypts a URL check (GET). The encrypted text is the `echostr` parameter.
///
/// # Errors
/// [`Refusal::Query`] without `echostr`, otherwise as [`verify`].
pub fn verify_echo(query: &Query<'_>, keys: &Keys) -> Result<VerifiedMessage, Refusal> {
    let encrypted = query.echostr.as_deref().ok_or(Refusal::Query)?;
    keys.open(query, encrypted)
}

#[cfg(test)]
mod tests;
