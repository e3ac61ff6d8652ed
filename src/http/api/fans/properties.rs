//! Properties that hold for the bodies of registrations, whatever they are; see [`crate::properties`].

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::rows::{Body, Field, Row};

/// Any body: it has the rows, in order, that a JSON parser finds in it, and each row has the members that the
/// parser finds there. So does each line of the same bytes.
///
/// # Panics
/// When that does not hold.
pub fn fans(body: &[u8]) {
    let whole = serde_json::from_slice::<Value>(body).ok();
    match Body::of(body) {
        Err(_) => assert_eq!(whole, None),
        Ok(Body::One(row)) => {
            assert!(!row.starts_with(b"["));
            assert!(
                whole.is_none_or(|whole| serde_json::from_slice::<Value>(row).is_ok_and(|row| row == whole))
            );
            check_row(row);
        }
        Ok(Body::Several(rows)) => {
            let rows: Vec<_> = rows.collect();
            let elements = serde_json::from_slice::<Vec<IgnoredAny>>(body).map(|elements| elements.len());
            assert_eq!(elements.ok(), Some(rows.len()));
            if let Some(whole) = whole {
                let rows: Result<Vec<Value>, _> =
                    rows.iter().map(|row| serde_json::from_slice(row)).collect();
                assert_eq!(rows.ok().map(Value::from), Some(whole));
            }
            for row in rows {
                check_row(row);
            }
        }
    }
    for line in body.split(|byte| *byte == b'\n') {
        check_row(line);
    }
}

/// A row is accepted if and only if it is a JSON object in which no member is repeated that is used, and then
/// with its members. What the JSON parser refuses, such as a number out of range, is accepted in members that
/// are not used.
fn check_row(text: &[u8]) {
    let row = Row::parse(text);
    if row.is_ok() {
        assert!(serde_json::from_slice::<IgnoredAny>(text).is_ok());
    }
    let Ok(value) = serde_json::from_slice::<Value>(text) else { return };
    let Ok(Names { repeated }) = serde_json::from_slice(text) else {
        assert_eq!(row, Err("not an object".to_owned()));
        return;
    };
    let row = match row {
        Ok(row) => row,
        Err(reason) => {
            let of_name = |name| reason.starts_with(&format!("duplicate field `{name}`"));
            assert!(repeated.iter().any(of_name), "{reason}");
            return;
        }
    };
    let Row { app, unionid, openid, pending_id, minted_at } = row;
    for (name, field) in [
        ("app", app),
        ("unionid", unionid),
        ("openid", openid),
        ("pending_id", pending_id),
        ("minted_at", minted_at),
    ] {
        assert!(!repeated.contains(name), "{name} is repeated");
        match value.get(name) {
            None | Some(Value::Null) => assert_eq!(field, Field::Absent),
            Some(Value::String(text)) => assert_eq!(field, Field::Text(text.into())),
            Some(Value::Number(number)) => {
                let Field::Number(text) = field else { panic!("{field:?} is not {number}") };
                // A fraction may be written in two ways.
                assert_eq!(text.parse().ok(), number.as_f64(), "{text}");
                assert!(number.is_f64() || text == number.to_string(), "{text} is not {number}");
            }
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => assert_eq!(field, Field::Other),
        }
    }
}

/// The names in an object that occur more than once.
struct Names {
    repeated: BTreeSet<String>,
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let (mut seen, mut repeated) = (BTreeSet::new(), BTreeSet::new());
                while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
                    if !seen.insert(name.clone()) {
                        repeated.insert(name);
                    }
                }
                Ok(Names { repeated })
            }
        }
        from.deserialize_map(Object)
    }
}
