//! Minting, resolving and existing customers.

use super::super::{By, Remint, TokenRule, UnknownId, Unminted};
use super::*;
use crate::domain::time::DAY_MS;

#[tokio::test]
async fn a_customer_minted_before_resolves_at_every_dealer_under_another_id() {
    let bench = Bench::start(Options::default()).await;
    let (one, two) = (bench.dealer(), bench.dealer());
    let person = bench.sim.add_person();
    let pending_id = bench.mint(&person).await;
    let (at_one, at_two) = (bench.befriend(&one, &person), bench.befriend(&two, &person));
    assert_ne!(at_one, at_two);
    assert_eq!(at_one.len(), 32);
    assert_eq!(rows(&bench.resolve(&one, &[&at_one]).await), [(at_one.clone(), pending_id.clone())]);
    assert_eq!(rows(&bench.resolve(&two, &[&at_two]).await), [(at_two, pending_id)]);
    // Another dealer's id is unknown to this one.
    assert_eq!(rows(&bench.resolve(&two, &[&at_one]).await), []);
    assert_eq!(bench.sim.truth().len(), 2);
    assert_eq!(bench.sim.external_userid(&one.corp_id, &person), Some(at_one));
}

#[tokio::test]
async fn minting_refuses_what_the_documents_refuse() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let (person, other) = (bench.sim.add_person(), bench.sim.add_person());
    let stranger = Person { unionid: "o-nobody".into(), openid: "o".into() };
    assert_eq!(bench.mint_answer(&stranger).await["errcode"], 610_014);
    let mixed = Person { openid: other.openid.clone(), ..person.clone() };
    assert_eq!(bench.mint_answer(&mixed).await["errcode"], 610_018);
    let token = bench.token().await;
    for incomplete in
        [json!({}), json!({ "unionid": person.unionid }), json!({ "unionid": 1, "openid": "o" })]
    {
        assert_eq!(bench.post(Api::UnionidToPendingId, &token, incomplete).await["errcode"], 40_058);
    }
    let body = json!({ "unionid": person.unionid, "openid": person.openid });
    let downstream = bench.dealer_token(&dealer).await;
    assert_eq!(bench.post(Api::UnionidToPendingId, &downstream, body).await["errcode"], 301_002);
    bench.sim.reject_person(&person, Some(610_017));
    assert_eq!(bench.mint_answer(&person).await["errcode"], 610_017);
    bench.sim.reject_person(&person, None);
    bench.sim.set_app_error(&bench.app.corp_id, Some(60_020));
    assert_eq!(bench.mint_answer(&person).await["errcode"], 60_020);
}

#[tokio::test]
async fn escaped_unicode_and_bodies_that_are_not_json_have_different_answers() {
    let bench = Bench::start(Options::default()).await;
    let url = format!(
        "{}{}?access_token={}",
        bench.sim.base_url(),
        Api::UnionidToPendingId.path(),
        bench.token().await
    );
    let ask = async |body: &'static str| -> Value {
        bench.http.post(&url).body(body).send().await.unwrap().json().await.unwrap()
    };
    assert_eq!(ask(r#"{"unionid":"\u006f1","openid":"o"}"#).await["errcode"], 40_033);
    let answer = ask("unionid=o1").await;
    assert_eq!(answer["errcode"], 40_058);
    assert!(answer["errmsg"].as_str().unwrap().ends_with("Warning: wrong json format."));
}

#[tokio::test]
async fn a_pending_id_minted_after_the_friendship_does_not_resolve() {
    let bench = Bench::start(Options { conversion_window_ms: 1_000, ..Options::default() }).await;
    let dealer = bench.dealer();
    let (late, window) = (bench.sim.add_person(), bench.sim.add_person());
    let (late_id, window_id) = (bench.befriend(&dealer, &late), bench.befriend(&dealer, &window));
    bench.clock.advance_ms(1_000);
    let in_window = bench.mint(&window).await;
    bench.clock.advance_ms(1);
    bench.mint(&late).await;
    let answer = bench.resolve(&dealer, &[&late_id, &window_id]).await;
    assert_eq!(rows(&answer), [(window_id.clone(), in_window)]);
    // Minting again does not help, and neither does a second friendship.
    bench.mint(&late).await;
    bench.befriend(&dealer, &late);
    assert_eq!(rows(&bench.resolve(&dealer, &[&late_id]).await), []);

    bench.sim.configure(|options| options.late_mint_resolves = true);
    assert_eq!(rows(&bench.resolve(&dealer, &[&late_id, &window_id]).await).len(), 2);
}

#[tokio::test]
async fn order_within_one_millisecond_decides_whether_a_mint_was_in_time() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let (early, late) = (bench.sim.add_person(), bench.sim.add_person());
    bench.mint(&early).await;
    let (early_id, late_id) = (bench.befriend(&dealer, &early), bench.befriend(&dealer, &late));
    bench.mint(&late).await;
    let answer = bench.resolve(&dealer, &[&early_id, &late_id]).await;
    assert_eq!(rows(&answer).len(), 1);
    assert_eq!(rows(&answer)[0].0, early_id);
}

