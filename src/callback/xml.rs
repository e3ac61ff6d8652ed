//! The part of XML that WeCom uses: a root element, and below it elements that contain text or CDATA.
//!
//! quick-xml reads it; document types are refused, so that no entity can be defined, and depth and number of
//! elements are bounded. What WeCom sends is simpler still: [`simple`] parses it in a quarter of the time and
//! leaves everything else to quick-xml. Without it verify + decrypt + parse costs 2.9 times the bare
//! cryptography instead of less than 1.5 times (`cargo bench --bench open`).

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

mod simple;

const DEPTH_MAX: usize = 8;
const ELEMENTS_MAX: usize = 256;

/// Why a text is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XmlError {
    #[error("not well-formed XML")]
    Malformed,
    #[error("a document type is not accepted")]
    DocType,
    #[error("nested deeper than {DEPTH_MAX} elements")]
    Depth,
    #[error("more than {ELEMENTS_MAX} elements")]
    Elements,
}

/// The text without byte order marks and white space before it.
pub(crate) fn from_first_character(mut text: &[u8]) -> &[u8] {
    while let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf") {
        text = rest;
    }
    text.trim_ascii_start()
}

/// Builds a `T` by calling `field(so_far, name, text)` for each element directly below the root. Deeper
/// elements are skipped.
pub(crate) fn gather<'a, T: Default>(
    text: &'a [u8],
    mut field: impl FnMut(&mut T, &str, Cow<'a, str>),
) -> Result<T, XmlError> {
    let mut gathered = T::default();
    let utf8 = std::str::from_utf8(text).map_err(|_| XmlError::Malformed)?;
    if simple::for_each_field(utf8, |name, value| field(&mut gathered, name, Cow::Borrowed(value))).is_none()
    {
        gathered = T::default();
        walk(utf8, |name, value| field(&mut gathered, name, value))?;
    }
    Ok(gathered)
}

