//! Sealing, checked against published vectors and a decryption written for this test, and sending.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use aes::cipher::{Array, BlockModeDecrypt, KeyIvInit};
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::super::error::SimulatorError;
use super::super::seal::{SealParams, Sealer};
use super::super::{CallbackSpec, Change, ContactChange, Copies, Forgery, ReceiveId, SenderOptions};
use super::*;

/// The plaintext and the receive id of a callback, or what is wrong with it.
pub(super) fn open(
    spec: &CallbackSpec,
    query: &str,
    encrypted: &str,
) -> Result<(String, String), &'static str> {
    let field = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap();
        percent_encoding::percent_decode_str(value).decode_utf8().unwrap().into_owned()
    };
    let mut parts = [spec.token.clone(), field("timestamp"), field("nonce"), encrypted.to_owned()];
    parts.sort();
    let digest = Sha1::digest(parts.concat());
    let signature = digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    if signature != field("msg_signature") {
        return Err("signature");
    }
    // The same key, with a last character whose surplus bits are zero.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (head, last) = spec.aes_key.split_at(42);
    let at = alphabet.iter().position(|symbol| *symbol == last.as_bytes()[0]).unwrap();
    let key = STANDARD.decode(format!("{head}{}=", char::from(alphabet[at & !3]))).unwrap();
    let mut plain = STANDARD.decode(encrypted).unwrap();
    let key: [u8; 32] = key.try_into().unwrap();
    let iv: [u8; 16] = key[..16].try_into().unwrap();
    let (blocks, rest) = Array::slice_as_chunks_mut(&mut plain);
    assert!(rest.is_empty());
    cbc::Decryptor::<aes::Aes256>::new(&key.into(), &iv.into()).decrypt_blocks(blocks);
    let pad = usize::from(*plain.last().unwrap());
    if !(1..=32).contains(&pad) || !plain.len().is_multiple_of(32) {
        return Err("padding");
    }
    plain.truncate(plain.len() - pad);
    let length = u32::from_be_bytes(plain[16..20].try_into().unwrap()) as usize;
    let message = plain.get(20..20 + length).ok_or("length")?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok((text(message), text(&plain[20 + length..])))
}

pub(super) fn encrypted_in(body: &str) -> &str {
    body.split_once("<Encrypt><![CDATA[").unwrap().1.split_once("]]></Encrypt>").unwrap().0
}

fn sealer(token: &str, aes_key: &str) -> Result<Sealer, SimulatorError> {
    Sealer::new(&CallbackSpec { url: "http://x/cb?a=1".into(), token: token.into(), aes_key: aes_key.into() })
}

#[test]
fn sealed_messages_equal_those_of_published_implementations() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/vectors/callback.json")).unwrap();
    let (mut encrypted_seen, mut verified_seen) = (0, 0);
    for vector in &vectors {
        let text = |field: &str| vector[field].as_str();
        let is_deterministic = text("kind") == Some("encrypt_deterministic");
        let is_verification = text("kind") == Some("url_verify");
        if !is_deterministic && !is_verification {
            continue;
        }
        let sealer = sealer(text("token").unwrap_or(""), text("aes_key").unwrap()).unwrap();
        // The file writes random bytes as Latin-1.
        let random: Vec<u8> =
            text("random16").unwrap().chars().map(|byte| u8::try_from(u32::from(byte)).unwrap()).collect();
        let random: [u8; 16] = random.try_into().unwrap();
        let encrypted =
            sealer.encrypt(random, text("expected_plaintext").unwrap(), text("receive_id").unwrap());
        let expected =
            text("encrypt").or(text("echostr")).unwrap_or_else(|| encrypted_in(text("post_body").unwrap()));
        assert_eq!(encrypted, expected, "{}", vector["source"]);
        encrypted_seen += 1;
        if let (Some(timestamp), Some(nonce), Some(signature)) =
            (text("timestamp"), text("nonce"), text("signature"))
        {
            assert_eq!(sealer.signature(timestamp, nonce, expected), signature, "{}", vector["source"]);
            verified_seen += 1;
        }
        if let Some(urlencoded) = text("echostr_urlencoded") {
            let params = SealParams {
                random,
                nonce: text("nonce").unwrap().into(),
                timestamp: text("timestamp").unwrap().into(),
            };
            let echo = text("expected_plaintext").unwrap();
            let url = sealer.verification_url(echo, text("receive_id").unwrap(), &params);
            assert!(url.starts_with("http://x/cb?a=1&msg_signature="));
            assert!(url.ends_with(&format!("&echostr={urlencoded}")), "{url}");
        }
    }
    assert!(encrypted_seen >= 10 && verified_seen >= 5, "{encrypted_seen} {verified_seen}");
    assert!(sealer("t", "short").is_err());
    assert!(sealer("t", &"+".repeat(43)).is_err());
}

