//! The fast path, for documents of the shape that WeCom sends: a root, and below it elements that contain
//! nothing but text or one CDATA section. No attributes, entities, comments, declarations or processing
//! instructions.

use memchr::memchr;

const FIELDS_MAX: usize = 64;

/// Calls `field(name, text)` for each element below the root. Returns `None`, perhaps only after some calls,
/// if the document may be of another shape. What is accepted here, quick-xml reads in the same way.
pub(super) fn for_each_field<'a>(text: &'a str, mut field: impl FnMut(&str, &'a str)) -> Option<()> {
    let (root, mut rest) = start_tag(text.trim_ascii())?;
    for _ in 0..FIELDS_MAX {
        rest = rest.trim_ascii_start();
        if let Some(after) = end_tag(rest, root) {
            return after.is_empty().then_some(());
        }
        let (name, after) = start_tag(rest)?;
        let (value, after) = content(after)?;
        rest = end_tag(after, name)?;
        field(name, value);
    }
    None
}

/// The name in a start tag, and what follows the tag.
fn start_tag(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('<')?;
    let length = text.bytes().position(|byte| !byte.is_ascii_alphanumeric() && byte != b'_')?;
    let (name, rest) = text.split_at(length);
    let rest = rest.strip_prefix('>')?;
    name.starts_with(|first: char| first.is_ascii_alphabetic()).then_some((name, rest))
}

/// What follows the end tag of `name`.
fn end_tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.strip_prefix("</")?.strip_prefix(name)?.strip_prefix('>')
}

/// The text or CDATA section at the start, and what follows it.
fn content(text: &str) -> Option<(&str, &str)> {
    if let Some(section) = text.strip_prefix("<![CDATA[") {
        let (value, rest) = section.split_at(memchr(b']', section.as_bytes())?);
        return Some((value, rest.strip_prefix("]]>")?));
    }
    let (value, rest) = text.split_at(memchr(b'<', text.as_bytes())?);
    // White space alone is layout, not text.
    let is_plain = !value.contains(['&', ']']) && (value.is_empty() || !value.trim().is_empty());
    is_plain.then_some((value, rest))
}