#[tokio::test]
async fn a_pending_id_lives_90_days_unless_it_is_renewed() {
    for (remint, resolves_after_90_days) in
        [(Remint::SameId, true), (Remint::SameIdNotRenewed, false), (Remint::NewId, false)]
    {
        let bench = Bench::start(Options { remint, ..Options::default() }).await;
        let dealer = bench.dealer();
        let person = bench.sim.add_person();
        let first = bench.mint(&person).await;
        bench.clock.advance_ms(DAY_MS);
        let external_userid = bench.befriend(&dealer, &person);
        bench.clock.advance_ms(84 * DAY_MS);
        let second = bench.mint(&person).await;
        assert_eq!(first == second, remint != Remint::NewId);
        bench.clock.advance_ms(5 * DAY_MS - 1);
        assert_eq!(rows(&bench.resolve(&dealer, &[&external_userid]).await).len(), 1);
        bench.clock.advance_ms(1);
        let answer = bench.resolve(&dealer, &[&external_userid]).await;
        assert_eq!(rows(&answer).len(), usize::from(resolves_after_90_days), "{remint:?}");
    }
}

#[tokio::test]
async fn a_renewal_before_the_friendship_resolves_to_the_newest_id() {
    let bench = Bench::start(Options { remint: Remint::NewId, ..Options::default() }).await;
    let dealer = bench.dealer();
    let person = bench.sim.add_person();
    bench.mint(&person).await;
    let second = bench.mint(&person).await;
    let external_userid = bench.befriend(&dealer, &person);
    assert_eq!(rows(&bench.resolve(&dealer, &[&external_userid]).await)[0].1, second);
    assert_eq!(bench.sim.pending_ids(&bench.app.corp_id, &person).len(), 2);
}

#[tokio::test]
async fn a_batch_has_one_to_a_hundred_ids() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    assert_eq!(bench.resolve(&dealer, &[]).await["errcode"], 40_058);
    assert_eq!(bench.resolve(&dealer, &["wm"; 101]).await["errcode"], 40_058);
    assert_eq!(bench.resolve(&dealer, &["wm"; 100]).await["errcode"], 0);
    let token = bench.dealer_token(&dealer).await;
    let not_text = json!({ "external_userid": [1] });
    assert_eq!(bench.post(Api::ExternalUseridToPendingId, &token, not_text).await["errcode"], 40_058);
    assert_eq!(bench.sim.counters().max_batch, 101);
}

#[tokio::test]
async fn the_kind_of_token_decides_and_the_rule_can_be_changed() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let person = bench.sim.add_person();
    bench.mint(&person).await;
    let external_userid = bench.befriend(&dealer, &person);
    let own = bench.sim.befriend(&bench.app.corp_id, &person, "boss", None).external_userid;
    let (upstream, downstream) = (bench.token().await, bench.dealer_token(&dealer).await);
    let ask = async |token: &str, id: &str| {
        let answer =
            bench.post(Api::ExternalUseridToPendingId, token, json!({ "external_userid": [id] })).await;
        (answer["errcode"].as_i64().unwrap(), answer["result"].as_array().map_or(0, Vec::len))
    };
    for (rule, with_upstream, with_downstream) in [
        (TokenRule::Downstream, (301_002, 0), (0, 1)),
        (TokenRule::Upstream, (0, 1), (301_002, 0)),
        (TokenRule::Either, (0, 1), (0, 1)),
    ] {
        bench.sim.configure(|options| options.token_rule = rule);
        assert_eq!(ask(&upstream, &external_userid).await, with_upstream, "{rule:?}");
        assert_eq!(ask(&downstream, &external_userid).await, with_downstream, "{rule:?}");
        assert_eq!(ask(&upstream, &own).await, (0, 1), "{rule:?}");
    }
}

#[tokio::test]
async fn ids_that_do_not_convert_answer_as_configured() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let unminted = bench.befriend(&dealer, &bench.sim.add_person());
    assert_eq!(rows(&bench.resolve(&dealer, &["wm-unknown", &unminted]).await), []);
    bench.sim.configure(|options| {
        options.unknown_id = UnknownId::EmptyPendingId;
        options.unminted = Unminted::EmptyPendingId;
    });
    let empty = rows(&bench.resolve(&dealer, &["wm-unknown", &unminted]).await);
    assert_eq!(empty.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(), ["", ""]);
    bench.sim.configure(|options| options.unknown_id = UnknownId::FailBatch40096);
    assert_eq!(bench.resolve(&dealer, &["wm-unknown", &unminted]).await["errcode"], 40_096);
}

