//! The identifiers, each a type of its own.
//!
//! WeCom's ids are opaque and case-sensitive. The only rules here are those that storage needs: a bounded
//! length, no control characters (the store joins ids with NUL) and no white space. `Debug` of a personal id
//! prints a short hash, so that the id itself cannot get into a log; [`as_str`](Unionid::as_str) returns the
//! text.
//!
//! A unionid or openid that the brand registers must also look like one that WeChat issues
//! ([`Unionid::from_input`]): WeCom would refuse any other, after a call. Stored ids and those in WeCom's
//! answers are not held to that.
//!
//! Deliberately absent: any assumption about the prefixes of WeCom's ids (`wp…`, `wr…`), which are not
//! documented; [`ExternalUserid::cannot_be_member`] is the one exception, and only saves a call.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Why a text cannot be an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// An empty text.
    #[error("is empty")]
    Empty,
    /// Longer than this kind of id may be.
    #[error("is longer than {max} bytes")]
    TooLong {
        /// The longest accepted length in bytes.
        max: usize,
    },
    /// A control character or white space, which no id of WeCom contains.
    #[error("contains white space or a control character")]
    Character,
    /// In input: a number in scientific notation, such as `1.23457E+15`.
    #[error(
        "is a number that Excel has made of the id: format the column as text and export it again \
         (expected o and 19 to 63 letters, digits, _ or -)"
    )]
    ChangedByExcel,
    /// In input: no unionid or openid as WeChat issues them.
    #[error("is not an id that WeChat issues (expected o and 19 to 63 letters, digits, _ or -)")]
    NotIssued,
}

/// How many characters follow the `o` of a unionid or openid in input. Lenient: real ones have 27, masked
/// samples in WeCom's documents up to 29.
const ISSUED_CHARS: RangeInclusive<usize> = 19..=63;

/// Whether `text` looks like a unionid or openid that WeChat issues, or why it does not.
fn issued(text: &str) -> Result<(), IdError> {
    let is_issued = text.strip_prefix('o').is_some_and(|rest| {
        ISSUED_CHARS.contains(&rest.len())
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    });
    if is_issued {
        return Ok(());
    }
    checked(text, 1 + ISSUED_CHARS.end())?;
    let is_scientific = text.starts_with(|c: char| c.is_ascii_digit())
        && text.contains(['e', 'E'])
        && text.parse::<f64>().is_ok();
    Err(if is_scientific { IdError::ChangedByExcel } else { IdError::NotIssued })
}

fn checked(text: &str, max: usize) -> Result<(), IdError> {
    if text.is_empty() {
        Err(IdError::Empty)
    } else if text.len() > max {
        Err(IdError::TooLong { max })
    } else if text.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic()) {
        // The fast path, without a branch per byte: all ids seen so far are ASCII.
        Ok(())
    } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Err(IdError::Character)
    } else {
        Ok(())
    }
}

/// Eight hexadecimal digits of the SHA-256 of `text`: enough to follow one person through a log, not enough
/// to identify the person.
#[must_use]
pub fn short_hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..4])
}

