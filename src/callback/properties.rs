//! Properties that hold for callbacks of any bytes; see [`crate::properties`].
//!
//! Random bytes fail at the signature. [`sealed`] therefore uses them as the plaintext, and [`forged`] as
//! edits to a genuine request.

use std::sync::LazyLock;

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::cipher::{HEADER_BYTES, LENIENT, PAD_MAX};
use super::envelope::encrypted;
use super::query::VALUE_BYTES_MAX;
use super::{AesKey, Keys, Query, Refusal, VerifiedMessage, sign, verify, verify_echo};

pub(super) const TOKEN: &str = "token";
pub(super) const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// The event of a dealer adding a customer.
pub(crate) const ADD: &str = "<xml><ToUserName><![CDATA[wpDEALER]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>\
    <CreateTime>1403610513</CreateTime><MsgType><![CDATA[event]]></MsgType>\
    <Event><![CDATA[change_external_contact]]></Event>\
    <ChangeType><![CDATA[add_external_contact]]></ChangeType><UserID><![CDATA[zhangsan]]></UserID>\
    <ExternalUserID><![CDATA[wmINVENTED]]></ExternalUserID><State><![CDATA[test&state]]></State>\
    <WelcomeCode><![CDATA[WELCOME]]></WelcomeCode></xml>";

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(TOKEN.into(), key()));

fn key() -> AesKey {
    AesKey::decode(KEY).unwrap_or_else(|error| panic!("{error}"))
}

/// Encrypts whole blocks, header and padding included, exactly as given.
pub(super) fn encrypt(plaintext: &[u8]) -> String {
    encrypt_with(KEY, plaintext)
}

/// Encrypts like [`encrypt`], with this `EncodingAESKey`.
pub(super) fn encrypt_with(key: &str, plaintext: &[u8]) -> String {
    let Ok(key) = LENIENT.decode(key) else { panic!("the key is not base64") };
    let Ok(cipher) = cbc::Encryptor::<Aes256>::new_from_slices(&key, &key[..16]) else {
        panic!("the key has another length")
    };
    let mut buffer = plaintext.to_vec();
    let Ok(blocks) = cipher.encrypt_padded::<NoPadding>(&mut buffer, plaintext.len()) else {
        panic!("{} bytes are not whole blocks", plaintext.len())
    };
    STANDARD.encode(blocks)
}

/// What WeCom encrypts: header, message, receive id and padding.
pub(super) fn plaintext(message: &[u8], receive_id: &[u8]) -> Vec<u8> {
    let mut plain = b"0123456789abcdef".to_vec();
    plain.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend(message);
    plain.extend(receive_id);
    let pad = PAD_MAX - plain.len() % PAD_MAX;
    plain.resize(plain.len() + pad, u8::try_from(pad).unwrap_or_default());
    plain
}

pub(super) fn signed(encrypted: &str) -> Query<'_> {
    let signature = sign(TOKEN, "1409659813", "1372623149", encrypted);
    Query {
        msg_signature: String::from_utf8_lossy(&signature).into_owned().into(),
        timestamp: "1409659813".into(),
        nonce: "1372623149".into(),
        echostr: Some(encrypted.into()),
    }
}

/// A genuine request with this token and key: the query without the echo string, and the encrypted text.
#[cfg(test)]
pub(crate) fn request(token: &str, key: &str, message: &str, receive_id: &str) -> (String, String) {
    let encrypted = encrypt_with(key, &plaintext(message.as_bytes(), receive_id.as_bytes()));
    let signature = sign(token, "1409659813", "1372623149", &encrypted);
    let signature = String::from_utf8_lossy(&signature).into_owned();
    (format!("msg_signature={signature}&timestamp=1409659813&nonce=1372623149"), encrypted)
}

fn in_xml(text: &str) -> String {
    format!("<xml><ToUserName>ww1</ToUserName><Encrypt>{}</Encrypt></xml>", cdata(text))
}

/// `text` as CDATA. `]]>` cannot occur inside a section, so it is split over two.
pub(crate) fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

fn in_json(text: &str) -> String {
    json!({ "tousername": "ww1", "encrypt": text }).to_string()
}

/// The first two bytes say where the first part ends.
fn split_parts(data: &[u8]) -> (&[u8], &[u8]) {
    match data.split_first_chunk::<2>() {
        Some((length, rest)) => rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len())),
        None => (data, &[]),
    }
}

/// A query, then a body: nothing is accepted unless it was signed with the token. `of_message` checks an
/// accepted message.
///
/// # Panics
/// When that does not hold.
pub(crate) fn door(data: &[u8], of_message: fn(&[u8])) {
    let (query, body) = split_parts(data);
    let Some(Ok(query)) = std::str::from_utf8(query).ok().map(Query::parse) else { return };
    let Query { msg_signature, timestamp, nonce, echostr } = &query;
    for value in [msg_signature, timestamp, nonce].into_iter().chain(echostr) {
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
    }
    let in_echo = echostr.as_deref().map(|text| (text.into(), verify_echo(&query, &KEYS)));
    let in_body = encrypted(body).map(|text| (text, verify(&query, body, &KEYS)));
    for (text, result) in in_echo.into_iter().chain(in_body) {
        match result {
            Err(Refusal::Signature) => {}
            result => {
                let expected = sign(TOKEN, timestamp, nonce, &text);
                assert_eq!(msg_signature.as_bytes(), expected, "not signed, but {result:?}");
                if let Ok(verified) = result {
                    assert_framed(&verified);
                    of_message(verified.text());
                }
            }
        }
    }
}

