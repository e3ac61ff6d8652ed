//! Tokens, sharing and addresses.

use super::*;

#[tokio::test]
async fn a_token_is_the_same_until_it_expires_or_is_revoked() {
    let bench = Bench::start(Options::default()).await;
    let first = bench.token().await;
    assert!(first.len() <= 512);
    bench.clock.advance_ms(7_199_000);
    assert_eq!(bench.token().await, first);
    assert_eq!(
        bench.get(Api::GetCallbackIp, &format!("access_token={first}")).await["ip_list"][0],
        "127.0.0.1"
    );

    bench.clock.advance_ms(1_000);
    let expired = bench.get(Api::GetCallbackIp, &format!("access_token={first}")).await;
    assert_eq!(expired["errcode"], 42_001);
    assert!(expired["errmsg"].as_str().unwrap().starts_with("access_token expired, hint: [1795316523_"));
    assert!(expired["errmsg"].as_str().unwrap().contains(", from ip: 127.0.0.1, more info at "));

    let second = bench.token().await;
    assert_ne!(second, first);
    bench.sim.revoke_tokens(&bench.app.corp_id);
    assert_eq!(bench.get(Api::GetCallbackIp, &format!("access_token={second}")).await["errcode"], 40_014);
    assert_ne!(bench.token().await, second);
    assert_eq!(bench.sim.counters().tokens_issued[&bench.app.corp_id], 3);
}

#[tokio::test]
async fn token_errors_have_their_codes() {
    let bench = Bench::start(Options::default()).await;
    assert_eq!(bench.get(Api::GetCallbackIp, "").await["errcode"], 41_001);
    assert_eq!(bench.get(Api::GetCallbackIp, "access_token=nobody").await["errcode"], 40_014);
    assert_eq!(bench.get(Api::GetToken, "corpid=ww0&corpsecret=x").await["errcode"], 40_013);
    assert_eq!(bench.get(Api::UnionidToPendingId, "access_token=x").await["errcode"], 43_002);
    assert_eq!(bench.post(Api::GetCallbackIp, "x", json!({})).await["errcode"], 43_001);
}

#[tokio::test]
async fn trying_wrong_secrets_bans_the_address_for_an_hour() {
    let bench = Bench::start(Options::default()).await;
    let wrong = format!("corpid={}&corpsecret=wrong", bench.app.corp_id);
    for _ in 0..5 {
        assert_eq!(bench.get(Api::GetToken, &wrong).await["errcode"], 40_001);
    }
    assert_eq!(bench.get(Api::GetToken, &wrong).await["errcode"], 45_009);
    let right = format!("corpid={}&corpsecret={}", bench.app.corp_id, bench.app.secret);
    assert_eq!(bench.get(Api::GetToken, &right).await["errcode"], 45_009);
    bench.clock.advance_ms(3_600_000);
    assert_eq!(bench.get(Api::GetToken, &right).await["errcode"], 0);
}

#[tokio::test]
async fn dealers_are_listed_in_pages_or_all_at_once() {
    let bench = Bench::start(Options::default()).await;
    let dealers: Vec<Dealer> = (0..5).map(|_| bench.dealer()).collect();
    bench.sim.share(&dealers[4].corp_id, false);
    let token = bench.token().await;
    let list = async |mut body: Value| {
        body["agentid"] = json!(bench.app.agent_id);
        bench.post(Api::ListAppShareInfo, &token, body).await
    };

    let all = list(json!({ "business_type": 1 })).await;
    assert_eq!(all["corp_list"].as_array().unwrap().len(), 4);
    assert_eq!((all["ending"].as_u64(), all["next_cursor"].as_str()), (Some(1), Some("")));

    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = list(json!({ "business_type": 1, "limit": 3, "cursor": cursor })).await;
        for corp in page["corp_list"].as_array().unwrap() {
            seen.push((corp["corpid"].as_str().unwrap().to_owned(), corp["agentid"].as_u64().unwrap()));
        }
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
        if page["ending"] == 1 {
            break;
        }
    }
    let shared: Vec<_> =
        dealers[..4].iter().map(|dealer| (dealer.corp_id.clone(), dealer.agent_id)).collect();
    assert_eq!(seen, shared);
    assert_eq!(cursor, "");

    let one = list(json!({ "business_type": 1, "corpid": dealers[2].corp_id })).await;
    assert_eq!(one["corp_list"].as_array().unwrap().len(), 1);
    assert_eq!(one["corp_list"][0]["corpid"], json!(dealers[2].corp_id));
    for not_the_chain in [json!({}), json!({ "business_type": 0 })] {
        let none = list(not_the_chain).await;
        assert_eq!(
            (none["errcode"].as_i64(), none["corp_list"].as_array().map(Vec::len)),
            (Some(0), Some(0))
        );
    }
    assert_eq!(list(json!({ "business_type": 1, "limit": 101 })).await["errcode"], 40_058);
    assert_eq!(list(json!({ "business_type": 1, "cursor": "7" })).await["errcode"], 40_058);
}

