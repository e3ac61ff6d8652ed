//! The published vectors, every length of padding, and every trailing bit; arbitrary bytes are for
//! [`super::properties`].

use base64::engine::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretBox;
use secrecy::zeroize::ZeroizeOnDrop;
use serde_json::Value;

use super::properties::{KEY, encrypt, encrypt_with, plaintext, signed};
use super::*;

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("../../tests/vectors/callback.json")).unwrap()
}

fn text<'a>(vector: &'a Value, field: &str) -> Option<&'a str> {
    vector[field].as_str()
}

fn keys(token: &str, aes_key: &str) -> Keys {
    Keys::new(token.into(), AesKey::decode(aes_key).unwrap())
}

fn query_of(vector: &Value) -> Query<'_> {
    Query {
        msg_signature: text(vector, "signature").unwrap_or_default().into(),
        timestamp: text(vector, "timestamp").unwrap_or_default().into(),
        nonce: text(vector, "nonce").unwrap_or_default().into(),
        echostr: text(vector, "echostr").map(Into::into),
    }
}

fn open_signed(encrypted: &str) -> Result<VerifiedMessage, Refusal> {
    verify_echo(&signed(encrypted), &keys("token", KEY))
}

#[test]
fn every_published_vector_opens_to_its_plaintext() {
    let mut opened = 0;
    for vector in vectors() {
        let kind = text(&vector, "kind").unwrap();
        let expected = text(&vector, "expected_plaintext").unwrap_or_default();
        let query = query_of(&vector);
        let keys = || keys(text(&vector, "token").unwrap(), text(&vector, "aes_key").unwrap());
        let verified = match kind {
            "url_verify" => verify_echo(&query, &keys()),
            "post_xml" | "post_json" | "post_xml_third_party_suite" => {
                verify(&query, text(&vector, "post_body").unwrap().as_bytes(), &keys())
            }
            _ => continue,
        };
        let plain = verified.unwrap_or_else(|e| panic!("{e}: {}", vector["source"]));
        assert_eq!(plain.text(), expected.as_bytes(), "{}", vector["source"]);
        if let Some(receive_id) = text(&vector, "decrypted_receive_id") {
            assert_eq!(plain.receive_id(), receive_id.as_bytes(), "{}", vector["source"]);
        }
        opened += 1;
    }
    assert_eq!(opened, 29);
}

#[test]
fn while_keys_are_changed_the_present_and_the_previous_pair_open() {
    let other_key = "b".repeat(43);
    let open = |token: &str, aes_key: &str, keys: &Keys| {
        let encrypted = encrypt_with(aes_key, &plaintext(b"<xml/>", b"wwBRAND"));
        let signature = sign(token, "1", "2", &encrypted);
        let query = Query {
            msg_signature: String::from_utf8_lossy(&signature),
            timestamp: "1".into(),
            nonce: "2".into(),
            echostr: Some(encrypted.as_str().into()),
        };
        verify_echo(&query, keys).map(|message| message.opened_with())
    };
    let previous = |token: Option<&str>, aes_key: Option<&str>| {
        let aes_key = aes_key.map(|aes_key| AesKey::decode(aes_key).unwrap());
        keys("new", KEY).with_previous(token.map(Into::into), aes_key)
    };
    let (current, before) = (Ok(KeyAge::Current), Ok(KeyAge::Previous));
    for (keys, opened) in [
        (
            previous(None, None),
            [current, Err(Refusal::Signature), Err(Refusal::Padding), Err(Refusal::Signature)],
        ),
        (previous(Some("old"), None), [current, before, Err(Refusal::Padding), Err(Refusal::Padding)]),
        (
            previous(None, Some(&other_key)),
            [current, Err(Refusal::Signature), before, Err(Refusal::Signature)],
        ),
        (
            previous(Some("old"), Some(&other_key)),
            [current, Err(Refusal::Padding), Err(Refusal::Padding), before],
        ),
    ] {
        let pairs = [("new", KEY), ("old", KEY), ("new", &*other_key), ("old", &*other_key)];
        assert_eq!(pairs.map(|(token, aes_key)| open(token, aes_key, &keys)), opened, "{keys:?}");
        assert_eq!(open("stranger", KEY, &keys), Err(Refusal::Signature));
    }
}

#[test]
fn every_published_signature_is_reproduced() {
    let mut signed = 0;
    for vector in vectors() {
        let kind = text(&vector, "kind").unwrap();
        let encrypted = match kind {
            "url_verify" => text(&vector, "echostr"),
            "signature_only" | "signature_parts" | "encrypt_deterministic" => text(&vector, "encrypt"),
            _ => None,
        };
        let (Some(encrypted), Some(expected)) = (encrypted, text(&vector, "signature")) else {
            continue;
        };
        if expected.is_empty() {
            continue;
        }
        let ours = sign(
            text(&vector, "token").unwrap(),
            text(&vector, "timestamp").unwrap(),
            text(&vector, "nonce").unwrap(),
            encrypted,
        );
        assert_eq!(std::str::from_utf8(&ours).unwrap(), expected, "{}", vector["source"]);
        signed += 1;
    }
    assert!(signed >= 15, "{signed}");
}