/// Edits to a genuine request: if it is still accepted, the message is the genuine one, byte for byte.
///
/// # Panics
/// When that does not hold.
pub fn forged(data: &[u8]) {
    static GENUINE: LazyLock<(String, String, VerifiedMessage)> = LazyLock::new(|| {
        let text = encrypt(&plaintext(ADD.as_bytes(), b"wwINVENTED00000001"));
        let query = signed(&text);
        let verified = verify_echo(&query, &KEYS);
        let Query { msg_signature, timestamp, nonce, .. } = query;
        let raw = format!("msg_signature={msg_signature}&timestamp={timestamp}&nonce={nonce}");
        (raw, in_xml(&text), verified.unwrap_or_else(|refusal| panic!("{refusal}")))
    });
    let (query, body, genuine) = &*GENUINE;
    let (mut query, mut body) = (query.clone().into_bytes(), body.clone().into_bytes());
    // Each change: what to do, to which of the two, where, with which byte.
    for &[what, high, low, byte] in data.as_chunks::<4>().0 {
        let request = if what & 1 == 0 { &mut query } else { &mut body };
        let at = usize::from(u16::from_be_bytes([high, low])) % request.len().max(1);
        match (what >> 1) % 4 {
            _ if request.is_empty() => {}
            0 => request[at] = byte,
            1 => request.insert(at, byte),
            2 => drop(request.remove(at)),
            _ => request.truncate(at),
        }
    }
    let Some(Ok(query)) = std::str::from_utf8(&query).ok().map(Query::parse) else { return };
    if let Ok(verified) = verify(&query, &body, &KEYS) {
        assert_eq!(verified, *genuine, "a forged callback was accepted");
    }
}

/// Bytes encrypted with the right key, either as a message and a receive id, which must come out again, or as
/// everything from the header to the padding. Echo, XML and JSON envelopes give the same result. `of_message`
/// checks the message.
///
/// # Panics
/// When that does not hold.
pub(crate) fn sealed(data: &[u8], of_message: fn(&[u8])) {
    let Some((how, bytes)) = data.split_first() else { return };
    let (text_sent, receive_id) = split_parts(bytes);
    let is_framed = how % 2 == 0;
    let plain = if is_framed {
        plaintext(text_sent, receive_id)
    } else {
        let mut blocks = bytes.to_vec();
        blocks.resize(bytes.len().next_multiple_of(16), bytes.last().copied().unwrap_or_default());
        blocks
    };
    let text = encrypt(&plain);
    let query = signed(&text);
    let echoed = verify_echo(&query, &KEYS);
    for body in [in_xml(&text), in_json(&text)] {
        let posted = verify(&query, body.as_bytes(), &KEYS);
        assert_eq!(posted, echoed, "{body}");
    }
    match echoed {
        Ok(verified) => {
            assert_framed(&verified);
            if is_framed {
                assert_eq!((verified.text(), verified.receive_id()), (text_sent, receive_id));
            }
            of_message(verified.text());
        }
        Err(refusal) => assert!(!is_framed, "{refusal}"),
    }
}

/// Any text, or any blocks, decrypted with the right key: the result is well framed and encrypts to the same
/// text.
///
/// # Panics
/// When that does not hold.
pub fn cipher(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(verified) = key().decrypt(text)
    {
        assert_framed(&verified);
    }
    let text = STANDARD.encode(data);
    if let Ok(verified) = key().decrypt(&text) {
        assert_framed(&verified);
        assert_eq!(encrypt(&verified.plaintext), text);
    }
}

/// Asserts that header, message, receive id and padding make up the whole plaintext.
fn assert_framed(verified: &VerifiedMessage) {
    let VerifiedMessage { plaintext, text, receive_id, opened_with: _ } = verified;
    let Some([a, b, c, d]) = plaintext.get(HEADER_BYTES - 4..HEADER_BYTES) else { panic!("no header") };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    assert_eq!(usize::try_from(length).ok(), Some(text.len()));
    assert_eq!((text.start, text.end), (HEADER_BYTES, receive_id.start));
    let pad = &plaintext[receive_id.end..];
    assert!((1..=PAD_MAX).contains(&pad.len()), "a padding of {} bytes", pad.len());
    assert!(pad.iter().all(|byte| usize::from(*byte) == pad.len()), "padded with {pad:?}");
    assert_eq!(
        verified.text().len() + verified.receive_id().len() + pad.len() + HEADER_BYTES,
        plaintext.len()
    );
}

/// Any body: the encrypted text found is part of it, and is found again in either kind of envelope.
///
/// # Panics
/// When that does not hold.
pub fn envelope(body: &[u8]) {
    let Some(text) = encrypted(body) else { return };
    assert!(text.len() < body.len() && text.trim() == text, "{text:?}");
    for wrapped in [in_xml(&text), in_json(&text)] {
        assert_eq!(encrypted(wrapped.as_bytes()).as_deref(), Some(&*text), "{wrapped}");
    }
}
