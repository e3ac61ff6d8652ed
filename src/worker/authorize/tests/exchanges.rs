//! The exchange of auth codes: tickets, answers that are lost, codes that expire, codes in flight.

use super::*;
use crate::domain::tally::Tally;
use crate::store::Counts;

#[tokio::test]
async fn without_a_ticket_nothing_is_asked_and_a_code_waits_for_the_next_one_while_it_lives() {
    let mut agency = Agency::without_ticket(one_app).await;
    agency.scan("early", &brand()).await;
    agency.pass(MINUTE * 9).await;
    assert_eq!(agency.end("early").await, None);
    assert_eq!(agency.exchange("early").await.unwrap().asked, 0);
    agency.pass(MINUTE).await;
    // The clock may just have been set, and the code's time not yet moved along.
    assert_eq!(agency.end("early").await, None);
    agency.pass(SECOND * 15).await;
    assert!(matches!(agency.end("early").await, Some(ExchangeEnd::Expired { .. })));
    agency.world.advance(MINUTE * 50).await;
    agency.scan("late", &brand()).await;
    agency.pass(MINUTE * 5).await;
    assert_eq!((agency.wecom.take_calls(), agency.exchange("late").await.unwrap().asked), (Vec::new(), 0));
    assert_eq!(agency.context().breakers.all(agency.now()), []);
    agency.ticket().await;
    agency.settle().await;
    assert!(agency.can_call());
    assert_eq!(agency.wecom.count("permanent_code"), 1);
}

#[tokio::test]
async fn while_the_suite_has_an_access_token_an_auth_code_waits_for_no_ticket() {
    let mut agency = Agency::without_ticket(one_app).await;
    agency.scan("code", &brand()).await;
    agency.pass(MINUTE).await;
    assert_eq!(agency.wecom.take_calls(), [""; 0]);
    agency.wecom.state().has_suite_token = true;
    agency.settle().await;
    assert!(agency.can_call());
    assert_eq!(agency.wecom.count("permanent_code"), 1);
}

#[tokio::test]
async fn whether_a_ticket_is_too_old_is_for_wecom_to_say() {
    let mut agency = Agency::new(one_app).await;
    // Both were received with times from before the clock was set ahead.
    agency.scan("code", &brand()).await;
    agency.world.advance(DAY).await;
    agency.settle().await;
    assert!(agency.can_call());
}

#[tokio::test]
async fn a_ticket_that_is_too_old_is_tried_once() {
    let mut agency = Agency::new(one_app).await;
    agency.world.advance(MINUTE * 30).await;
    agency.wecom.state().refused.insert(Api::GetSuiteToken, 40_085);
    agency.scan("code", &brand()).await;
    agency.pass(MINUTE * 5).await;
    assert_eq!(agency.wecom.count("permanent_code"), 1);
}

#[tokio::test]
async fn a_refused_ticket_is_not_used_again_and_opens_no_breaker() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().refused.insert(Api::GetSuiteToken, 40_085);
    agency.scan("code", &brand()).await;
    agency.pass(MINUTE * 5).await;
    assert_eq!(agency.wecom.count("permanent_code"), 1);
    assert_eq!(agency.context().breakers.all(agency.now()), []);
    let exchange = agency.exchange("code").await.unwrap();
    assert_eq!((exchange.end, exchange.asked - exchange.answered), (None, 0), "the code was not sent");
    agency.wecom.state().refused.clear();
    agency.ticket().await;
    agency.settle().await;
    assert!(agency.can_call());
}

#[tokio::test]
async fn an_untrusted_address_holds_the_suite_back_for_seconds_only() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().refused.insert(Api::GetSuiteToken, 60_020);
    for n in 0..20 {
        agency.scan(&format!("code{n}"), &CorpId::new(format!("wp{n}")).unwrap()).await;
    }
    agency.pass(MINUTE).await;
    let scope = Scope::Suite(suite());
    let failing = agency.context().breakers.failing(&[&scope]).unwrap();
    assert_eq!(
        (failing.reason.errcode, scope.kind(), scope.to_string().as_str()),
        (Some(60_020), "suite", "suite agency")
    );
    assert!(failing.probe_at.millis_since(agency.now()) <= 15 * SECOND_MS);
    assert!(agency.wecom.count("permanent_code") < 100);
    agency.wecom.state().refused.clear();
    agency.pass(MINUTE).await;
    assert_eq!(agency.context().breakers.all(agency.now()), []);
    let SuiteRecords { exchanges, authorizations, .. } = agency.records().await;
    assert_eq!((exchanges.len(), authorizations.len()), (0, 20));
}

