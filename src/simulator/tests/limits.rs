//! Quotas and the limits that every API has.

use super::super::{ConversionQuota, Fault, QuotaUse};
use super::*;
use crate::domain::time::HOUR_MS;

fn small_quota() -> Options {
    Options { quota: ConversionQuota { per_hour: 3, per_day: 5, per_month: 100 }, ..Options::default() }
}

#[tokio::test]
async fn minting_beyond_the_hour_is_a_violation_and_blocks_for_an_hour() {
    let bench = Bench::start(small_quota()).await;
    let person = bench.sim.add_person();
    for _ in 0..3 {
        bench.mint(&person).await;
    }
    bench.clock.advance_ms(HOUR_MS / 2);
    assert_eq!(bench.mint_answer(&person).await["errcode"], 45_009);
    bench.clock.advance_ms(HOUR_MS / 2);
    // The window has room again, but the block is still in force.
    assert_eq!(bench.mint_answer(&person).await["errcode"], 45_009);
    bench.clock.advance_ms(HOUR_MS / 2);
    bench.mint(&person).await;
    let counters = bench.sim.counters();
    assert_eq!((counters.quota_violations, counters.blocked_calls), (1, 1));
    assert_eq!(counters.errcodes_of(45_009), 2);
    let used = bench.sim.quota_use(&bench.app.corp_id, Api::UnionidToPendingId);
    assert_eq!(used, QuotaUse { hour: 1, day: 4, month: 4 });
}

#[tokio::test]
async fn each_of_the_two_conversions_has_a_quota_of_its_own() {
    let bench = Bench::start(small_quota()).await;
    let person = bench.sim.add_person();
    for _ in 0..3 {
        bench.mint(&person).await;
    }
    let body = json!({ "unionid": person.unionid, "openid": person.openid });
    let answer = bench.post(Api::UnionidToExternalUserid, &bench.token().await, body).await;
    assert_eq!(answer["errcode"], 0);
    assert_eq!(bench.sim.counters().quota_violations, 0);
}

#[tokio::test]
async fn failed_calls_use_quota_too() {
    let bench = Bench::start(small_quota()).await;
    let person = bench.sim.add_person();
    bench.sim.inject(Api::UnionidToPendingId, Fault::Errcode(-1), Some(2));
    for _ in 0..2 {
        assert_eq!(bench.mint_answer(&person).await["errcode"], -1);
    }
    bench.mint(&person).await;
    assert_eq!(bench.mint_answer(&person).await["errcode"], 45_009);
}

#[tokio::test]
async fn every_api_has_a_limit_per_minute_and_corp() {
    let bench = Bench::start(Options { base_per_minute: 3, ..Options::default() }).await;
    let token = bench.token().await;
    let ask = async || {
        let answer = bench.get(Api::GetCallbackIp, &format!("access_token={token}")).await;
        answer["errcode"].as_i64().unwrap()
    };
    assert_eq!([ask().await, ask().await, ask().await, ask().await], [0, 0, 0, 45_009]);
    assert_eq!(bench.sim.counters().base_violations, 1);
    bench.clock.advance_ms(60_000);
    assert_eq!(ask().await, 0);
}

#[tokio::test]
async fn a_call_beyond_the_concurrency_of_a_corp_and_api_is_refused() {
    let bench = Bench::start(Options { concurrency_max: Some(1), ..Options::default() }).await;
    let (one, two) = (bench.dealer(), bench.dealer());
    let (at_one, at_two) = (bench.dealer_token(&one).await, bench.dealer_token(&two).await);
    bench.sim.reset_counters();
    bench.sim.inject(Api::GetFollowUserList, Fault::Hang, Some(1));
    let url = |token: &str| {
        format!("{}{}?access_token={token}", bench.sim.base_url(), Api::GetFollowUserList.path())
    };
    let hanging = tokio::spawn(bench.http.get(url(&at_one)).send());
    while bench.sim.counters().calls_of(Api::GetFollowUserList) == 0 {
        tokio::task::yield_now().await;
    }
    let ask = async |token: &str| {
        let answer: Value = bench.http.get(url(token)).send().await.unwrap().json().await.unwrap();
        answer["errcode"].as_i64().unwrap()
    };
    assert_eq!((ask(&at_one).await, ask(&at_two).await), (45_033, 0));
    bench.sim.clear_faults();
    assert!(hanging.await.unwrap().is_err());
    assert_eq!(ask(&at_one).await, 0);
    assert_eq!(bench.sim.counters().max_in_flight[&Api::GetFollowUserList], 1);
}
