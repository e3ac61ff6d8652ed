//! What fans are found by beside their numbers: a unionid, or a pending id.

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
}

/// The hash of a clue, with a key of the store's own, so that ids cannot be chosen to collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Print(pub(crate) u64);
