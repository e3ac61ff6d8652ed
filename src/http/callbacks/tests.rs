//! What becomes of messages at the URLs of a provider, from the request to the store.

use std::collections::BTreeMap;

use axum::http::Request;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::*;
use crate::at_rest::Purpose;
use crate::callback::{AesKey, Keys, Refusal};
use crate::domain::audit::AuditBy;
use crate::domain::authorization::{AuthorizationState, Granted};
use crate::domain::ids::{ExternalUserid, SuiteId};
use crate::domain::suite::{CodeId, CodeKind};
use crate::domain::tally::Tally;
use crate::http::doors::SuiteRecipients;
use crate::http::scene::{NOW, SUITE_ID, Scene, added, corp, name, own};
use crate::http::url_checks::RefusedCheck;
use crate::store::embedded::Settings;
use crate::store::{Counts, People as _, PersonId, Reconciling as _, SuiteRecords, Suites as _};
use crate::telemetry::captured_log::CapturedLog;
use crate::wecom::Development;
use CallbackOutcome::{Accepted, Duplicate, Ignored, Misplaced as WithoutEffect, Quarantined, Refused};

const CODE: &str = "<AuthCode><![CDATA[CANARY-auth-code]]></AuthCode>";
const TICKET: &str = "<SuiteTicket><![CDATA[CANARY-ticket]]></SuiteTicket>";

fn of_corp(corp_id: &str) -> String {
    format!("<AuthCorpId><![CDATA[{corp_id}]]></AuthCorpId>")
}

async fn records(scene: &Scene) -> SuiteRecords {
    scene.store.suite(&name("agency")).await.unwrap()
}

/// The ticket in the store.
async fn ticket(scene: &Scene) -> Option<String> {
    let known = records(scene).await.ticket?;
    let sealer = &scene.state.apps.suites()[&name("agency")].sealer;
    Some(sealer.open(Purpose::Ticket, "", &known.sealed).unwrap().expose_secret().to_owned())
}

#[tokio::test]
async fn a_suites_messages_are_stored_sealed_and_wake_its_worker() {
    let scene = Scene::new();
    scene.receive("agency", SUITE_ID, &own(SUITE_ID, "suite_ticket", TICKET)).await;
    scene.state.wake.suites.notified().await;
    assert_eq!(ticket(&scene).await.as_deref(), Some("CANARY-ticket"));
    for (info_type, kind) in [("create_auth", CodeKind::Create), ("reset_permanent_code", CodeKind::Reset)] {
        let fields = CODE.replace("auth-code", info_type);
        scene.receive("agency", SUITE_ID, &own(SUITE_ID, info_type, &fields)).await;
        scene.state.wake.suites.notified().await;
        let id = CodeId::of(&name("agency"), &format!("CANARY-{info_type}"));
        let exchanges = records(&scene).await.exchanges;
        let (_, exchange) = exchanges.iter().find(|(other, _)| *other == id).unwrap();
        assert_eq!((exchange.kind, exchange.sent_at.as_secs()), (kind, 1_403_610_513));
        let sealer = &scene.state.apps.suites()[&name("agency")].sealer;
        let code = sealer.open(Purpose::AuthCode, &id.to_string(), &exchange.code).unwrap();
        assert_eq!(code.expose_secret(), format!("CANARY-{info_type}"));
    }
    assert_eq!(scene.outcomes([Accepted, WithoutEffect]), [3, 0]);
}

/// `wpA` is in the store as a corp that has authorised.
async fn granted(scene: &Scene) {
    let code = scene.state.apps.suites()[&name("agency")].sealer.seal(
        Purpose::PermanentCode,
        "wpA",
        &"CANARY-code".into(),
        [9; 12],
    );
    let sent_at = Timestamp::from_secs(1_403_610_000);
    let granted = Granted { corp_id: corp("wpA"), name: "甲".into(), code, sent_at };
    scene.store.grant(&name("agency"), &CodeId([0; 16]), granted, NOW).await.unwrap();
}

