//! What becomes of an authorisation: cancellations, readings that fail, permissions.

use super::*;

#[tokio::test]
async fn a_cancelled_app_is_parked_until_the_brand_authorises_again() {
    let mut agency = Agency::new(one_app).await;
    agency.scan("first", &brand()).await;
    agency.settle().await;
    agency.pass(MINUTE).await;
    agency.cancel(&brand()).await;
    agency.settle().await;
    assert!(!agency.can_call());
    assert_eq!(agency.context().apps.corp_of(&app()), Some(brand()), "its data remains this brand's");
    agency.wecom.take_calls();
    agency.world.advance(DAY).await;
    agency.ticket().await;
    agency.settle().await;
    assert_eq!(agency.wecom.take_calls(), [""; 0]);
    let now = agency.now();
    agency.context().breakers.failed(&Scope::App(app()), reason(), Backoff::CONFIGURATION, now);
    agency.scan("second", &brand()).await;
    agency.settle().await;
    assert!(agency.can_call());
    assert_eq!(agency.context().breakers.open(&[&Scope::App(app())], now), None);
    assert_eq!(agency.permanent_code(&brand()).unwrap(), "permanent of second");
}

#[tokio::test]
async fn a_cancellation_that_only_a_refusal_shows_is_read_again_daily() {
    let mut agency = Agency::new(one_app).await;
    agency.scan("code", &brand()).await;
    agency.settle().await;
    agency.wecom.state().cancelled.insert(brand());
    let change = SuiteChange::Changed(brand());
    let event = SuiteEvent { sent_at: agency.now(), change };
    agency.receive(event).await;
    agency.settle().await;
    assert!(!agency.can_call() && agency.authorization(&brand()).await.unwrap().is_cancellation_inferred());
    agency.wecom.take_calls();
    for (is_cancelled, calls) in [(true, 1), (false, 2)] {
        agency.world.advance(DAY.saturating_sub(MINUTE)).await;
        agency.ticket().await;
        agency.settle().await;
        assert_eq!(agency.wecom.take_calls(), [""; 0]);
        if !is_cancelled {
            agency.wecom.state().cancelled.clear();
        }
        agency.pass(MINUTE).await;
        assert_eq!((agency.can_call(), agency.wecom.take_calls().len()), (!is_cancelled, calls));
    }
}

#[tokio::test]
async fn an_app_that_cannot_be_read_is_read_again_after_a_while_or_another_change() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().refused.insert(Api::GetAuthInfo, 842_002);
    agency.scan("code", &brand()).await;
    agency.settle().await;
    assert_eq!((agency.wecom.count("auth_info"), agency.can_call()), (1, false));
    let event = SuiteEvent { sent_at: agency.now(), change: SuiteChange::Changed(brand()) };
    agency.receive(event).await;
    agency.settle().await;
    assert_eq!(agency.wecom.count("auth_info"), 2);
    agency.wecom.state().refused.clear();
    agency.pass(MINUTE).await;
    assert_eq!((agency.wecom.count("auth_info"), agency.can_call()), (3, true));
}

#[tokio::test]
async fn after_a_refused_ticket_an_app_is_read_with_the_next_one_at_once() {
    let mut agency = Agency::new(one_app).await;
    agency.scan("code", &brand()).await;
    agency.settle().await;
    for _ in 0..6 {
        agency.wecom.state().refused.insert(Api::GetSuiteToken, 40_085);
        agency.wecom.take_calls();
        agency.world.advance(DAY).await;
        agency.receive(SuiteEvent { sent_at: agency.now(), change: SuiteChange::Changed(brand()) }).await;
        agency.pass(MINUTE).await;
        assert_eq!(agency.wecom.take_calls().len(), 1, "one try for each ticket");
        agency.wecom.state().refused.clear();
        agency.ticket().await;
        agency.settle().await;
        assert_eq!(agency.wecom.count("auth_info"), 1);
    }
}

#[tokio::test]
async fn permissions_that_may_not_be_read_are_asked_for_once_a_day() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().refused.insert(Api::GetPermissions, 48_002);
    agency.scan("code", &brand()).await;
    agency.settle().await;
    agency.pass(MINUTE).await;
    assert_eq!((agency.wecom.count("permissions"), agency.can_call()), (1, true));
    agency.world.advance(DAY).await;
    agency.settle().await;
    assert_eq!(agency.wecom.count("permissions"), 2);
}

#[tokio::test]
async fn an_app_whose_reading_could_not_be_stored_is_not_read_again_at_once() {
    let mut agency = Agency::new(one_app).await;
    agency.wecom.state().refused.insert(Api::GetAuthInfo, 842_002);
    agency.scan("code", &brand()).await;
    agency.settle().await;
    agency.wecom.state().refused.clear();
    agency.world.store.fill_disk(true);
    agency.world.advance(MINUTE).await;
    agency.settle().await;
    assert_eq!((agency.wecom.count("auth_info"), agency.can_call()), (2, false));
    agency.world.store.fill_disk(false);
    agency.pass(SECOND).await;
    assert_eq!((agency.wecom.count("auth_info"), agency.can_call()), (3, true));
}

#[tokio::test]
async fn a_suite_that_is_resumed_reads_its_corps_and_forgets_the_codes_that_failed() {
    let mut agency = Agency::new(one_app).await;
    agency.receive(code_event("unknown", CodeKind::Create, agency.now())).await;
    agency.wecom.state().refused.insert(Api::GetAuthInfo, 842_002);
    agency.scan("code", &brand()).await;
    agency.settle().await;
    assert!(agency.end("unknown").await.is_some());
    agency.wecom.state().refused.clear();
    agency.settle().await;
    assert_eq!((agency.wecom.count("auth_info"), agency.can_call()), (1, false));
    let resumed = Resumer::of(agency.context()).run_suite(&suite()).await.unwrap();
    assert_eq!((resumed.breakers, resumed.exchanges), (0, 1));
    agency.settle().await;
    assert_eq!((agency.wecom.count("auth_info"), agency.can_call()), (2, true));
    assert!(agency.context().apps.suite(&suite()).unwrap().exchanges.is_empty());
}
