//! The rows of a registration as they are in the body: one object, or the elements of an array. Only the
//! members that are used are kept, whatever else a row holds, so a body takes no more memory than its bytes.
//!
//! Deliberately absent: which values are valid.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The members of a row.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Row<'a> {
    #[serde(borrow)]
    pub(super) app: Field<'a>,
    #[serde(borrow)]
    pub(super) unionid: Field<'a>,
    #[serde(borrow)]
    pub(super) openid: Field<'a>,
    #[serde(borrow)]
    pub(super) pending_id: Field<'a>,
    #[serde(borrow)]
    pub(super) minted_at: Field<'a>,
}

/// A member of a row.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Field<'a> {
    /// Missing, or `null`.
    #[default]
    Absent,
    Text(Cow<'a, str>),
    /// A number, as text.
    Number(String),
    /// Anything else.
    Other,
}

impl<'a> Row<'a> {
    /// The row in `text`, or why it is none.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, String> {
        let not_json = |error: serde_json::Error| {
            if error.is_data() { error.to_string() } else { format!("not JSON: {error}") }
        };
        if !text.trim_ascii_start().starts_with(b"{") {
            serde_json::from_slice::<IgnoredAny>(text).map_err(not_json)?;
            return Err("not an object".to_owned());
        }
        serde_json::from_slice(text).map_err(not_json)
    }
}

impl Field<'_> {
    /// The text, if there is one.
    ///
    /// # Errors
    /// When the field, called `name`, is something else.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self {
            Self::Absent => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            Self::Number(_) | Self::Other => Err(format!("{name} is not text")),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Field<'de>, E> {
                Ok(Field::Absent)
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
                Ok(Field::Text(text.into()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
                Ok(Field::Text(text.to_owned().into()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Field<'de>, E> {
                Ok(Field::Number(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Field<'de>, E> {
                Ok(Field::Number(number.to_string()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Field<'de>, E> {
                Ok(Field::Number(number.to_string()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Field<'de>, E> {
                Ok(Field::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }
        }
        from.deserialize_any(Any)
    }
}

/// A JSON body.
pub(super) enum Body<'a> {
    /// One row.
    One(&'a [u8]),
    /// An array of rows.
    Several(Elements<'a>),
}

impl<'a> Body<'a> {
    /// The rows of a body, all of which is checked to be JSON before the first of them is stored.
    pub(super) fn of(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<IgnoredAny>(text)?;
        let text = text.trim_ascii();
        Ok(match text.strip_prefix(b"[") {
            Some(rest) => Self::Several(Elements(rest)),
            None => Self::One(text),
        })
    }
}

/// The elements of a valid JSON array, from here on.
pub(super) struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0.trim_ascii_start();
        let text = text.strip_prefix(b",").unwrap_or(text).trim_ascii_start();
        if text.first().is_none_or(|byte| *byte == b']') {
            return None;
        }
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let (element, rest) = text.split_at(values.byte_offset());
        self.0 = rest;
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::api::fans::properties::fans;

    #[test]
    fn a_row_keeps_what_is_used_and_nothing_else() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(
            r#"{{"more": {deep}, "unionid": "o\u0041", "openid": null, "app": [1, {{"a": 2}}], "minted_at": 17}}"#
        );
        let row = Row {
            unionid: Field::Text("oA".into()),
            app: Field::Other,
            minted_at: Field::Number("17".to_owned()),
            ..Row::default()
        };
        assert_eq!(Row::parse(text.as_bytes()), Ok(row));
        for (text, reason) in [
            ("5", "not an object"),
            (r#"["brand", "oX", "oY"]"#, "not an object"),
            (r#"{"unionid": "o" "#, "not JSON: "),
            ("fan", "not JSON: "),
            (r#"{"unionid": "\ud800"}"#, "not JSON: "),
            (r#"{"unionid": "a", "unionid": "b"}"#, "duplicate field `unionid`"),
        ] {
            assert!(Row::parse(text.as_bytes()).unwrap_err().starts_with(reason), "{text}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            let key = prop_oneof![Just("unionid".to_owned()), Just("minted_at".to_owned()), ".{0,3}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(key, inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_rows_of_a_body_are_those_that_a_json_parser_finds(body in value(), pretty in any::<bool>()) {
            let text = if pretty { format!("{body:#}\n") } else { body.to_string() };
            fans(text.as_bytes());
        }

        #[test]
        fn what_is_not_json_is_no_body(body in value(), cut in any::<prop::sample::Index>()) {
            let text = json!([body]).to_string();
            let cut = &text.as_bytes()[..cut.index(text.len())];
            prop_assert!(Body::of(cut).is_err());
        }
    }
}
