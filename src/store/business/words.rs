//! Which ids the text of a message contains.
//!
//! Deliberately absent: what a message means. The text may be unreadable, or of an unknown kind.

use std::collections::BTreeSet;

use memchr::memmem;

use crate::domain::ids::ExternalUserid;

/// The longest id of a person, in bytes; a unionid is no longer.
const ID_BYTES_MAX: usize = ExternalUserid::BYTES_MAX;

/// Whether ids contain such a byte. The others separate the words of a message.
const fn is_part_of_an_id(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'@' | b'.')
}

/// Whether a message contains this id, and not only as a part of another.
pub(crate) fn names(message: &[u8], id: &str) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| is_part_of_an_id(*byte));
    let finder = memmem::Finder::new(id);
    // Also occurrences that overlap another.
    let next = |from: usize| Some(from + finder.find(message.get(from..)?)?);
    std::iter::successors(next(0), |at| next(at + 1))
        .any(|at| !is_part(message[..at].last()) && !is_part(message.get(at + id.len())))
}

/// The words of a message that may be ids: every id that it [`names`] is among them, unless the id has a byte
/// that no id of WeCom has.
pub(crate) fn words(message: &[u8]) -> BTreeSet<&str> {
    let words = message.split(|byte| !is_part_of_an_id(*byte));
    let possible = words.filter(|word| (1..=ID_BYTES_MAX).contains(&word.len()));
    possible.filter_map(|word| std::str::from_utf8(word).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_names_whole_ids_only() {
        let message =
            b"<xml><ExternalUserID><![CDATA[wmAB-cd_1]]></ExternalUserID>{\"unionid\":\"oXY\"}</xml>";
        for id in ["wmAB-cd_1", "oXY"] {
            assert!(names(message, id), "{id}");
        }
        for id in ["wm", "wmAB", "cd_1", "AB-cd", "o", "XY", "oXYZ"] {
            assert!(!names(message, id), "{id}");
        }
        assert!(names(b"oXY", "oXY") && !names(b"", "oXY"));
    }

    proptest! {
        #[test]
        fn the_ids_that_a_message_names_are_its_words(
            message in "[ab<>_=@. \u{e9}-]{0,40}", id in "[ab_=@.-]{1,4}", at in 0_usize..40, alone: bool
        ) {
            let (before, after) = message.as_bytes().split_at(at.min(message.len()));
            let separator: &[u8] = if alone { b">" } else { b"" };
            let message = [before, separator, id.as_bytes(), separator, after].concat();
            prop_assert_eq!(words(&message).contains(id.as_str()), names(&message, &id));
            prop_assert!(!alone || names(&message, &id));
        }
    }
}