#[tokio::test]
async fn news_of_a_corp_change_its_authorisation() {
    let scene = Scene::new();
    granted(&scene).await;
    let before = records(&scene).await.authorizations[0].changes;
    scene.receive("agency", SUITE_ID, &own(SUITE_ID, "change_auth", &of_corp("wpA"))).await;
    assert_ne!(records(&scene).await.authorizations[0].changes, before);
    scene.receive("agency", SUITE_ID, &own(SUITE_ID, "cancel_auth", &of_corp("wpA"))).await;
    assert_eq!(records(&scene).await.authorizations[0].state(), AuthorizationState::Cancelled);
    assert_eq!(scene.outcomes([Accepted]), [2]);
}

#[tokio::test]
async fn a_message_of_a_suite_has_an_effect_once_and_a_stale_one_none() {
    let scene = Scene::new();
    granted(&scene).await;
    let ticket_later = own(SUITE_ID, "suite_ticket", TICKET);
    let earlier = ticket_later.replace("1403610513", "1403610512").replace("CANARY-ticket", "older");
    let create = own(SUITE_ID, "create_auth", CODE);
    let again = create.replace("</xml>", "<State>2</State></xml>");
    let cancelled = own(SUITE_ID, "cancel_auth", &of_corp("wpA")).replace("1403610513", "1403609999");
    let unknown = own(SUITE_ID, "cancel_auth", &of_corp("wpN"));
    for text in [&ticket_later, &create] {
        scene.receive("agency", SUITE_ID, text).await;
        scene.receive("agency", SUITE_ID, text).await;
    }
    let known = records(&scene).await;
    for text in [&earlier, &again, &cancelled, &unknown] {
        scene.receive("agency", SUITE_ID, text).await;
    }
    assert_eq!(records(&scene).await, known);
    assert_eq!(scene.outcomes([Accepted, Duplicate, WithoutEffect]), [2, 2, 4]);
}

#[tokio::test]
async fn hostile_messages_have_no_effect_and_are_counted() {
    let scene = Scene::authorized().await;
    let create = own(SUITE_ID, "create_auth", CODE);
    let before = (records(&scene).await, scene.store.suite(&name("other")).await.unwrap());
    // Encrypted with an app's key, at the suite's URL.
    for sealed_by in ["own", "second", "other"] {
        let answer = scene.post("agency", sealed_by, SUITE_ID, &create).await;
        assert_eq!(answer, (403, String::new()), "{sealed_by}");
    }
    // At an app's own URL, with its key.
    scene.receive("second", SUITE_ID, &create).await;
    assert_eq!(scene.outcomes([Refused, Ignored]), [3, 1]);
    // The same for a stranger: it is not quarantined in clear.
    scene.receive("second", "stranger", &create).await;
    // At another suite's URL, with its key, for either suite.
    scene.receive("other", SUITE_ID, &create).await;
    scene.receive("other", "dkOTHER", &create).await;
    // With another suite's id, and for a corp.
    scene.receive("agency", SUITE_ID, &own("dkOTHER", "create_auth", CODE)).await;
    scene.receive("agency", "wpA", &create).await;
    scene.receive("agency", SUITE_ID, &own(SUITE_ID, "cancel_auth", CODE)).await;
    assert_eq!(scene.outcomes([Accepted, WithoutEffect]), [0, 6]);
    assert_eq!((records(&scene).await, scene.store.suite(&name("other")).await.unwrap()), before);
    assert!(scene.quarantine().await.is_empty());
    // An event of one suite's brand at the other suite.
    scene.receive("other", "wpA", &added("wpD1", 1)).await;
    scene.receive("other", SUITE_ID, &added("wpA", 1)).await;
    scene.receive("agency", "wpC", &added("wpA", 1)).await;
    assert!(scene.inbox().await.is_empty());
    let expected = [("other", "receive_id"), ("other", "receive_id"), ("agency", "receive_id")];
    assert_eq!(scene.quarantine().await, expected.map(|(name, reason)| (name.to_owned(), reason)));
}

