//! The part of XML that WeCom uses: a root element, and below it elements that contain text, CDATA or a list
//! of such elements.
//!
//! quick-xml reads it; document types are refused, so that no entity can be defined, and depth and number of
//! elements are bounded. Most of what WeCom sends is simpler still: [`simple`] parses it in a quarter of the
//! time and leaves everything else to quick-xml. Without it verify + decrypt + parse costs 2.9 times the bare
//! cryptography instead of less than 1.5 times (`cargo bench --bench open`).

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

mod simple;

const DEPTH_MAX: usize = 8;

/// Why a text is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XmlError {
    #[error("not well-formed XML")]
    Malformed,
    #[error("a document type is not accepted")]
    DocType,
    #[error("nested deeper than {DEPTH_MAX} elements")]
    Depth,
    #[error("more than {0} elements")]
    Elements(usize),
}

/// The text without byte order marks and white space before it.
pub(crate) fn from_first_character(mut text: &[u8]) -> &[u8] {
    while let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf") {
        text = rest;
    }
    text.trim_ascii_start()
}

/// Builds a `T` from a document of at most `elements_max` elements: calls `field(so_far, parent, name, text)`
/// for each element directly below the root, with `None` as `parent`. Child elements of such an element come
/// before it, with its name as `parent`; deeper elements are skipped.
pub(crate) fn gather<'a, T: Default>(
    text: &'a [u8],
    elements_max: usize,
    mut field: impl FnMut(&mut T, Option<&str>, &str, Cow<'a, str>),
) -> Result<T, XmlError> {
    let mut gathered = T::default();
    let utf8 = std::str::from_utf8(text).map_err(|_| XmlError::Malformed)?;
    let on_fast_path =
        simple::for_each_field(utf8, |name, value| field(&mut gathered, None, name, Cow::Borrowed(value)));
    if on_fast_path.is_none() {
        gathered = T::default();
        walk(utf8, elements_max, |parent, name, value| field(&mut gathered, parent, name, value))?;
    }
    Ok(gathered)
}

/// An element whose end has not been read yet, and the text in it so far.
struct Open<'a> {
    tag: BytesStart<'a>,
    text: Cow<'a, str>,
}

fn walk<'a>(
    text: &'a str,
    elements_max: usize,
    mut field: impl FnMut(Option<&str>, &str, Cow<'a, str>),
) -> Result<(), XmlError> {
    let mut reader = Reader::from_str(text);
    let (mut elements, mut roots) = (0_usize, 0_usize);
    // The root first.
    let mut open: Vec<Open<'a>> = Vec::new();
    loop {
        match reader.read_event().map_err(|_| XmlError::Malformed)? {
            Event::Start(tag) => {
                enter(&mut elements, elements_max, open.len())?;
                roots += usize::from(open.is_empty());
                open.push(Open { tag, text: Cow::Borrowed("") });
            }
            Event::Empty(tag) => {
                enter(&mut elements, elements_max, open.len())?;
                roots += usize::from(open.is_empty());
                pass_on(&open, &tag, Cow::Borrowed(""), &mut field);
            }
            Event::End(_) => {
                let Open { tag, text } = open.pop().ok_or(XmlError::Malformed)?;
                pass_on(&open, &tag, text, &mut field);
            }
            Event::CData(data) => {
                if let Some(text) = text_of(&mut open) {
                    append(text, data.into_inner());
                }
            }
            // White space around a CDATA section is layout, not text.
            Event::Text(data) if data.trim().is_empty() => {}
            Event::Text(_) if open.is_empty() => return Err(XmlError::Malformed),
            Event::Text(data) => {
                if let Some(text) = text_of(&mut open) {
                    append(text, data.into_inner());
                }
            }
            Event::GeneralRef(reference) => {
                if let Some(text) = text_of(&mut open) {
                    let character = if let Ok(Some(character)) = reference.resolve_char_ref() {
                        character
                    } else {
                        predefined(&reference).ok_or(XmlError::Malformed)?
                    };
                    text.to_mut().push(character);
                }
            }
            Event::DocType(_) => return Err(XmlError::DocType),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    if open.is_empty() && roots == 1 { Ok(()) } else { Err(XmlError::Malformed) }
}

/// Calls `field` for an element inside the `open` ones, if it is on the two levels below the root.
fn pass_on<'a>(
    open: &[Open<'a>],
    tag: &BytesStart<'a>,
    text: Cow<'a, str>,
    field: &mut impl FnMut(Option<&str>, &str, Cow<'a, str>),
) {
    match open {
        [_root] => field(None, tag.name().as_ref(), text),
        [_root, parent] => field(Some(parent.tag.name().as_ref()), tag.name().as_ref(), text),
        _ => {}
    }
}

/// The text of the innermost open element, if that is on the two levels below the root.
fn text_of<'o, 'a>(open: &'o mut [Open<'a>]) -> Option<&'o mut Cow<'a, str>> {
    match open {
        [_root, inner] | [_root, _, inner] => Some(&mut inner.text),
        _ => None,
    }
}

fn enter(elements: &mut usize, elements_max: usize, depth: usize) -> Result<(), XmlError> {
    *elements += 1;
    if *elements > elements_max {
        Err(XmlError::Elements(elements_max))
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
        walk(text, 256, |parent, name, value| {
            let path = parent.map_or_else(|| name.to_owned(), |parent| format!("{parent}/{name}"));
            fields.push((path, value.into_owned()));
        })?;
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
        let gathered = gather(b"<xml><A>\xff</A></xml>", 256, |(): &mut (), _, _, _| {});
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

    #[test]
    fn the_elements_of_a_list_are_passed_on_before_the_list_and_deeper_ones_are_not() {
        let text = "<xml><L>\n<I>a</I><I><![CDATA[b]]>&amp;</I><I/><I>c<J>d</J></I></L><A>1</A></xml>";
        let expected = [("L/I", "a"), ("L/I", "b&"), ("L/I", ""), ("L/I", "c"), ("L", ""), ("A", "1")];
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(walked(text), Ok(expected));
        assert_eq!(on_fast_path(text), None);
    }

    #[test]
    fn the_number_of_elements_is_bounded() {
        let text = format!("<xml><L>{}</L></xml>", "<I>a</I>".repeat(98));
        let count =
            |elements_max| gather(text.as_bytes(), elements_max, |count: &mut usize, _, _, _| *count += 1);
        assert_eq!((count(100), count(99)), (Ok(99), Err(XmlError::Elements(99))));
    }
}
