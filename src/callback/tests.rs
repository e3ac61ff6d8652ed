//! The published vectors, every pad, every trailing bit, and bytes from hell.

use base64::engine::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use secrecy::SecretBox;
use secrecy::zeroize::ZeroizeOnDrop;
use serde_json::Value;

use super::properties::{ADD, KEY, encrypt, plaintext, signed};
use super::*;
use crate::domain::event::{ContactChange, Kind, What};

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

fn open_signed(encrypted: &str) -> Result<Opened, Refusal> {
    Sealed::from_echo(&signed(encrypted)).unwrap().open(&keys("token", KEY))
}

#[test]
fn every_published_vector_opens_to_its_plaintext() {
    let mut opened = 0;
    for vector in vectors() {
        let kind = text(&vector, "kind").unwrap();
        let expected = text(&vector, "expected_plaintext").unwrap_or_default();
        let query = query_of(&vector);
        let sealed = match kind {
            "url_verify" => Sealed::from_echo(&query).unwrap(),
            "post_xml" | "post_json" | "post_xml_third_party_suite" => {
                Sealed::from_body(&query, text(&vector, "post_body").unwrap().as_bytes()).unwrap()
            }
            _ => continue,
        };
        let keys = keys(text(&vector, "token").unwrap(), text(&vector, "aes_key").unwrap());
        let plain = sealed.open(&keys).unwrap_or_else(|e| panic!("{e}: {}", vector["source"]));
        assert_eq!(plain.message(), expected.as_bytes(), "{}", vector["source"]);
        if let Some(receive_id) = text(&vector, "decrypted_receive_id") {
            assert_eq!(plain.receive_id(), receive_id.as_bytes(), "{}", vector["source"]);
        }
        opened += 1;
    }
    assert_eq!(opened, 29);
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
fn every_one_of_the_thirty_two_pads_is_stripped() {
    let mut pads = std::collections::BTreeSet::new();
    for length in 0..64 {
        let message = vec![b'x'; length];
        let plain = plaintext(&message, b"ww00000000000000aa");
        pads.insert(*plain.last().unwrap());
        let opened = open_signed(&encrypt(&plain)).unwrap();
        assert_eq!(opened.message(), message);
        assert_eq!(opened.receive_id(), b"ww00000000000000aa");
    }
    assert_eq!(pads, (1..=32).collect());
}

#[test]
fn base64_without_its_padding_or_with_trailing_bits_is_read_all_the_same() {
    let encrypted = encrypt(&plaintext(b"hello", b"ww1"));
    let unpadded = encrypted.trim_end_matches('=');
    assert_ne!(unpadded, encrypted);
    assert_eq!(open_signed(unpadded).unwrap().message(), b"hello");
    let (last, rest) = unpadded.as_bytes().split_last().unwrap();
    let trailing = format!("{}{}=", std::str::from_utf8(rest).unwrap(), char::from(last + 1));
    assert_eq!(open_signed(&trailing).unwrap().message(), b"hello");
}

#[test]
fn a_key_is_the_same_whatever_its_trailing_bits() {
    // The last character carries four bits of the key and two that mean nothing.
    let encrypted = encrypt(&plaintext(b"hello", b"ww1"));
    for last in ["E", "F", "G", "H"] {
        let key = AesKey::decode(&format!("{}{last}", &KEY[..42])).unwrap();
        assert_eq!(key.decrypt(&encrypted).unwrap().message(), b"hello", "{last}");
    }
    let alphabet = ('A'..='Z').chain('a'..='z').chain('0'..='9');
    for last in alphabet {
        AesKey::decode(&format!("{}{last}", &KEY[..42])).unwrap();
    }
}

#[test]
fn keys_and_what_is_made_of_them_are_wiped_when_they_are_dropped() {
    // Without a crate's feature for it this does not compile.
    const fn wiped<T: ZeroizeOnDrop>() {}
    const { wiped::<SecretBox<[u8; 32]>>() }
    const { wiped::<SecretString>() }
    const { wiped::<aes::Aes256>() }
    const { wiped::<cbc::Decryptor<aes::Aes256>>() }
    const { wiped::<sha1::Sha1>() }
    // Of which HMAC is made, and nothing else that is secret.
    const { wiped::<sha2::Sha256>() }
}

#[test]
fn a_key_that_is_none_is_refused_with_the_reason() {
    assert_eq!(AesKey::decode("short").unwrap_err(), AesKeyError::Length(5));
    let with_plus = format!("{}+", &KEY[..42]);
    assert_eq!(AesKey::decode(&with_plus).unwrap_err(), AesKeyError::Character);
    assert!(!format!("{:?}", AesKey::decode(KEY).unwrap()).contains("97"), "a key must not print itself");
}

#[test]
fn what_is_signed_but_malformed_is_refused_by_its_reason() {
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
    assert!(Sealed::from_echo(&query).unwrap().open(&keys("token", KEY)).is_ok());
    let refused =
        |query: &Query<'_>, token| Sealed::from_echo(query).unwrap().open(&keys(token, KEY)).unwrap_err();
    assert_eq!(refused(&query, "other"), Refusal::Signature);
    query.timestamp = "2".into();
    assert_eq!(refused(&query, "token"), Refusal::Signature);
    query.msg_signature = "".into();
    assert_eq!(refused(&query, "token"), Refusal::Signature);
}

#[test]
fn an_add_is_read_with_all_its_fields() {
    let event = message::parse(ADD.as_bytes()).unwrap();
    assert_eq!(event.corp_id.as_str(), "wpDEALER");
    assert_eq!(event.created_at.as_secs(), 1_403_610_513);
    let What::Contact(contact) = event.what else { panic!("not a contact") };
    assert_eq!(contact.change, ContactChange::Added);
    assert_eq!(contact.user_id.as_str(), "zhangsan");
    assert_eq!(contact.external_userid.as_str(), "wmINVENTED");
    assert_eq!(contact.state.as_deref(), Some("test&state"));
    assert_eq!(contact.welcome_code.as_deref(), Some("WELCOME"));
}

#[test]
fn cdata_order_and_white_space_do_not_matter() {
    let plain = ADD.replace("<![CDATA[", "").replace("]]>", "").replace("test&state", "test&amp;state");
    assert_eq!(message::parse(plain.as_bytes()), message::parse(ADD.as_bytes()));
    let spaced = ADD.replace("><", ">\n  <");
    let spaced = format!("\u{feff}<?xml version=\"1.0\"?>\n{spaced}\n");
    // White space inside CDATA-free elements is the reader's to drop.
    assert_eq!(message::parse(spaced.as_bytes()), message::parse(ADD.as_bytes()));
}

#[test]
fn every_change_type_is_told_apart() {
    for (change, kind) in [
        ("add_external_contact", Kind::AddExternalContact),
        ("add_half_external_contact", Kind::AddHalfExternalContact),
        ("edit_external_contact", Kind::EditExternalContact),
        ("del_external_contact", Kind::DelExternalContact),
        ("del_follow_user", Kind::DelFollowUser),
        ("transfer_fail", Kind::TransferFail),
        ("msg_audit_approved", Kind::MsgAuditApproved),
        ("something_new", Kind::OtherEvent),
    ] {
        let xml = ADD.replace("add_external_contact", change);
        assert_eq!(message::parse(xml.as_bytes()).unwrap().what.kind(), kind);
    }
}

#[test]
fn what_is_not_understood_says_which_field_and_why() {
    let error =
        |from: &str, to: &str| message::parse(ADD.replace(from, to).as_bytes()).unwrap_err().to_string();
    assert_eq!(error("wmINVENTED", ""), "the field ExternalUserID is missing");
    assert_eq!(error("wmINVENTED", &"x".repeat(200)), "the field ExternalUserID is longer than 128 bytes");
    assert_eq!(error("1403610513", "soon"), "the field CreateTime is not a time in seconds");
    assert_eq!(error("1403610513", "-1"), "the field CreateTime is not a time in seconds");
    assert!(error("<xml>", "<!DOCTYPE x [<!ENTITY a \"b\">]><xml>").contains("document type"));
    assert!(error("<xml>", &"<a>".repeat(20)).contains("nested deeper"));
    assert!(error("</xml>", &format!("{}</xml>", "<a/>".repeat(300))).contains("more than 256"));
    assert!(error("</xml>", "").contains("well-formed"));
    assert!(error("test&state]]>", "]]>&undefined;").contains("well-formed"));
}

#[test]
fn json_that_is_not_understood_is_not_quoted() {
    for (json, what) in [
        (r#"{"UserID":4711}"#, "of another type"),
        (r#"{"UserID":"4711","UserID":"4711"}"#, "there twice"),
        (r#"{"Other":4711x}"#, "not well-formed"),
        (r#"{"UserID":"4711"#, "ends too early"),
    ] {
        let error = message::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what) && !error.contains("4711"), "{error}");
    }
}

#[test]
fn a_json_event_is_read_like_an_xml_one() {
    let json = r#"{"ToUserName":"wpDEALER","CreateTime":1403610513,"MsgType":"event","AgentID":7,
        "Event":"change_external_contact","ChangeType":"add_external_contact","UserID":"zhangsan",
        "ExternalUserID":"wmINVENTED","State":"test&state","WelcomeCode":"WELCOME"}"#;
    assert_eq!(message::parse(json.as_bytes()), message::parse(ADD.as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_signed_plaintext_whatsoever_panics(plain in proptest::collection::vec(any::<u8>(), 0..160)) {
        let mut blocks = plain;
        blocks.resize(blocks.len().next_multiple_of(16), 7);
        if let Ok(opened) = open_signed(&encrypt(&blocks)) {
            let _ = message::parse(opened.message());
        }
    }

    #[test]
    fn no_body_whatsoever_panics(body in proptest::collection::vec(any::<u8>(), 0..400), raw in ".{0,80}") {
        let _ = envelope::encrypted(&body);
        let _ = message::parse(&body);
        let _ = Query::parse(&raw);
    }

    #[test]
    fn no_xml_like_text_panics(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "<xml>", "</xml>", "<Encrypt>", "</Encrypt>", "<![CDATA[", "]]>", "&amp;", "&#x41;", "&#xFFFFFFFF;",
                "&", ";", "<", ">", "<!--", "-->", "<?", "?>", "<!DOCTYPE", "\u{feff}", "文", "=\"", "Event", "/>",
            ]), 0..40)
    ) {
        let text = parts.concat();
        let _ = envelope::encrypted(text.as_bytes());
        let _ = message::parse(text.as_bytes());
    }
}
