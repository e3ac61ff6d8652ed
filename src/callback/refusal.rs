//! Why a callback is refused.

use strum::{IntoStaticStr, VariantArray};

/// Why a callback is refused. Only our metrics and our log have the reason: the sender gets the same empty
/// answer for every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// A parameter is missing or given twice, or the query is not valid UTF-8 after decoding.
    #[error("the query is malformed")]
    Query,
    /// The body is neither WeCom's XML envelope nor its JSON one.
    #[error("the body is not an envelope")]
    Envelope,
    /// The signature does not match.
    #[error("the signature does not match")]
    Signature,
    /// The ciphertext is not base64, or not whole AES blocks.
    #[error("the ciphertext is malformed")]
    Cipher,
    /// The padding after decryption is not 1 to 32 equal bytes.
    #[error("the padding is malformed")]
    Padding,
    /// The message length inside the plaintext exceeds the plaintext.
    #[error("the length is out of bounds")]
    Length,
    /// A URL check whose echo string is a callback's message: answering it would decrypt for the sender.
    #[error("the echo string is a message")]
    Echo,
    /// The request comes from an address that is not on WeCom's list.
    #[error("the source is not on WeCom's list")]
    Source,
    /// A URL check that is encrypted for a corp or suite that is not accepted.
    #[error("the receive id is not accepted")]
    ReceiveId,
}