#[tokio::test]
async fn sharing_is_listed_only_for_the_upstream_agent_and_token() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let body = json!({ "agentid": dealer.agent_id, "business_type": 1 });
    let token = bench.token().await;
    assert_eq!(bench.post(Api::ListAppShareInfo, &token, body).await["errcode"], 40_056);
    assert_eq!(bench.post(Api::ListAppShareInfo, &token, json!({})).await["errcode"], 40_058);
    let downstream = bench.dealer_token(&dealer).await;
    let body = json!({ "agentid": bench.app.agent_id, "business_type": 1 });
    assert_eq!(bench.post(Api::ListAppShareInfo, &downstream, body).await["errcode"], 301_002);
}

#[tokio::test]
async fn a_dealer_token_needs_the_shared_pair_and_the_business_type() {
    let bench = Bench::start(Options::default()).await;
    let (dealer, other) = (bench.dealer(), bench.dealer());
    let token = bench.token().await;
    let ask = async |corp_id: &str, agent_id: u64, business_type: Value| {
        let body = json!({ "corpid": corp_id, "agentid": agent_id, "business_type": business_type });
        bench.post(Api::CorpGetToken, &token, body).await["errcode"].as_i64().unwrap()
    };
    assert_eq!(ask(&dealer.corp_id, dealer.agent_id, json!(1)).await, 0);
    assert_eq!(ask(&dealer.corp_id, dealer.agent_id, json!(0)).await, 670_001);
    assert_eq!(ask(&dealer.corp_id, dealer.agent_id, Value::Null).await, 670_001);
    assert_eq!(ask(&dealer.corp_id, bench.app.agent_id, json!(1)).await, 670_001);
    assert_eq!(ask("wpnobody", other.agent_id, json!(1)).await, 670_001);
    bench.sim.share(&dealer.corp_id, false);
    assert_eq!(ask(&dealer.corp_id, dealer.agent_id, json!(1)).await, 670_001);
    bench.sim.share(&dealer.corp_id, true);
    assert_ne!(bench.dealer_token(&dealer).await, bench.dealer_token(&other).await);
}

#[tokio::test]
async fn after_a_stop_nothing_is_served_and_counters_stay_readable() {
    let bench = Bench::start(Options::default()).await;
    bench.token().await;
    bench.sim.stop().await;
    assert!(bench.http.get(bench.sim.base_url()).send().await.is_err());
    assert_eq!(bench.sim.counters().calls_of(Api::GetToken), 1);
    assert_eq!(bench.sim.calls()[0].errcode, Some(0));
}

#[tokio::test]
async fn dropping_the_last_handle_stops_the_platform() {
    let bench = Bench::start(Options::default()).await;
    let (url, tasks) = (bench.sim.base_url(), bench.sim.platform.tasks.clone());
    tasks.close();
    drop(bench.sim.clone());
    assert!(bench.http.get(&url).send().await.is_ok());
    drop(bench.sim);
    tasks.wait().await;
    assert!(bench.http.get(&url).send().await.is_err());
}
