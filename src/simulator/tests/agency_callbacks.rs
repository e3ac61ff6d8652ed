//! Agency-developed apps: sealing and sending events, verifying URLs, the control routes.

use std::time::Duration;

use super::super::{AppUrlCheck, CallbackSpec, Change, EventUrl, ReceiveId, Sending, ShareChange};
use super::agency::Agency;
use super::callbacks::{Receiver, encrypted_in, open, receiver};
use super::control::ask;
use super::*;

async fn agency() -> (Agency, Arc<Receiver>) {
    let mut options = Options::default();
    options.sender.retry_interval_ms = 1;
    let (receiver, url) = receiver().await;
    (Agency::at(options, &url).await, receiver)
}

/// The envelope, the inner text and the receive id of the only callback.
fn received(receiver: &Receiver, spec: &CallbackSpec) -> (String, String, String) {
    let (query, body) = receiver.take_one();
    let (inner, receive_id) = open(spec, &query, encrypted_in(&body)).unwrap();
    (body, inner, receive_id)
}

#[tokio::test]
async fn a_templates_events_are_sealed_for_the_suite_and_written_as_in_the_samples() {
    let (agency, receiver) = agency().await;
    let (sim, suite_id) = (&agency.bench.sim, &agency.template.suite_id);
    let brand = agency.scan();
    let (ticket, change, cancel) =
        (sim.ticket(suite_id), sim.change_auth(&brand.corp_id), sim.cancel(&brand.corp_id));
    for event in [&ticket, &brand.event, &change, &cancel] {
        assert!(sim.deliver(event).await.acknowledged);
        let (body, inner, receive_id) = received(&receiver, &agency.template.callback);
        assert_eq!((&inner, &receive_id), (&event.inner, suite_id));
        assert!(body.contains(&format!("<ToUserName><![CDATA[{suite_id}]]></ToUserName>")));
        assert!(body.contains("<AgentID><![CDATA[]]></AgentID>"));
    }
    let head = format!("<xml><SuiteId><![CDATA[{suite_id}]]></SuiteId>");
    let corp = format!("<AuthCorpId><![CDATA[{}]]></AuthCorpId>", brand.corp_id);
    let time = "<TimeStamp>1795309323</TimeStamp>";
    let value = element(&ticket.inner, "SuiteTicket").unwrap();
    assert_eq!(
        ticket.inner,
        format!(
            "{head}<InfoType> <![CDATA[suite_ticket]]></InfoType>{time}\
             <SuiteTicket><![CDATA[{value}]]></SuiteTicket></xml>"
        )
    );
    let code = element(&brand.event.inner, "AuthCode").unwrap();
    assert!((64..=512).contains(&code.len()));
    assert_eq!(
        brand.event.inner,
        format!(
            "{head}<AuthCode><![CDATA[{code}]]></AuthCode><InfoType><![CDATA[create_auth]]></InfoType>{time}\
             <State><![CDATA[]]></State><ExtraInfo></ExtraInfo></xml>"
        )
    );
    assert_eq!(
        change.inner,
        format!(
            "{head}<InfoType><![CDATA[change_auth]]></InfoType>{time}{corp}\
             <State><![CDATA[]]></State><ExtraInfo></ExtraInfo></xml>"
        )
    );
    assert_eq!(cancel.inner, format!("{head}<InfoType><![CDATA[cancel_auth]]></InfoType>{time}{corp}</xml>"));
}

#[tokio::test]
async fn a_late_acknowledgement_or_one_without_success_is_a_failure() {
    let (agency, receiver) = agency().await;
    let sim = &agency.bench.sim;
    sim.configure(|options| options.agency.acknowledge_within_ms = 100);
    let (brand, ticket) = (agency.scan(), sim.ticket(&agency.template.suite_id));
    *receiver.delay.lock().unwrap() = Some(Duration::from_millis(200));
    let late = sim.deliver_once(&brand.event).await;
    assert_eq!((late.acknowledged, late.late, late.status), (false, true, Some(200)));
    assert_eq!(sim.deliver(&brand.event).await.attempts, 4);
    // A ticket has more time.
    assert!(sim.deliver_once(&ticket).await.acknowledged);
    let app_event = sim.event(&brand.corp_id, &Change::ShareChainChange { agent_id: 1 });
    assert!(sim.deliver_once(&app_event).await.acknowledged);

    *receiver.delay.lock().unwrap() = None;
    *receiver.answer.lock().unwrap() = Some("ok");
    for event in [&brand.event, &ticket] {
        let refused = sim.deliver_once(event).await;
        assert_eq!((refused.acknowledged, refused.late, refused.status), (false, false, Some(200)));
    }
    assert!(sim.deliver_once(&app_event).await.acknowledged);
    let callbacks = sim.counters().callbacks;
    assert_eq!((callbacks.late, callbacks.not_success), (5, 2));
    assert_eq!((callbacks.acknowledged, callbacks.gave_up), (3, 4));
}