#[test]
fn the_raw_and_the_percent_encoded_echo_are_the_same() {
    for vector in vectors() {
        let Some(encoded) = text(&vector, "echostr_urlencoded") else {
            continue;
        };
        let query = query_of(&vector);
        let raw = format!(
            "msg_signature={}&timestamp={}&nonce={}&echostr={encoded}",
            query.msg_signature, query.timestamp, query.nonce
        );
        assert_eq!(Query::parse(&raw).unwrap(), query, "{}", vector["source"]);
    }
}

#[test]
fn padding_of_every_length_from_1_to_32_is_stripped() {
    let mut pads = std::collections::BTreeSet::new();
    for length in 0..64 {
        let message = vec![b'x'; length];
        let plain = plaintext(&message, b"ww00000000000000aa");
        pads.insert(*plain.last().unwrap());
        let opened = open_signed(&encrypt(&plain)).unwrap();
        assert_eq!(opened.text(), message);
        assert_eq!(opened.receive_id(), b"ww00000000000000aa");
    }
    assert_eq!(pads, (1..=32).collect());
}

#[test]
fn base64_without_padding_or_with_trailing_bits_is_decoded() {
    let encrypted = encrypt(&plaintext(b"hello", b"ww1"));
    let unpadded = encrypted.trim_end_matches('=');
    assert_ne!(unpadded, encrypted);
    assert_eq!(open_signed(unpadded).unwrap().text(), b"hello");
    let (last, rest) = unpadded.as_bytes().split_last().unwrap();
    let trailing = format!("{}{}=", std::str::from_utf8(rest).unwrap(), char::from(last + 1));
    assert_eq!(open_signed(&trailing).unwrap().text(), b"hello");
}

#[test]
fn the_trailing_bits_of_a_key_do_not_matter() {
    // The last character carries four bits of the key and two that mean nothing.
    let encrypted = encrypt(&plaintext(b"hello", b"ww1"));
    for last in ["E", "F", "G", "H"] {
        let key = AesKey::decode(&format!("{}{last}", &KEY[..42])).unwrap();
        assert_eq!(key.decrypt(&encrypted).unwrap().text(), b"hello", "{last}");
    }
    let alphabet = ('A'..='Z').chain('a'..='z').chain('0'..='9');
    for last in alphabet {
        AesKey::decode(&format!("{}{last}", &KEY[..42])).unwrap();
    }
}

#[test]
fn keys_and_key_material_are_wiped_when_they_are_dropped() {
    // This compiles only with the crates' `zeroize` features.
    const fn wiped<T: ZeroizeOnDrop>() {}
    const { wiped::<SecretBox<[u8; 32]>>() }
    const { wiped::<SecretString>() }
    const { wiped::<aes::Aes256>() }
    const { wiped::<cbc::Decryptor<aes::Aes256>>() }
    const { wiped::<sha1::Sha1>() }
    // HMAC uses it; nothing else that is secret does.
    const { wiped::<sha2::Sha256>() }
}

#[test]
fn a_malformed_key_is_refused_with_the_reason() {
    assert_eq!(AesKey::decode("short").unwrap_err(), AesKeyError::Length(5));
    let with_plus = format!("{}+", &KEY[..42]);
    assert_eq!(AesKey::decode(&with_plus).unwrap_err(), AesKeyError::Character);
    assert!(!format!("{:?}", AesKey::decode(KEY).unwrap()).contains("97"), "a key must not print itself");
}

#[test]
fn a_signed_but_malformed_text_is_refused_with_its_reason() {
    assert_eq!(open_signed("not base64!").unwrap_err(), Refusal::Cipher);
    assert_eq!(open_signed("").unwrap_err(), Refusal::Cipher);
    assert_eq!(open_signed(&STANDARD.encode([0; 15])).unwrap_err(), Refusal::Cipher);
    let sealed = |plain: &[u8]| open_signed(&encrypt(plain)).unwrap_err();
    assert_eq!(sealed(&[0; 32]), Refusal::Padding);
    assert_eq!(sealed(&[33; 64]), Refusal::Padding);
    let mut uneven = [5; 32];
    uneven[28] = 4;
    assert_eq!(sealed(&uneven), Refusal::Padding);
    assert_eq!(sealed(&[32; 32]), Refusal::Length, "nothing is left after the padding");
    assert_eq!(sealed(&[32; 16]), Refusal::Padding, "more padding than text");
    let mut long = plaintext(b"hello", b"");
    long[16..20].copy_from_slice(&6_u32.to_be_bytes());
    assert_eq!(sealed(&long), Refusal::Length);
    long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(sealed(&long), Refusal::Length);
}

#[test]
fn another_token_or_a_changed_byte_is_a_bad_signature() {
    let encrypted = encrypt(&plaintext(b"hello", b"ww1"));
    let signature = String::from_utf8(sign("token", "1", "n", &encrypted).to_vec()).unwrap();
    let mut query = Query {
        msg_signature: signature.into(),
        timestamp: "1".into(),
        nonce: "n".into(),
        echostr: Some(encrypted.into()),
    };
    assert!(verify_echo(&query, &keys("token", KEY)).is_ok());
    let refused = |query: &Query<'_>, token| verify_echo(query, &keys(token, KEY)).unwrap_err();
    assert_eq!(refused(&query, "other"), Refusal::Signature);
    query.timestamp = "2".into();
    assert_eq!(refused(&query, "token"), Refusal::Signature);
    query.msg_signature = "".into();
    assert_eq!(refused(&query, "token"), Refusal::Signature);
}