#[tokio::test]
async fn an_event_of_two_brands_dealer_is_appended_once_for_each_app() {
    let scene = Scene::authorized().await;
    let event = added("wpD2", 1);
    for _ in 0..2 {
        scene.receive("agency", "wpD2", &event).await;
    }
    let both = [("brand", "wpD2"), ("second", "wpD2")].map(|(app, id)| (app.to_owned(), id.to_owned()));
    assert_eq!(scene.inbox().await, both);
    assert_eq!(scene.outcomes([Accepted, Duplicate]), [1, 1]);
    // The same at the URL of one of the two.
    scene.receive("second", "wpD2", &event).await;
    assert_eq!(scene.outcomes([Duplicate]), [2]);
    // If one app has its copy already, the other gets its own.
    scene.receive("second", "wpD2", &added("wpD2", 2)).await;
    scene.receive("agency", "wpD2", &added("wpD2", 2)).await;
    assert_eq!(scene.inbox().await.len(), 4);
    assert_eq!(scene.outcomes([Accepted, Duplicate]), [3, 2]);
}

#[tokio::test]
async fn a_full_inbox_keeps_out_events_and_no_message_of_a_suite() {
    let scene = Scene::with(Settings { inbox_events_max: 1, ..Settings::default() });
    scene.authorize(&[("agency", "wpA", None)]);
    scene.receive("agency", "wpA", &added("wpA", 1)).await;
    let refused = scene.post("agency", "agency", "wpA", &added("wpA", 2)).await;
    assert_eq!(refused, (503, String::new()));
    scene.receive("agency", SUITE_ID, &own(SUITE_ID, "suite_ticket", TICKET)).await;
    scene.receive("agency", SUITE_ID, &own(SUITE_ID, "create_auth", CODE)).await;
    assert_eq!(records(&scene).await.exchanges.len(), 1);
}

#[tokio::test]
async fn a_url_is_verified_for_its_own_corps_only_and_no_message_is_decrypted() {
    let scene = Scene::authorized().await;
    let refused = (403, String::new());
    for (url, accepted, others) in [
        (
            "agency",
            vec!["wwPROVIDER", SUITE_ID, "wpA", "wpB", "wpD1", "further"],
            vec!["", "wpN", "wpC", "dkOTHER", "wpD2"],
        ),
        ("second", vec!["wwPROVIDER", SUITE_ID, "wpB", "further"], vec!["", "wpN", "wpC"]),
        ("own", vec!["wwOWN"], vec!["", "stranger", "wpA"]),
    ] {
        for receive_id in accepted {
            let answer = scene.check_url(url, receive_id, "1616140317555161061").await;
            assert_eq!(answer, (200, "1616140317555161061".to_owned()), "{url}: {receive_id}");
            // A recorded message is not decrypted for its sender.
            for message in ["<xml></xml>", "{}"] {
                assert_eq!(scene.check_url(url, receive_id, message).await, refused, "{url}: {receive_id}");
            }
        }
        for receive_id in others {
            assert_eq!(scene.check_url(url, receive_id, "1").await, refused, "{url}: {receive_id}");
        }
    }
}

#[tokio::test]
async fn the_last_refused_check_of_a_url_is_remembered_until_one_is_answered() {
    let scene = Scene::authorized().await;
    let long = "企".repeat(300);
    let check = async |url: &str, receive_id: &str, echo: &str| {
        scene.clock.advance_ms(1_000);
        scene.check_url(url, receive_id, echo).await.0
    };
    assert_eq!(check("agency", "wpN", "<xml>").await, 403, "a message is no check by WeCom");
    assert_eq!(check("nobody", "wpN", "1").await, 404);
    assert_eq!(check("own", "wwOWN", "1").await, 200);
    assert!(scene.state.url_checks.all().is_empty());
    for receive_id in ["wwWRONG", "", &long, &long] {
        assert_eq!(check("own", receive_id, "1").await, 403);
    }
    assert_eq!(check("agency", "wpN", "1").await, 403);
    let refused = |receive_id: String, after_ms| RefusedCheck { receive_id, at: NOW.plus_ms(after_ms) };
    let own = (name("own"), refused("企".repeat(128), 6_000));
    let agency = (name("agency"), refused("wpN".to_owned(), 8_000));
    assert_eq!(scene.state.url_checks.all(), BTreeMap::from([own.clone(), agency]));
    assert_eq!(check("agency", "wpA", "1").await, 200);
    assert_eq!(scene.state.url_checks.all(), BTreeMap::from([own]));
}

