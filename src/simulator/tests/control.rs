//! The control routes.

use super::*;

pub(super) async fn ask(bench: &Bench, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
    let url = format!("{}/sim/{path}", bench.sim.base_url());
    let response = bench.http.request(method, url).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_day_at_a_dealer_by_curl() {
    use reqwest::Method;
    let bench = Bench::start(Options::default()).await;
    let (_, dealer) = ask(&bench, Method::POST, "dealers", json!({ "name": "One" })).await;
    let (_, people) = ask(&bench, Method::POST, "people", json!({ "count": 2 })).await;
    let person: Person = serde_json::from_value(people[0].clone()).unwrap();
    bench.mint(&person).await;
    let friends = json!({
        "unionid": person.unionid, "corp_id": dealer["corp_id"], "user_id": "zhangsan", "state": "poster",
    });
    let (status, answer) = ask(&bench, Method::POST, "befriend", friends).await;
    assert_eq!(status, 200, "{answer}");
    let end = json!({
        "upstream": bench.app.corp_id,
        "unionid": person.unionid, "corp_id": dealer["corp_id"], "user_id": "zhangsan", "by": "customer",
    });
    assert_eq!(ask(&bench, Method::POST, "unfriend", end).await, (200, json!({})));

    let (_, listed) = ask(&bench, Method::GET, "people", json!(null)).await;
    assert_eq!(listed[0]["customer_of"][0]["external_userid"], answer["external_userid"]);
    assert_eq!(listed[0]["customer_of"][0]["followers"]["zhangsan"]["is_deleted_by_customer"], true);
    let (_, dealers) = ask(&bench, Method::GET, "dealers", json!(null)).await;
    assert_eq!(dealers[0]["agent_id"], dealer["agent_id"]);

    let fault = json!({ "api": "unionid_to_pending_id", "fault": { "errcode": 48_002 }, "times": 5 });
    assert_eq!(ask(&bench, Method::POST, "faults", fault).await.0, 200);
    assert_eq!(bench.mint_answer(&person).await["errcode"], 48_002);
    let hang = json!({ "api": "all", "fault": "hang" });
    assert_eq!(ask(&bench, Method::POST, "faults", hang).await.0, 200);
    assert_eq!(ask(&bench, Method::DELETE, "faults", json!(null)).await.0, 200);
    let token = bench.token().await;
    let corp = json!({ "corp_id": bench.app.corp_id });
    assert_eq!(ask(&bench, Method::POST, "tokens/revoke", corp).await.0, 200);
    assert_ne!(bench.token().await, token);

    let (_, state) = ask(&bench, Method::GET, "state", json!(null)).await;
    assert_eq!(state["counts"]["people"], 2);
    assert_eq!(state["counters"]["calls"]["unionid_to_pending_id"], 2);
    assert_eq!(state["counters"]["errcodes"]["48002"], 1);
}

#[tokio::test]
async fn groups_members_and_sharing_by_curl() {
    use reqwest::Method;
    let bench = Bench::start(Options::default()).await;
    let (dealer, person) = (bench.dealer(), bench.sim.add_person());
    let chat = json!({ "corp_id": dealer.corp_id, "name": "Neighbours" });
    let (_, chat) = ask(&bench, Method::POST, "chats", chat).await;
    let join = json!({ "chat_id": chat["chat_id"], "unionids": [person.unionid], "deliver": false });
    let (_, joined) = ask(&bench, Method::POST, "chats/join", join).await;
    let id = bench.sim.external_userid(&dealer.corp_id, &person).unwrap();
    assert_eq!(joined["external_userids"], json!([id]));
    let get = json!({ "chat_id": chat["chat_id"] });
    let group = bench.ask(&dealer, Api::GroupChatGet, get.clone()).await;
    assert_eq!(group["group_chat"]["name"], "Neighbours");
    let hide = json!({ "corp_id": dealer.corp_id, "user_id": "groupowner", "visible": false });
    assert_eq!(ask(&bench, Method::POST, "members", hide).await.0, 200);
    assert_eq!(bench.ask(&dealer, Api::GroupChatGet, get.clone()).await["errcode"], 60_011);
    assert_eq!(ask(&bench, Method::POST, "chats/dismiss", get).await.0, 200);
    let (_, state) = ask(&bench, Method::GET, "state", json!(null)).await;
    assert_eq!((&state["counts"]["chats"], &state["counts"]["members"]), (&json!(0), &json!(1)));
    // The three events that were sent found no callback URL; the lost one was not even tried.
    while bench.sim.counters().callbacks.gave_up < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.sim.counters().callbacks.gave_up, 3);
    let share = json!({ "corp_id": dealer.corp_id, "shared": false });
    assert_eq!(ask(&bench, Method::POST, "share", share).await.0, 200);
    let (_, dealers) = ask(&bench, Method::GET, "dealers", json!(null)).await;
    assert_eq!(dealers[0]["shared"], false);
}

