//! A message whose signature and cipher held.

use std::fmt;
use std::ops::Range;

use strum::{IntoStaticStr, VariantArray};

/// Which pair of token and key a message was signed and encrypted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum KeyAge {
    /// The present one.
    Current,
    /// The one before, which may be removed once it opens nothing any more.
    Previous,
}

/// A decrypted message from WeCom whose signature was verified: only [`verify`](super::verify) and
/// [`verify_echo`](super::verify_echo) make one from a request. Its `Debug` does not print the message, which
/// may contain a secret or name a person.
#[derive(PartialEq, Eq)]
pub struct VerifiedMessage {
    pub(super) plaintext: Vec<u8>,
    pub(super) text: Range<usize>,
    pub(super) receive_id: Range<usize>,
    pub(super) opened_with: KeyAge,
}

impl VerifiedMessage {
    /// A message that was verified before it was quarantined, read back from the store.
    #[must_use]
    pub fn from_quarantine(receive_id: &str, text: Vec<u8>) -> Self {
        let (text_end, mut plaintext) = (text.len(), text);
        plaintext.extend_from_slice(receive_id.as_bytes());
        let receive_id = text_end..plaintext.len();
        Self { plaintext, text: 0..text_end, receive_id, opened_with: KeyAge::Current }
    }

    /// The message: an event's XML or JSON, or the echo of a URL check.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.plaintext.get(self.text.clone()).unwrap_or_default()
    }

    /// Which token and key it was signed and encrypted with.
    #[must_use]
    pub const fn opened_with(&self) -> KeyAge {
        self.opened_with
    }

    /// The corp id or suite id that WeCom encrypted this for; may be empty.
    #[must_use]
    pub fn receive_id(&self) -> &[u8] {
        self.plaintext.get(self.receive_id.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for VerifiedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedMessage")
            .field("bytes", &self.text().len())
            .field("receive_id", &String::from_utf8_lossy(self.receive_id()))
            .finish_non_exhaustive()
    }
}
