//! The dealers of an agency-developed app, with and without WeCom's list of them.

use super::*;
use crate::worker::optional_calls::OptionalCall;

fn installed() -> CorpId {
    CorpId::new("wpINSTALLED").unwrap()
}

/// An app whose brand has authorised, and a dealer that has it from the brand.
async fn with_installed_dealer() -> Agency {
    let mut agency = Agency::new(one_app).await;
    agency.scan("brand", &brand()).await;
    agency.settle().await;
    agency.context().wake.take_changed(&app());
    agency.wecom.state().shared_from.insert(installed(), brand());
    agency.scan("dealer", &installed()).await;
    agency.settle().await;
    agency
}

async fn dealers(agency: &Agency) -> Vec<(CorpId, DealerState)> {
    let dealers = agency.context().store.dealers(&app()).await.unwrap();
    dealers.into_iter().map(|dealer| (dealer.corp_id.clone(), dealer.state())).collect()
}

#[tokio::test]
async fn dealers_are_those_listed_and_those_that_have_authorised() {
    let agency = with_installed_dealer().await;
    assert!(agency.context().wake.take_changed(&app()), "the list is to be read again");
    agency.world.wecom.script().listed = vec![dealer(), installed()];
    let directory = &agency.context().directory;
    let refreshed = directory.refresh(&app(), &[]).await.unwrap();
    assert_eq!(refreshed.dealers, 2, "one of them is both");
    agency.world.wecom.script().listed = vec![dealer()];
    assert_eq!(directory.refresh(&app(), &[]).await.unwrap().dealers, 2);
    let shared = |corp_id| (corp_id, DealerState::Shared);
    assert_eq!(dealers(&agency).await, [shared(dealer()), shared(installed())]);
}

#[tokio::test]
async fn a_dealer_that_scans_the_qr_code_becomes_a_brand_only_if_an_app_is_configured_for_it() {
    fn configured() -> Apps {
        agency(&[(app(), Some(brand())), (other_app(), Some(installed()))], sealer("secret", None))
    }
    for apps in [one_app as fn() -> Apps, configured] {
        let mut agency = Agency::new(apps).await;
        agency.scan("brand", &brand()).await;
        agency.wecom.state().shared_from.insert(installed(), brand());
        agency.scan("dealer", &installed()).await;
        agency.settle().await;
        assert_eq!(agency.context().apps.authorized_dealers(&app()).len(), 1);
        agency.wecom.state().shared_from.clear();
        agency.world.advance(SECOND).await;
        agency.scan("again", &installed()).await;
        agency.settle().await;
        let is_configured = agency.context().apps.agency().len() == 2;
        let known = &agency.context().apps;
        assert_eq!(known.is_authorized_brand(&suite(), installed().as_str()), is_configured);
        assert_eq!(known.authorized_dealers(&app()).len(), usize::from(!is_configured));
        assert_eq!(known.corp_of(&other_app()), is_configured.then(installed));
        assert_eq!(agency.permanent_code(&installed()).unwrap(), "permanent of again");
    }
}

#[tokio::test]
async fn where_the_list_may_not_be_read_the_dealers_are_those_that_have_authorised() {
    let mut agency = with_installed_dealer().await;
    // The code is not documented.
    let forbid = |errcode: i64| {
        for call in ["dealers", "dealer"] {
            agency.world.wecom.script().refused.insert(call, errcode);
        }
    };
    for errcode in [60_020, 48_004] {
        forbid(errcode);
        agency.context().directory.refresh(&app(), &[]).await.unwrap_err();
    }
    for errcode in [60_011, 99_999, 48_002] {
        forbid(errcode);
        let refreshed = agency.context().directory.refresh(&app(), &[]).await.unwrap();
        assert_eq!((refreshed.dealers, refreshed.unread.unwrap().errcode()), (1, Some(errcode)));
    }
    let directory = agency.context().directory.clone();
    assert!(directory.find(&app(), &installed()).await.unwrap().is_some_and(|dealer| dealer.agent_id == 7));
    assert_eq!(directory.find(&app(), &dealer()).await.unwrap(), None);
    agency.world.advance(SECOND).await;
    agency.cancel(&installed()).await;
    agency.settle().await;
    assert!(agency.context().wake.take_changed(&app()), "its dealer has cancelled");
    let refreshed = directory.refresh(&app(), &[installed()]).await.unwrap();
    assert_eq!((refreshed.dealers, refreshed.left), (0, vec![installed()]));
    assert_eq!(dealers(&agency).await, [(installed(), DealerState::Left)]);
}

#[tokio::test]
async fn dealers_that_were_listed_do_not_leave_because_the_list_may_not_be_read_any_more() {
    let agency = with_installed_dealer().await;
    agency.world.wecom.script().listed = vec![dealer()];
    let directory = &agency.context().directory;
    directory.refresh(&app(), &[]).await.unwrap();
    agency.world.wecom.script().refused.insert("dealers", 48_002);
    let refreshed = directory.refresh(&app(), &[dealer()]).await.unwrap();
    assert_eq!((refreshed.left, refreshed.doubtful), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_refused_list_of_a_self_built_app_is_an_error() {
    let world = World::new(Script::new(0, 0)).await;
    world.wecom.script().refused.insert("dealers", 48_002);
    world.context.directory.refresh(&app(), &[]).await.unwrap_err();
}

#[tokio::test]
async fn a_change_that_wecom_reports_has_refused_calls_and_the_list_made_again() {
    let mut agency = with_installed_dealer().await;
    let (call, apps) = (OptionalCall::GroupChat, [brand(), installed()]);
    let is_forbidden = |agency: &Agency| {
        apps.each_ref().map(|corp_id| agency.context().optional_calls.is_forbidden(&app(), corp_id, call))
    };
    let forbid = |agency: &Agency| {
        for corp_id in &apps {
            agency.context().optional_calls.forbid(&app(), corp_id, call);
        }
        agency.context().wake.take_changed(&app());
    };
    forbid(&agency);
    agency.pass(MINUTE).await;
    assert_eq!(is_forbidden(&agency), [true, true]);
    agency.world.advance(SECOND).await;
    let change = SuiteChange::Changed(brand());
    agency.receive(SuiteEvent { sent_at: agency.now(), change }).await;
    agency.settle().await;
    assert_eq!(is_forbidden(&agency), [false, false]);
    assert!(agency.context().wake.take_changed(&app()));
    // A dealer that has authorised again.
    forbid(&agency);
    agency.world.advance(SECOND).await;
    agency.scan("again", &installed()).await;
    agency.settle().await;
    assert_eq!(is_forbidden(&agency), [true, false]);
}