#[tokio::test]
async fn an_empty_receive_id_is_verified_where_configured() {
    let recipients = SuiteRecipients {
        suite: name("agency"),
        suite_id: SuiteId::new(SUITE_ID).unwrap(),
        provider_corp_id: corp("wwPROVIDER"),
        accept_receive_ids: vec![String::new()],
    };
    let keys = Keys::new("token".into(), AesKey::decode(&"a".repeat(43)).unwrap());
    let sealer = Scene::new().state.apps.suites()[&name("agency")].sealer.clone();
    let door = Door::Suite(SuiteDoor { keys, recipients, sealer });
    let echo = |receive_id: &str| VerifiedMessage::from_quarantine(receive_id, b"1".to_vec());
    assert_eq!(door.check_echo(&Apps::default(), &echo("")), Ok(()));
    let refused = door.check_echo(&Apps::default(), &echo("wpN"));
    assert_eq!(refused, Err(Refusal::ReceiveId));
}

#[tokio::test]
async fn an_app_without_a_url_of_its_own_is_not_found_and_the_log_names_its_suites() {
    let log = CapturedLog::begin();
    let scene = Scene::authorized().await;
    let event = added("wpA", 1);
    assert_eq!(scene.post("brand", "brand", "wpA", &event).await, (404, String::new()));
    assert_eq!(scene.check_url("nobody", "wpA", "1").await, (404, String::new()));
    let log = log.text();
    assert!(log.contains("/callback/agency") && log.contains("brand"), "{log}");
    assert!(!log.contains("nobody"), "{log}");
}

#[tokio::test]
async fn no_ticket_no_code_and_no_person_is_logged_or_quarantined() {
    let log = CapturedLog::begin();
    let scene = Scene::authorized().await;
    let ticket = own(SUITE_ID, "suite_ticket", TICKET);
    for url in ["agency", "second", "other", "own"] {
        for receive_id in [SUITE_ID, "dkOTHER", "wpA", "stranger", "wwOWN"] {
            for text in [
                ticket.clone(),
                own("dkOTHER", "create_auth", CODE),
                ticket.replace("</xml>", ""),
                ticket.replace("InfoType", "Info"),
                ticket.replace("<xml>", "<xml><ToUserName>wpN</ToUserName><MsgType>event</MsgType>"),
                added("wpN", 1).replace("wmINVENTED", "CANARY-customer"),
            ] {
                scene.receive(url, receive_id, &text).await;
            }
        }
    }
    for row in scene.quarantined().await {
        let text = scene.store.quarantined_message(row.id).await.unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("CANARY-ticket") && !text.contains("CANARY-auth"), "{text}");
    }
    let log = log.text();
    assert!(log.contains("messages without effect"), "{log}");
    assert!(!log.contains("CANARY"), "{log}");
}

#[tokio::test]
async fn a_message_that_needs_no_action_is_not_kept_while_unrouted() {
    let scene = Scene::new();
    let text = added("wpA", 1);
    let written = text.replace("<MsgType>event", "<MsgType>text");
    scene.receive("agency", SUITE_ID, &written).await;
    assert_eq!(scene.outcomes([Ignored, Quarantined]), [1, 0]);
    scene.receive("agency", SUITE_ID, &text).await;
    scene.receive("agency", SUITE_ID, &text).await;
    assert_eq!(scene.outcomes([Quarantined, Duplicate]), [1, 1]);
    assert_eq!(scene.quarantine().await, [("agency".to_owned(), "unrouted")]);
}