/// The bytes in hexadecimal, two lower-case digits each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        use fmt::Write as _;
        let _ = write!(out, "{byte:02x}");
        out
    })
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident, $max:literal, personal) => {
        opaque_id!(@type $(#[$doc])* $name, $max);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "#{}", short_hash(&self.0))
            }
        }
    };
    ($(#[$doc:meta])* $name:ident, $max:literal, public) => {
        opaque_id!(@type $(#[$doc])* $name, $max);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
    (@type $(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The longest accepted text, in bytes.
            pub const BYTES_MAX: usize = $max;

            /// The id with exactly this text.
            ///
            /// # Errors
            /// [`IdError`] when the text is empty, too long, or contains white space or a control character.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                checked(text, $max)?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                checked(&text, $max)?;
                Ok(Self(text.into_boxed_str()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into_string()
            }
        }
    };
}

opaque_id!(
    /// The name of an app or suite in the configuration, where both share one namespace: the `{name}` of
    /// `/callback/{name}`.
    AppName, 64, public
);
opaque_id!(
    /// A suite as WeCom knows it (`dk…`): the template (代开发应用模版) of agency-developed apps.
    SuiteId, 64, public
);
opaque_id!(
    /// The name of a sink in the configuration.
    SinkName, 64, public
);
opaque_id!(
    /// The name of a token of the admin API in the configuration.
    TokenName, 64, public
);
opaque_id!(
    /// A corp: the brand (`ww…`) or, as the brand's app sees it, a dealer (`wp…`).
    CorpId, 128, public
);
opaque_id!(
    /// A person, the same in all apps of one WeChat open-platform account.
    Unionid, 128, personal
);
opaque_id!(
    /// A person in one mini-program or 公众号.
    Openid, 128, personal
);
opaque_id!(
    /// A person as a customer of one corp.
    ExternalUserid, 128, personal
);
opaque_id!(
    /// The id that WeCom gives for both a fan and a customer who are one person: valid for 90 days, and only
    /// within one app (document 97357).
    PendingId, 255, personal
);
opaque_id!(
    /// A member of a corp, as the follower of a customer.
    UserId, 128, personal
);
opaque_id!(
    /// A customer group (客户群).
    ChatId, 128, public
);

macro_rules! from_input {
    ($name:ident) => {
        impl $name {
            /// The id in a fan that the brand registers.
            ///
            /// # Errors
            /// [`IdError`] unless the text looks like an id that WeChat issues: `o` and 19 to 63 of
            /// `[A-Za-z0-9_-]`.
            pub fn from_input(text: &str) -> Result<Self, IdError> {
                issued(text)?;
                Self::new(text)
            }
        }
    };
}

from_input!(Unionid);
from_input!(Openid);

impl ExternalUserid {
    /// Whether an id in the event of a customer group, which mixes members and customers, is surely not a
    /// member's: the id of a WeChat user begins with `wm`, a member's never does. False for a customer that
    /// uses WeCom, too.
    #[must_use]
    pub fn cannot_be_member(&self) -> bool {
        self.0.starts_with("wm")
    }
}

impl CorpId {
    /// Whether `other` is the id of the same corp. Plain ids (`ww…`, `wx…`) are compared without regard to
    /// case, encrypted ones (`wp…`) exactly.
    #[must_use]
    pub fn same_corp(&self, other: &str) -> bool {
        let plain = |id: &str| {
            id.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("ww") || p.eq_ignore_ascii_case("wx"))
        };
        self.0.as_ref() == other || (plain(&self.0) && plain(other) && self.0.eq_ignore_ascii_case(other))
    }

    /// The one spelling of this corp's id, as a key: of two ids of the [same corp](Self::same_corp) it is the
    /// same.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let lower = Self(self.0.to_ascii_lowercase().into());
        if self.same_corp(lower.as_str()) { lower } else { self.clone() }
    }
}

/// One customer of one dealer, inside one app.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ContactKey {
    /// The app through which we see the dealer.
    pub app: AppName,
    /// The corp whose customer this is.
    pub corp_id: CorpId,
    /// The customer.
    pub external_userid: ExternalUserid,
}

/// One fan of one app.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FanKey {
    /// The app whose pending ids this fan gets.
    pub app: AppName,
    /// The fan.
    pub unionid: Unionid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_ids_are_printed_as_a_hash() {
        let unionid = Unionid::new("oINVENTED-unionid-0001").unwrap();
        let printed = format!("{unionid:?}");
        assert!(printed.starts_with('#') && printed.len() == 9, "{printed}");
        assert!(!printed.contains("INVENTED"));
    }

    #[test]
    fn ids_are_bounded_and_free_of_separators() {
        assert_eq!(ExternalUserid::new(""), Err(IdError::Empty));
        assert_eq!(ExternalUserid::new("x".repeat(129)), Err(IdError::TooLong { max: 128 }));
        assert_eq!(ExternalUserid::new("a\0b"), Err(IdError::Character));
        assert_eq!(ExternalUserid::new("a b"), Err(IdError::Character));
        assert!(serde_json::from_str::<Unionid>("\"\"").is_err());
    }

    #[test]
    fn ids_of_fans_in_input_look_like_those_that_wechat_issues() {
        let [shortest, longest] = [19, 63].map(|chars| format!("o{}", "x".repeat(chars)));
        let too_long = format!("{longest}x");
        for id in ["oINVENTED0123456789-_abcdefg", longest.as_str(), shortest.as_str()] {
            assert_eq!(Unionid::from_input(id).unwrap().as_str(), id);
            assert_eq!(Openid::from_input(id).unwrap().as_str(), id);
        }
        for (text, error) in [
            ("", IdError::Empty),
            ("o INVENTED-unionid-0001", IdError::Character),
            ("1.23457E+15", IdError::ChangedByExcel),
            ("1e15", IdError::ChangedByExcel),
            ("hello", IdError::NotIssued),
            ("1234567890123456", IdError::NotIssued),
            (&shortest[..19], IdError::NotIssued),
            (too_long.as_str(), IdError::TooLong { max: 64 }),
            ("wmINVENTED-external-0001", IdError::NotIssued),
            ("oINVENTED.unionid.0001", IdError::NotIssued),
            ("o微信INVENTED-unionid-0001", IdError::NotIssued),
        ] {
            assert_eq!(Unionid::from_input(text), Err(error), "{text}");
            assert_eq!(Openid::from_input(text), Err(error), "{text}");
        }
        // An id that an earlier version has stored is still read.
        assert!(serde_json::from_str::<Unionid>("\"hello\"").is_ok());
    }

    #[test]
    fn plain_corp_ids_ignore_case_and_encrypted_ones_do_not() {
        let plain = CorpId::new("ww00000000000000AA").unwrap();
        assert!(plain.same_corp("ww00000000000000aa"));
        let encrypted = CorpId::new("wpAAAA").unwrap();
        assert!(encrypted.same_corp("wpAAAA") && !encrypted.same_corp("wpaaaa"));
        assert_eq!(plain.canonical().as_str(), "ww00000000000000aa");
        assert_eq!(encrypted.canonical(), encrypted);
    }
}
