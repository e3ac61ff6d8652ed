//! The language in which commands print the service's texts.
//!
//! Deliberately absent: the texts, which come from the service, and the commands' own messages, which are
//! English.

use super::table::plain;
use crate::domain::text::Text;

/// A value of `--lang`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Lang {
    En,
    Zh,
    Both,
}

impl Lang {
    /// The lines of a text: one for each language, one if they are equal.
    pub(super) fn lines(self, text: &Text) -> Vec<String> {
        match self {
            Self::Both if text.en != text.zh => vec![plain(&text.en), plain(&text.zh)],
            Self::En | Self::Both => vec![plain(&text.en)],
            Self::Zh => vec![plain(&text.zh)],
        }
    }
}
