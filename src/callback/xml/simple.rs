//! Documents of one shape: a root, and below it elements that hold nothing but text, or nothing but one CDATA section. No
//! attributes, entities, comments or declarations.

use memchr::{memchr, memmem};

/// WeCom's largest has about twenty.
const FIELDS_MAX: usize = 32;

/// The elements below the root, with their text; `None` if the document may be of another shape. Whatever it makes of
/// one, the reader makes of it too.
pub(super) fn fields(text: &[u8]) -> Option<impl Iterator<Item = (&str, &str)>> {
    let mut rest = Rest(std::str::from_utf8(text).ok()?);
    let (mut fields, mut found) = ([("", ""); FIELDS_MAX], 0);
    rest.pass_space();
    let root = rest.open()?;
    loop {
        rest.pass_space();
        if rest.close(root).is_some() {
            break;
        }
        let name = rest.open()?;
        *fields.get_mut(found)? = (name, rest.content()?);
        rest.close(name)?;
        found += 1;
    }
    rest.pass_space();
    rest.0.is_empty().then(|| fields.into_iter().take(found))
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// White space between elements.
    fn pass_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn pass(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Everything before `at`, which is left behind.
    fn take(&mut self, at: usize) -> Option<&'a str> {
        let (taken, rest) = self.0.split_at_checked(at)?;
        self.0 = rest;
        Some(taken)
    }

    /// A start tag. Its name.
    fn open(&mut self) -> Option<&'a str> {
        self.pass("<")?;
        let length = self.0.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || byte == b'_'))?;
        let name = self.take(length)?;
        self.pass(">")?;
        name.starts_with(|first: char| first.is_ascii_alphabetic()).then_some(name)
    }

    /// The end tag of that name.
    fn close(&mut self, name: &str) -> Option<()> {
        let after = self.0.strip_prefix("</")?.strip_prefix(name)?.strip_prefix('>')?;
        self.0 = after;
        Some(())
    }

    fn content(&mut self) -> Option<&'a str> {
        if self.pass("<![CDATA[").is_some() {
            let text = self.take(memmem::find(self.0.as_bytes(), b"]]>")?)?;
            self.pass("]]>")?;
            return Some(text);
        }
        let text = self.take(memchr(b'<', self.0.as_bytes())?)?;
        // White space alone is layout, not text.
        let is_plain = !text.contains(['&', ']']) && (text.is_empty() || !text.trim().is_empty());
        is_plain.then_some(text)
    }
}
