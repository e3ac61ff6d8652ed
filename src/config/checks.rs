//! What several sections have in common: corp ids, the token and key of callbacks, and URLs without TLS.

use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::reader::{Section, Severity};
use super::secret::{self, Secret};
use crate::callback::AesKey;
use crate::reach::Host;

/// The `corp_id` of `example.toml`.
const PLACEHOLDER_CORP_ID: &str = "ww0000000000000000";

/// Shorter callback tokens are reported: a token is the key of every signature.
const TOKEN_CHARS_MIN: usize = 8;

/// A token and a key of callbacks from before a change.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct PreviousKeys {
    #[serde(rename = "previous_callback_token", skip_serializing_if = "Option::is_none")]
    pub(crate) callback_token: Option<Secret>,
    /// Valid: [`AesKey::decode`] accepts it.
    #[serde(rename = "previous_encoding_aes_key", skip_serializing_if = "Option::is_none")]
    pub(crate) encoding_aes_key: Option<Secret>,
}

/// Reads `callback_token` and `encoding_aes_key`, and those before them.
pub(super) fn read_callback_keys(
    section: &mut Section<'_>,
) -> (Option<Secret>, Option<Secret>, PreviousKeys) {
    const COPY: &str = "copy all 43 characters";
    let token = secret::read(section, "callback_token");
    let key = secret::read_checked(section, "encoding_aes_key", AesKey::decode, COPY);
    let previous = PreviousKeys {
        callback_token: secret::read(section, "previous_callback_token"),
        encoding_aes_key: secret::read_checked(section, "previous_encoding_aes_key", AesKey::decode, COPY),
    };
    for (name, of, current, before) in [
        ("previous_callback_token", "callback_token", &token, &previous.callback_token),
        ("previous_encoding_aes_key", "encoding_aes_key", &key, &previous.encoding_aes_key),
    ] {
        if let (Some(current), Some(before)) = (current, before)
            && current.value.expose_secret() == before.value.expose_secret()
        {
            section.problem(name, format!("is the same as {of}"), Some("leave it out"));
        }
    }
    (token, key, previous)
}

/// Reports a corp id that is the example's, or that cannot be a corp's.
pub(super) fn check_corp_id(section: &Section<'_>, key: &str, corp_id: &str) {
    if corp_id == PLACEHOLDER_CORP_ID {
        section.problem(key, "is the placeholder of the example", None);
    } else if !is_corp_id(corp_id) {
        let reason = "is not a corp id: these are ww, wx or wp and 6 to 62 of A-Z a-z 0-9 - _";
        section.report(Severity::Suspect, key, reason, None);
    }
}

/// The form is not documented; every id seen so far has it.
fn is_corp_id(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let rest = ["ww", "wx", "wp"].into_iter().find_map(|prefix| text.strip_prefix(prefix));
    rest.is_some_and(|rest| (6..=62).contains(&rest.len()) && rest.chars().all(is_allowed))
}

/// Reports a callback token that is easy to guess.
pub(super) fn check_callback_token(section: &Section<'_>, token: &Secret) {
    if token.value.expose_secret().chars().count() < TOKEN_CHARS_MIN {
        let reason = format!("has fewer than {TOKEN_CHARS_MIN} characters, which is easy to guess");
        let hint = "set a longer one, in the console and here";
        section.report(Severity::Warning, "callback_token", reason, Some(hint));
    }
}

/// Reports a URL without TLS unless its host is private; `hint` says how to write it with TLS.
pub(super) fn check_unencrypted(section: &Section<'_>, name: &str, url: &Url, hint: &str) {
    match Host::of(url) {
        Host::Private => {}
        Host::Public => {
            let reason = "is a public address without TLS, and nothing is sent there";
            section.report(Severity::Suspect, name, reason, Some(hint));
        }
        Host::Name => {
            let host = url.host_str().unwrap_or_default();
            let reason = format!("is without TLS: nothing is sent unless {host} has a private address");
            section.report(Severity::Warning, name, reason, Some(hint));
        }
    }
}
