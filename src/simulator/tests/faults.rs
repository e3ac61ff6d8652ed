//! Faults on demand.

use std::time::{Duration, Instant};

use super::super::{Fault, Target};
use super::*;

#[tokio::test]
async fn faults_that_answer() {
    let bench = Bench::start(Options::default()).await;
    let person = bench.sim.add_person();
    let body = json!({ "unionid": person.unionid, "openid": person.openid });
    let token = bench.token().await;
    let ask = async || bench.try_post(Api::UnionidToPendingId, &token, &body).await.unwrap();

    bench.sim.inject(Api::UnionidToPendingId, Fault::Errcode(42_001), Some(1));
    assert_eq!(ask().await.json::<Value>().await.unwrap()["errcode"], 42_001);
    bench.sim.inject(Target::Every, Fault::HttpStatus(503), Some(1));
    assert_eq!(ask().await.status(), 503);
    bench.sim.inject(Target::Every, Fault::Garbage, Some(1));
    let garbage = ask().await;
    assert_eq!(garbage.status(), 200);
    assert!(garbage.json::<Value>().await.is_err());
    assert!(bench.sim.pending_ids(&bench.app.corp_id, &person).is_empty());

    bench.sim.inject(Target::Every, Fault::Latency(30), None);
    let started = Instant::now();
    assert_eq!(ask().await.json::<Value>().await.unwrap()["errcode"], 0);
    assert!(started.elapsed() >= Duration::from_millis(30));
    bench.sim.clear_faults();
    assert_eq!(bench.sim.counters().unanswered, 2);
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_wire() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::start(Options::default()).await;
    bench.sim.inject(Api::GetToken, Fault::Reset, Some(1));
    let address = bench.sim.base_url().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /cgi-bin/gettoken HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let read = stream.read(&mut [0; 16]).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_answer_has_taken_effect_and_a_reset_call_has_not() {
    let bench = Bench::start(Options::default()).await;
    let person = bench.sim.add_person();
    let body = json!({ "unionid": person.unionid, "openid": person.openid });
    let token = bench.token().await;
    bench.sim.inject(Api::UnionidToPendingId, Fault::Reset, Some(1));
    assert!(bench.try_post(Api::UnionidToPendingId, &token, &body).await.is_err());
    assert!(bench.sim.pending_ids(&bench.app.corp_id, &person).is_empty());
    bench.sim.inject(Api::UnionidToPendingId, Fault::ApplyThenDrop, Some(1));
    assert!(bench.try_post(Api::UnionidToPendingId, &token, &body).await.is_err());
    assert_eq!(bench.sim.pending_ids(&bench.app.corp_id, &person).len(), 1);
    assert_eq!(bench.sim.counters().calls_of(Api::UnionidToPendingId), 2);
}

#[tokio::test]
async fn a_hanging_call_ends_when_the_faults_are_cleared() {
    let bench = Bench::start(Options::default()).await;
    bench.sim.inject(Api::GetCallbackIp, Fault::Hang, None);
    let url = format!("{}{}", bench.sim.base_url(), Api::GetCallbackIp.path());
    let mut hanging = tokio::spawn(bench.http.get(url).send());
    let waited = tokio::time::timeout(Duration::from_millis(100), &mut hanging).await;
    assert!(waited.is_err(), "a hanging call was answered");
    bench.sim.clear_faults();
    assert!(hanging.await.unwrap().is_err());
    assert_eq!(bench.get(Api::GetCallbackIp, "").await["errcode"], 41_001);
}