#[tokio::test]
async fn a_message_that_names_a_forgotten_person_is_logged_and_counted_and_not_quarantined() {
    let log = CapturedLog::begin();
    let scene = Scene::new();
    let forgotten = PersonId::ExternalUserid(ExternalUserid::new("wmINVENTED-1").unwrap());
    scene.store.forget(&forgotten, None, AuditBy::service(), NOW).await.unwrap();
    scene.receive("own", "stranger", &added("wpN", 1)).await;
    scene.receive("agency", "wpA", &added("wpA", 1)).await;
    assert_eq!(scene.outcomes([Ignored, Quarantined]), [2, 0]);
    assert!(scene.quarantine().await.is_empty());
    let logged = log.text();
    assert!(logged.contains("callbacks not stored: they name a forgotten person"), "{logged}");
    assert!(!logged.contains("quarantined"), "{logged}");
    scene.receive("own", "stranger", &added("wpN", 2)).await;
    assert_eq!(scene.outcomes([Ignored, Quarantined]), [2, 1]);
    assert!(log.text().contains("callbacks quarantined"));
}

#[tokio::test]
async fn dealers_are_listed_again_after_a_change_of_them_and_for_an_unknown_corp_only() {
    let scene = Scene::authorized().await;
    let changed = || ["brand", "second", "third"].map(|app| scene.state.wake.take_changed(&name(app)));
    for (info_type, fields) in [("suite_ticket", TICKET), ("create_auth", CODE), ("other", "")] {
        scene.receive("agency", SUITE_ID, &own(SUITE_ID, info_type, fields)).await;
    }
    assert_eq!(changed(), [false; 3]);
    let of_chain =
        |corp_id: &str| own(SUITE_ID, "share_chain_change", &format!("<CorpId>{corp_id}</CorpId>"));
    scene.receive("agency", SUITE_ID, &of_chain("wpA")).await;
    assert_eq!(changed(), [true, false, false]);
    scene.receive("agency", SUITE_ID, &of_chain("wpN")).await;
    assert_eq!(changed(), [false; 3]);
    let of_app = added("wpB", 1).replace("change_external_contact", "share_chain_change");
    scene.receive("agency", SUITE_ID, &of_app).await;
    assert_eq!(changed(), [false, true, false]);
    scene.receive("agency", SUITE_ID, &added("wpN", 1)).await;
    assert_eq!(changed(), [true, true, false]);
    scene.receive("agency", SUITE_ID, &added("wpN", 2)).await;
    assert_eq!(changed(), [false; 3], "not for each of its messages");
}

#[tokio::test]
async fn a_notice_of_a_missing_licence_is_a_trouble_of_the_dealer() {
    let scene = Scene::authorized().await;
    let notice = added("wpD2", 1).replace("change_external_contact", "unlicensed_notify");
    scene.receive("agency", "wpB", &notice).await;
    assert_eq!(scene.outcomes([Ignored]), [1]);
    scene.state.activity.record_rest(&*scene.store).await.unwrap();
    let trouble = async |app: &str| {
        let mut rows = scene.store.dealer_rows(&name(app)).await.unwrap();
        rows.pop().unwrap().activity.trouble
    };
    let noted = trouble("second").await.unwrap();
    assert_eq!((noted.errcode, noted.at), (Some(701_008), NOW));
    assert!(noted.text.contains("互通账号") && !noted.text.contains("zhangsan"), "{}", noted.text);
    assert_eq!(trouble("brand").await, None);
    let missing = |app: &str| scene.state.activity.missing_licences(&name(app), NOW);
    assert_eq!((missing("second"), missing("brand")), (vec![(corp("wpD2"), NOW)], vec![]));
    // Of the brand itself.
    let notice = added("wpA", 1).replace("change_external_contact", "unlicensed_notify");
    scene.receive("agency", "wpA", &notice).await;
    assert_eq!(missing("brand"), [(corp("wpA"), NOW)]);
}

