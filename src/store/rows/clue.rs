//! What fans are found by beside their numbers: a unionid, or a pending id.

use sha2::{Digest, Sha256};

use super::ids::PackedRef;

/// What a fan is looked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Clue<'a> {
    is_pending_id: bool,
    id: PackedRef<'a>,
}

impl<'a> Clue<'a> {
    pub(crate) const fn unionid(id: PackedRef<'a>) -> Self {
        Self { is_pending_id: false, id }
    }

    pub(crate) const fn pending_id(id: PackedRef<'a>) -> Self {
        Self { is_pending_id: true, id }
    }

    /// A print that is the same wherever it is made with this salt.
    pub(crate) fn print(&self, salt: [u8; 16]) -> Print {
        let (is_text, id) = match self.id {
            PackedRef::Text(text) => (true, text.as_bytes()),
            PackedRef::Base64(bytes) => (false, bytes),
        };
        let kind = [u8::from(self.is_pending_id), u8::from(is_text)];
        let digest = Sha256::new().chain_update(salt).chain_update(kind).chain_update(id).finalize();
        Print(digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }
}

/// The hash of a clue, with a key of the store's own, so that ids cannot be chosen to collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Print(pub(crate) u64);
