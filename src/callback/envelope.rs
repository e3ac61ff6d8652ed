//! The envelope around a message: `<xml><ToUserName/><AgentID/><Encrypt/></xml>`, or the same as JSON in any
//! of the capitalisations in use. Only `Encrypt` is read; the other fields are not authenticated.

use std::borrow::Cow;

use serde::Deserialize;

use super::xml;

/// An envelope has three elements.
const ELEMENTS_MAX: usize = 256;

/// The encrypted text of an envelope; `None` when the body is not an envelope.
pub(super) fn encrypted(body: &[u8]) -> Option<Cow<'_, str>> {
    let text = xml::from_first_character(body);
    match text.first()? {
        b'<' => from_xml(text),
        b'{' => from_json(text),
        _ => None,
    }
}

fn from_xml(text: &[u8]) -> Option<Cow<'_, str>> {
    let found: Vec<_> = xml::gather(text, ELEMENTS_MAX, |found: &mut Vec<_>, parent, name, value| {
        if parent.is_none() && name == "Encrypt" {
            found.push(value);
        }
    })
    .ok()?;
    // With two of them it would be unclear which one was signed.
    <[_; 1]>::try_from(found).ok().map(|[encrypted]| trimmed(encrypted))
}

fn from_json(text: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(alias = "Encrypt", borrow)]
        encrypt: Cow<'a, str>,
    }
    serde_json::from_slice::<Envelope<'_>>(text).ok().map(|envelope| trimmed(envelope.encrypt))
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}