#[tokio::test]
async fn a_notice_of_a_missing_licence_at_a_self_built_app_has_its_own_remedy() {
    let scene = Scene::authorized().await;
    scene.list_dealer("own", "wpD3").await;
    let notice = added("wpD3", 1).replace("change_external_contact", "unlicensed_notify");
    scene.receive("own", "wwOWN", &notice).await;
    scene.state.activity.record_rest(&*scene.store).await.unwrap();
    let trouble =
        scene.store.dealer_rows(&name("own")).await.unwrap().pop().unwrap().activity.trouble.unwrap();
    let [own, agency] = [Development::SelfBuilt, Development::Agency].map(|of| remedy_for(701_008, of).en);
    assert!(trouble.text.contains(own) && !trouble.text.contains(agency), "{}", trouble.text);
}

#[tokio::test]
async fn a_templates_message_at_a_self_built_apps_url_is_counted_and_not_kept() {
    let scene = Scene::authorized().await;
    for text in [own(SUITE_ID, "suite_ticket", TICKET), own(SUITE_ID, "create_auth", CODE)] {
        for receive_id in [SUITE_ID, "stranger"] {
            scene.receive("own", receive_id, &text).await;
        }
    }
    assert_eq!(scene.outcomes([WithoutEffect, Quarantined]), [4, 0]);
    assert!(scene.quarantine().await.is_empty());
}

/// A callback that a third-party suite really sent; published with its token and key (`WeiXinMPSDK`).
#[tokio::test]
async fn a_published_create_auth_is_accepted_as_it_was_sent() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../tests/vectors/callback.json")).unwrap();
    let vector = vectors.iter().find(|vector| vector["kind"] == "post_xml_third_party_suite").unwrap();
    let text = |field: &str| vector[field].as_str().unwrap();
    let scene = Scene::new();
    let keys = Keys::new(text("token").into(), AesKey::decode(text("aes_key")).unwrap());
    let recipients = SuiteRecipients {
        suite: name("agency"),
        suite_id: SuiteId::new(text("receive_id")).unwrap(),
        provider_corp_id: corp("wwPROVIDER"),
        accept_receive_ids: Vec::new(),
    };
    let sealer = scene.state.apps.suites()[&name("agency")].sealer.clone();
    let door = Door::Suite(SuiteDoor { keys, recipients, sealer });
    scene.state.doors.replace([(name("agency"), Arc::new(door))].into());
    let query = format!(
        "msg_signature={}&timestamp={}&nonce={}",
        text("signature"),
        text("timestamp"),
        text("nonce")
    );
    let request = Request::post(format!("/callback/agency?{query}"));
    let answer = scene.answer(request.body(text("post_body").to_owned().into()).unwrap()).await;
    assert_eq!(answer, (200, "success".to_owned()));
    let code = "4iB9AtMlSfBkwV0JjbnYqFTAp33Z9Rzj2hUnliWWIfvllA5HfUTmPPd89y4nFLh4D9-b74MBxvfZ5ph3QoQAMm1mWSHb\
                Flzs07lxBI9PAD8";
    let (id, exchange) = records(&scene).await.exchanges.pop().unwrap();
    assert_eq!((id, exchange.sent_at.as_secs()), (CodeId::of(&name("agency"), code), 1_505_643_268));
}

#[tokio::test]
async fn only_a_suites_own_events_are_timed_as_such() {
    let scene = Scene::authorized().await;
    scene.receive("agency", SUITE_ID, &own(SUITE_ID, "suite_ticket", TICKET)).await;
    scene.receive("agency", "wpA", &added("wpA", 1)).await;
    scene.receive("agency", SUITE_ID, &own("dkOTHER", "suite_ticket", TICKET)).await;
    let metrics = scene.state.metrics.scrape(&Counts::default(), Some(&Tally::default()), 0);
    assert!(metrics.contains("unionlink_suite_event_seconds_count 1\n"), "{metrics}");
}
