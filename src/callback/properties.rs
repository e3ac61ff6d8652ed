//! What holds for a callback of any bytes whatsoever; see [`crate::properties`].
//!
//! Bytes that are merely thrown at the door end at the signature. [`sealed`] therefore makes them the plaintext, and
//! [`forged`] makes them changes to a request that is genuine.

use std::sync::LazyLock;

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::cipher::{HEADER_BYTES, LENIENT, PAD_MAX};
use super::envelope::encrypted;
use super::message::{CREATE_TIME_MAX, SHORT_TEXT_BYTES_MAX, parse};
use super::query::VALUE_BYTES_MAX;
use super::{AesKey, Keys, Opened, Query, Refusal, Sealed, sign};
use crate::domain::event::{ContactEvent, Event, Kind, What};
use crate::domain::ids::{CorpId, ExternalUserid, UserId};
use crate::domain::time::Timestamp;

pub(super) const TOKEN: &str = "token";
pub(super) const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// What a dealer adding a customer looks like.
pub(super) const ADD: &str = "<xml><ToUserName><![CDATA[wpDEALER]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>\
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
    let Ok(key) = LENIENT.decode(KEY) else { panic!("the key is not base64") };
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

fn in_xml(text: &str) -> String {
    format!("<xml><ToUserName>ww1</ToUserName><Encrypt>{}</Encrypt></xml>", cdata(text))
}

/// The end of a section cannot stand in one, so it is cut in two.
fn cdata(text: &str) -> String {
    format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>"))
}

fn in_json(text: &str) -> String {
    json!({ "tousername": "ww1", "encrypt": text }).to_string()
}

/// The first two bytes say where the first part ends.
fn two_parts(data: &[u8]) -> (&[u8], &[u8]) {
    match data.split_first_chunk::<2>() {
        Some((length, rest)) => rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len())),
        None => (data, &[]),
    }
}

/// A query, then a body: nothing gets past the signature that was not signed with the token.
///
/// # Panics
/// When that does not hold.
pub fn door(data: &[u8]) {
    let (query, body) = two_parts(data);
    let Some(Ok(query)) = std::str::from_utf8(query).ok().map(Query::parse) else { return };
    let Query { msg_signature, timestamp, nonce, echostr } = &query;
    for value in [msg_signature, timestamp, nonce].into_iter().chain(echostr) {
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
    }
    for sealed in [Sealed::from_echo(&query), Sealed::from_body(&query, body)].into_iter().flatten() {
        match sealed.open(&KEYS) {
            Err(Refusal::Signature) => {}
            verdict => {
                let ours = sign(TOKEN, timestamp, nonce, &sealed.encrypted);
                assert_eq!(msg_signature.as_bytes(), ours, "not signed, and yet {verdict:?}");
                if let Ok(opened) = verdict {
                    framed(&opened);
                    message(opened.message());
                }
            }
        }
    }
}

