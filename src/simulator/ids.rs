//! Random ids in the formats of facts §8, from a seeded generator.
//!
//! Deliberately absent: the records of what the ids stand for (`world`).

use rand::RngExt;
use rand::rngs::StdRng;
use sha1::{Digest, Sha1};

use crate::domain::ids::hex as hex_of;

const URL_SAFE: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &[u8] = b"0123456789abcdef";

fn from(alphabet: &[u8], rng: &mut StdRng, chars: usize) -> String {
    (0..chars).map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())])).collect()
}

/// A number below `bound`.
pub(super) fn number(rng: &mut StdRng, bound: u64) -> u64 {
    rng.random_range(0..bound)
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(rng: &mut StdRng, chars: usize) -> String {
    from(HEX, rng, chars)
}

/// A callback nonce, which is decimal digits.
pub(super) fn nonce(rng: &mut StdRng) -> String {
    rng.random_range(100_000_000_u64..10_000_000_000).to_string()
}

/// The common part of all ids that one upstream corp sees.
pub(super) fn stem(rng: &mut StdRng) -> String {
    format!("{}AAA", from(ALPHANUMERIC, rng, 5))
}

/// A plain corp id, `ww` and 16 hexadecimal digits.
pub(super) fn upstream_corp_id(rng: &mut StdRng) -> String {
    format!("ww{}", hex(rng, 16))
}

/// A dealer's corp id as its upstream corp sees it, 32 characters.
pub(super) fn dealer_corp_id(rng: &mut StdRng, stem: &str) -> String {
    format!("wp{stem}{}", from(URL_SAFE, rng, 22))
}

/// A customer of one corp as one upstream corp sees it, 32 characters.
pub(super) fn external_userid(rng: &mut StdRng, stem: &str) -> String {
    format!("wm{stem}{}", from(URL_SAFE, rng, 22))
}

/// A customer group, 32 characters.
pub(super) fn chat_id(rng: &mut StdRng) -> String {
    format!("wr{}", from(URL_SAFE, rng, 30))
}

/// A unionid or an openid, 28 characters.
pub(super) fn person_id(rng: &mut StdRng) -> String {
    format!("o{}", from(URL_SAFE, rng, 27))
}

/// A `pending_id`. The format of real ones is unknown; clients have to treat it as opaque.
pub(super) fn pending_id(rng: &mut StdRng) -> String {
    format!("p{}", from(URL_SAFE, rng, 43))
}

/// An access token, of the length of real ones.
pub(super) fn access_token(rng: &mut StdRng) -> String {
    from(URL_SAFE, rng, 214)
}

/// A welcome code.
pub(super) fn welcome_code(rng: &mut StdRng) -> String {
    from(URL_SAFE, rng, 43)
}

/// An app secret.
pub(super) fn secret(rng: &mut StdRng) -> String {
    from(URL_SAFE, rng, 43)
}

/// The id of a template, 18 characters.
pub(super) fn suite_id(rng: &mut StdRng) -> String {
    format!("dk{}", hex(rng, 16))
}

/// A ticket of a template.
pub(super) fn ticket(rng: &mut StdRng) -> String {
    from(URL_SAFE, rng, 64)
}

/// An auth code, 64 to 512 characters.
pub(super) fn auth_code(rng: &mut StdRng) -> String {
    from(URL_SAFE, rng, 128)
}

/// A permanent code.
pub(super) fn permanent_code(rng: &mut StdRng) -> String {
    from(URL_SAFE, rng, 43)
}

/// A member as an agency-developed app sees them, 32 characters. It depends on the corp and the name alone.
pub(super) fn encrypted_user_id(stem: &str, corp_id: &str, name: &str) -> String {
    let digest = hex_of(&Sha1::digest(format!("{corp_id}/{name}")));
    format!("wo{stem}{}", &digest[..22])
}

/// A callback token.
pub(super) fn callback_token(rng: &mut StdRng) -> String {
    from(ALPHANUMERIC, rng, 24)
}

/// An `EncodingAESKey`. As from `WeCom`'s own generator, its two surplus bits are random.
pub(super) fn encoding_aes_key(rng: &mut StdRng) -> String {
    from(ALPHANUMERIC, rng, 43)
}