#[tokio::test]
async fn a_wrong_suite_secret_or_id_is_tried_slowly_and_at_once_when_resumed() {
    for errcode in [40_001, 40_080, 40_083] {
        let mut agency = Agency::new(one_app).await;
        agency.wecom.state().refused.insert(Api::GetSuiteToken, errcode);
        agency.scan("code", &brand()).await;
        agency.pass(MINUTE * 5).await;
        let tries = agency.wecom.count("permanent_code");
        assert!((3..=7).contains(&tries), "{errcode}: {tries} in five minutes");
        agency.wecom.state().refused.clear();
        agency.settle().await;
        assert_eq!(agency.wecom.count("permanent_code"), tries, "it waits");
        let resumed = Resumer::of(agency.context()).run_suite(&suite()).await.unwrap();
        assert_eq!(resumed.breakers, 1);
        agency.settle().await;
        assert!(agency.can_call(), "{errcode}");
    }
}

#[tokio::test]
async fn an_outage_of_the_suite_token_does_not_end_that_a_wrong_secret_is_tried_slowly() {
    for errcode in [-1, 45_009] {
        let mut agency = Agency::new(one_app).await;
        agency.wecom.state().refused.insert(Api::GetSuiteToken, 40_080);
        agency.scan("code", &brand()).await;
        agency.pass(SECOND * 2).await;
        let scope = Scope::Suite(suite());
        let probe_at = agency.context().breakers.failing(&[&scope]).unwrap().probe_at;
        agency.wecom.state().refused.insert(Api::GetSuiteToken, errcode);
        agency.pass(Duration::from_millis(probe_at.millis_since(agency.now()).unsigned_abs()) + SECOND).await;
        assert!(agency.context().breakers.failing(&[&scope]).is_some(), "{errcode}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_ends_no_exchange_and_no_ticket() {
    for by_ms in [DAY_MS, -DAY_MS] {
        let mut agency = Agency::new(one_app).await;
        agency.wecom.state().refused.insert(Api::GetPermanentCode, -1);
        agency.scan("code", &brand()).await;
        agency.pass(SECOND * 5).await;
        let after = if by_ms > 0 { agency.now() } else { agency.now().plus_ms(by_ms) };
        agency.context().store.shift_waits(by_ms, after).await.unwrap();
        agency.world.clock.set_wall(by_ms);
        // What the worker knows is from before.
        agency.look().await;
        agency.calls_end().await;
        assert_eq!(agency.end("code").await, None);
        agency.context().wake.suites.notify_one();
        agency.wecom.state().refused.clear();
        agency.pass(MINUTE).await;
        assert!(agency.can_call(), "{by_ms}");
    }
}

#[tokio::test]
async fn a_code_whose_answer_was_lost_is_found_to_be_lost_and_another_scan_heals_that() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().loses_answer = true;
    agency.scan("first", &brand()).await;
    agency.pass(SECOND * 5).await;
    assert!(matches!(agency.end("first").await, Some(ExchangeEnd::Lost { .. })));
    assert_eq!(agency.wecom.count("permanent_code first"), 2);
    agency.pass(MINUTE).await;
    assert_eq!(agency.wecom.count("permanent_code first"), 2);
    agency.scan("second", &brand()).await;
    agency.settle().await;
    assert!(agency.can_call());
}

#[tokio::test]
async fn a_code_that_wecom_cannot_exchange_is_tried_until_it_expires() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().refused.insert(Api::GetPermanentCode, -1);
    agency.scan("code", &brand()).await;
    agency.pass(MINUTE * 10 + SECOND * 15).await;
    assert!(matches!(agency.end("code").await, Some(ExchangeEnd::Expired { .. })));
    let tries = agency.wecom.count("permanent_code");
    assert!((40..=130).contains(&tries), "{tries}");
    agency.pass(MINUTE).await;
    assert_eq!(agency.wecom.count("permanent_code"), tries);
}

#[tokio::test]
async fn a_code_sealed_with_an_unknown_secret_is_unreadable() {
    let mut agency = Agency::new(one_app).await;
    let id = CodeId::of(&suite(), "code");
    let code = sealer("unknown", None).seal(Purpose::AuthCode, &id.to_string(), &"code".into(), [4; 12]);
    let change = SuiteChange::Code { kind: CodeKind::Create, id, code };
    agency.receive(SuiteEvent { sent_at: agency.now(), change }).await;
    agency.settle().await;
    assert!(matches!(agency.end("code").await, Some(ExchangeEnd::Unreadable { .. })));
    assert_eq!(agency.wecom.take_calls(), [""; 0]);
}

