//! The dealer directory.

use super::super::Permission;
use super::*;

#[tokio::test]
async fn the_chain_names_every_dealer_of_its_groups_shared_or_not() {
    let bench = Bench::start(Options::default()).await;
    let dealers: Vec<Dealer> = (0..5).map(|_| bench.dealer()).collect();
    bench.sim.share(&dealers[0].corp_id, false);
    let token = bench.token().await;
    let chains = bench.get(Api::GetChainList, &format!("access_token={token}")).await;
    let chain_id = chains["chains"][0]["chain_id"].clone();
    let groups = bench.post(Api::GetChainGroup, &token, json!({ "chain_id": chain_id })).await;
    let (mut seen, mut calls) = (Vec::new(), 0);
    for group in groups["groups"].as_array().unwrap() {
        let mut body = json!({ "chain_id": chain_id, "groupid": group["groupid"], "limit": 2 });
        loop {
            let page = bench.post(Api::GetChainCorpinfoList, &token, body.clone()).await;
            assert_eq!(page["errcode"], 0, "{page}");
            calls += 1;
            let corps = page["group_corps"].as_array().unwrap();
            seen.extend(corps.iter().map(|corp| corp["corpid"].as_str().unwrap().to_owned()));
            body["cursor"] = page["next_cursor"].clone();
            if page["has_more"] == false {
                break;
            }
        }
    }
    // The root group is empty, and the other two have three and two dealers.
    assert_eq!(calls, 4);
    let mut expected: Vec<String> = dealers.iter().map(|dealer| dealer.corp_id.clone()).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_chain_has_the_verification_of_a_dealer() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let token = bench.token().await;
    let chains = bench.get(Api::GetChainList, &format!("access_token={token}")).await;
    let chain_id = chains["chains"][0]["chain_id"].clone();
    let ask = async |chain_id: &Value, corp_id: &str| {
        let body = json!({ "chain_id": chain_id, "corpid": corp_id });
        bench.post(Api::GetChainCorpinfo, &token, body).await
    };
    let answer = ask(&chain_id, &dealer.corp_id).await;
    assert_eq!((&answer["qualification_status"], &answer["is_joined"]), (&json!(3), &json!(true)));
    bench.sim.set_qualification(&dealer.corp_id, 1);
    assert_eq!(ask(&chain_id, &dealer.corp_id).await["qualification_status"], 1);
    assert_eq!(ask(&chain_id, "wpnobody").await["errcode"], 670_004);
    assert_eq!(ask(&json!("Chother"), &dealer.corp_id).await["errcode"], 670_002);
    let body = json!({ "chain_id": chain_id, "groupid": 9 });
    assert_eq!(bench.post(Api::GetChainCorpinfoList, &token, body).await["errcode"], 670_003);
    let downstream = bench.dealer_token(&dealer).await;
    let chains = bench.get(Api::GetChainList, &format!("access_token={downstream}")).await;
    assert_eq!(chains["errcode"], 301_002);
    bench.sim.configure(|options| options.chain_calls = Permission::Refused(48_002));
    assert_eq!(ask(&chain_id, &dealer.corp_id).await["errcode"], 48_002);
}

#[tokio::test]
async fn an_empty_list_of_dealers_can_be_a_mistake_that_passes() {
    let bench = Bench::start(Options { empty_dealer_lists: 1, ..Options::default() }).await;
    let _ = bench.dealer();
    let token = bench.token().await;
    for dealers in [0, 1] {
        let body = json!({ "agentid": bench.app.agent_id, "business_type": 1 });
        let answer = bench.post(Api::ListAppShareInfo, &token, body).await;
        assert_eq!((&answer["errcode"], &answer["ending"]), (&json!(0), &json!(1)));
        assert_eq!(answer["corp_list"].as_array().unwrap().len(), dealers);
    }
}

#[tokio::test]
async fn the_token_of_a_dealer_that_left_is_refused_until_the_dealer_is_back() {
    let bench = Bench::start(Options { withdrawn_token: 48_004, ..Options::default() }).await;
    let dealer = bench.dealer();
    let token = bench.dealer_token(&dealer).await;
    let ask =
        async || bench.get(Api::GetFollowUserList, &format!("access_token={token}")).await["errcode"].clone();
    assert_eq!(ask().await, 0);
    bench.sim.share(&dealer.corp_id, false);
    assert_eq!(ask().await, 48_004);
    bench.sim.configure(|options| options.withdrawn_token = 40_014);
    assert_eq!(ask().await, 40_014);
    bench.sim.share(&dealer.corp_id, true);
    assert_eq!(ask().await, 0);
}
