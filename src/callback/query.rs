//! The query string of a callback, percent-decoded exactly once. Not with a form decoder, which would turn
//! the `+` of a base64 text into a space.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::domain::time::Timestamp;

/// The longest accepted value, in bytes. A real echo has a few hundred.
pub(super) const VALUE_BYTES_MAX: usize = 8 * 1024;

/// The parameters of a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// `msg_signature`.
    pub msg_signature: Cow<'a, str>,
    /// `timestamp`: seconds since the epoch, kept as the text that was signed.
    pub timestamp: Cow<'a, str>,
    /// `nonce`.
    pub nonce: Cow<'a, str>,
    /// `echostr`, in a URL check.
    pub echostr: Option<Cow<'a, str>>,
}

/// Why a query string is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A required parameter is missing.
    #[error("lacks a parameter")]
    Missing,
    /// A parameter is given twice, too long, or not UTF-8.
    #[error("has a malformed parameter")]
    Malformed,
}

impl<'a> Query<'a> {
    /// When the callback was signed: `timestamp` as an instant, `None` if it is not a number.
    #[must_use]
    pub fn signed_at(&self) -> Option<Timestamp> {
        self.timestamp.parse().ok().map(Timestamp::from_secs)
    }

    /// Parses a raw query string (the text after the question mark). Unknown parameters are ignored.
    ///
    /// # Errors
    /// [`QueryError`] when a required parameter is missing or malformed.
    pub fn parse(raw: &'a str) -> Result<Self, QueryError> {
        let (mut msg_signature, mut timestamp, mut nonce, mut echostr) = (None, None, None, None);
        for pair in raw.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "msg_signature" => &mut msg_signature,
                "timestamp" => &mut timestamp,
                "nonce" => &mut nonce,
                "echostr" => &mut echostr,
                _ => continue,
            };
            if value.len() > VALUE_BYTES_MAX || slot.is_some() {
                return Err(QueryError::Malformed);
            }
            *slot = Some(if value.contains('%') {
                percent_decode_str(value).decode_utf8().map_err(|_| QueryError::Malformed)?
            } else {
                Cow::Borrowed(value)
            });
        }
        Ok(Self {
            msg_signature: msg_signature.ok_or(QueryError::Missing)?,
            timestamp: timestamp.ok_or(QueryError::Missing)?,
            nonce: nonce.ok_or(QueryError::Missing)?,
            echostr,
        })
    }

    /// Whether `msg_signature` has the form of one: forty lower-case hexadecimal digits. Checked before the
    /// body is read.
    #[must_use]
    pub fn has_well_formed_signature(&self) -> bool {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        self.msg_signature.len() == 40 && self.msg_signature.bytes().all(digit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_stays_a_plus_and_percent_is_decoded_once() {
        let query = Query::parse("msg_signature=a&timestamp=1&nonce=n&echostr=+a%2Bb%2525%3D%3D").unwrap();
        assert_eq!(query.echostr.as_deref(), Some("+a+b%25=="));
    }

    #[test]
    fn only_forty_lower_case_hex_digits_are_a_signature() {
        let has = |text: &str| {
            Query::parse(&format!("msg_signature={text}&timestamp=1&nonce=n"))
                .unwrap()
                .has_well_formed_signature()
        };
        assert!(has(&"0123456789abcdef".repeat(3)[..40]));
        for text in ["", "x", &"A".repeat(40), &"a".repeat(39), &"a".repeat(41), &"é".repeat(20)] {
            assert!(!has(text), "{text}");
        }
    }

    #[test]
    fn a_missing_repeated_or_malformed_parameter_is_an_error() {
        assert_eq!(Query::parse("timestamp=1&nonce=n"), Err(QueryError::Missing));
        let doubled = Query::parse("msg_signature=a&timestamp=1&nonce=n&nonce=n");
        assert_eq!(doubled, Err(QueryError::Malformed));
        let broken = Query::parse("msg_signature=%FF&timestamp=1&nonce=n");
        assert_eq!(broken, Err(QueryError::Malformed));
    }
}
