//! CPU time of one callback before the store: verify + decrypt + parse of a standard add event, compared with
//! the bare AES-256-CBC + SHA-1 + base64 work on the same bytes with the same crates, and with published Rust
//! crates on the part they cover.
//!
//! `cargo bench --bench open`

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]
#![expect(clippy::print_stdout, reason = "prints its results")]

#[expect(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]
mod common;

use std::hint::black_box;

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use sha1::{Digest, Sha1};
use unionlink::callback::{AesKey, Keys, Query, VerifiedMessage, sign, verify, verify_echo};
use unionlink::domain::ids::CorpId;
use unionlink::intake::{Classified, Recipients, classify};

const TURNS: usize = 200;
const CALLS_A_TURN: u32 = 1_000;

const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFE";
const EVENT: &str = "<xml><ToUserName><![CDATA[wpInventedDealer00000000000000001]]></ToUserName>\
    <FromUserName><![CDATA[sys]]></FromUserName><CreateTime>1795309323</CreateTime>\
    <MsgType><![CDATA[event]]></MsgType><Event><![CDATA[change_external_contact]]></Event>\
    <ChangeType><![CDATA[add_external_contact]]></ChangeType><UserID><![CDATA[zhangsan]]></UserID>\
    <ExternalUserID><![CDATA[wmInventedCustomer00000000000001]]></ExternalUserID>\
    <State><![CDATA[spring]]></State><WelcomeCode><![CDATA[WELCOMECODE]]></WelcomeCode></xml>";

fn key() -> [u8; 32] {
    STANDARD.decode(format!("{KEY}=")).unwrap().try_into().unwrap()
}

fn seal(message: &str) -> String {
    let key = key();
    let mut plain = b"0123456789abcdef".to_vec();
    plain.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    plain.extend(message.as_bytes());
    plain.extend(b"ww00000000000000aa");
    let pad = 32 - plain.len() % 32;
    plain.extend(std::iter::repeat_n(u8::try_from(pad).unwrap(), pad));
    let length = plain.len();
    cbc::Encryptor::<Aes256>::new_from_slices(&key, &key[..16])
        .unwrap()
        .encrypt_padded::<NoPadding>(&mut plain, length)
        .unwrap();
    STANDARD.encode(plain)
}

/// The cryptography that every implementation needs.
fn bare(key: &[u8; 32], encrypted: &str) -> usize {
    let sha1 = Sha1::new()
        .chain_update(b"1795309323")
        .chain_update(encrypted)
        .chain_update(b"nonce")
        .chain_update(b"token")
        .finalize();
    black_box(sha1);
    let mut bytes = STANDARD.decode(encrypted).unwrap();
    let plain = cbc::Decryptor::<Aes256>::new_from_slices(key, &key[..16])
        .unwrap()
        .decrypt_padded::<NoPadding>(&mut bytes)
        .unwrap();
    plain.len()
}

/// Classifies a message of the brand's corp, which needs no store.
fn classified(message: &VerifiedMessage, recipients: &Recipients) -> Classified {
    let classified = classify(message, recipients, None, async |_| Err::<bool, ()>(()));
    classified.now_or_never().unwrap().unwrap()
}

fn main() {
    let recipients =
        Recipients { corp_id: CorpId::new("ww00000000000000aa").unwrap(), accept_receive_ids: Vec::new() };
    let encrypted = seal(EVENT);
    let signature = String::from_utf8(sign("token", "1795309323", "nonce", &encrypted).to_vec()).unwrap();
    let raw_query = format!("msg_signature={signature}&timestamp=1795309323&nonce=nonce");
    let body = format!(
        "<xml><ToUserName><![CDATA[ww00000000000000aa]]></ToUserName><Encrypt><![CDATA[{encrypted}]]></Encrypt>\
         <AgentID><![CDATA[1000002]]></AgentID></xml>"
    );
    let keys = Keys::new("token".into(), AesKey::decode(KEY).unwrap());
    let raw_echo = format!("{raw_query}&echostr={}", encrypted.replace('+', "%2B"));
    let (query, echo) = (Query::parse(&raw_query).unwrap(), Query::parse(&raw_echo).unwrap());
    let (wecom, wechat_key) =
        (wecom_crypto::Agent::new("token", KEY), wechat_crypto::decode_aes_key(KEY).unwrap());
    let key = key();

    let [whole, parsed, enveloped, sealed, bare, wecom_crypto, wechat_crypto] = common::in_turns(
        TURNS,
        CALLS_A_TURN,
        [
            &mut || {
                let query = Query::parse(black_box(&raw_query)).unwrap();
                let message = verify(&query, black_box(body.as_bytes()), &keys).unwrap();
                black_box(classified(&message, &recipients));
            },
            &mut || {
                let message = verify_echo(black_box(&echo), &keys).unwrap();
                black_box(classified(&message, &recipients));
            },
            &mut || {
                black_box(verify(&query, black_box(body.as_bytes()), &keys).unwrap());
            },
            &mut || {
                black_box(verify_echo(black_box(&echo), &keys).unwrap());
            },
            &mut || {
                black_box(bare(&key, black_box(&encrypted)));
            },
            &mut || {
                let ours = wecom.generate_signature(&["1795309323", "nonce", black_box(&encrypted)]);
                assert_eq!(ours, signature);
                black_box(wecom.decrypt(black_box(&encrypted)).unwrap());
            },
            &mut || {
                let ours =
                    wechat_crypto::calc_signature("token", "1795309323", "nonce", black_box(&encrypted));
                assert_eq!(ours, signature);
                let bytes = STANDARD.decode(black_box(&encrypted)).unwrap();
                let plain = wechat_crypto::decrypt(&wechat_key, &bytes).unwrap();
                black_box(wechat_crypto::parse_plain_text(&plain).unwrap());
            },
        ],
    );
    println!("body {} bytes, message {} bytes\n", body.len(), EVENT.len());
    println!("{:<58} {:>8}   ratio to bare", "", "ns");
    for (what, took) in [
        ("bare AES-256-CBC + SHA-1 + base64, with the same crates", bare),
        ("query + envelope + verify + decrypt + parse", whole),
        ("verify + decrypt + parse", parsed),
        ("envelope + verify + decrypt", enveloped),
        ("verify + decrypt", sealed),
        ("verify + decrypt, wecom-crypto 0.1.9", wecom_crypto),
        ("verify + decrypt, wechat-crypto 0.1.2", wechat_crypto),
    ] {
        println!("{what:<58} {took:>8.0}   {:.2}", took / bare);
    }
    let fastest = wecom_crypto.min(wechat_crypto);
    println!(
        "\nratio to the fastest published crate: {:.2} without parsing, {:.2} with",
        sealed / fastest,
        whole / fastest
    );
}