#[tokio::test]
async fn app_events_use_the_templates_keys_or_the_apps_own_at_the_brands_or_the_dealers_url() {
    let (agency, receiver) = agency().await;
    let (sim, inherited) = (&agency.bench.sim, &agency.template.callback);
    let brand = agency.scan().corp_id;
    let dealer = sim.add_dealer(&brand, "Dealer");
    let event = sim.befriend(&dealer.corp_id, &sim.add_person(), "zhangsan", None).event;
    let sent = async |keys: &CallbackSpec| {
        assert!(sim.deliver(&event).await.acknowledged);
        let (body, _, receive_id) = received(&receiver, keys);
        assert!(body.contains(&format!("<ToUserName><![CDATA[{}]]></ToUserName>", dealer.corp_id)));
        assert!(body.contains(&format!("<AgentID><![CDATA[{}]]></AgentID>", dealer.agent_id)));
        receive_id
    };
    assert_eq!(sent(inherited).await, brand);
    let of_brand = sim.invent_callback(&inherited.url);
    sim.set_own_callback(&brand, Some(of_brand.clone()));
    assert_eq!(sent(&of_brand).await, brand);

    sim.configure(|options| {
        options.agency.event_url = EventUrl::Dealer;
        options.sender.receive_id = ReceiveId::Dealer;
    });
    // Nothing is installed yet.
    assert_eq!(sent(&of_brand).await, dealer.corp_id);
    let _ = sim.install(&dealer.corp_id);
    assert_eq!(sent(inherited).await, dealer.corp_id);
    let of_dealer = sim.invent_callback(&inherited.url);
    sim.set_own_callback(&dealer.corp_id, Some(of_dealer.clone()));
    assert_eq!(sent(&of_dealer).await, dealer.corp_id);
    sim.configure(|options| options.agency.event_url = EventUrl::Brand);
    assert_eq!(sent(&of_brand).await, dealer.corp_id);
    sim.set_own_callback(&brand, None);
    assert_eq!(sent(inherited).await, dealer.corp_id);
}

#[tokio::test]
async fn a_change_of_sharing_is_reported_in_three_ways() {
    let (agency, receiver) = agency().await;
    let sim = &agency.bench.sim;
    let brand = agency.scan().corp_id;
    let change = Change::ShareChainChange { agent_id: sim.agent_id(&brand) };
    let event = sim.event(&brand, &change);
    assert_eq!((event.suite_id.as_ref(), element(&event.inner, "Event")), (None, Some("share_chain_change")));

    sim.configure(|options| options.agency.share_change = ShareChange::TemplateUrl);
    let event = sim.event(&brand, &change);
    assert_eq!(event.suite_id.as_ref(), Some(&agency.template.suite_id));
    assert_eq!(element(&event.inner, "InfoType"), Some("share_chain_change"));
    assert_eq!(element(&event.inner, "CorpId"), Some(brand.as_str()));
    let agent_id = sim.agent_id(&brand).to_string();
    assert_eq!(element(&event.inner, "AgentId"), Some(agent_id.as_str()));
    assert!(sim.deliver(&event).await.acknowledged);
    received(&receiver, &agency.template.callback);

    sim.configure(|options| options.agency.share_change = ShareChange::Never);
    let event = sim.event(&brand, &change);
    assert_eq!(event.sending, Sending::Never);
    assert_eq!(sim.deliver(&event).await.attempts, 0);
    assert_eq!(sim.event(&agency.bench.app.corp_id, &change).sending, Sending::Usual);
}

#[tokio::test]
async fn urls_are_verified_with_the_receive_id_of_the_caller() {
    let (agency, receiver) = agency().await;
    let (sim, template) = (&agency.bench.sim, &agency.template);
    let brand = agency.scan().corp_id;
    assert!(!sim.verify_template_url(&template.suite_id, &template.provider_corp_id).await);
    *receiver.echo.lock().unwrap() = Some(template.callback.clone());
    for receive_id in [&template.provider_corp_id, &template.suite_id, &brand] {
        assert!(sim.verify_template_url(&template.suite_id, receive_id).await);
        assert_eq!(receiver.verified().as_ref(), Some(receive_id));
        assert!(sim.verify_app_url(&brand, receive_id).await);
    }
    for (check, receive_id) in [
        (AppUrlCheck::Corp, brand.as_str()),
        (AppUrlCheck::Provider, &template.provider_corp_id),
        (AppUrlCheck::Suite, &template.suite_id),
        (AppUrlCheck::Empty, ""),
    ] {
        sim.configure(|options| options.agency.app_url_check = check);
        assert!(sim.verify_url(&brand).await);
        assert_eq!(receiver.verified().as_deref(), Some(receive_id));
    }
}

