//! The numbers of fans, and ids as records hold them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

/// A fan's place on the roll; never given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FanNumber(pub(crate) u32);

const SHEET_FANS: u32 = 16;

impl FanNumber {
    pub(crate) const fn first_on(sheet: u32) -> Self {
        Self(sheet * SHEET_FANS)
    }

    /// The next line of the same sheet.
    pub(crate) const fn next_on_sheet(self) -> Option<Self> {
        let next = self.0 + 1;
        if next.is_multiple_of(SHEET_FANS) { None } else { Some(Self(next)) }
    }

    pub(crate) const fn sheet(self) -> u32 {
        self.0 / SHEET_FANS
    }

    /// The line on its sheet.
    pub(crate) const fn line(self) -> usize {
        (self.0 % SHEET_FANS) as usize
    }
}

/// An id as stored: the bytes it stands for where it is base64url, else its text.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PackedId {
    Text(String),
    Base64(Vec<u8>),
}

/// The same, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub(crate) enum PackedRef<'a> {
    Text(#[serde(borrow)] &'a str),
    Base64(#[serde(borrow)] &'a [u8]),
}

impl PackedId {
    pub(crate) fn borrowed(&self) -> PackedRef<'_> {
        match self {
            Self::Text(text) => PackedRef::Text(text),
            Self::Base64(bytes) => PackedRef::Base64(bytes),
        }
    }

    pub(crate) fn of(id: &str) -> Self {
        match URL_SAFE_NO_PAD.decode(id) {
            // Only if nothing is lost on the way.
            Ok(bytes) if URL_SAFE_NO_PAD.encode(&bytes) == id => Self::Base64(bytes),
            _ => Self::Text(id.to_owned()),
        }
    }

    pub(crate) fn unpack<T, E: std::fmt::Display>(
        self,
        parse: impl Fn(String) -> Result<T, E>,
    ) -> Result<T, StoreError> {
        let text = match self {
            Self::Text(text) => text,
            Self::Base64(bytes) => URL_SAFE_NO_PAD.encode(bytes),
        };
        parse(text).map_err(|e| StoreError::Damaged(e.to_string()))
    }
}