#[tokio::test]
async fn poisoned_hidden_deleted_and_half_added_customers() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let (person, half) = (bench.sim.add_person(), bench.sim.add_person());
    bench.mint(&person).await;
    bench.mint(&half).await;
    let id = bench.befriend(&dealer, &person);
    let half_id = bench.sim.befriend_half(&dealer.corp_id, &half, "lisi", None).external_userid;
    assert_eq!(rows(&bench.resolve(&dealer, &[&id, &half_id]).await).len(), 1);
    assert_eq!(bench.befriend(&dealer, &half), half_id);
    assert_eq!(rows(&bench.resolve(&dealer, &[&id, &half_id]).await).len(), 2);

    bench.sim.hide_rows(&id, 2);
    for rows_seen in [1, 1, 2] {
        assert_eq!(rows(&bench.resolve(&dealer, &[&id, &half_id]).await).len(), rows_seen);
    }
    bench.sim.poison(&id);
    assert_eq!(bench.resolve(&dealer, &[&id, &half_id]).await["errcode"], 40_096);
    assert_eq!(rows(&bench.resolve(&dealer, &[&half_id]).await).len(), 1);
    bench.sim.cure(&id);
    for by in [By::Member, By::Customer] {
        let _ = bench.sim.unfriend(&dealer.corp_id, &person, "zhangsan", by);
    }
    assert_eq!(rows(&bench.resolve(&dealer, &[&id]).await).len(), 1);
    bench.sim.set_dealer_error(&dealer.corp_id, Some(48_002));
    assert_eq!(bench.resolve(&dealer, &[&id]).await["errcode"], 48_002);
    bench.sim.set_dealer_error(&dealer.corp_id, None);
    bench.sim.set_app_error(&bench.app.corp_id, Some(60_020));
    assert_eq!(bench.resolve(&dealer, &[&id]).await["errcode"], 60_020);
}

#[tokio::test]
async fn group_members_convert_with_the_chat_id_only() {
    let bench = Bench::start(Options::default()).await;
    let dealer = bench.dealer();
    let (member, outsider) = (bench.sim.add_person(), bench.sim.add_person());
    bench.mint(&member).await;
    bench.mint(&outsider).await;
    let chat_id = bench.sim.add_chat(&dealer.corp_id);
    let event = bench.sim.join_chat(&chat_id, std::slice::from_ref(&member));
    let id = bench.sim.external_userid(&dealer.corp_id, &member).unwrap();
    assert!(event.inner.contains(&format!("<Item>{id}</Item>")));
    let outsider_id = bench.befriend(&dealer, &outsider);

    assert_eq!(rows(&bench.resolve(&dealer, &[&id]).await), []);
    let token = bench.dealer_token(&dealer).await;
    let body = json!({ "chat_id": chat_id, "external_userid": [id, outsider_id] });
    let answer = bench.post(Api::ExternalUseridToPendingId, &token, body).await;
    assert_eq!(rows(&answer).len(), 1);
    assert_eq!(rows(&answer)[0].0, id);
    let body = json!({ "chat_id": "wr-nobody", "external_userid": [id] });
    assert_eq!(bench.post(Api::ExternalUseridToPendingId, &token, body).await["errcode"], 40_050);
    let convert_calls =
        bench.sim.calls().into_iter().filter(|call| call.api == Api::ExternalUseridToPendingId);
    let batches: Vec<_> = convert_calls.map(|call| (call.chat_id, call.ids)).collect();
    assert_eq!(batches, [(None, 1), (Some(chat_id), 2), (Some("wr-nobody".to_owned()), 1)]);
}

#[tokio::test]
async fn existing_customers_are_found_by_unionid() {
    let bench = Bench::start(Options::default()).await;
    let (one, two) = (bench.dealer(), bench.dealer());
    let person = bench.sim.add_person();
    let token = bench.token().await;
    let ask = async |extra: Value| {
        let mut body = json!({ "unionid": person.unionid, "openid": person.openid });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        bench.post(Api::UnionidToExternalUserid, &token, body).await
    };
    let none = ask(json!({})).await;
    assert_eq!(
        (none["errcode"].as_i64(), none["external_userid_info"].as_array().map(Vec::len)),
        (Some(0), Some(0))
    );
    let (at_one, at_two) = (bench.befriend(&one, &person), bench.befriend(&two, &person));
    let all = ask(json!({})).await;
    assert_eq!(
        all["external_userid_info"],
        json!([
            { "corpid": one.corp_id, "external_userid": at_one },
            { "corpid": two.corp_id, "external_userid": at_two },
        ])
    );
    let only = ask(json!({ "corpid": two.corp_id })).await;
    assert_eq!(only["external_userid_info"].as_array().unwrap().len(), 1);
    assert_eq!(ask(json!({ "corpid": "wpnobody" })).await["errcode"], 670_004);
    assert_eq!(ask(json!({ "openid": "o-other" })).await["errcode"], 610_018);
}