#[tokio::test]
async fn tickets_arrive_by_themselves() {
    let (receiver, url) = receiver().await;
    let mut options = Options::default();
    options.agency.ticket_every_ms = 10;
    let agency = Agency::at(options, &url).await;
    while agency.bench.sim.counters().callbacks.acknowledged < 2 {
        tokio::task::yield_now().await;
    }
    agency.bench.sim.stop().await;
    let tickets = receiver.seen().into_iter().map(|(query, body)| {
        let inner = open(&agency.template.callback, &query, encrypted_in(&body)).unwrap().0;
        element(&inner, "SuiteTicket").unwrap().to_owned()
    });
    let tickets: std::collections::BTreeSet<String> = tickets.collect();
    assert!(tickets.len() >= 2);
}

#[tokio::test]
async fn every_call_about_agency_developed_apps_in_the_index_works() {
    let (agency, receiver) = agency().await;
    let bench = &agency.bench;
    bench.sim.configure(|options| options.agency.change_auth_first = true);
    let brand = agency.scan().corp_id;
    let dealer = bench.sim.add_dealer(&brand, "Dealer");
    let index = bench.http.get(format!("{}/sim", bench.sim.base_url())).send().await.unwrap();
    let index = index.text().await.unwrap();
    let (_, index) = index.split_once("Agency-developed apps").unwrap();
    let mut sent = 0;
    for line in index.lines() {
        let Some(call) = line.split_once("/sim/").map(|(_, call)| call) else { continue };
        let (path, body) = call.split_once(' ').unwrap();
        let mut body: Value = serde_json::from_str(body).unwrap();
        if body.get("corp_id").is_some() {
            body["corp_id"] = json!(if path == "install" { &dealer.corp_id } else { &brand });
        }
        let (status, answer) = ask(bench, reqwest::Method::POST, path, body).await;
        assert_eq!(status, 200, "{line}: {answer}");
        let expected: &[&str] = match path {
            "template/ticket" => &["suite_ticket"],
            "authorize" | "install" => &["change_auth", "create_auth"],
            "change_auth" => &["change_auth"],
            "reset" => &["reset_permanent_code"],
            "cancel" => &["cancel_auth"],
            other => panic!("{other}"),
        };
        sent += expected.len();
        while receiver.seen().len() < sent {
            tokio::task::yield_now().await;
        }
        let seen = receiver.seen();
        let kinds = seen[sent - expected.len()..].iter().map(|(query, body)| {
            let inner = open(&agency.template.callback, query, encrypted_in(body)).unwrap().0;
            element(&inner, "InfoType").unwrap().trim_start_matches(" <![CDATA[").to_owned()
        });
        assert_eq!(kinds.collect::<Vec<_>>(), expected, "{path}");
    }
    assert_eq!(sent, 8);
    let (_, answer) = ask(bench, reqwest::Method::POST, "authorize", json!({ "corp_id": brand })).await;
    assert_eq!(answer["corp_id"], json!(brand));
}

#[tokio::test]
async fn an_invalid_call_about_an_agency_developed_app_is_answered_with_the_reason() {
    let (agency, _) = agency().await;
    let bench = &agency.bench;
    let own = bench.dealer().corp_id;
    for (path, body, reason) in [
        ("template/ticket", json!({ "suite_id": "dk0" }), "no template dk0"),
        ("authorize", json!({}), "give either `name` or `corp_id`"),
        ("reset", json!({ "corp_id": bench.app.corp_id }), "has not authorized a template"),
        ("install", json!({ "corp_id": own }), "is not a dealer of a brand with an agency-developed app"),
        ("cancel", json!({ "corp_id": "wp0" }), "no corp wp0 here"),
    ] {
        let (status, answer) = ask(bench, reqwest::Method::POST, path, body).await;
        assert_eq!(status, 400, "{path}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    }
    bench.sim.add_template(bench.sim.invent_template("http://127.0.0.1:9/cb"));
    let (status, answer) = ask(bench, reqwest::Method::POST, "authorize", json!({ "name": "x" })).await;
    assert_eq!((status, answer["error"].as_str().unwrap().contains("name the template")), (400, true));
}