/// A callback server that answers as configured and keeps what it received.
#[derive(Default)]
pub(super) struct Receiver {
    statuses: Mutex<VecDeque<u16>>,
    /// Another answer than `success`.
    pub(super) answer: Mutex<Option<&'static str>>,
    pub(super) delay: Mutex<Option<Duration>>,
    seen: Mutex<Vec<(String, String)>>,
    pub(super) echo: Mutex<Option<CallbackSpec>>,
    verified: Mutex<Option<String>>,
}

impl Receiver {
    pub(super) fn seen(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().clone()
    }

    /// The receive id of the last verification.
    pub(super) fn verified(&self) -> Option<String> {
        self.verified.lock().unwrap().clone()
    }

    /// The only callback since the last time: query and body.
    pub(super) fn take_one(&self) -> (String, String) {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }
}

async fn receive(
    receiver: State<Arc<Receiver>>,
    query: RawQuery,
    body: String,
) -> (StatusCode, &'static str) {
    receiver.seen.lock().unwrap().push((query.0.unwrap(), body));
    let delay = *receiver.delay.lock().unwrap();
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    let status = receiver.statuses.lock().unwrap().pop_front().unwrap_or(200);
    let answer = receiver.answer.lock().unwrap().unwrap_or("success");
    (StatusCode::from_u16(status).unwrap(), answer)
}

async fn echo(receiver: State<Arc<Receiver>>, query: RawQuery) -> String {
    let query = query.0.unwrap();
    let Some(spec) = receiver.echo.lock().unwrap().clone() else {
        return "\"quoted\"".to_owned();
    };
    let echostr = query.split_once("echostr=").unwrap().1;
    let echostr = percent_encoding::percent_decode_str(echostr).decode_utf8().unwrap();
    let (text, receive_id) = open(&spec, &query, &echostr).unwrap();
    *receiver.verified.lock().unwrap() = Some(receive_id);
    text
}

pub(super) async fn receiver() -> (Arc<Receiver>, String) {
    let receiver = Arc::new(Receiver::default());
    let router = axum::Router::new()
        .route("/cb", axum::routing::post(receive).get(echo))
        .with_state(Arc::clone(&receiver));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/cb", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (receiver, url)
}

async fn bench_with_receiver() -> (Bench, Arc<Receiver>, CallbackSpec, Dealer) {
    let sender = SenderOptions { retry_interval_ms: 1, ..SenderOptions::default() };
    let bench = Bench::start(Options { sender, ..Options::default() }).await;
    let (receiver, url) = receiver().await;
    let spec = bench.sim.invent_callback(&url);
    bench.sim.set_callback(&bench.app.corp_id, spec.clone());
    let dealer = bench.dealer();
    (bench, receiver, spec, dealer)
}