#[tokio::test]
async fn an_invalid_request_is_answered_with_the_reason() {
    let bench = Bench::start(Options::default()).await;
    for (path, body, reason) in [
        ("people", json!({ "count": "two" }), "expected usize"),
        ("people", json!({ "count": 1, "name": "x" }), "unknown field `name`"),
        ("dealers", json!({ "name": "x", "upstream": "ww0" }), "no upstream corp ww0"),
        ("befriend", json!({ "unionid": "o", "corp_id": "wp0", "user_id": "u" }), "no corp wp0 here"),
        ("faults", json!({ "api": "everything", "fault": "hang" }), "`api` is \"all\" or an API"),
        ("faults", json!({ "api": "all", "fault": "rain" }), "unknown variant `rain`"),
        ("tokens/revoke", json!({ "corp_id": "ww0" }), "no corp ww0"),
        ("chats/join", json!({ "chat_id": "wr0", "unionids": [] }), "no chat wr0"),
        ("share", json!({ "corp_id": bench.app.corp_id, "shared": false }), "is not a dealer"),
    ] {
        let (status, answer) = ask(&bench, reqwest::Method::POST, path, body).await;
        assert_eq!(status, 400, "{path}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    }
    bench.sim.add_app(bench.sim.invent_app());
    let (status, answer) = ask(&bench, reqwest::Method::POST, "dealers", json!({ "name": "x" })).await;
    assert_eq!((status, answer["error"].as_str().unwrap().contains("name the upstream corp")), (400, true));
}

#[tokio::test]
async fn every_call_in_the_index_works() {
    let bench = Bench::start(Options::default()).await;
    let (dealer, person) = (bench.dealer(), bench.sim.add_person());
    let chat_id = bench.sim.add_chat(&dealer.corp_id);
    let index = bench.http.get(format!("{}/sim", bench.sim.base_url())).send().await.unwrap();
    let mut calls = 0;
    for line in index.text().await.unwrap().lines() {
        let Some((method, call)) = line.split_once(' ') else { continue };
        let Some(call) = call.trim_start().strip_prefix("/sim/") else { continue };
        // Those of agency-developed apps have a test of their own.
        if line.contains("/sim/template/ticket") {
            break;
        }
        let (path, body) = call.split_once(' ').unwrap_or((call, "null"));
        let mut body: Value = serde_json::from_str(body).unwrap();
        for (key, id) in [
            ("unionid", json!(person.unionid)),
            ("unionids", json!([person.unionid])),
            ("corp_id", json!(dealer.corp_id)),
            ("chat_id", json!(chat_id)),
        ] {
            if body.get(key).is_some() {
                body[key] = id;
            }
        }
        let (status, answer) = ask(&bench, method.parse().unwrap(), path, body).await;
        assert_eq!(status, 200, "{line}: {answer}");
        calls += 1;
    }
    assert_eq!(calls, 15);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_ids_whatever_is_called_in_between() {
    let mut ids = Vec::new();
    for is_busy in [false, true] {
        let bench = Bench::start(Options::default()).await;
        if is_busy {
            bench.token().await;
        }
        let (dealer, person) = (bench.dealer(), bench.sim.add_person());
        if is_busy {
            bench.mint(&person).await;
        }
        let external_userid = bench.befriend(&dealer, &person);
        ids.push((bench.app, dealer, person, external_userid));
    }
    assert_eq!(ids[0], ids[1]);
}