fn walk<'a>(text: &'a str, mut field: impl FnMut(&str, Cow<'a, str>)) -> Result<(), XmlError> {
    let mut reader = Reader::from_str(text);
    let (mut depth, mut elements, mut roots) = (0_usize, 0_usize, 0_usize);
    let mut leaf = BytesStart::new("");
    let mut value = Cow::Borrowed("");
    loop {
        match reader.read_event().map_err(|_| XmlError::Malformed)? {
            Event::Start(start) => {
                enter(&mut elements, depth)?;
                depth += 1;
                if depth == 1 {
                    roots += 1;
                } else if depth == 2 {
                    leaf = start;
                    value = Cow::Borrowed("");
                }
            }
            Event::Empty(start) => {
                enter(&mut elements, depth)?;
                if depth == 1 {
                    field(start.name().as_ref(), Cow::Borrowed(""));
                } else if depth == 0 {
                    roots += 1;
                }
            }
            Event::End(_) => {
                depth = depth.checked_sub(1).ok_or(XmlError::Malformed)?;
                if depth == 1 {
                    field(leaf.name().as_ref(), std::mem::take(&mut value));
                }
            }
            Event::CData(data) if depth == 2 => append(&mut value, data.into_inner()),
            // White space around a CDATA section is layout, not text.
            Event::Text(data) if depth == 2 && !data.trim().is_empty() => {
                append(&mut value, data.into_inner());
            }
            Event::GeneralRef(reference) if depth == 2 => {
                let character = if let Ok(Some(character)) = reference.resolve_char_ref() {
                    character
                } else {
                    predefined(&reference).ok_or(XmlError::Malformed)?
                };
                value.to_mut().push(character);
            }
            Event::Text(data) if depth == 0 && !data.trim().is_empty() => return Err(XmlError::Malformed),
            Event::DocType(_) => return Err(XmlError::DocType),
            Event::CData(_)
            | Event::Text(_)
            | Event::GeneralRef(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    if depth == 0 && roots == 1 { Ok(()) } else { Err(XmlError::Malformed) }
}

fn enter(elements: &mut usize, depth: usize) -> Result<(), XmlError> {
    *elements += 1;
    if *elements > ELEMENTS_MAX {
        Err(XmlError::Elements)
    } else if depth >= DEPTH_MAX {
        Err(XmlError::Depth)
    } else {
        Ok(())
    }
}

fn append<'a>(value: &mut Cow<'a, str>, part: Cow<'a, str>) {
    if value.is_empty() {
        *value = part;
    } else {
        value.to_mut().push_str(&part);
    }
}

fn predefined(entity: &str) -> Option<char> {
    match entity {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn walked(text: &str) -> Result<Vec<(String, String)>, XmlError> {
        let mut fields = Vec::new();
        walk(text, |name, value| fields.push((name.to_owned(), value.into_owned())))?;
        Ok(fields)
    }

    fn on_fast_path(text: &str) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        simple::for_each_field(text, |name, value| fields.push((name.to_owned(), value.to_owned())))?;
        Some(fields)
    }

    fn any_piece() -> impl Strategy<Value = &'static str> {
        select(vec![
            "<xml>",
            "</xml>",
            "<A>",
            "</A>",
            "<b_1>",
            "</b_1>",
            "<A/>",
            "<A >",
            "<A x='1'>",
            "</A >",
            "<![CDATA[",
            "]]>",
            "]]",
            "]",
            ">",
            "<",
            "&lt;",
            "&",
            " ",
            "\n",
            "\t",
            "\r\n",
            "\u{b}",
            "\u{a0}",
            "text",
            "0",
            "é",
            "中",
            "\0",
            "<!-- -->",
            "<?x?>",
            "<!DOCTYPE x>",
            "<1>",
            "</1>",
            "<>",
            "</>",
        ])
    }

    fn any_field() -> impl Strategy<Value = String> {
        let content = prop_oneof![
            vec(any_piece(), 0..3).prop_map(|pieces| pieces.concat()),
            vec(any_piece(), 0..3).prop_map(|pieces| format!("<![CDATA[{}]]>", pieces.concat())),
        ];
        (select(vec!["A", "b_1", "Long_Name9"]), content)
            .prop_map(|(name, content)| format!("<{name}>{content}</{name}>"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_096, ..ProptestConfig::default() })]

        #[test]
        fn the_fast_path_agrees_with_quick_xml_on_simple_documents(
            fields in vec(any_field(), 0..6), between in any_piece(), around in any_piece(),
        ) {
            for text in [
                format!("<xml>{}</xml>", fields.concat()),
                format!("<xml>{}</xml>", fields.join(between)),
                format!("{around}<xml>{}</xml>{between}", fields.concat()),
            ] {
                if let Some(fields) = on_fast_path(&text) {
                    prop_assert_eq!(Ok(fields), walked(&text), "{}", text);
                }
            }
        }

        #[test]
        fn the_fast_path_agrees_with_quick_xml_on_any_text_it_accepts(
            pieces in vec(any_piece(), 0..12), cut: usize
        ) {
            let text = pieces.concat();
            let text = &text[text.floor_char_boundary(cut % (text.len() + 1))..];
            if let Some(fields) = on_fast_path(text) {
                prop_assert_eq!(Ok(fields), walked(text), "{:?}", pieces);
            }
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_malformed() {
        let gathered = gather(b"<xml><A>\xff</A></xml>", |(): &mut (), _, _| {});
        assert_eq!(gathered, Err(XmlError::Malformed));
    }

    #[test]
    fn the_fast_path_accepts_what_wecom_sends() {
        let text = "<xml>\n<ToUserName><![CDATA[ww1]]></ToUserName>\n<CreateTime>17</CreateTime><State></State></xml>\n";
        let expected = [("ToUserName", "ww1"), ("CreateTime", "17"), ("State", "")];
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(on_fast_path(text), Some(expected.clone()));
        assert_eq!(walked(text), Ok(expected));
        let many = format!("<xml>{}</xml>", "<A>1</A>".repeat(100));
        assert_eq!((on_fast_path(&many), walked(&many).map(|fields| fields.len())), (None, Ok(100)));
    }
}
