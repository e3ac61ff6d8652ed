//! WeCom's callback format (documents 90930, 90238 and 90968): bytes in, verified message out, without I/O.
//!
//! ```text
//! query + body ──envelope──▶ encrypted text ──signature, then cipher──▶ VerifiedMessage
//! ```
//!
//! [`verify`] (a callback, POST) and [`verify_echo`] (the URL check, GET) are the only ways to a
//! [`VerifiedMessage`], so unverified input cannot be acted upon. Nothing outside this module decrypts. A [`Trial`] is a
//! URL check of our own. No input, signed or not, causes a panic.
//!
//! Deliberately absent: what a message means ([`crate::intake`]).

mod cipher;
mod envelope;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod query;
mod refusal;
mod seal;
mod signature;
mod verified;
pub(crate) mod xml;

pub use cipher::{AesKey, AesKeyError};
pub use query::{Query, QueryError};
pub use refusal::Refusal;
pub use seal::{Seal, Trial, is_trial};
pub use signature::sign;
pub use verified::{KeyAge, VerifiedMessage};

use secrecy::{ExposeSecret, SecretString};

/// The secrets an app shares with WeCom for its callbacks: the token signs, the AES key encrypts. While they
/// are changed, the ones before are accepted too.
#[derive(Debug)]
pub struct Keys {
    token: SecretString,
    aes_key: AesKey,
    /// What a previous token or key is instead; of a pair, the missing one is the current one.
    previous: Option<(Option<SecretString>, Option<AesKey>)>,
}

impl Keys {
    /// The token and the key that WeCom's admin console shows on the app's 接收消息 page.
    #[must_use]
    pub const fn new(token: SecretString, aes_key: AesKey) -> Self {
        Self { token, aes_key, previous: None }
    }

    /// The same, with the token, the key or both from before a change, which are accepted too.
    #[must_use]
    pub fn with_previous(self, token: Option<SecretString>, aes_key: Option<AesKey>) -> Self {
        let previous = (token.is_some() || aes_key.is_some()).then_some((token, aes_key));
        Self { previous, ..self }
    }

    /// Checks the signature of `encrypted`, then decrypts it. If neither pair opens it, the refusal is that of
    /// the pair whose signature held.
    fn open(&self, query: &Query<'_>, encrypted: &str) -> Result<VerifiedMessage, Refusal> {
        let Self { token, aes_key, previous } = self;
        let (refusal, previous) = match (open_with(token, aes_key, query, encrypted), previous) {
            (Err(refusal), Some(previous)) => (refusal, previous),
            (opened, _) => return opened,
        };
        let (token, aes_key) = (previous.0.as_ref().unwrap_or(token), previous.1.as_ref().unwrap_or(aes_key));
        match open_with(token, aes_key, query, encrypted) {
            Ok(message) => Ok(VerifiedMessage { opened_with: KeyAge::Previous, ..message }),
            Err(other) if refusal == Refusal::Signature => Err(other),
            Err(_) => Err(refusal),
        }
    }
}

fn open_with(
    token: &SecretString,
    aes_key: &AesKey,
    query: &Query<'_>,
    encrypted: &str,
) -> Result<VerifiedMessage, Refusal> {
    let Query { msg_signature, timestamp, nonce, .. } = query;
    let expected = sign(token.expose_secret(), timestamp, nonce, encrypted);
    if !signature::equal(&expected, msg_signature) {
        return Err(Refusal::Signature);
    }
    aes_key.decrypt(encrypted)
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