#[tokio::test]
async fn a_dealers_event_reaches_the_upstream_url_and_opens_again() {
    let (bench, receiver, spec, dealer) = bench_with_receiver().await;
    let person = bench.sim.add_person();
    let corp = &bench.app.corp_id;
    let friendship = bench.sim.befriend(&dealer.corp_id, &person, "zhangsan", Some("海报"));
    let delivery = bench.sim.deliver(&friendship.event).await;
    assert!(delivery.acknowledged);
    assert_eq!((delivery.attempts, delivery.status, delivery.answer.as_str()), (1, Some(200), "success"));

    let (query, body) = receiver.seen().remove(0);
    assert!(body.contains(&format!("<ToUserName><![CDATA[{}]]></ToUserName>", dealer.corp_id)));
    assert!(body.contains(&format!("<AgentID><![CDATA[{}]]></AgentID>", dealer.agent_id)));
    let (inner, receive_id) = open(&spec, &query, encrypted_in(&body)).unwrap();
    assert_eq!(inner, friendship.event.inner);
    assert_eq!(&receive_id, corp);
    assert!(inner.contains(&format!("<ToUserName><![CDATA[{}]]></ToUserName>", dealer.corp_id)));
    assert!(inner.contains("<CreateTime>1795309323</CreateTime>"));
    assert!(inner.contains("<State><![CDATA[海报]]></State>"));
    assert!(inner.contains("<WelcomeCode>"));

    bench.sim.configure(|options| options.sender.receive_id = ReceiveId::Dealer);
    let sealed = bench.sim.seal(&friendship.event);
    assert_eq!(open(&spec, &sealed.query, encrypted_in(&sealed.body)).unwrap().1, dealer.corp_id);
    let sealed = bench.sim.seal_text(corp, "hello");
    assert_eq!(
        open(&spec, &sealed.query, encrypted_in(&sealed.body)).unwrap(),
        ("hello".into(), corp.clone())
    );
    assert!(bench.sim.post(&sealed).await.acknowledged);
}

#[tokio::test]
async fn a_failed_callback_is_retried_three_times_and_sealed_afresh() {
    let (bench, receiver, spec, dealer) = bench_with_receiver().await;
    let event = bench.sim.event(
        &dealer.corp_id,
        &Change::Contact {
            user_id: "zhangsan".into(),
            external_userid: "wm1".into(),
            change: ContactChange::Edit,
        },
    );
    receiver.statuses.lock().unwrap().extend([500, 503, 403]);
    let delivery = bench.sim.deliver(&event).await;
    assert_eq!((delivery.acknowledged, delivery.attempts), (true, 4));
    let seen = receiver.seen();
    for (index, (query, body)) in seen.iter().enumerate() {
        assert_eq!(open(&spec, query, encrypted_in(body)).unwrap().0, event.inner);
        assert!(!seen[..index].contains(&(query.clone(), body.clone())), "a retry repeats the bytes");
    }

    receiver.statuses.lock().unwrap().extend([500; 9]);
    let delivery = bench.sim.deliver(&event).await;
    assert_eq!((delivery.acknowledged, delivery.attempts, delivery.status), (false, 4, Some(500)));
    let delivery = bench.sim.deliver_once(&event).await;
    assert_eq!((delivery.acknowledged, delivery.attempts), (false, 1));
    bench.sim.configure(|options| options.sender.retry_non_200 = false);
    assert_eq!(bench.sim.deliver(&event).await.attempts, 1);
    receiver.statuses.lock().unwrap().clear();

    let callbacks = bench.sim.counters().callbacks;
    assert_eq!((callbacks.attempts, callbacks.acknowledged, callbacks.gave_up), (10, 1, 3));
}