/// Changes to a genuine request: whatever is still accepted says what WeCom said, to the byte.
///
/// # Panics
/// When that does not hold.
pub fn forged(data: &[u8]) {
    static GENUINE: LazyLock<(String, String, Opened)> = LazyLock::new(|| {
        let text = encrypt(&plaintext(ADD.as_bytes(), b"wwINVENTED00000001"));
        let query = signed(&text);
        let opened = Sealed::from_echo(&query).and_then(|sealed| sealed.open(&KEYS));
        let Query { msg_signature, timestamp, nonce, .. } = query;
        let raw = format!("msg_signature={msg_signature}&timestamp={timestamp}&nonce={nonce}");
        (raw, in_xml(&text), opened.unwrap_or_else(|refusal| panic!("{refusal}")))
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
    let verdict = Sealed::from_body(&query, &body).and_then(|sealed| sealed.open(&KEYS));
    if let Ok(opened) = verdict {
        assert_eq!(opened, *genuine, "a forged callback was accepted");
    }
}

/// Bytes that were sealed with the right key: as a message and a receive id, which come out again, or as everything
/// from the header to the padding. The way they come makes no difference: echo, XML or JSON.
///
/// # Panics
/// When that does not hold.
pub fn sealed(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    let (said, receive_id) = two_parts(bytes);
    let is_framed = how % 2 == 0;
    let plain = if is_framed {
        plaintext(said, receive_id)
    } else {
        let mut blocks = bytes.to_vec();
        blocks.resize(bytes.len().next_multiple_of(16), bytes.last().copied().unwrap_or_default());
        blocks
    };
    let text = encrypt(&plain);
    let query = signed(&text);
    let echoed = Sealed::from_echo(&query).and_then(|sealed| sealed.open(&KEYS));
    for body in [in_xml(&text), in_json(&text)] {
        let posted = Sealed::from_body(&query, body.as_bytes()).and_then(|sealed| sealed.open(&KEYS));
        assert_eq!(posted, echoed, "{body}");
    }
    match echoed {
        Ok(opened) => {
            framed(&opened);
            if is_framed {
                assert_eq!((opened.message(), opened.receive_id()), (said, receive_id));
            }
            message(opened.message());
        }
        Err(refusal) => assert!(!is_framed, "{refusal}"),
    }
}

/// Any text, or any blocks, decrypted with the right key: what comes out is framed, and is sealed to the same text.
///
/// # Panics
/// When that does not hold.
pub fn cipher(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(opened) = key().decrypt(text)
    {
        framed(&opened);
    }
    let text = STANDARD.encode(data);
    if let Ok(opened) = key().decrypt(&text) {
        framed(&opened);
        assert_eq!(encrypt(&opened.plaintext), text);
    }
}

/// Header, message, receive id and padding make up the whole of what was decrypted.
fn framed(opened: &Opened) {
    let Opened { plaintext, message, receive_id } = opened;
    let Some([a, b, c, d]) = plaintext.get(HEADER_BYTES - 4..HEADER_BYTES) else { panic!("no header") };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    assert_eq!(usize::try_from(length).ok(), Some(message.len()));
    assert_eq!((message.start, message.end), (HEADER_BYTES, receive_id.start));
    let pad = &plaintext[receive_id.end..];
    assert!((1..=PAD_MAX).contains(&pad.len()), "a padding of {} bytes", pad.len());
    assert!(pad.iter().all(|byte| usize::from(*byte) == pad.len()), "padded with {pad:?}");
    assert_eq!(
        opened.message().len() + opened.receive_id().len() + pad.len() + HEADER_BYTES,
        plaintext.len()
    );
}

/// Any body: the sealed text in it is a part of it, and is found again however it is wrapped.
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

/// Any message: one that is understood is within bounds, and the same when it is written anew; one that is not says
/// why in a few words of our own.
///
/// # Panics
/// When that does not hold.
pub fn message(text: &[u8]) {
    let event = match parse(text) {
        Ok(event) => event,
        Err(error) => return assert!(error.to_string().len() <= 120, "{error}"),
    };
    let Event { corp_id, created_at, what } = &event;
    bounded(corp_id.as_str(), CorpId::BYTES_MAX);
    assert!((0..=CREATE_TIME_MAX).contains(&created_at.as_secs()), "{created_at}");
    match what {
        What::Contact(contact) => {
            bounded(contact.user_id.as_str(), UserId::BYTES_MAX);
            bounded(contact.external_userid.as_str(), ExternalUserid::BYTES_MAX);
            for text in contact.state.iter().chain(&contact.welcome_code) {
                assert!((1..=SHORT_TEXT_BYTES_MAX).contains(&text.len()), "a text of {} bytes", text.len());
            }
            let fields = fields(&event, contact);
            let json: serde_json::Map<_, _> =
                fields.iter().map(|(name, text)| ((*name).to_owned(), text.as_str().into())).collect();
            let xml = fields.map(|(name, text)| format!("<{name}>{}</{name}>", cdata(&text)));
            for anew in [format!("<xml>{}</xml>", xml.concat()), serde_json::Value::from(json).to_string()] {
                assert_eq!(parse(anew.as_bytes()).as_ref(), Ok(&event), "{anew}");
            }
        }
        What::Ignored(Kind::Suite) => assert_eq!(*created_at, Timestamp::EPOCH),
        What::Ignored(_) => {}
    }
}

fn bounded(id: &str, bytes_max: usize) {
    assert!((1..=bytes_max).contains(&id.len()), "an id of {} bytes", id.len());
    assert!(!id.chars().any(|c| c.is_control() || c.is_whitespace()), "{id:?}");
}

fn fields(event: &Event, contact: &ContactEvent) -> [(&'static str, String); 9] {
    [
        ("ToUserName", event.corp_id.to_string()),
        ("CreateTime", event.created_at.as_secs().to_string()),
        ("MsgType", "event".to_owned()),
        ("Event", "change_external_contact".to_owned()),
        ("ChangeType", event.what.kind().as_str().to_owned()),
        ("UserID", contact.user_id.as_str().to_owned()),
        ("ExternalUserID", contact.external_userid.as_str().to_owned()),
        ("State", contact.state.clone().unwrap_or_default()),
        ("WelcomeCode", contact.welcome_code.clone().unwrap_or_default()),
    ]
}
