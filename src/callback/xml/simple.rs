//! Documents of one shape: a root, and below it elements that hold nothing but text, or nothing but one CDATA section. No
//! attributes, entities, comments or declarations.

use memchr::memchr;

/// Takes a document apart: calls `field(name, text)` for each element below the root. `None`, perhaps only after some
/// calls, if it may be of another shape; whatever this makes of one, the reader makes of it too.
pub(super) fn for_each_field<'a>(text: &'a [u8], mut field: impl FnMut(&str, &'a str)) -> Option<()> {
    const FIELDS_MAX: usize = 64;
    let mut rest = Rest(std::str::from_utf8(text).ok()?);
    rest.pass_space();
    let root = rest.open()?;
    rest.pass_space();
    for _ in 0..FIELDS_MAX {
        if rest.close(root).is_some() {
            rest.pass_space();
            return rest.0.is_empty().then_some(());
        }
        let name = rest.open()?;
        let content = rest.content()?;
        rest.close(name)?;
        field(name, content);
        rest.pass_space();
    }
    None
}

/// The bytes of names that need no second look.
const NAME: [bool; 256] = {
    let mut of_name = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        of_name[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_';
        byte += 1;
    }
    of_name
};

/// What is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// White space between elements.
    fn pass_space(&mut self) {
        if !self.0.starts_with('<') {
            self.0 = self.0.trim_ascii_start();
        }
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
        let length = self.0.bytes().position(|byte| !NAME[usize::from(byte)])?;
        let name = self.take(length)?;
        self.pass(">")?;
        name.starts_with(|first: char| first.is_ascii_alphabetic()).then_some(name)
    }

    /// The end tag of that name.
    fn close(&mut self, name: &str) -> Option<()> {
        self.0 = self.0.strip_prefix("</")?.strip_prefix(name)?.strip_prefix('>')?;
        Some(())
    }

    fn content(&mut self) -> Option<&'a str> {
        if self.pass("<![CDATA[").is_some() {
            // Ids and names have no bracket in them; whatever has is left to the reader.
            let text = self.take(memchr(b']', self.0.as_bytes())?)?;
            self.pass("]]>")?;
            return Some(text);
        }
        let text = self.take(memchr(b'<', self.0.as_bytes())?)?;
        // White space alone is layout, not text.
        let is_plain = !text.contains(['&', ']']) && (text.is_empty() || !text.trim().is_empty());
        is_plain.then_some(text)
    }
}