#[tokio::test]
async fn silence_is_retried_with_the_same_bytes_if_configured() {
    let (bench, receiver, _, dealer) = bench_with_receiver().await;
    bench.sim.configure(|options| {
        options.sender.timeout_ms = 300;
        options.sender.reencrypt_retries = false;
        options.sender.retry_non_200 = false;
        options.sender.retries = 1;
    });
    *receiver.delay.lock().unwrap() = Some(Duration::from_secs(5));
    let event = bench.sim.event(
        &dealer.corp_id,
        &Change::Contact {
            user_id: "zhangsan".into(),
            external_userid: "wm1".into(),
            change: ContactChange::DelFollowUser,
        },
    );
    let delivery = bench.sim.deliver(&event).await;
    assert_eq!((delivery.acknowledged, delivery.attempts, delivery.status), (false, 2, None));
    let seen = receiver.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn many_events_are_delivered_in_another_order_and_reported_in_theirs() {
    let (bench, receiver, spec, dealer) = bench_with_receiver().await;
    let events: Vec<_> = bench
        .sim
        .add_people(50)
        .iter()
        .map(|person| bench.sim.befriend(&dealer.corp_id, person, "lisi", None).event)
        .collect();
    let deliveries = bench.sim.deliver_all(events.clone(), 1).await;
    assert_eq!(deliveries.len(), 50);
    assert!(deliveries.iter().all(|delivery| delivery.acknowledged));
    let inner = |seen: &(String, String)| open(&spec, &seen.0, encrypted_in(&seen.1)).unwrap().0;
    let mut arrived: Vec<String> = receiver.seen().iter().map(inner).collect();
    let mut sent: Vec<String> = events.into_iter().map(|event| event.inner).collect();
    assert_ne!(arrived, sent);
    arrived.sort();
    sent.sort();
    assert_eq!(arrived, sent);
}

#[tokio::test]
async fn copies_forgeries_and_verification() {
    let (bench, receiver, spec, dealer) = bench_with_receiver().await;
    let corp = &bench.app.corp_id;
    let event = bench.sim.befriend(&dealer.corp_id, &bench.sim.add_person(), "lisi", None).event;
    for (copies, distinct) in [(Copies::Identical, 1), (Copies::Resealed, 5)] {
        assert_eq!(bench.sim.deliver_copies(&event, 5, copies).await.len(), 5);
        let mut seen = std::mem::take(&mut *receiver.seen.lock().unwrap());
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), distinct);
    }
    for (forgery, refused_for) in
        [(Forgery::Signature, "signature"), (Forgery::WrongKeys, "signature"), (Forgery::Cipher, "")]
    {
        assert_eq!(bench.sim.deliver_forged(corp, forgery, 3).await[&200], 3);
        for (query, body) in std::mem::take(&mut *receiver.seen.lock().unwrap()) {
            let reason = open(&spec, &query, encrypted_in(&body)).unwrap_err();
            // What is wrong with random bytes depends on the bytes.
            assert!(reason == refused_for || refused_for.is_empty() && reason != "signature");
        }
    }
    assert!(!bench.sim.verify_url(corp).await);
    *receiver.echo.lock().unwrap() = Some(spec);
    assert!(bench.sim.verify_url(corp).await);
}

#[tokio::test]
async fn an_app_without_a_callback_receives_nothing() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let event = bench.sim.event(&dealer.corp_id, &Change::ShareChainChange { agent_id: 1 });
    let delivery = bench.sim.deliver(&event).await;
    assert_eq!((delivery.acknowledged, delivery.attempts), (false, 0));
}

#[tokio::test]
async fn a_lost_event_is_not_sent_and_counted_apart() {
    let (bench, receiver, _, dealer) = bench_with_receiver().await;
    bench.sim.lose_callbacks(40);
    let people = bench.sim.add_people(100);
    let events = people.iter().map(|person| bench.sim.befriend(&dealer.corp_id, person, "lisi", None).event);
    let deliveries = bench.sim.deliver_all(events.collect(), 4).await;
    let sent = deliveries.iter().filter(|delivery| delivery.attempts > 0).count();
    assert!((30..90).contains(&sent), "{sent} of 100 events were sent");
    assert!(deliveries.iter().all(|delivery| delivery.acknowledged == (delivery.attempts > 0)));
    assert_eq!(receiver.seen().len(), sent);
    let callbacks = bench.sim.counters().callbacks;
    assert_eq!(
        (callbacks.acknowledged, callbacks.gave_up, callbacks.lost),
        (sent as u64, 0, 100 - sent as u64)
    );
}