#[tokio::test]
async fn a_code_in_flight_delays_neither_a_reset_nor_other_corps_and_its_late_answer_is_dropped() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().held.insert("first".to_owned());
    agency.scan("first", &brand()).await;
    agency.look().await;
    until_true(|| agency.wecom.count("permanent_code first") == 1).await;
    agency.world.advance(SECOND).await;
    agency.reset("second", &brand()).await;
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    while !agency.can_call() {
        assert!(tokio::time::Instant::now() < give_up, "it waits for the first");
        agency.look().await;
        tokio::task::yield_now().await;
    }
    assert_eq!(agency.permanent_code(&brand()).unwrap(), "permanent of second");
    assert_eq!(agency.wecom.count("permanent_code first"), 1, "it is in flight");
    agency.wecom.answer();
    agency.settle().await;
    assert_eq!(agency.permanent_code(&brand()).unwrap(), "permanent of second");
    assert_eq!(agency.records().await.exchanges, []);
    assert_eq!(agency.authorization(&brand()).await.unwrap().codes, 1, "the older code was never in use");
}

#[tokio::test]
async fn a_reset_of_a_usable_app_changes_its_code() {
    let mut agency = Agency::new(one_app).await;
    agency.scan("first", &brand()).await;
    agency.settle().await;
    agency.world.advance(SECOND).await;
    let now = agency.now();
    agency.context().breakers.failed(&Scope::App(app()), reason(), Backoff::CONFIGURATION, now);
    agency.reset("second", &brand()).await;
    agency.settle().await;
    assert!(agency.can_call());
    assert_eq!(agency.permanent_code(&brand()).unwrap(), "permanent of second");
    assert_eq!(agency.authorization(&brand()).await.unwrap().codes, 2);
    assert_eq!(agency.context().breakers.open(&[&Scope::App(app())], now), None);
}

#[tokio::test]
async fn at_most_eight_codes_are_exchanged_at_once() {
    let mut agency = Agency::new(one_app).await;
    for n in 0..20 {
        let code = format!("code{n:02}");
        agency.wecom.state().held.insert(code.clone());
        agency.scan(&code, &CorpId::new(format!("wp{n:02}")).unwrap()).await;
    }
    agency.look().await;
    until_true(|| agency.wecom.count("permanent_code") == 8).await;
    agency.look().await;
    assert_eq!(agency.wecom.count("permanent_code"), 8);
    agency.wecom.answer();
    agency.settle().await;
    agency.pass(SECOND * 9).await;
    assert_eq!((agency.wecom.count("permanent_code"), agency.records().await.authorizations.len()), (20, 20));
}

#[tokio::test]
async fn a_permanent_code_is_given_up_once_the_store_is_closed() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().held.insert("code".to_owned());
    agency.scan("code", &brand()).await;
    agency.look().await;
    until_true(|| agency.wecom.count("permanent_code") == 1).await;
    agency.context().store.close().await;
    agency.wecom.answer();
    tokio::time::timeout(MINUTE, agency.calls_end()).await.expect("it does not delay the end of the process");
}

/// Lets other tasks run until `is_true`.
async fn until_true(is_true: impl Fn() -> bool) {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(tokio::time::Instant::now() < give_up, "in vain");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_becomes_of_auth_codes_is_counted() {
    let mut agency = Agency::new(one_app).await;
    agency.scan("first", &brand()).await;
    agency.settle().await;
    agency.wecom.state().loses_answer = true;
    agency.scan("second", &brand()).await;
    agency.pass(SECOND * 5).await;
    // One that ends at its deadline for want of a valid ticket.
    agency.wecom.state().refused.insert(Api::GetSuiteToken, 40_085);
    agency.scan("third", &brand()).await;
    agency.pass(MINUTE * 10 + SECOND * 15).await;
    let metrics = agency.context().metrics.scrape(&Counts::default(), Some(&Tally::default()), 0);
    for outcome in ["exchanged", "lost", "expired"] {
        let line = format!("unionlink_auth_codes_total{{suite=\"agency\",outcome=\"{outcome}\"}} 1\n");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}
