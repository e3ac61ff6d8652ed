//! The little of XML that WeCom uses: a root, and text in elements below it, with or without CDATA.
//!
//! A plain reader walks the document once and hands each leaf's text to the caller. Document types are
//! refused, so no entity can be defined; depth and number of elements are bounded.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

const DEPTH_MAX: usize = 8;
const ELEMENTS_MAX: usize = 256;

/// Why a text is not such a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum XmlError {
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
pub(super) fn from_first_character(mut text: &[u8]) -> &[u8] {
    while let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf") {
        text = rest;
    }
    text.trim_ascii_start()
}

/// Calls `field(name, text)` for each element directly below the root. Deeper elements are passed over.
///
/// The reader checks that each piece it hands out is UTF-8; the text needs no check of its own before.
pub(super) fn for_each_field<'a>(
    text: &'a [u8],
    mut field: impl FnMut(&str, Cow<'a, str>),
) -> Result<(), XmlError> {
    let mut reader = Reader::from_reader(text);
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
