//! What one callback costs before the store: verify + decrypt + parse of a standard add event, beside the bare
//! AES-256-CBC + SHA-1 + base64 work on the same bytes with the same crates.
//!
//! `cargo bench --bench open`

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use std::hint::black_box;

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha1::{Digest, Sha1};
use unionlink::callback::{AesKey, Keys, Query, Sealed, message, sign};

const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFE";
const EVENT: &str = "<xml><ToUserName><![CDATA[wpInventedDealer00000000000000001]]></ToUserName>\
    <FromUserName><![CDATA[sys]]></FromUserName><CreateTime>1795309323</CreateTime>\
    <MsgType><![CDATA[event]]></MsgType><Event><![CDATA[change_external_contact]]></Event>\
    <ChangeType><![CDATA[add_external_contact]]></ChangeType><UserID><![CDATA[zhangsan]]></UserID>\
    <ExternalUserID><![CDATA[wmInventedCustomer00000000000001]]></ExternalUserID>\
    <State><![CDATA[spring]]></State><WelcomeCode><![CDATA[WELCOMECODE]]></WelcomeCode></xml>";

fn seal(message: &str) -> String {
    let key: [u8; 32] = STANDARD.decode(format!("{KEY}=")).unwrap().try_into().unwrap();
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

fn open(c: &mut Criterion) {
    let encrypted = seal(EVENT);
    let signature = String::from_utf8(sign("token", "1795309323", "nonce", &encrypted).to_vec()).unwrap();
    let raw_query = format!("msg_signature={signature}&timestamp=1795309323&nonce=nonce");
    let body = format!(
        "<xml><ToUserName><![CDATA[ww00000000000000aa]]></ToUserName><Encrypt><![CDATA[{encrypted}]]></Encrypt>\
         <AgentID><![CDATA[1000002]]></AgentID></xml>"
    );
    let keys = Keys::new("token".into(), AesKey::decode(KEY).unwrap());
    let key: [u8; 32] = STANDARD.decode(format!("{KEY}=")).unwrap().try_into().unwrap();

    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("verify + decrypt + parse", |b| {
        b.iter(|| {
            let query = Query::parse(black_box(&raw_query)).unwrap();
            let opened = Sealed::from_body(&query, black_box(body.as_bytes())).unwrap().open(&keys).unwrap();
            message::parse(opened.message()).unwrap()
        });
    });
    group.bench_function("verify + decrypt", |b| {
        let query = Query::parse(&raw_query).unwrap();
        b.iter(|| Sealed::from_body(&query, black_box(body.as_bytes())).unwrap().open(&keys).unwrap());
    });
    group.bench_function("bare AES-256-CBC + SHA-1 + base64", |b| {
        b.iter(|| {
            let sha1 = Sha1::new()
                .chain_update(b"1795309323")
                .chain_update(black_box(encrypted.as_bytes()))
                .chain_update(b"nonce")
                .chain_update(b"token")
                .finalize();
            let mut bytes = STANDARD.decode(black_box(&encrypted)).unwrap();
            let length = cbc::Decryptor::<Aes256>::new_from_slices(&key, &key[..16])
                .unwrap()
                .decrypt_padded::<NoPadding>(&mut bytes)
                .unwrap()
                .len();
            (sha1, length)
        });
    });
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);
